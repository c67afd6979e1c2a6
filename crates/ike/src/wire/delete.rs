//! Delete payload (RFC 7296, section 3.11).

use super::{
    error::{EncodeError, WireError},
    reader::Reader,
    sa::Protocol,
};

/// What the sender deletes.
///
/// ```text
/// 0 Protocol ID   1 SPI Size   2..4 number of SPIs   SPIs
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delete {
    /// The IKE SA the payload travels in: SPI size 0, no SPI.
    Ike,
    /// Child SAs, by the SPIs the sender receives on.
    Child {
        /// [`Protocol::AH`] or [`Protocol::ESP`].
        protocol: Protocol,
        /// The SPIs.
        spis: Vec<u32>,
    },
}

impl Delete {
    /// Deletes ESP SAs by the SPIs the sender receives on.
    pub const fn esp(spis: Vec<u32>) -> Self {
        Self::Child {
            protocol: Protocol::ESP,
            spis,
        }
    }

    pub(crate) fn read(mut body: Reader<'_>) -> Result<Self, WireError> {
        let protocol = Protocol(body.u8()?);
        let spi_size = body.u8()?;
        let count = body.u16()?;
        match (protocol, spi_size, count) {
            (Protocol::IKE, 0, 0) => {
                body.finish()?;
                Ok(Self::Ike)
            }
            (Protocol::AH | Protocol::ESP, 4, _) => {
                let spis = (0..count)
                    .map(|_| body.u32())
                    .collect::<Result<Vec<_>, _>>()?;
                body.finish()?;
                Ok(Self::Child { protocol, spis })
            }
            _ => Err(WireError::InvalidSyntax("protocol or SPI size of a Delete")),
        }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Ike => out.extend_from_slice(&[Protocol::IKE.0, 0, 0, 0]),
            Self::Child { protocol, spis } => {
                if !matches!(*protocol, Protocol::AH | Protocol::ESP) {
                    return Err(EncodeError::Invalid("protocol of a Delete"));
                }
                let count = u16::try_from(spis.len())
                    .map_err(|_| EncodeError::TooLong("SPIs of a Delete"))?;
                out.push(protocol.0);
                out.push(4);
                out.extend_from_slice(&count.to_be_bytes());
                for spi in spis {
                    out.extend_from_slice(&spi.to_be_bytes());
                }
            }
        }
        Ok(())
    }
}
