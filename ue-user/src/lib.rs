//! The UE control daemon: IKE initiator, EAP-5G peer, NAS and PDU sessions of one UE.

pub mod config;
pub mod core;
