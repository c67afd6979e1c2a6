//! EAP-5G (TS 24.502, 9.3.2), an expanded EAP method (RFC 3748, 5.7) that carries NAS.
//!
//! ```text
//! Code(1) Identifier(1) Length(2) Type=254(1) Vendor-Id=10415(3) Vendor-Type=3(4) Message-Id(1) Spare(1) ...
//! ```
//! Length counts the whole packet. A response carries AN-parameters before the NAS PDU, a request
//! does not, so the same Message-Id has two layouts.

use crate::{
    an_parameters::AnParameters,
    reader::{DecodeError, EncodeError, Reader, len16},
};

const CODE_REQUEST: u8 = 1;
const CODE_RESPONSE: u8 = 2;
const CODE_SUCCESS: u8 = 3;
const CODE_FAILURE: u8 = 4;

const TYPE_EXPANDED: u8 = 254;
const VENDOR_3GPP: [u8; 3] = [0x00, 0x28, 0xaf];
const VENDOR_TYPE_5G: [u8; 4] = [0, 0, 0, 3];

const MESSAGE_START: u8 = 1;
const MESSAGE_NAS: u8 = 2;
const MESSAGE_NOTIFICATION: u8 = 3;
const MESSAGE_STOP: u8 = 4;

/// An EAP packet as it stands in an IKEv2 EAP payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// From the N3IWF.
    Request {
        /// Echoed by the response.
        identifier: u8,
        /// What is asked.
        message: Request,
    },
    /// From the UE.
    Response {
        /// The request's identifier.
        identifier: u8,
        /// What is answered.
        message: Response,
    },
    /// EAP-Success. Some authenticators send an identifier of their own choice.
    Success {
        /// Identifier of the last response (RFC 3748, 4.2).
        identifier: u8,
    },
    /// EAP-Failure.
    Failure {
        /// Identifier of the last response (RFC 3748, 4.2).
        identifier: u8,
    },
}

/// What an N3IWF sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// 5G-Start (9.3.2.2.1).
    Start,
    /// 5G-NAS (9.3.2.2.3): a downlink NAS PDU.
    Nas(Vec<u8>),
    /// 5G-Notification (9.3.2.2.5): for trusted access; empty towards a UE behind an N3IWF.
    Notification,
}

/// What a UE sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// 5G-NAS (9.3.2.2.2): AN-parameters and an uplink NAS PDU.
    Nas {
        /// AN-parameters; empty after the first message.
        an_parameters: AnParameters,
        /// The NAS PDU; never empty.
        nas: Vec<u8>,
    },
    /// 5G-Notification (9.3.2.2.6).
    Notification,
    /// 5G-Stop (9.3.2.2.4): the UE gives up; the N3IWF answers with EAP-Failure.
    Stop,
}

