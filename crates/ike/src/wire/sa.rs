//! Security Association payload (RFC 7296, section 3.3).

use super::{
    error::{EncodeError, WireError},
    reader::Reader,
};

codes! {
    /// Protocol ID of proposals, notifications and deletions.
    Protocol(u8) {
        NONE = 0 "NONE",
        IKE = 1 "IKE",
        AH = 2 "AH",
        ESP = 3 "ESP",
    }
}

codes! {
    /// Transform Type (RFC 7296, section 3.3.2; RFC 9370 for 6 to 12).
    TransformType(u8) {
        ENCR = 1 "ENCR",
        PRF = 2 "PRF",
        INTEG = 3 "INTEG",
        KE = 4 "KE",
        ESN = 5 "ESN",
        ADDKE1 = 6 "ADDKE1",
        ADDKE2 = 7 "ADDKE2",
        ADDKE3 = 8 "ADDKE3",
        ADDKE4 = 9 "ADDKE4",
        ADDKE5 = 10 "ADDKE5",
        ADDKE6 = 11 "ADDKE6",
        ADDKE7 = 12 "ADDKE7",
    }
}

impl TransformType {
    /// Whether this is one of the additional key exchanges of RFC 9370.
    pub const fn is_additional_ke(self) -> bool {
        matches!(self.0, 6..=12)
    }
}

/// The proposals, best first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SaPayload {
    /// In a request numbered from 1; in a response exactly one, with the number it had there.
    pub proposals: Vec<Proposal>,
}

/// One proposal.
///
/// ```text
/// 0 last (0) or more (2)   1 reserved   2..4 length   4 number   5 Protocol ID
/// 6 SPI Size (IKE 0 or 8, AH and ESP 4)   7 number of transforms   SPI   transforms
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Proposal number.
    pub number: u8,
    /// Protocol the transforms are for.
    pub protocol: Protocol,
    /// SPI the sender will receive on; empty for the first IKE SA.
    pub spi: Vec<u8>,
    /// The transforms.
    pub transforms: Vec<Transform>,
}

/// One transform: last (0) or more (3), reserved, length (2), type, reserved, ID (2), attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    /// Transform Type.
    pub kind: TransformType,
    /// Transform ID within the type.
    pub id: u16,
    /// Key Length attribute (type 14, TV form) in bits.
    pub key_length: Option<u16>,
    /// Attributes other than Key Length: a transform that has any is to be passed over.
    pub other: Vec<Attribute>,
}

/// An attribute this implementation gives no meaning to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// Type (15 bits) and a value of two octets.
    Short(u16, u16),
    /// Type (15 bits), a length and the value.
    Long(u16, Vec<u8>),
}

const KEY_LENGTH: u16 = 14;
const SHORT_FORM: u16 = 0x8000;

impl Transform {
    /// A transform without attributes.
    pub const fn new(kind: TransformType, id: u16) -> Self {
        Self {
            kind,
            id,
            key_length: None,
            other: Vec::new(),
        }
    }

    /// A transform with the Key Length attribute, in bits.
    pub const fn with_key_length(kind: TransformType, id: u16, bits: u16) -> Self {
        Self {
            kind,
            id,
            key_length: Some(bits),
            other: Vec::new(),
        }
    }

    fn read(mut body: Reader<'_>) -> Result<Self, WireError> {
        let kind = TransformType(body.u8()?);
        body.u8()?;
        let mut transform = Self::new(kind, body.u16()?);
        while !body.is_empty() {
            let head = body.u16()?;
            let kind = head & !SHORT_FORM;
            let value = body.u16()?;
            if head & SHORT_FORM == 0 {
                let value = body.take(value.into())?.to_vec();
                transform.other.push(Attribute::Long(kind, value));
            } else if kind != KEY_LENGTH {
                transform.other.push(Attribute::Short(kind, value));
            } else if transform.key_length.replace(value).is_some() {
                return Err(WireError::InvalidSyntax("two key lengths in a transform"));
            }
        }
        Ok(transform)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&[self.kind.0, 0]);
        out.extend_from_slice(&self.id.to_be_bytes());
        if let Some(bits) = self.key_length {
            out.extend_from_slice(&(KEY_LENGTH | SHORT_FORM).to_be_bytes());
            out.extend_from_slice(&bits.to_be_bytes());
        }
        for attribute in &self.other {
            match attribute {
                Attribute::Short(kind, value) => {
                    out.extend_from_slice(&(kind | SHORT_FORM).to_be_bytes());
                    out.extend_from_slice(&value.to_be_bytes());
                }
                Attribute::Long(kind, value) => {
                    let length = u16::try_from(value.len())
                        .map_err(|_| EncodeError::TooLong("transform attribute"))?;
                    out.extend_from_slice(&(kind & !SHORT_FORM).to_be_bytes());
                    out.extend_from_slice(&length.to_be_bytes());
                    out.extend_from_slice(value);
                }
            }
        }
        Ok(())
    }
}

