//! Messages: G-PDU and the path management an access network takes part in.

use std::net::IpAddr;

use thiserror::Error;

use crate::PduSessionContainer;

/// The registered UDP port.
pub const PORT: u16 = 2152;

const FLAGS_PLAIN: u8 = 0x30;
const FLAG_EXTENSION: u8 = 0x04;
const FLAG_SEQUENCE: u8 = 0x02;
const FLAGS_OPTIONAL: u8 = 0x07;
const EXTENSION_CONTAINER: u8 = 0x85;

const IE_RECOVERY: u8 = 14;
const IE_TEID_DATA_I: u8 = 16;
const IE_PEER_ADDRESS: u8 = 133;
const IE_EXTENSION_TYPES: u8 = 141;

/// Message types (TS 29.281, 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// 1
    EchoRequest,
    /// 2
    EchoResponse,
    /// 26
    ErrorIndication,
    /// 31
    SupportedExtensionHeadersNotification,
    /// 254
    EndMarker,
    /// 255
    GPdu,
    /// Anything else.
    Other(u8),
}

impl MessageType {
    const fn from_octet(octet: u8) -> Self {
        match octet {
            1 => Self::EchoRequest,
            2 => Self::EchoResponse,
            26 => Self::ErrorIndication,
            31 => Self::SupportedExtensionHeadersNotification,
            254 => Self::EndMarker,
            255 => Self::GPdu,
            other => Self::Other(other),
        }
    }

    const fn octet(self) -> u8 {
        match self {
            Self::EchoRequest => 1,
            Self::EchoResponse => 2,
            Self::ErrorIndication => 26,
            Self::SupportedExtensionHeadersNotification => 31,
            Self::EndMarker => 254,
            Self::GPdu => 255,
            Self::Other(other) => other,
        }
    }
}

/// Why a datagram is no GTP-U message for us.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// It ends too early.
    #[error("GTP-U: truncated in {0}")]
    Truncated(&'static str),
    /// Not version 1, or GTP'.
    #[error("GTP-U: flags {0:#04x} are not those of GTP version 1")]
    Version(u8),
    /// The length field contradicts the datagram.
    #[error("GTP-U: length {found} in a datagram with {available} octets after the header")]
    Length {
        /// The length field.
        found: usize,
        /// What is there.
        available: usize,
    },
    /// An extension header of length zero, which would never end.
    #[error("GTP-U: extension header of length 0")]
    ExtensionLength,
    /// An extension header that has to be understood and is not.
    #[error("GTP-U: {0}")]
    RequiredExtension(RequiredExtension),
    /// A PDU Session Container of an unknown PDU type.
    #[error("GTP-U: PDU Session Container of PDU type {0}")]
    Container(u8),
}

/// An unknown extension header whose type says that the receiver must understand it: the answer
/// is [`supported_extension_headers`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("extension header {kind:#04x} has to be understood and is not")]
pub struct RequiredExtension {
    /// Extension header type.
    pub kind: u8,
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Message type.
    pub kind: MessageType,
    /// Tunnel endpoint identifier of the receiver.
    pub teid: u32,
    /// Sequence number, where the S flag is set.
    pub sequence: Option<u16>,
    /// PDU Session Container, where there is one.
    pub container: Option<PduSessionContainer>,
}

