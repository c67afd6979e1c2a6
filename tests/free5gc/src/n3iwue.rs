//! N3IWUE: a state machine of one step per response, which looks at little of what it gets.
//!
//! | it | so an N3IWF has to |
//! |---|---|
//! | offers one suite of SHA-1 and MODP-2048 | have it enabled |
//! | ignores the SA payload of the answer, and takes `g^ir` without leading zeros | draw again when KEr or `g^ir` begins with 0 |
//! | never finds the end of a KEr that begins with 0 (old edition) | the same |
//! | wants SPI 2 for ESP, whatever the standard reserves | take it |
//! | asks for no certificate and looks at none, nor at the peer's AUTH | |
//! | sends CFG_REQUEST beside its AUTH | look for it there |
//! | takes one TCP read for one NAS message | send each alone, with a pause between |
//! | answers CREATE_CHILD_SA with its own Message ID (old edition), the nonce last | accept both |
//! | takes any CREATE_CHILD_SA for a new PDU session | never rekey |
//! | answers first and sets up XFRM then | hold the accept back a little |
//! | leaves Deletes unanswered (old), or takes any for its deregistration (new) | not take that for its death |

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use ike::{
    crypto::{ChildKeys, EspSuite, IkeSuite, KeMethod, KeSecret, nat},
    wire::{
        self, AuthMethod, Body, CfgAttribute, CfgAttributeType, CfgType, Configuration, Delete,
        ExchangeType, Flags, Header, Identification, NotifyType, Parsed, Payload, TrafficSelector,
        find_notify,
    },
};
use keys::Secret;
use nwu::{
    AnParameters, EstablishmentCause, Guami, Plmn, SNssai,
    eap5g::{Packet, Request, Response},
    nas_envelope,
};
use rand_core::CryptoRng;

use crate::{
    nas::{Downlink, Nas},
    sa::{ESP, IKE, IkeSa, Transcript, nonce, notify, stripped},
};

/// SPI of every IKE SA: a constant of the sample configuration.
const IKE_SPI: u64 = 0x6f708;
/// SPI of the signalling Child SA: another one, out of the reserved range.
const ESP_SPI: u32 = 2;
/// What the old edition sleeps between registration and PDU session.
const SLEEP: Duration = Duration::from_millis(500);
/// Netlink work between the answer to CREATE_CHILD_SA and an interface for the user plane.
const XFRM: Duration = Duration::from_millis(15);
const NAT_PORT: u16 = 4500;

/// Which N3IWUE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edition {
    /// Of March 2025, the time of free5GC 4.0.1.
    Old,
    /// Of January 2026.
    New,
}

/// What it wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// A datagram, marker included, from this port to the same port of the N3IWF.
    Datagram(u16, Vec<u8>),
    /// A TCP connection inside the signalling Child SA.
    Connect {
        /// From the inner address,
        local: Ipv4Addr,
        /// to NAS_IP4_ADDRESS and NAS_TCP_PORT.
        remote: SocketAddr,
    },
    /// A NAS message in its envelope.
    Nas(Vec<u8>),
}

/// Its place in the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not begun.
    Idle,
    /// IKE_SA_INIT sent.
    Init,
    /// First IKE_AUTH sent.
    AuthRequest,
    /// REGISTRATION REQUEST sent.
    Registration,
    /// AUTHENTICATION RESPONSE sent.
    Authentication,
    /// SECURITY MODE COMPLETE sent.
    SecurityComplete,
    /// AUTH sent.
    Authenticated,
    /// The signalling Child SA is up, NAS goes over TCP.
    Signalling,
    /// REGISTRATION ACCEPT was read.
    Registered,
    /// The PDU session has its GRE device.
    InSession,
    /// For ever, for this reason.
    Stalled(&'static str),
    /// Left.
    Deregistered,
}

/// A Child SA as handed to XFRM.
pub struct Child {
    /// SPI it receives on.
    pub spi_in: u32,
    /// SPI of the N3IWF.
    pub spi_out: u32,
    /// Keys, those of the initiator of the exchange first.
    pub keys: ChildKeys,
    /// Whether the N3IWF began the exchange.
    pub by_n3iwf: bool,
    /// 5G_QOS_INFO as received; empty for signalling.
    pub qos_info: Vec<u8>,
}

