//! The payload chain: generic headers, critical bit, limits (RFC 7296, sections 2.5 and 3.2).

use super::{
    MAX_PAYLOADS,
    cp::Configuration,
    delete::Delete,
    error::{EncodeError, WireError},
    id::Identification,
    notify::Notify,
    payload::{AuthMethod, CertEncoding, Payload, PayloadType},
    reader::Reader,
    sa::SaPayload,
    ts::TrafficSelector,
};

const CRITICAL: u8 = 0x80;

/// Octets a Nonce may have (RFC 7296, section 3.9).
pub(super) const NONCE_LEN: std::ops::RangeInclusive<usize> = 16..=256;

/// Reads a chain of payloads, such as the content of an Encrypted payload.
///
/// `first` is the type of the first one, [`PayloadType::NONE`] for an empty chain. An Encrypted
/// payload inside is invalid.
pub fn parse_payloads(first: PayloadType, octets: &[u8]) -> Result<Vec<Payload>, WireError> {
    let mut chain = Chain::new(first, octets);
    let mut payloads = Vec::new();
    while let Some(link) = chain.next()? {
        if matches!(link.kind, PayloadType::SK | PayloadType::SKF) {
            return Err(WireError::InvalidSyntax("misplaced Encrypted payload"));
        }
        payloads.push(link.payload()?);
    }
    chain.finish()?;
    Ok(payloads)
}

/// Writes a chain of payloads and gives the type of the first.
pub fn encode_payloads(payloads: &[Payload]) -> Result<(PayloadType, Vec<u8>), EncodeError> {
    let mut out = Vec::new();
    let mut types = payloads.iter().map(Payload::payload_type);
    let first = types.next().unwrap_or(PayloadType::NONE);
    for payload in payloads {
        let next = types.next().unwrap_or(PayloadType::NONE);
        let mut body = Vec::new();
        write_body(payload, &mut body)?;
        let length =
            u16::try_from(body.len() + 4).map_err(|_| EncodeError::TooLong("a payload"))?;
        out.extend_from_slice(&[next.0, 0]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&body);
    }
    Ok((first, out))
}

/// Walks generic headers.
pub(super) struct Chain<'a> {
    next: PayloadType,
    reader: Reader<'a>,
    total: usize,
    count: usize,
}

/// One payload of a chain, body not looked into.
pub(super) struct Link<'a> {
    pub(super) kind: PayloadType,
    /// Next Payload field of this payload's header.
    pub(super) next: PayloadType,
    /// Offset of the generic header in the chain.
    pub(super) offset: usize,
    pub(super) body: &'a [u8],
    critical: bool,
}

