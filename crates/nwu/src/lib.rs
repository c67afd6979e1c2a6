//! TS 24.502 codecs for NWu: EAP-5G, AN-parameters, private notifies, NAS envelopes and GRE.
//!
//! Everything here is a pure function from octets to a type or back. Decoders accept any input
//! and answer with a typed error; encoders refuse what the wire format cannot hold.

pub mod an_parameters;
pub mod eap5g;
pub mod gre;
pub mod nas_envelope;
pub mod notify;
pub mod qos_info;
mod reader;

pub use an_parameters::{AnParameters, EstablishmentCause, Guami, Plmn, SNssai};
pub use gre::GreHeader;
pub use nas_envelope::EnvelopeReader;
pub use qos_info::QosInfo;
pub use reader::{DecodeError, EncodeError};
