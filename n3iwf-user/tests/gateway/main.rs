//! The gateway in virtual time: real IKE endpoints as UEs, a scripted AMF, doubles for KMS, data
//! plane and relay. No socket is opened.

mod amf;
mod attach;
mod failure;
mod n2;
mod sessions;
mod world;
