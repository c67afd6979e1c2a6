//! The UE control daemon.
fn main() {}
