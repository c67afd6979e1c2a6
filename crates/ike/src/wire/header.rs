//! The IKE header (RFC 7296, section 3.1).

use super::{error::WireError, payload::PayloadType, reader::Reader};

/// The fixed part of every message.
///
/// ```text
///  0..8  SPI of the initiator      8..16 SPI of the responder
///  16    Next Payload   17 version (0x20)   18 Exchange Type   19 Flags
///  20..24 Message ID    24..28 Length of the whole message
/// ```
/// Next Payload and Length belong to the codec; the reader ignores the minor version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// SPI chosen by the original initiator of the IKE SA; never 0.
    pub spi_i: u64,
    /// SPI chosen by the responder; 0 in the first request.
    pub spi_r: u64,
    /// Kind of exchange.
    pub exchange: ExchangeType,
    /// Initiator and Response bits.
    pub flags: Flags,
    /// Message ID of the sender's or, in a response, the receiver's counter.
    pub message_id: u32,
}

impl Header {
    /// Reads the header fields of a datagram whatever its version and length, or `None` when there
    /// are fewer than 28 octets. For finding the SA, and for answering what [`super::parse`] refused.
    pub fn peek(datagram: &[u8]) -> Option<Self> {
        Raw::read(&mut Reader::new(datagram, "header"))
            .ok()
            .map(|raw| raw.header)
    }

    /// Appends the 28 octets; `length` counts the whole message.
    pub(crate) fn write(&self, out: &mut Vec<u8>, next: PayloadType, length: u32) {
        out.extend_from_slice(&self.spi_i.to_be_bytes());
        out.extend_from_slice(&self.spi_r.to_be_bytes());
        out.push(next.0);
        out.push(0x20);
        out.push(self.exchange.number());
        out.push(self.flags.octet());
        out.extend_from_slice(&self.message_id.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
    }
}

/// Every field of the header, the codec's own included.
pub(crate) struct Raw {
    pub(crate) header: Header,
    pub(crate) next: PayloadType,
    pub(crate) version: u8,
    pub(crate) length: u32,
}

impl Raw {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let spi_i = reader.u64()?;
        let spi_r = reader.u64()?;
        let next = PayloadType(reader.u8()?);
        let version = reader.u8()?;
        let exchange = ExchangeType::from_number(reader.u8()?);
        let flags = Flags::from_octet(reader.u8()?);
        let message_id = reader.u32()?;
        let length = reader.u32()?;
        let header = Header {
            spi_i,
            spi_r,
            exchange,
            flags,
            message_id,
        };
        Ok(Self {
            header,
            next,
            version,
            length,
        })
    }
}

/// Exchange Type octet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExchangeType {
    /// 34, RFC 7296, section 1.2.
    IkeSaInit,
    /// 35, RFC 7296, section 1.2.
    IkeAuth,
    /// 36, RFC 7296, section 1.3.
    CreateChildSa,
    /// 37, RFC 7296, section 1.4.
    Informational,
    /// 38, RFC 5723.
    IkeSessionResume,
    /// 43, RFC 9242.
    IkeIntermediate,
    /// 44, RFC 9370.
    IkeFollowupKe,
    /// Any other number.
    Other(u8),
}

impl ExchangeType {
    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::IkeSaInit => 34,
            Self::IkeAuth => 35,
            Self::CreateChildSa => 36,
            Self::Informational => 37,
            Self::IkeSessionResume => 38,
            Self::IkeIntermediate => 43,
            Self::IkeFollowupKe => 44,
            Self::Other(number) => number,
        }
    }

    /// The exchange with this number.
    pub const fn from_number(number: u8) -> Self {
        match number {
            34 => Self::IkeSaInit,
            35 => Self::IkeAuth,
            36 => Self::CreateChildSa,
            37 => Self::Informational,
            38 => Self::IkeSessionResume,
            43 => Self::IkeIntermediate,
            44 => Self::IkeFollowupKe,
            other => Self::Other(other),
        }
    }
}

impl std::fmt::Display for ExchangeType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::IkeSaInit => "IKE_SA_INIT",
            Self::IkeAuth => "IKE_AUTH",
            Self::CreateChildSa => "CREATE_CHILD_SA",
            Self::Informational => "INFORMATIONAL",
            Self::IkeSessionResume => "IKE_SESSION_RESUME",
            Self::IkeIntermediate => "IKE_INTERMEDIATE",
            Self::IkeFollowupKe => "IKE_FOLLOWUP_KE",
            Self::Other(number) => return write!(f, "exchange {number}"),
        })
    }
}

/// The two flags that mean something: Initiator 0x08 and Response 0x20.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// The sender is the original initiator of the IKE SA.
    pub initiator: bool,
    /// The message answers a request with the same Message ID.
    pub response: bool,
}

impl Flags {
    const INITIATOR: u8 = 0x08;
    const RESPONSE: u8 = 0x20;

    /// The octet on the wire; the other bits are sent as 0.
    pub const fn octet(self) -> u8 {
        let initiator = if self.initiator { Self::INITIATOR } else { 0 };
        let response = if self.response { Self::RESPONSE } else { 0 };
        initiator | response
    }

    /// Reads the octet; the other bits are ignored.
    pub const fn from_octet(octet: u8) -> Self {
        Self {
            initiator: octet & Self::INITIATOR != 0,
            response: octet & Self::RESPONSE != 0,
        }
    }
}