/// One N3IWUE.
pub struct N3iwue {
    edition: Edition,
    local: IpAddr,
    n3iwf: IpAddr,
    port: u16,
    /// Its place in the sequence.
    pub state: State,
    rng: Box<dyn CryptoRng + Send>,
    nas: Nas,
    slice: (u8, [u8; 3]),
    ke: Option<KeSecret>,
    transcript: Transcript,
    sa: Option<IkeSa>,
    /// Message ID of its next request.
    next_id: u32,
    /// The N3IWF's last request (new edition).
    last_request: Option<u32>,
    identifier: u8,
    inner: Option<Ipv4Addr>,
    /// Everything in XFRM.
    pub children: Vec<Child>,
    /// When the device of the last PDU session is there.
    device_at: Option<Duration>,
    session_at: Option<Duration>,
    /// What went wrong without an effect on the sequence.
    pub complaints: Vec<&'static str>,
    out: VecDeque<Output>,
}

impl N3iwue {
    /// One that has not begun. `k` and `opc` are the subscriber's.
    pub fn new(
        edition: Edition,
        (local, n3iwf): (IpAddr, IpAddr),
        nas: Nas,
        slice: (u8, [u8; 3]),
        rng: Box<dyn CryptoRng + Send>,
    ) -> Self {
        Self {
            edition,
            local,
            n3iwf,
            port: 500,
            state: State::Idle,
            rng,
            nas,
            slice,
            ke: None,
            transcript: Transcript::default(),
            sa: None,
            next_id: 0,
            last_request: None,
            identifier: 0,
            inner: None,
            children: Vec::new(),
            device_at: None,
            session_at: None,
            complaints: Vec::new(),
            out: VecDeque::new(),
        }
    }

