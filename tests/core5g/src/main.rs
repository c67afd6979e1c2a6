//! A 5G core stand-in: AMF, AUSF, SMF over NGAP and a UPF over GTP-U.
fn main() {}
