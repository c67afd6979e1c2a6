//! The EAP-5G peer (TS 24.502, 7.3.3): one NAS PDU down, one NAS PDU up, in lock-step.

use nwu::{
    AnParameters, DecodeError, EncodeError,
    eap5g::{Packet, Request, Response},
};
use thiserror::Error;

/// What a request asks of the UE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// 5G-Start: for the first NAS PDU.
    Start,
    /// 5G-NAS: a downlink NAS PDU, answered with an uplink one.
    Nas(Vec<u8>),
    /// Nothing: this is the answer to send at once.
    Answer(Vec<u8>),
}

/// Why a packet is no request of EAP-5G.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EapError {
    /// It cannot be read.
    #[error("EAP: {0}")]
    Decode(#[from] DecodeError),
    /// It is not a request, or one that does not fit here.
    #[error("EAP: an unexpected {0}")]
    Unexpected(&'static str),
    /// An answer cannot be written.
    #[error("EAP: {0}")]
    Encode(#[from] EncodeError),
    /// There is no request to answer.
    #[error("EAP: no request to answer")]
    NoRequest,
}

/// The peer's state during one IKE_AUTH.
#[derive(Debug)]
pub struct Peer {
    an_parameters: Option<AnParameters>,
    started: bool,
    /// Identifier of the request that waits for its answer.
    pending: Option<u8>,
}

const CODE_REQUEST: u8 = 1;
const CODE_RESPONSE: u8 = 2;
const TYPE_NOTIFICATION: u8 = 2;
const TYPE_NAK: u8 = 3;
const TYPE_EXPANDED: u8 = 254;

impl Peer {
    /// A peer that sends `an_parameters` with its first NAS PDU.
    pub fn new(an_parameters: AnParameters) -> Self {
        Self {
            an_parameters: Some(an_parameters),
            started: false,
            pending: None,
        }
    }

    /// Takes an EAP request.
    pub fn request(&mut self, packet: &[u8]) -> Result<Asked, EapError> {
        // Methods other than EAP-5G, which the codec does not know (RFC 3748, 5.2 and 5.3).
        if let [CODE_REQUEST, identifier, _, _, kind, ..] = *packet
            && kind != TYPE_EXPANDED
        {
            return match kind {
                TYPE_NOTIFICATION => Ok(Asked::Answer(vec![
                    CODE_RESPONSE,
                    identifier,
                    0,
                    5,
                    TYPE_NOTIFICATION,
                ])),
                TYPE_NAK => Err(EapError::Unexpected("Nak")),
                _ if self.started => Err(EapError::Unexpected("method")),
                _ => Ok(Asked::Answer(vec![
                    CODE_RESPONSE,
                    identifier,
                    0,
                    6,
                    TYPE_NAK,
                    TYPE_EXPANDED,
                ])),
            };
        }
        let Packet::Request {
            identifier,
            message,
        } = Packet::decode(packet)?
        else {
            return Err(EapError::Unexpected("response"));
        };
        self.pending = Some(identifier);
        match message {
            Request::Start if self.started => Err(EapError::Unexpected("5G-Start")),
            Request::Start => {
                self.started = true;
                Ok(Asked::Start)
            }
            Request::Nas(_) if !self.started => Err(EapError::Unexpected("5G-NAS")),
            Request::Nas(pdu) => Ok(Asked::Nas(pdu)),
            Request::Notification => {
                self.pending = None;
                let message = Response::Notification;
                let answer = Packet::Response {
                    identifier,
                    message,
                };
                Ok(Asked::Answer(answer.encode()?))
            }
        }
    }

    /// The answer that carries an uplink NAS PDU; the first one with the AN-parameters.
    pub fn nas(&mut self, pdu: Vec<u8>) -> Result<Vec<u8>, EapError> {
        let identifier = self.pending.take().ok_or(EapError::NoRequest)?;
        let message = Response::Nas {
            an_parameters: self.an_parameters.take().unwrap_or_default(),
            nas: pdu,
        };
        Ok(Packet::Response {
            identifier,
            message,
        }
        .encode()?)
    }

    /// The answer 5G-Stop: the UE gives up, and the N3IWF ends EAP with EAP-Failure.
    pub fn stop(&mut self) -> Result<Vec<u8>, EapError> {
        let identifier = self.pending.take().ok_or(EapError::NoRequest)?;
        let message = Response::Stop;
        Ok(Packet::Response {
            identifier,
            message,
        }
        .encode()?)
    }

    /// Whether a request waits for its answer.
    pub fn is_asked(&self) -> bool {
        self.pending.is_some()
    }
}

#[cfg(test)]
mod tests {
    use nwu::EstablishmentCause;
    use proptest::prelude::*;

    use super::*;

    fn peer() -> Peer {
        Peer::new(AnParameters {
            establishment_cause: Some(EstablishmentCause::MoSignalling),
            ..AnParameters::default()
        })
    }

    fn request(identifier: u8, message: Request) -> Vec<u8> {
        Packet::Request {
            identifier,
            message,
        }
        .encode()
        .unwrap()
    }

    #[test]
    fn an_parameters_go_with_the_first_pdu_alone() {
        let mut peer = peer();
        let start = request(7, Request::Start);
        assert_eq!(peer.request(&start).unwrap(), Asked::Start);
        let answer = peer.nas(vec![0x7e, 0, 0x41]).unwrap();
        assert_eq!(
            hex::encode(answer),
            "02070018fe0028af000000030200000304010300037e0041"
        );
        let down = request(8, Request::Nas(vec![1, 2]));
        assert_eq!(peer.request(&down).unwrap(), Asked::Nas(vec![1, 2]));
        let Packet::Response {
            identifier: 8,
            message: Response::Nas { an_parameters, .. },
        } = Packet::decode(&peer.nas(vec![3]).unwrap()).unwrap()
        else {
            panic!("5G-NAS")
        };
        assert!(an_parameters.is_empty());
    }

    #[test]
    fn a_request_is_answered_once() {
        let mut peer = peer();
        assert_eq!(peer.nas(vec![1]), Err(EapError::NoRequest));
        peer.request(&request(1, Request::Start)).unwrap();
        peer.stop().unwrap();
        assert_eq!(peer.stop(), Err(EapError::NoRequest));
    }

    #[test]
    fn the_order_of_messages_is_kept() {
        let mut peer = peer();
        let down = request(1, Request::Nas(vec![1]));
        assert_eq!(peer.request(&down), Err(EapError::Unexpected("5G-NAS")));
        peer.request(&request(2, Request::Start)).unwrap();
        let again = request(3, Request::Start);
        assert_eq!(peer.request(&again), Err(EapError::Unexpected("5G-Start")));
    }

    #[test]
    fn another_method_gets_a_nak_for_expanded() {
        let mut peer = peer();
        let md5 = [1, 9, 0, 6, 4, 0];
        assert_eq!(
            peer.request(&md5).unwrap(),
            Asked::Answer(vec![2, 9, 0, 6, 3, 254])
        );
        let notification = [1, 10, 0, 5, 2];
        assert_eq!(
            peer.request(&notification).unwrap(),
            Asked::Answer(vec![2, 10, 0, 5, 2])
        );
    }

    proptest! {
        #[test]
        fn any_packet_is_survived(packet in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut peer = peer();
            peer.request(&request(1, Request::Start)).unwrap();
            let _ = peer.request(&packet);
            let mut prefixed = request(1, Request::Nas(vec![1]));
            prefixed.truncate(packet.len());
            prefixed.extend(&packet);
            let _ = peer.request(&prefixed);
        }
    }
}
