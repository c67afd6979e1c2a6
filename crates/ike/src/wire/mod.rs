//! The octets of IKEv2: header, payload chain and every payload body (RFC 7296, section 3).
//!
//! [`parse`] reads a datagram without keys: a clear message comes back as payloads, a protected
//! one as the place of its Encrypted payload, which [`crate::crypto::Protector`] opens.
//! [`parse_payloads`] reads the decrypted chain, [`encode`] writes a clear message.
//!
//! All integers are in network order. Readers never index: running out of octets is a
//! [`WireError`], which names the Notify that RFC 7296, section 2.21 answers it with.

#[macro_use]
mod codes;

mod chain;
mod cp;
mod delete;
mod error;
mod header;
mod id;
mod message;
pub mod mobike;
mod notify;
mod payload;
pub mod qkd;
mod reader;
mod sa;
mod ts;

pub use chain::{encode_payloads, parse_payloads};
pub use cp::{CfgAttribute, CfgAttributeType, CfgType, Configuration};
pub use delete::Delete;
pub use error::{EncodeError, WireError};
pub use header::{ExchangeType, Flags, Header};
pub use id::{IdType, Identification};
pub(crate) use message::message_length;
pub use message::{Body, Message, Parsed, encode, parse};
pub use notify::{Notify, NotifyType, find_notify, notifies};
pub use payload::{AuthMethod, CertEncoding, Payload, PayloadType};
pub use reader::Reader;
pub use sa::{Attribute, Proposal, Protocol, SaPayload, Transform, TransformType};
pub use ts::TrafficSelector;

/// Longest IKE message in octets, header included, non-ESP marker excluded.
pub const MAX_MESSAGE: usize = 65_507;

/// Most payloads in one chain; a legal message stays far below it.
pub const MAX_PAYLOADS: usize = 128;

/// Octets of the IKE header.
pub const HEADER_LEN: usize = 28;

/// Octets of the generic payload header.
pub const PAYLOAD_HEADER_LEN: usize = 4;