impl Packet {
    /// Reads one EAP packet.
    ///
    /// Octets after the EAP length are an error; extensions within it are ignored, as the
    /// standard wants.
    pub fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let mut outer = Reader::new(octets);
        let code = outer.u8("EAP code")?;
        let identifier = outer.u8("EAP identifier")?;
        let length = usize::from(outer.u16("EAP length")?);
        if length != octets.len() {
            return Err(DecodeError::Length {
                field: "EAP length",
                found: length,
            });
        }
        match code {
            CODE_SUCCESS | CODE_FAILURE => {
                outer.finish("EAP-Success or EAP-Failure")?;
                return Ok(match code {
                    CODE_SUCCESS => Self::Success { identifier },
                    _ => Self::Failure { identifier },
                });
            }
            CODE_REQUEST | CODE_RESPONSE => {}
            other => {
                return Err(DecodeError::Value {
                    field: "EAP code",
                    found: other.into(),
                });
            }
        }
        let kind = outer.u8("EAP type")?;
        if kind != TYPE_EXPANDED {
            return Err(DecodeError::Value {
                field: "EAP type",
                found: kind.into(),
            });
        }
        let [a, b, c] = outer.array("EAP Vendor-Id")?;
        if [a, b, c] != VENDOR_3GPP {
            let found = u32::from_be_bytes([0, a, b, c]);
            return Err(DecodeError::Value {
                field: "EAP Vendor-Id",
                found,
            });
        }
        let vendor_type = outer.array("EAP Vendor-Type")?;
        if vendor_type != VENDOR_TYPE_5G {
            let found = u32::from_be_bytes(vendor_type);
            return Err(DecodeError::Value {
                field: "EAP Vendor-Type",
                found,
            });
        }
        let message_id = outer.u8("EAP-5G Message-Id")?;
        outer.u8("EAP-5G spare")?;
        if code == CODE_REQUEST {
            let message = Request::decode(message_id, &mut outer)?;
            Ok(Self::Request {
                identifier,
                message,
            })
        } else {
            let message = Response::decode(message_id, &mut outer)?;
            Ok(Self::Response {
                identifier,
                message,
            })
        }
    }

    /// Writes the packet.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let (code, identifier, body) = match self {
            Self::Request {
                identifier,
                message,
            } => (CODE_REQUEST, identifier, Some(message.encode()?)),
            Self::Response {
                identifier,
                message,
            } => (CODE_RESPONSE, identifier, Some(message.encode()?)),
            Self::Success { identifier } => (CODE_SUCCESS, identifier, None),
            Self::Failure { identifier } => (CODE_FAILURE, identifier, None),
        };
        let mut out = vec![code, *identifier, 0, 0];
        if let Some((message_id, body)) = body {
            out.push(TYPE_EXPANDED);
            out.extend(VENDOR_3GPP);
            out.extend(VENDOR_TYPE_5G);
            out.extend([message_id, 0]);
            out.extend(body);
        }
        let length = len16(out.len(), "EAP packet")?.to_be_bytes();
        for (place, octet) in out.iter_mut().skip(2).zip(length) {
            *place = octet;
        }
        Ok(out)
    }

    /// The identifier, whatever the packet.
    pub const fn identifier(&self) -> u8 {
        match self {
            Self::Request { identifier, .. }
            | Self::Response { identifier, .. }
            | Self::Success { identifier }
            | Self::Failure { identifier } => *identifier,
        }
    }
}

impl Request {
    fn decode(message_id: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match message_id {
            MESSAGE_START => Ok(Self::Start),
            MESSAGE_NAS => read_nas(reader).map(Self::Nas),
            MESSAGE_NOTIFICATION => Ok(Self::Notification),
            other => Err(DecodeError::Value {
                field: "EAP-5G Message-Id",
                found: other.into(),
            }),
        }
    }

    fn encode(&self) -> Result<(u8, Vec<u8>), EncodeError> {
        let mut body = Vec::new();
        let message_id = match self {
            Self::Start => MESSAGE_START,
            Self::Nas(nas) => {
                write_nas(&mut body, nas)?;
                MESSAGE_NAS
            }
            Self::Notification => {
                body.extend([0, 0]);
                MESSAGE_NOTIFICATION
            }
        };
        Ok((message_id, body))
    }
}

impl Response {
    fn decode(message_id: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match message_id {
            MESSAGE_NAS => {
                let len = usize::from(reader.u16("AN-parameters length")?);
                let an_parameters = AnParameters::decode(reader.take(len, "AN-parameters")?)?;
                // Extended AN-parameters and extensions may follow; none concerns an N3IWF yet.
                let nas = read_nas(reader)?;
                Ok(Self::Nas { an_parameters, nas })
            }
            MESSAGE_NOTIFICATION => Ok(Self::Notification),
            MESSAGE_STOP => Ok(Self::Stop),
            other => Err(DecodeError::Value {
                field: "EAP-5G Message-Id",
                found: other.into(),
            }),
        }
    }

    fn encode(&self) -> Result<(u8, Vec<u8>), EncodeError> {
        let mut body = Vec::new();
        let message_id = match self {
            Self::Nas { an_parameters, nas } => {
                let parameters = an_parameters.encode()?;
                body.extend(len16(parameters.len(), "AN-parameters")?.to_be_bytes());
                body.extend(parameters);
                write_nas(&mut body, nas)?;
                MESSAGE_NAS
            }
            Self::Notification => {
                body.extend([0, 0]);
                MESSAGE_NOTIFICATION
            }
            Self::Stop => MESSAGE_STOP,
        };
        Ok((message_id, body))
    }
}

fn read_nas(reader: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let len = usize::from(reader.u16("NAS-PDU length")?);
    if len == 0 {
        return Err(DecodeError::Length {
            field: "NAS-PDU length",
            found: 0,
        });
    }
    reader.take(len, "NAS-PDU").map(<[u8]>::to_vec)
}

