//! GRE on NWu (TS 24.502, 9.3.3): eight octets between the inner IP header and the PDU.
//!
//! ```text
//! 20 00 | protocol type(2), sent as 0, ignored on receipt | key(4)
//! key = 00QQQQQQ 00000000 00000000 R0000000      Q: QFI, R: RQI (towards the UE only)
//! ```

use crate::reader::{DecodeError, Reader};

const FLAG_CHECKSUM: u8 = 0x80;
const FLAG_ROUTING: u8 = 0x40;
const FLAG_KEY: u8 = 0x20;
const FLAG_SEQUENCE: u8 = 0x10;

/// Octets of the header this project sends.
pub const HEADER_LEN: usize = 8;

/// Protocol type that stock Linux GRE devices insist on for IPv4.
pub const PROTOCOL_IPV4: u16 = 0x0800;

/// What a GRE header says about the PDU behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GreHeader {
    /// QoS Flow Identifier, 6 bits; `None` when the header has no key.
    pub qfi: Option<u8>,
    /// Reflective QoS Indicator.
    pub rqi: bool,
}

impl GreHeader {
    /// Splits a GRE packet into header and PDU.
    ///
    /// The protocol type is not looked at. Checksum and sequence number are skipped when a peer
    /// sends them; routing and versions other than 0 are errors.
    pub fn decode(packet: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut reader = Reader::new(packet);
        let [flags, version] = reader.array("GRE flags")?;
        if flags & FLAG_ROUTING != 0 || version & 0x07 != 0 {
            let found = u32::from_be_bytes([0, 0, flags, version]);
            return Err(DecodeError::Value {
                field: "GRE flags",
                found,
            });
        }
        reader.u16("GRE protocol type")?;
        if flags & FLAG_CHECKSUM != 0 {
            reader.array::<4>("GRE checksum")?;
        }
        let mut header = Self::default();
        if flags & FLAG_KEY != 0 {
            let [qfi, _, _, rqi] = reader.array("GRE key")?;
            header.qfi = Some(qfi & 0x3f);
            header.rqi = rqi & 0x80 != 0;
        }
        if flags & FLAG_SEQUENCE != 0 {
            reader.array::<4>("GRE sequence number")?;
        }
        let rest = reader.remaining();
        Ok((header, reader.take(rest, "GRE payload")?))
    }

    /// The eight octets to put before a PDU; a missing QFI is sent as 0.
    pub fn encode(self, protocol_type: u16) -> [u8; HEADER_LEN] {
        let [high, low] = protocol_type.to_be_bytes();
        let rqi = if self.rqi { 0x80 } else { 0 };
        [
            FLAG_KEY,
            0,
            high,
            low,
            self.qfi.unwrap_or(0) & 0x3f,
            0,
            0,
            rqi,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_carries_qfi_and_rqi() {
        let header = GreHeader {
            qfi: Some(9),
            rqi: true,
        };
        let octets = header.encode(0);
        assert_eq!(octets, [0x20, 0, 0, 0, 9, 0, 0, 0x80]);
        let packet = [&octets[..], b"pdu"].concat();
        assert_eq!(GreHeader::decode(&packet).unwrap(), (header, &b"pdu"[..]));
    }

    #[test]
    fn protocol_type_is_ignored() {
        let header = GreHeader {
            qfi: Some(1),
            rqi: false,
        };
        for kind in [0, PROTOCOL_IPV4, 0xffff] {
            assert_eq!(GreHeader::decode(&header.encode(kind)).unwrap().0, header);
        }
    }

    #[test]
    fn optional_fields_are_skipped() {
        let packet = [0xb0, 0, 8, 0, 1, 1, 0, 0, 5, 0, 0, 0, 0, 0, 0, 1, 0x45];
        let (header, pdu) = GreHeader::decode(&packet).unwrap();
        assert_eq!(
            header,
            GreHeader {
                qfi: Some(5),
                rqi: false
            }
        );
        assert_eq!(pdu, [0x45]);
        let (header, pdu) = GreHeader::decode(&[0, 0, 8, 0, 0x45]).unwrap();
        assert_eq!((header.qfi, pdu), (None, &[0x45][..]));
    }

    #[test]
    fn every_truncation_of_the_header_is_an_error() {
        let packet = [0xb0, 0, 8, 0, 1, 1, 0, 0, 5, 0, 0, 0, 0, 0, 0, 1];
        for len in 0..packet.len() {
            assert!(GreHeader::decode(&packet[..len]).is_err(), "cut at {len}");
        }
        assert!(GreHeader::decode(&packet).is_ok());
    }

    #[test]
    fn routing_and_other_versions_are_errors() {
        assert!(GreHeader::decode(&[0x60, 0, 0, 0, 1, 0, 0, 0]).is_err());
        assert!(GreHeader::decode(&[0x20, 1, 0, 0, 1, 0, 0, 0]).is_err());
    }
}
