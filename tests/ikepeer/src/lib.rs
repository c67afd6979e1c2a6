//! A small IKEv2 peer around [`ike::Endpoint`], for tests against software of other makers.
//!
//! It is neither UE nor N3IWF: it authenticates in mode `plain`, by shared key or certificate, in both roles; or, in mode
//! `psk`, the initiator by EAP-MSCHAPv2 and the responder by certificate. It keeps one Child SA between two inner
//! addresses. Commands come in as lines on standard input, what happens goes out as JSON
//! lines on standard output, so that a test drives it without a library.
//!
//! | command | effect |
//! |---|---|
//! | `initiate` | begins an IKE SA with `remote` |
//! | `half-open` | begins one and forgets it when its IKE_SA_INIT request is sent |
//! | `rekey-child`, `rekey-ike` | as this side's own, of the established IKE SA |
//! | `probe` | an empty INFORMATIONAL |
//! | `move ADDRESS` | binds that address of this host, and goes on from there (MOBIKE) |
//! | `status` | one `status` line |
//! | `close` | deletes all IKE SAs |
//! | `quit`, or the end of standard input | forgets them and ends |

pub mod config;
mod eap;
mod mschapv2;
mod peer;
mod plane;
pub mod report;
mod sockets;

pub use peer::run;
