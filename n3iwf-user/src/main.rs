//! The N3IWF control daemon.
fn main() {}
