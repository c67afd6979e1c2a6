//! Captures of an attach, read by tshark: an IKEv2, NGAP, NAS and GTP-U implementation that nobody
//! here wrote.

pub mod dissect;
pub mod octets;
pub mod table_ii;