/// A message: its header and what follows it (the PDU of a G-PDU, else information elements).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The header.
    pub header: Header,
    /// The octets after the header and its extensions.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads one UDP payload. Octets after the GTP-U length are ignored as padding.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        let Some((&[flags, kind, l1, l2, t1, t2, t3, t4], rest)) =
            datagram.split_first_chunk::<8>()
        else {
            return Err(DecodeError::Truncated("header"));
        };
        if flags & 0xf0 != FLAGS_PLAIN {
            return Err(DecodeError::Version(flags));
        }
        let found = usize::from(u16::from_be_bytes([l1, l2]));
        let available = rest.len();
        let mut payload = rest
            .get(..found)
            .ok_or(DecodeError::Length { found, available })?;
        let mut header = Header {
            kind: MessageType::from_octet(kind),
            teid: u32::from_be_bytes([t1, t2, t3, t4]),
            sequence: None,
            container: None,
        };
        if flags & FLAGS_OPTIONAL != 0 {
            let Some((&[s1, s2, _n_pdu, next], tail)) = payload.split_first_chunk::<4>() else {
                return Err(DecodeError::Truncated("optional fields"));
            };
            if flags & FLAG_SEQUENCE != 0 {
                header.sequence = Some(u16::from_be_bytes([s1, s2]));
            }
            payload = tail;
            if flags & FLAG_EXTENSION != 0 {
                payload = header.read_extensions(next, payload)?;
            }
        }
        Ok(Self { header, payload })
    }
}

impl Header {
    /// Walks the extension headers; returns what follows the last.
    fn read_extensions<'a>(
        &mut self,
        mut next: u8,
        mut octets: &'a [u8],
    ) -> Result<&'a [u8], DecodeError> {
        while next != 0 {
            let (&units, _) = octets
                .split_first()
                .ok_or(DecodeError::Truncated("extension header"))?;
            if units == 0 {
                return Err(DecodeError::ExtensionLength);
            }
            let len = usize::from(units) * 4;
            let (extension, tail) = octets
                .split_at_checked(len)
                .ok_or(DecodeError::Truncated("extension header"))?;
            let [_, content @ .., following] = extension else {
                return Err(DecodeError::Truncated("extension header"));
            };
            if next == EXTENSION_CONTAINER {
                self.container = Some(PduSessionContainer::decode(content)?);
            } else if next & 0x80 != 0 {
                // Bits 8 and 7 `10` or `11`: comprehension required of an endpoint (5.2.1).
                return Err(DecodeError::RequiredExtension(RequiredExtension {
                    kind: next,
                }));
            }
            next = *following;
            octets = tail;
        }
        Ok(octets)
    }
}

/// The header of a G-PDU whose PDU has `pdu_len` octets: 16 octets with a container.
///
/// `None` if the PDU does not fit the length field.
pub fn g_pdu_header(teid: u32, container: PduSessionContainer, pdu_len: usize) -> Option<[u8; 16]> {
    let [l1, l2] = u16::try_from(pdu_len.checked_add(8)?).ok()?.to_be_bytes();
    let [t1, t2, t3, t4] = teid.to_be_bytes();
    let [c1, c2] = container.octets();
    let flags = FLAGS_PLAIN | FLAG_EXTENSION;
    let kind = MessageType::GPdu.octet();
    Some([
        flags,
        kind,
        l1,
        l2,
        t1,
        t2,
        t3,
        t4,
        0,
        0,
        0,
        EXTENSION_CONTAINER,
        1,
        c1,
        c2,
        0,
    ])
}

/// A whole G-PDU; `None` if the PDU does not fit.
pub fn encode_g_pdu(teid: u32, container: PduSessionContainer, pdu: &[u8]) -> Option<Vec<u8>> {
    let header = g_pdu_header(teid, container, pdu.len())?;
    Some([&header, pdu].concat())
}

/// An End Marker for a tunnel.
pub fn encode_end_marker(teid: u32) -> Vec<u8> {
    let [t1, t2, t3, t4] = teid.to_be_bytes();
    vec![
        FLAGS_PLAIN,
        MessageType::EndMarker.octet(),
        0,
        0,
        t1,
        t2,
        t3,
        t4,
    ]
}

/// An Echo Request, to be sent to [`PORT`].
pub fn echo_request(sequence: u16) -> Vec<u8> {
    path_message(MessageType::EchoRequest, sequence, &[])
}

/// The answer to an Echo Request, to be sent to the port the request came from.
pub fn echo_response(sequence: u16) -> Vec<u8> {
    path_message(MessageType::EchoResponse, sequence, &[IE_RECOVERY, 0])
}