    /// What it wants done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.session_at
    }

    /// Lets it wake from its sleep.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.session_at.take_if(|at| *at <= now).is_some() {
            self.request_session(1);
        }
    }

    /// Sends IKE_SA_INIT. It is never repeated.
    pub fn start(&mut self) {
        let ke = KeMethod::Modp2048.generate(&mut *self.rng);
        self.transcript.spi_i = IKE_SPI;
        self.transcript.ni = nonce(&mut *self.rng);
        let payloads = [
            Payload::Sa(IkeSuite::offer(&[IKE], &[])),
            Payload::Ke {
                method: KeMethod::Modp2048.id(),
                data: ke.public().to_vec(),
            },
            Payload::Nonce(self.transcript.ni.clone()),
            self.nat_hash(NotifyType::NAT_DETECTION_SOURCE_IP, self.local),
            self.nat_hash(NotifyType::NAT_DETECTION_DESTINATION_IP, self.n3iwf),
        ];
        let header = Header {
            spi_i: IKE_SPI,
            spi_r: 0,
            exchange: ExchangeType::IkeSaInit,
            flags: Flags {
                initiator: true,
                response: false,
            },
            message_id: 0,
        };
        self.ke = Some(ke);
        if let Ok(message) = wire::encode(&header, &payloads) {
            self.transcript.request.clone_from(&message);
            self.out.push_back(Output::Datagram(500, message));
        }
        self.state = State::Init;
    }

    fn nat_hash(&self, kind: NotifyType, address: IpAddr) -> Payload {
        let address = SocketAddr::new(address, 500);
        let spi_r = self.transcript.spi_r;
        notify(kind, nat::detection_hash(IKE_SPI, spi_r, address).to_vec())
    }

    /// A datagram for the socket of this port.
    pub fn handle_datagram(&mut self, now: Duration, port: u16, datagram: &[u8]) {
        if matches!(self.state, State::Stalled(_) | State::Deregistered) {
            return;
        }
        let message = match port {
            NAT_PORT => datagram.strip_prefix(&[0; 4]),
            _ => Some(datagram),
        };
        let Some(Ok(parsed)) = message.map(wire::parse) else {
            return;
        };
        let outcome = match parsed.header.exchange {
            ExchangeType::IkeSaInit => self.init_response(&parsed),
            ExchangeType::IkeAuth => self.auth_response(&parsed),
            ExchangeType::CreateChildSa => self.create_child(now, &parsed),
            ExchangeType::Informational => self.informational(&parsed),
            _ => Some(()),
        };
        if outcome.is_none() {
            self.state = State::Stalled("a message without what it looks for");
        }
    }

    /// Takes KE, Nonce and the NAT hashes; SA is not looked at, nor is an error notify.
    fn init_response(&mut self, parsed: &Parsed<'_>) -> Option<()> {
        let (State::Init, Body::Clear(payloads)) = (self.state, &parsed.body) else {
            return Some(());
        };
        self.transcript.spi_r = parsed.header.spi_r;
        self.transcript.response = parsed.datagram.to_vec();
        let mut public = None;
        for payload in payloads {
            match payload {
                Payload::Ke { data, .. } => public = Some(data),
                Payload::Nonce(nonce) => self.transcript.nr.clone_from(nonce),
                _ => {}
            }
        }
        let public = public?;
        if self.edition == Edition::Old && public.first() == Some(&0) {
            self.state = State::Stalled("in a loop over a public value that begins with 0");
            return Some(());
        }
        let shared = self.ke.take()?.finish(public).ok()?;
        // The octets of a big integer: leading zeros are gone.
        let shared = Secret::from_slice(stripped(shared.expose()));
        self.sa = Some(IkeSa::new(&IKE, self.transcript.clone(), &shared, true)?);
        let source = SocketAddr::new(self.n3iwf, 500);
        let destination = SocketAddr::new(self.local, 500);
        let natted = [
            (NotifyType::NAT_DETECTION_SOURCE_IP, source),
            (NotifyType::NAT_DETECTION_DESTINATION_IP, destination),
        ]
        .into_iter()
        .any(|(kind, address)| {
            let hash = nat::detection_hash(IKE_SPI, self.transcript.spi_r, address);
            find_notify(payloads, kind).is_some_and(|notify| notify.data != hash)
        });
        if natted {
            self.port = NAT_PORT;
        }
        self.next_id = 1;
        self.state = State::AuthRequest;
        let any = TrafficSelector::any_v4();
        self.request(
            ExchangeType::IkeAuth,
            &[
                Payload::IdI(identity()),
                Payload::Sa(EspSuite::offer(&[ESP], ESP_SPI)),
                Payload::TsI(vec![any]),
                Payload::TsR(vec![any]),
            ],
        )
    }

    fn request(&mut self, exchange: ExchangeType, payloads: &[Payload]) -> Option<()> {
        let id = self.next_id;
        self.send(exchange, false, id, payloads)
    }

    fn send(
        &mut self,
        exchange: ExchangeType,
        response: bool,
        id: u32,
        payloads: &[Payload],
    ) -> Option<()> {
        let sa = self.sa.as_mut()?;
        let mut message = sa.seal(&mut *self.rng, exchange, response, id, payloads)?;
        if self.port == NAT_PORT {
            message = [&[0; 4], &message[..]].concat();
        }
        self.out.push_back(Output::Datagram(self.port, message));
        Some(())
    }

    /// One step. IDr, CERT and AUTH of the N3IWF pass unseen.
    fn auth_response(&mut self, parsed: &Parsed<'_>) -> Option<()> {
        if !parsed.header.flags.response {
            return Some(());
        }
        let payloads = self.sa.as_ref()?.open(parsed)?;
        let eap = payloads.iter().find_map(|payload| match payload {
            Payload::Eap(packet) => Some(packet.as_slice()),
            _ => None,
        });
        self.next_id = self.next_id.wrapping_add(1);
        match self.state {
            State::AuthRequest => {
                let (Request::Start, identifier) = request(eap?)? else {
                    return None;
                };
                self.identifier = identifier;
                self.state = State::Registration;
                let nas = self.nas.registration_request()?;
                let parameters = self.an_parameters()?;
                self.eap(parameters, nas)
            }
            State::Registration => {
                let (Request::Nas(nas), identifier) = request(eap?)? else {
                    return None;
                };
                self.identifier = identifier;
                self.state = State::Authentication;
                let nas = self.nas.authentication_response(&nas)?;
                self.eap(AnParameters::default(), nas)
            }
            State::Authentication => {
                let (_, identifier) = request(eap?)?;
                self.identifier = identifier;
                self.state = State::SecurityComplete;
                let nas = self.nas.security_mode_complete()?;
                self.eap(AnParameters::default(), nas)
            }
            State::SecurityComplete => {
                // Taken for EAP-Success without a look.
                self.state = State::Authenticated;
                let key = self.nas.k_n3iwf()?;
                let data = self.sa.as_ref()?.shared_key_auth(true, &identity(), &key);
                let auth = Payload::Auth {
                    method: AuthMethod::SHARED_KEY,
                    data,
                };
                let configuration = Payload::Cp(Configuration {
                    kind: CfgType::REQUEST,
                    attributes: vec![CfgAttribute::request(
                        CfgAttributeType::INTERNAL_IP4_ADDRESS,
                    )],
                });
                self.request(ExchangeType::IkeAuth, &[auth, configuration])
            }
            State::Authenticated => self.signalling(&payloads),
            _ => Some(()),
        }
    }

    /// GUAMI, establishment cause, PLMN, NSSAI: all that the sample configuration has.
    fn an_parameters(&self) -> Option<AnParameters> {
        let plmn = Plmn::from_digits("208", "93")?;
        let (sst, sd) = self.slice;
        Some(AnParameters {
            guami: Some(Guami {
                plmn,
                region: 0xca,
                set: 1016,
                pointer: 0,
            }),
            selected_plmn: Some(plmn),
            requested_nssai: vec![SNssai { sst, sd: Some(sd) }],
            establishment_cause: Some(EstablishmentCause::MoSignalling),
        })
    }

    fn eap(&mut self, an_parameters: AnParameters, nas: Vec<u8>) -> Option<()> {
        let packet = Packet::Response {
            identifier: self.identifier,
            message: Response::Nas { an_parameters, nas },
        };
        let packet = packet.encode().ok()?;
        self.request(ExchangeType::IkeAuth, &[Payload::Eap(packet)])
    }

    /// The last response: the peer's AUTH is not verified.
    fn signalling(&mut self, payloads: &[Payload]) -> Option<()> {
        let mut spi_out = None;
        for payload in payloads {
            match payload {
                Payload::Cp(reply) => {
                    let address = reply.find(CfgAttributeType::INTERNAL_IP4_ADDRESS)?;
                    self.inner = address.as_ipv4();
                }
                Payload::Sa(sa) => spi_out = sa.proposals.first()?.esp_spi(),
                _ => {}
            }
        }
        let address = find_notify(payloads, NotifyType::NAS_IP4_ADDRESS)?;
        let port = find_notify(payloads, NotifyType::NAS_TCP_PORT)?;
        let address: [u8; 4] = address.data.as_slice().try_into().ok()?;
        let port = u16::from_be_bytes(port.data.as_slice().try_into().ok()?);
        let (ni, nr) = (&self.transcript.ni, &self.transcript.nr);
        let keys = self.sa.as_ref()?.child_keys(&ESP, ni, nr)?;
        self.children.push(Child {
            spi_in: ESP_SPI,
            spi_out: spi_out?,
            keys,
            by_n3iwf: false,
            qos_info: Vec::new(),
        });
        self.state = State::Signalling;
        self.out.push_back(Output::Connect {
            local: self.inner?,
            remote: SocketAddr::new(address.into(), port),
        });
        Some(())
    }

    /// One read of the TCP connection is one message, whatever it holds.
    pub fn handle_nas(&mut self, now: Duration, read: &[u8]) {
        let Some(message) = read.get(2..) else {
            return;
        };
        let claimed = read.first_chunk().map(|length| u16::from_be_bytes(*length));
        if claimed.map(usize::from) != Some(message.len()) {
            self.complaints
                .push("a read that is not exactly one NAS message");
        }
        // What follows the first message is lost; what is cut off is garbage.
        let end = claimed.map_or(message.len(), |length| {
            usize::from(length).min(message.len())
        });
        let downlink = self.nas.downlink(message.get(..end).unwrap_or_default());
        match (downlink, self.state) {
            (Downlink::RegistrationAccept, State::Signalling) => {
                self.state = State::Registered;
                let complete = self.nas.registration_complete();
                self.send_nas(complete);
                match self.edition {
                    Edition::Old => self.session_at = Some(now + SLEEP),
                    Edition::New => self.request_session(1),
                }
            }
            (Downlink::SessionAccept, State::Registered) => match self.device_at {
                None => self.state = State::Stalled("PDU session accepted without a Child SA"),
                Some(at) if now < at => {
                    self.state = State::Stalled("Setup GRE tunnel fail: no interface yet");
                }
                Some(_) => self.state = State::InSession,
            },
            _ => {}
        }
    }

    /// Asks for a PDU session.
    pub fn request_session(&mut self, id: u8) {
        let request = self.nas.session_request(id);
        self.send_nas(request);
    }

    fn send_nas(&mut self, message: Option<Vec<u8>>) {
        if let Some(Ok(framed)) = message.map(|message| nas_envelope::wrap(&message)) {
            self.out.push_back(Output::Nas(framed));
        }
    }

    /// Deregisters on SIGTERM; no Delete follows.
    pub fn stop(&mut self) {
        let request = self.nas.deregistration_request();
        self.send_nas(request);
        if self.edition == Edition::Old {
            self.state = State::Deregistered;
        }
    }

    /// Whether a request is taken up: the new edition wants the last ID or the next.
    fn takes(&mut self, id: u32) -> bool {
        if self.edition == Edition::Old {
            return true;
        }
        let expected = self.last_request.map_or(0, |last| last.wrapping_add(1));
        let taken = id == expected || Some(id) == self.last_request;
        if taken {
            self.last_request = Some(id);
        }
        taken
    }

    /// Every request is a new PDU session, also one that rekeys.
    fn create_child(&mut self, now: Duration, parsed: &Parsed<'_>) -> Option<()> {
        if parsed.header.flags.response {
            return Some(());
        }
        let payloads = self.sa.as_ref()?.open(parsed)?;
        let id = parsed.header.message_id;
        if !self.takes(id) {
            return Some(());
        }
        let mut offer = None;
        let mut ni = None;
        let (mut ts_i, mut ts_r) = (None, None);
        for payload in &payloads {
            match payload {
                Payload::Sa(sa) => offer = sa.proposals.first(),
                Payload::Nonce(nonce) => ni = Some(nonce),
                Payload::TsI(list) => ts_i = Some(list.clone()),
                Payload::TsR(list) => ts_r = Some(list.clone()),
                _ => {}
            }
        }
        let (offer, ni) = (offer?, ni?);
        let qos_info = find_notify(&payloads, NotifyType::FIVE_G_QOS_INFO)?;
        find_notify(&payloads, NotifyType::UP_IP4_ADDRESS)?;
        let nr = nonce(&mut *self.rng);
        let spi_in = ESP_SPI + u32::try_from(self.children.len()).ok()?;
        let child = Child {
            spi_in,
            spi_out: offer.esp_spi()?,
            keys: self.sa.as_ref()?.child_keys(&ESP, ni, &nr)?,
            by_n3iwf: true,
            qos_info: qos_info.data.clone(),
        };
        let answer = wire::SaPayload {
            proposals: vec![wire::Proposal {
                spi: spi_in.to_be_bytes().to_vec(),
                ..offer.clone()
            }],
        };
        let id = match self.edition {
            // Its own counter instead of the request's ID.
            Edition::Old => self.next_id.wrapping_sub(1),
            Edition::New => id,
        };
        self.send(
            ExchangeType::CreateChildSa,
            true,
            id,
            &[
                Payload::Sa(answer),
                Payload::TsI(ts_i?),
                Payload::TsR(ts_r?),
                Payload::Nonce(nr),
            ],
        )?;
        self.children.push(child);
        self.device_at = Some(now + XFRM);
        Some(())
    }

    fn informational(&mut self, parsed: &Parsed<'_>) -> Option<()> {
        if parsed.header.flags.response {
            return Some(());
        }
        let payloads = self.sa.as_ref()?.open(parsed)?;
        let id = parsed.header.message_id;
        if !self.takes(id) {
            return Some(());
        }
        let delete = payloads.iter().find_map(|payload| match payload {
            Payload::Delete(delete) => Some(delete),
            _ => None,
        });
        match (delete, self.edition) {
            (None, _) => self.send(ExchangeType::Informational, true, id, &[]),
            (Some(Delete::Ike | Delete::Child { .. }), Edition::Old) => {
                self.complaints.push("Unimplemented");
                Some(())
            }
            (Some(_), Edition::New) => {
                self.send(ExchangeType::Informational, true, id, &[])?;
                self.state = State::Deregistered;
                Some(())
            }
        }
    }

    /// The inner address it was given.
    pub fn inner(&self) -> Option<Ipv4Addr> {
        self.inner
    }
}

/// IDi: the same for every UE.
fn identity() -> Identification {
    Identification::key_id(b"UE".to_vec())
}

fn request(packet: &[u8]) -> Option<(Request, u8)> {
    match Packet::decode(packet).ok()? {
        Packet::Request {
            identifier,
            message,
        } => Some((message, identifier)),
        _ => None,
    }
}
