//! What may be wrong with received octets, and with a message to be sent.

use thiserror::Error;

use super::notify::{Notify, NotifyType};

/// Why received octets are no IKE message or payload.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// The octets end before the field does.
    #[error("truncated: {0}")]
    Truncated(&'static str),
    /// The header's Length field and the datagram disagree.
    #[error("the header claims {claimed} octets, the datagram has {actual}")]
    Length {
        /// Length field of the header.
        claimed: u32,
        /// Octets received.
        actual: usize,
    },
    /// A major version other than 2; answered with INVALID_MAJOR_VERSION.
    #[error("major version {0}")]
    MajorVersion(u8),
    /// An unknown payload type with the critical bit; answered with UNSUPPORTED_CRITICAL_PAYLOAD.
    #[error("unknown critical payload of type {0}")]
    UnsupportedCritical(u8),
    /// A field has a value that the standard rules out, or a limit of this implementation is passed.
    #[error("invalid syntax: {0}")]
    InvalidSyntax(&'static str),
}

impl WireError {
    /// The Notify that reports this error to the peer (RFC 7296, sections 2.5 and 2.21).
    ///
    /// Whether it may be sent at all depends on whether the message was protected.
    pub fn notify(&self) -> Notify {
        match self {
            Self::MajorVersion(_) => Notify::status(NotifyType::INVALID_MAJOR_VERSION, Vec::new()),
            Self::UnsupportedCritical(kind) => {
                Notify::status(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![*kind])
            }
            _ => Notify::status(NotifyType::INVALID_SYNTAX, Vec::new()),
        }
    }
}

/// Why a message cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// More octets or items than the length or count field of this part can tell.
    #[error("too long: {0}")]
    TooLong(&'static str),
    /// The part has no encoding: first and last address of different families, a wrong SPI size.
    #[error("not encodable: {0}")]
    Invalid(&'static str),
}