impl Proposal {
    /// The transforms of one type, in order.
    pub fn of_type(&self, kind: TransformType) -> impl Iterator<Item = &Transform> {
        self.transforms
            .iter()
            .filter(move |transform| transform.kind == kind)
    }

    /// The SPI of an ESP or AH proposal.
    pub fn esp_spi(&self) -> Option<u32> {
        let spi = self.spi.as_slice().try_into().ok()?;
        Some(u32::from_be_bytes(spi))
    }

    /// The SPI of an IKE proposal in a rekey.
    pub fn ike_spi(&self) -> Option<u64> {
        let spi = self.spi.as_slice().try_into().ok()?;
        Some(u64::from_be_bytes(spi))
    }

    fn spi_size_fits(&self) -> bool {
        match self.protocol {
            Protocol::IKE => matches!(self.spi.len(), 0 | 8),
            Protocol::AH | Protocol::ESP => self.spi.len() == 4,
            _ => true,
        }
    }

    fn read(mut body: Reader<'_>) -> Result<Self, WireError> {
        let number = body.u8()?;
        let protocol = Protocol(body.u8()?);
        let spi_size = body.u8()?;
        let count = body.u8()?;
        let spi = body.take(spi_size.into())?.to_vec();
        let mut transforms = Vec::with_capacity(count.into());
        for rest in (0..count).rev() {
            let transform = substructure(&mut body, rest > 0, 3, "transform")?;
            transforms.push(Transform::read(transform)?);
        }
        body.finish()?;
        let proposal = Self {
            number,
            protocol,
            spi,
            transforms,
        };
        if !proposal.spi_size_fits() {
            return Err(WireError::InvalidSyntax("SPI size of a proposal"));
        }
        Ok(proposal)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if !self.spi_size_fits() {
            return Err(EncodeError::Invalid("SPI size of a proposal"));
        }
        let spi_size =
            u8::try_from(self.spi.len()).map_err(|_| EncodeError::TooLong("SPI of a proposal"))?;
        let count = u8::try_from(self.transforms.len())
            .map_err(|_| EncodeError::TooLong("transforms of a proposal"))?;
        out.extend_from_slice(&[self.number, self.protocol.0, spi_size, count]);
        out.extend_from_slice(&self.spi);
        for (index, transform) in self.transforms.iter().enumerate() {
            let more = if index + 1 < self.transforms.len() {
                3
            } else {
                0
            };
            let mut body = Vec::new();
            transform.write(&mut body)?;
            write_substructure(out, more, &body, "transform")?;
        }
        Ok(())
    }
}

impl SaPayload {
    pub(crate) fn read(mut body: Reader<'_>) -> Result<Self, WireError> {
        let mut proposals = Vec::new();
        let mut more = true;
        while more {
            more = body.clone().u8()? == 2;
            let proposal = substructure(&mut body, more, 2, "proposal")?;
            proposals.push(Proposal::read(proposal)?);
        }
        body.finish()?;
        Ok(Self { proposals })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        for (index, proposal) in self.proposals.iter().enumerate() {
            let more = if index + 1 < self.proposals.len() {
                2
            } else {
                0
            };
            let mut body = Vec::new();
            proposal.write(&mut body)?;
            write_substructure(out, more, &body, "proposal")?;
        }
        Ok(())
    }
}

/// Reads `more or 0 (1), reserved (1), length (2)` and gives the body that follows.
fn substructure<'a>(
    reader: &mut Reader<'a>,
    more: bool,
    marker: u8,
    what: &'static str,
) -> Result<Reader<'a>, WireError> {
    if reader.u8()? != if more { marker } else { 0 } {
        return Err(WireError::InvalidSyntax(what));
    }
    reader.u8()?;
    let length = usize::from(reader.u16()?);
    let body = length
        .checked_sub(4)
        .ok_or(WireError::InvalidSyntax(what))?;
    reader.sub(body, what)
}

fn write_substructure(
    out: &mut Vec<u8>,
    more: u8,
    body: &[u8],
    what: &'static str,
) -> Result<(), EncodeError> {
    let length = u16::try_from(body.len() + 4).map_err(|_| EncodeError::TooLong(what))?;
    out.extend_from_slice(&[more, 0]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
    Ok(())
}