/// Tells a peer which extension headers are understood here: the PDU Session Container.
pub fn supported_extension_headers(sequence: u16) -> Vec<u8> {
    let elements = [IE_EXTENSION_TYPES, 1, EXTENSION_CONTAINER];
    path_message(
        MessageType::SupportedExtensionHeadersNotification,
        sequence,
        &elements,
    )
}

/// A message about the path: TEID 0, with a sequence number.
fn path_message(kind: MessageType, sequence: u16, elements: &[u8]) -> Vec<u8> {
    // The callers' elements are a few octets; a longer list would be cut off by its own length.
    let length = u16::try_from(elements.len().saturating_add(4)).unwrap_or(u16::MAX);
    let mut out = vec![FLAGS_PLAIN | FLAG_SEQUENCE, kind.octet()];
    out.extend(length.to_be_bytes());
    out.extend([0; 4]);
    out.extend(sequence.to_be_bytes());
    out.extend([0, 0]);
    out.extend_from_slice(elements);
    out
}

/// Error Indication (7.3.1): a G-PDU came for a tunnel that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorIndication {
    /// The TEID of the G-PDU.
    pub teid: u32,
    /// The address the G-PDU was sent to.
    pub peer: IpAddr,
}

impl ErrorIndication {
    /// Writes the whole message.
    pub fn encode(&self, sequence: u16) -> Vec<u8> {
        let mut elements = vec![IE_TEID_DATA_I];
        elements.extend(self.teid.to_be_bytes());
        match self.peer {
            IpAddr::V4(address) => {
                elements.extend([IE_PEER_ADDRESS, 0, 4]);
                elements.extend(address.octets());
            }
            IpAddr::V6(address) => {
                elements.extend([IE_PEER_ADDRESS, 0, 16]);
                elements.extend(address.octets());
            }
        }
        path_message(MessageType::ErrorIndication, sequence, &elements)
    }