fn write_nas(body: &mut Vec<u8>, nas: &[u8]) -> Result<(), EncodeError> {
    body.extend(len16(nas.len(), "NAS-PDU")?.to_be_bytes());
    body.extend_from_slice(nas);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::an_parameters::{EstablishmentCause, Plmn};

    fn uplink() -> Packet {
        Packet::Response {
            identifier: 9,
            message: Response::Nas {
                an_parameters: AnParameters {
                    selected_plmn: Plmn::from_digits("208", "93"),
                    establishment_cause: Some(EstablishmentCause::MoSignalling),
                    ..AnParameters::default()
                },
                nas: vec![0x7e, 0x00, 0x41],
            },
        }
    }

    #[test]
    fn start_is_the_minimal_packet() {
        let start = Packet::Request {
            identifier: 0x2a,
            message: Request::Start,
        };
        let octets = [1, 0x2a, 0, 14, 0xfe, 0x00, 0x28, 0xaf, 0, 0, 0, 3, 1, 0];
        assert_eq!(start.encode().unwrap(), octets);
        assert_eq!(Packet::decode(&octets).unwrap(), start);
    }

    #[test]
    fn uplink_nas_octets() {
        let octets = [
            2, 9, 0, 29, 0xfe, 0x00, 0x28, 0xaf, 0, 0, 0, 3, 2, 0, // prefix
            0, 8, 4, 1, 3, 2, 3, 0x02, 0xf8, 0x39, // AN-parameters
            0, 3, 0x7e, 0x00, 0x41, // NAS-PDU
        ];
        assert_eq!(uplink().encode().unwrap(), octets);
        assert_eq!(Packet::decode(&octets).unwrap(), uplink());
    }

    #[test]
    fn every_packet_comes_back() {
        let messages = [
            Packet::Request {
                identifier: 1,
                message: Request::Nas(vec![0x7e; 300]),
            },
            Packet::Request {
                identifier: 1,
                message: Request::Notification,
            },
            Packet::Response {
                identifier: 1,
                message: Response::Notification,
            },
            Packet::Response {
                identifier: 1,
                message: Response::Stop,
            },
            Packet::Success { identifier: 7 },
            Packet::Failure { identifier: 8 },
            uplink(),
        ];
        for packet in messages {
            assert_eq!(Packet::decode(&packet.encode().unwrap()).unwrap(), packet);
        }
    }

    #[test]
    fn extensions_after_the_nas_pdu_are_ignored() {
        let mut octets = uplink().encode().unwrap();
        octets.extend([0, 4, 6, 2, 0xab, 0xcd]);
        octets[3] += 6;
        assert_eq!(Packet::decode(&octets).unwrap(), uplink());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let octets = uplink().encode().unwrap();
        for len in 0..octets.len() {
            assert!(Packet::decode(&octets[..len]).is_err(), "cut at {len}");
            // The same cut with an honest EAP length: the inner lengths have to catch it.
            let mut cut = octets[..len].to_vec();
            if len >= 4 {
                cut[3] = u8::try_from(len).unwrap();
                assert!(Packet::decode(&cut).is_err(), "honest cut at {len}");
            }
        }
    }

    #[test]
    fn foreign_methods_and_codes_are_named() {
        let mut identity = uplink().encode().unwrap();
        identity[4] = 1;
        let error = Packet::decode(&identity).unwrap_err();
        assert_eq!(
            error,
            DecodeError::Value {
                field: "EAP type",
                found: 1
            }
        );
        let mut code = uplink().encode().unwrap();
        code[0] = 5;
        assert!(matches!(
            Packet::decode(&code),
            Err(DecodeError::Value {
                field: "EAP code",
                ..
            })
        ));
        let mut vendor = uplink().encode().unwrap();
        vendor[5] = 1;
        assert!(Packet::decode(&vendor).is_err());
        let mut message = uplink().encode().unwrap();
        message[12] = 1;
        assert!(Packet::decode(&message).is_err(), "5G-Start is no response");
    }

    #[test]
    fn an_empty_nas_pdu_is_an_error() {
        let octets = [1, 0, 0, 16, 0xfe, 0x00, 0x28, 0xaf, 0, 0, 0, 3, 2, 0, 0, 0];
        assert!(Packet::decode(&octets).is_err());
    }
}
