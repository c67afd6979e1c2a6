//! Somebody with a key exchange and no manners: every message is the test's.

use std::net::SocketAddr;

use free5gc::{
    nas::Nas,
    sa::{ESP, IKE, IkeSa, Transcript, notify},
};
use ike::{
    crypto::{EspSuite, IkeSuite, KeMethod, KeSecret},
    wire::{
        self, AuthMethod, Body, ExchangeType, Flags, Header, Identification, NotifyType, Payload,
        PayloadType, SaPayload, TrafficSelector, find_notify,
    },
};
use nwu::{
    AnParameters, Plmn,
    eap5g::{Packet, Request, Response},
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::world::{World, subscriber};

pub(crate) struct Stranger {
    pub(crate) address: SocketAddr,
    rng: ChaCha20Rng,
    ke: KeSecret,
    pub(crate) transcript: Transcript,
    pub(crate) sa: Option<IkeSa>,
    /// Of the EAP request that is to be answered.
    pub(crate) identifier: u8,
    pub(crate) nas: Nas,
}

impl Stranger {
    pub(crate) fn new() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(77);
        Self {
            address: ([198, 51, 100, 7], 500).into(),
            ke: KeMethod::Modp2048.generate(&mut rng),
            rng,
            transcript: Transcript {
                spi_i: 0x5151,
                ni: vec![9; 32],
                ..Transcript::default()
            },
            sa: None,
            identifier: 0,
            nas: subscriber(),
        }
    }

    pub(crate) fn header(&self, exchange: ExchangeType, message_id: u32) -> Header {
        Header {
            spi_i: self.transcript.spi_i,
            spi_r: self.transcript.spi_r,
            exchange,
            flags: Flags {
                initiator: true,
                response: false,
            },
            message_id,
        }
    }

    pub(crate) fn good_offer() -> SaPayload {
        IkeSuite::offer(&[IKE], &[])
    }

    pub(crate) fn good_ke(&self) -> Payload {
        ke(self.ke.public().to_vec())
    }

    /// Sends an IKE_SA_INIT request; its one answer.
    pub(crate) fn ask_init(&mut self, world: &mut World, payloads: &[Payload]) -> Vec<Payload> {
        let header = self.header(ExchangeType::IkeSaInit, 0);
        let request = wire::encode(&header, payloads).unwrap();
        world.inject(self.address, &request);
        let [answer] = <[_; 1]>::try_from(world.answers()).expect("one answer");
        let parsed = wire::parse(&answer).unwrap();
        assert!(parsed.header.flags.response && !parsed.header.flags.initiator);
        self.transcript.request = request;
        self.transcript.spi_r = parsed.header.spi_r;
        self.transcript.response.clone_from(&answer);
        let Body::Clear(payloads) = parsed.body else {
            panic!("IKE_SA_INIT is in clear");
        };
        payloads
    }

    /// An honest IKE_SA_INIT.
    pub(crate) fn init(world: &mut World) -> Self {
        let mut this = Self::new();
        let nonce = Payload::Nonce(this.transcript.ni.clone());
        let request = [Payload::Sa(Self::good_offer()), this.good_ke(), nonce];
        let mut public = None;
        for payload in this.ask_init(world, &request) {
            match payload {
                Payload::Ke { data, .. } => public = Some(data),
                Payload::Nonce(nonce) => this.transcript.nr = nonce,
                _ => {}
            }
        }
        let shared = this.ke.finish(&public.unwrap()).unwrap();
        this.sa = IkeSa::new(&IKE, this.transcript.clone(), &shared, true);
        this
    }

    pub(crate) fn seal(&mut self, exchange: ExchangeType, id: u32, with: &[Payload]) -> Vec<u8> {
        let sa = self.sa.as_mut().unwrap();
        sa.seal(&mut self.rng, exchange, false, id, with).unwrap()
    }

    /// Sends octets; what the gateway answers under protection, if it answers.
    pub(crate) fn send(&mut self, world: &mut World, datagram: &[u8]) -> Option<Vec<Payload>> {
        world.inject(self.address, datagram);
        let answers = world.answers();
        assert!(answers.len() <= 1, "more than one answer");
        let answer = answers.first()?;
        let parsed = wire::parse(answer).unwrap();
        Some(self.sa.as_ref()?.open(&parsed).expect("a protected answer"))
    }

    pub(crate) fn ask(
        &mut self,
        world: &mut World,
        exchange: ExchangeType,
        id: u32,
        payloads: &[Payload],
    ) -> Option<Vec<Payload>> {
        let request = self.seal(exchange, id, payloads);
        self.send(world, &request)
    }

    pub(crate) fn good_first(offer: SaPayload) -> Vec<Payload> {
        let any = TrafficSelector::any_v4();
        vec![
            Payload::IdI(identity()),
            Payload::Sa(offer),
            Payload::TsI(vec![any]),
            Payload::TsR(vec![any]),
        ]
    }

    pub(crate) fn good_child() -> SaPayload {
        EspSuite::offer(&[ESP], 0x0101_0101)
    }

    /// Up to 5G-Start.
    pub(crate) fn in_eap(world: &mut World) -> Self {
        Self::in_eap_with(world, Self::good_child())
    }

    pub(crate) fn in_eap_with(world: &mut World, child: SaPayload) -> Self {
        let mut this = Self::init(world);
        let first = Self::good_first(child);
        let answer = this.ask(world, ExchangeType::IkeAuth, 1, &first).unwrap();
        let (message, identifier) = eap_request(&answer);
        assert_eq!(message, Request::Start);
        this.identifier = identifier;
        this
    }

    /// An EAP packet, whatever it is.
    pub(crate) fn eap(&mut self, world: &mut World, id: u32, packet: Vec<u8>) -> Vec<Payload> {
        let payloads = [Payload::Eap(packet)];
        self.ask(world, ExchangeType::IkeAuth, id, &payloads)
            .expect("an answer to EAP")
    }

    /// A good 5G-NAS; the NAS of the answer.
    pub(crate) fn nas(&mut self, world: &mut World, id: u32, nas: Vec<u8>) -> Option<Vec<u8>> {
        let an_parameters = AnParameters {
            selected_plmn: Plmn::from_digits("208", "93").filter(|_| id == 2),
            ..AnParameters::default()
        };
        let message = Response::Nas { an_parameters, nas };
        let packet = Packet::Response {
            identifier: self.identifier,
            message,
        };
        let answer = self.eap(world, id, packet.encode().unwrap());
        let packet = eap_packet(&answer);
        match Packet::decode(&packet).unwrap() {
            Packet::Request {
                identifier,
                message: Request::Nas(nas),
            } => {
                self.identifier = identifier;
                Some(nas)
            }
            Packet::Success { .. } => None,
            other => panic!("{other:?}"),
        }
    }

    /// Through EAP, honestly: AUTH with K_N3IWF is next, with Message ID 5.
    pub(crate) fn authenticated(world: &mut World, child: SaPayload) -> Self {
        let mut this = Self::in_eap_with(world, child);
        let request = this.nas.registration_request().unwrap();
        let challenge = this.nas(world, 2, request).unwrap();
        let response = this.nas.authentication_response(&challenge).unwrap();
        this.nas(world, 3, response).unwrap();
        let complete = this.nas.security_mode_complete().unwrap();
        assert_eq!(this.nas(world, 4, complete), None, "EAP-Success");
        this
    }

    pub(crate) fn auth(&self) -> Payload {
        let key = self.nas.k_n3iwf().unwrap();
        let sa = self.sa.as_ref().unwrap();
        Payload::Auth {
            method: AuthMethod::SHARED_KEY,
            data: sa.shared_key_auth(true, &identity(), &key),
        }
    }

    /// Attached: the next Message ID is 6.
    pub(crate) fn attached(world: &mut World) -> Self {
        let mut this = Self::authenticated(world, Self::good_child());
        let auth = this.auth();
        let answer = this.ask(world, ExchangeType::IkeAuth, 5, &[auth]).unwrap();
        assert!(answer.iter().any(|p| matches!(p, Payload::Auth { .. })));
        this
    }
}

fn identity() -> Identification {
    Identification::key_id(b"UE".to_vec())
}

pub(crate) fn ke(data: Vec<u8>) -> Payload {
    Payload::Ke {
        method: KeMethod::Modp2048.id(),
        data,
    }
}

/// A payload of a known type with a body of the test's making.
pub(crate) fn raw(kind: PayloadType, body: Vec<u8>) -> Payload {
    Payload::Unknown {
        payload_type: kind.0,
        data: body,
    }
}

pub(crate) fn eap_packet(payloads: &[Payload]) -> Vec<u8> {
    let packet = payloads.iter().find_map(|payload| match payload {
        Payload::Eap(packet) => Some(packet.clone()),
        _ => None,
    });
    packet.expect("an EAP packet")
}

pub(crate) fn eap_request(payloads: &[Payload]) -> (Request, u8) {
    match Packet::decode(&eap_packet(payloads)).unwrap() {
        Packet::Request {
            identifier,
            message,
        } => (message, identifier),
        other => panic!("{other:?}"),
    }
}

/// Exactly this error notify and nothing else.
pub(crate) fn is_only(payloads: &[Payload], kind: NotifyType) -> bool {
    payloads == [notify(kind, Vec::new())] && find_notify(payloads, kind).is_some()
}