    /// Reads the information elements of an Error Indication.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        const MISSING: DecodeError = DecodeError::Truncated("Error Indication");
        let (mut teid, mut peer) = (None, None);
        let mut rest = payload;
        while let Some((&kind, tail)) = rest.split_first() {
            rest = match kind {
                IE_TEID_DATA_I => {
                    let (value, tail) = tail.split_first_chunk::<4>().ok_or(MISSING)?;
                    teid = Some(u32::from_be_bytes(*value));
                    tail
                }
                // Types below 128 are TV with sizes of their own; only these two occur here.
                IE_RECOVERY => tail.split_first().ok_or(MISSING)?.1,
                0..128 => return Err(MISSING),
                _ => {
                    let (len, tail) = tail.split_first_chunk::<2>().ok_or(MISSING)?;
                    let len = usize::from(u16::from_be_bytes(*len));
                    let (value, tail) = tail.split_at_checked(len).ok_or(MISSING)?;
                    if kind == IE_PEER_ADDRESS {
                        peer = <[u8; 4]>::try_from(value)
                            .map(IpAddr::from)
                            .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
                            .ok();
                    }
                    tail
                }
            };
        }
        Ok(Self {
            teid: teid.ok_or(MISSING)?,
            peer: peer.ok_or(MISSING)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Direction;

    const UPLINK: PduSessionContainer = PduSessionContainer {
        direction: Direction::Uplink,
        qfi: 9,
        rqi: false,
    };

    #[test]
    fn g_pdu_octets() {
        let octets = encode_g_pdu(0x0102_0304, UPLINK, b"abcd").unwrap();
        let expected = [
            0x34, 0xff, 0, 12, 1, 2, 3, 4, 0, 0, 0, 0x85, 1, 0x10, 9, 0, b'a', b'b', b'c', b'd',
        ];
        assert_eq!(octets, expected);
        let message = Message::decode(&octets).unwrap();
        assert_eq!(message.payload, b"abcd");
        assert_eq!(message.header.teid, 0x0102_0304);
        assert_eq!(message.header.container, Some(UPLINK));
    }

    #[test]
    fn rqi_travels_downlink_only() {
        for (direction, expected) in [(Direction::Downlink, true), (Direction::Uplink, false)] {
            let container = PduSessionContainer {
                direction,
                qfi: 63,
                rqi: true,
            };
            let octets = encode_g_pdu(1, container, &[]).unwrap();
            let found = Message::decode(&octets).unwrap().header.container.unwrap();
            assert_eq!(
                (found.direction, found.qfi, found.rqi),
                (direction, 63, expected)
            );
        }
    }

    #[test]
    fn a_pdu_beyond_the_length_field_is_refused() {
        assert!(encode_g_pdu(1, UPLINK, &vec![0; 65_527]).is_some());
        assert!(encode_g_pdu(1, UPLINK, &vec![0; 65_528]).is_none());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let octets = encode_g_pdu(1, UPLINK, b"abcd").unwrap();
        for len in 0..octets.len() {
            assert!(Message::decode(&octets[..len]).is_err(), "cut at {len}");
            if len >= 8 {
                // An honest length: an error as long as the cut is in the header.
                let mut cut = octets[..len].to_vec();
                cut[3] = u8::try_from(len - 8).unwrap();
                assert_eq!(
                    Message::decode(&cut).is_ok(),
                    len >= 16,
                    "honest cut at {len}"
                );
            }
        }
    }

    #[test]
    fn echo_keeps_its_sequence_number() {
        assert_eq!(
            echo_response(0x1234),
            [0x32, 2, 0, 6, 0, 0, 0, 0, 0x12, 0x34, 0, 0, 14, 0]
        );
        let octets = echo_request(7);
        let message = Message::decode(&octets).unwrap();
        assert_eq!(
            (message.header.kind, message.header.sequence),
            (MessageType::EchoRequest, Some(7))
        );
    }

    #[test]
    fn error_indication_both_ways() {
        for peer in ["203.0.113.1", "2001:db8::1"] {
            let indication = ErrorIndication {
                teid: 0xdead_beef,
                peer: peer.parse().unwrap(),
            };
            let octets = indication.encode(1);
            let message = Message::decode(&octets).unwrap();
            assert_eq!(message.header.kind, MessageType::ErrorIndication);
            assert_eq!(ErrorIndication::decode(message.payload), Ok(indication));
            for len in 0..message.payload.len() {
                assert!(
                    ErrorIndication::decode(&message.payload[..len]).is_err(),
                    "cut at {len}"
                );
            }
        }
    }

    #[test]
    fn extension_headers_chain_and_end() {
        // UDP port (0x40, comprehension not required), then the container.
        let octets = [
            0x34, 0xff, 0, 13, 0, 0, 0, 1, 0, 0, 0, 0x40, 1, 8, 0x68, 0x85, 1, 0, 5, 0, 0x45,
        ];
        let message = Message::decode(&octets).unwrap();
        assert_eq!(message.header.container.unwrap().qfi, 5);
        assert_eq!(message.payload, [0x45]);
    }

    #[test]
    fn extension_headers_that_lie_are_errors() {
        let zero = [0x34, 0xff, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0x85, 0, 0x10, 9, 0];
        assert_eq!(Message::decode(&zero), Err(DecodeError::ExtensionLength));
        let long = [0x34, 0xff, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0x85, 2, 0x10, 9, 0];
        assert_eq!(
            Message::decode(&long),
            Err(DecodeError::Truncated("extension header"))
        );
        let required = [0x34, 0xff, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0xc1, 1, 0, 0, 0];
        let error = DecodeError::RequiredExtension(RequiredExtension { kind: 0xc1 });
        assert_eq!(Message::decode(&required), Err(error));
        let kind = [0x34, 0xff, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0x20, 9, 0];
        assert_eq!(Message::decode(&kind), Err(DecodeError::Container(2)));
    }

    #[test]
    fn other_versions_are_errors() {
        for flags in [0x00, 0x20, 0x50, 0xff] {
            assert_eq!(
                Message::decode(&[flags, 255, 0, 0, 0, 0, 0, 0]),
                Err(DecodeError::Version(flags))
            );
        }
    }
}