impl<'a> Chain<'a> {
    pub(super) const fn new(first: PayloadType, octets: &'a [u8]) -> Self {
        Self {
            next: first,
            reader: Reader::new(octets, "payload"),
            total: octets.len(),
            count: 0,
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Link<'a>>, WireError> {
        if self.next == PayloadType::NONE {
            return Ok(None);
        }
        self.count += 1;
        if self.count > MAX_PAYLOADS {
            return Err(WireError::InvalidSyntax("too many payloads"));
        }
        let kind = self.next;
        let offset = self.total - self.reader.remaining();
        let next = PayloadType(self.reader.u8()?);
        let critical = self.reader.u8()? & CRITICAL != 0;
        let length = usize::from(self.reader.u16()?);
        let body = length
            .checked_sub(4)
            .ok_or(WireError::InvalidSyntax("length of a payload"))?;
        let body = self.reader.take(body)?;
        // The Next Payload field of an Encrypted payload names its content, and it is the last.
        self.next = match kind {
            PayloadType::SK | PayloadType::SKF => PayloadType::NONE,
            _ => next,
        };
        Ok(Some(Link {
            kind,
            next,
            offset,
            body,
            critical,
        }))
    }

    /// Fails when octets follow the last payload.
    pub(super) fn finish(&self) -> Result<(), WireError> {
        match self.reader.is_empty() {
            true => Ok(()),
            false => Err(WireError::InvalidSyntax("octets after the last payload")),
        }
    }
}

impl Link<'_> {
    pub(super) fn payload(&self) -> Result<Payload, WireError> {
        let mut body = Reader::new(self.body, self.kind.name().unwrap_or("payload"));
        Ok(match self.kind {
            PayloadType::SA => Payload::Sa(SaPayload::read(body)?),
            PayloadType::KE => {
                let method = body.u16()?;
                body.u16()?;
                Payload::Ke {
                    method,
                    data: body.rest().to_vec(),
                }
            }
            PayloadType::ID_I => Payload::IdI(Identification::read(body)?),
            PayloadType::ID_R => Payload::IdR(Identification::read(body)?),
            PayloadType::CERT => Payload::Cert {
                encoding: CertEncoding(body.u8()?),
                data: body.rest().to_vec(),
            },
            PayloadType::CERTREQ => {
                let encoding = CertEncoding(body.u8()?);
                let authorities = body.rest().to_vec();
                if encoding == CertEncoding::X509_SIGNATURE && !authorities.len().is_multiple_of(20)
                {
                    return Err(WireError::InvalidSyntax("authorities of a CERTREQ"));
                }
                Payload::CertReq {
                    encoding,
                    authorities,
                }
            }
            PayloadType::AUTH => {
                let method = AuthMethod(body.u8()?);
                body.take(3)?;
                Payload::Auth {
                    method,
                    data: body.rest().to_vec(),
                }
            }
            PayloadType::NONCE => {
                if !NONCE_LEN.contains(&self.body.len()) {
                    return Err(WireError::InvalidSyntax("length of a Nonce"));
                }
                Payload::Nonce(self.body.to_vec())
            }
            PayloadType::NOTIFY => Payload::Notify(Notify::read(body)?),
            PayloadType::DELETE => Payload::Delete(Delete::read(body)?),
            PayloadType::VENDOR_ID => Payload::VendorId(self.body.to_vec()),
            PayloadType::TS_I => Payload::TsI(TrafficSelector::read_list(body)?),
            PayloadType::TS_R => Payload::TsR(TrafficSelector::read_list(body)?),
            PayloadType::CP => Payload::Cp(Configuration::read(body)?),
            PayloadType::EAP => {
                // Code, identifier and length: RFC 3748, section 4.
                if self.body.len() < 4 {
                    return Err(WireError::Truncated("EAP"));
                }
                Payload::Eap(self.body.to_vec())
            }
            _ if self.critical => return Err(WireError::UnsupportedCritical(self.kind.0)),
            _ => Payload::Unknown {
                payload_type: self.kind.0,
                data: self.body.to_vec(),
            },
        })
    }
}

fn write_body(payload: &Payload, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match payload {
        Payload::Sa(sa) => sa.write(out)?,
        Payload::Ke { method, data } => {
            out.extend_from_slice(&method.to_be_bytes());
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(data);
        }
        Payload::IdI(id) | Payload::IdR(id) => out.extend_from_slice(&id.body()),
        Payload::Cert { encoding, data } => {
            out.push(encoding.0);
            out.extend_from_slice(data);
        }
        Payload::CertReq {
            encoding,
            authorities,
        } => {
            out.push(encoding.0);
            out.extend_from_slice(authorities);
        }
        Payload::Auth { method, data } => {
            out.extend_from_slice(&[method.0, 0, 0, 0]);
            out.extend_from_slice(data);
        }
        Payload::Nonce(nonce) => {
            if !NONCE_LEN.contains(&nonce.len()) {
                return Err(EncodeError::Invalid("length of a Nonce"));
            }
            out.extend_from_slice(nonce);
        }
        Payload::Notify(notify) => notify.write(out)?,
        Payload::Delete(delete) => delete.write(out)?,
        Payload::TsI(list) | Payload::TsR(list) => TrafficSelector::write_list(list, out)?,
        Payload::Cp(configuration) => configuration.write(out)?,
        Payload::VendorId(data) | Payload::Eap(data) | Payload::Unknown { data, .. } => {
            out.extend_from_slice(data);
        }
    }
    Ok(())
}
