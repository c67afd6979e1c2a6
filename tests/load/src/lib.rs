//! A load driver: thousands of UEs in one process, each the sans-IO core of `ue-user` with NAS,
//! AKA and PDU session, against one N3IWF.
//!
//! All UEs share one UDP socket, so one address on NWu, and are told apart by their initiator's
//! SPI; NAS goes over a TCP connection for each, from its own inner address. Keys come from one
//! client of the UE's KME. There is no data plane: a Child SA counts as installed at once, so this
//! works against an N3IWF whose data plane records.

mod bare;
pub mod fleet;
pub mod ike_peer;
pub mod keys;
mod nas;
pub mod wake;
pub mod watch;
