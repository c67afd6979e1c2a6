//! What free5GC's N3IWF and N3IWUE do on NWu, their faults included, so that our daemons can be
//! tried against them in one process.
//!
//! Written from a description of their behaviour, on the wire format and the primitives of `ike` but
//! not on its engine: whatever an emulated peer does wrong, it does wrong by itself. A peer that
//! would stall or crash stalls or says so; it never panics the test from within.
//!
//! | module | what |
//! |---|---|
//! | [`sa`] | keys of one IKE SA of the legacy suite, messages sealed well or badly |
//! | [`n3iwue`] | the UE |
//! | [`n3iwf`] | the N3IWF |
//! | [`nas`] | the NAS of N3IWUE |

pub mod n3iwf;
pub mod n3iwue;
pub mod nas;
pub mod sa;
