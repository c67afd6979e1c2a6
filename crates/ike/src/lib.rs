//! IKEv2 without input or output: wire format, suites, key schedules and state machines.

pub mod crypto;
pub mod wire;
