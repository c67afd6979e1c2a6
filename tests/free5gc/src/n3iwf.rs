//! free5GC's N3IWF towards a UE: it looks at no Message ID, repeats and caches nothing, and says
//! nothing when something is missing.
//!
//! | it | so a UE has to |
//! |---|---|
//! | makes an IKE SA of every IKE_SA_INIT, also of a repeated one | be patient |
//! | drops transform types it does not know, and accepts the rest | compare the answer with the offer |
//! | puts its nonce before KE | take any order |
//! | wants an ESN transform in ESP and none in IKE, one suite of AES-CBC and SHA | offer just that |
//! | signs with RSA and SHA-1, asked or not | allow it |
//! | gives EAP-Success an identifier of its own | not look at it |
//! | reads CFG_REQUEST beside AUTH alone, and says nothing without it | put it there |
//! | sends CREATE_CHILD_SA and its questions for a sign of life with IDs from one counter | bear with gaps and repetitions |
//! | keeps one downlink NAS message for a connection that is not there yet | connect at once |
//! | gives up a UE after two seconds without an answer | answer at once |

mod proposals;
mod sessions;

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use ike::{
    crypto::{ChildKeys, EspSuite, IkeSuite, KeMethod, nat, rsa::RsaSigner},
    wire::{
        self, AuthMethod, Body, CertEncoding, CfgAttribute, CfgAttributeType, CfgType,
        Configuration, Delete, ExchangeType, Flags, Header, Identification, NotifyType, Parsed,
        Payload, Proposal, SaPayload, TrafficSelector,
    },
};
use nwu::{
    eap5g::{Packet, Request, Response},
    nas_envelope,
};
use rand_core::{CryptoRng, Rng};

use self::proposals::{select_esp, select_ike};
use crate::sa::{IkeSa, Transcript, nonce, notify};

/// Its inner address: NAS_IP4_ADDRESS and UP_IP4_ADDRESS.
pub const INNER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// What it gives to the UE.
pub const UE_INNER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Its name.
pub const FQDN: &str = "n3iwf.free5gc.org";
const NAS_PORT: u16 = 20_000;
/// `livenessCheck.transFreq` of the sample.
const LIVENESS: Duration = Duration::from_secs(60);
/// Fixed, whatever is configured.
const LIVENESS_WAIT: Duration = Duration::from_secs(2);

/// Changes what is sent.
pub type Tamper = Box<dyn FnMut(&Header, &mut Vec<Payload>)>;

/// What it wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// A datagram, marker included, from this port to the same port of the UE.
    Datagram(u16, Vec<u8>),
    /// INITIAL UE MESSAGE or UPLINK NAS TRANSPORT, with this NAS PDU.
    Uplink(Vec<u8>),
    /// INITIAL CONTEXT SETUP RESPONSE.
    ContextReady,
    /// PDU SESSION RESOURCE SETUP RESPONSE for this session.
    SessionReady(u8),
    /// A NAS message over TCP, in its envelope.
    Nas(Vec<u8>),
    /// UE CONTEXT RELEASE REQUEST.
    ReleaseRequest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    First,
    Eap,
    Final,
    Up,
}

/// A Child SA as handed to XFRM.
pub struct Child {
    /// SPI it receives on.
    pub spi_in: u32,
    /// SPI of the UE.
    pub spi_out: u32,
    /// Algorithms.
    pub suite: EspSuite,
    /// Keys, those of the initiator of the exchange first.
    pub keys: ChildKeys,
    /// Whether it is for user plane, begun from here.
    pub user: bool,
}

struct Ue {
    suite: IkeSuite,
    sa: IkeSa,
    step: Step,
    idi: Option<Identification>,
    identifier: u8,
    /// The request that waits for the core's answer.
    asked: Option<u32>,
    k_n3iwf: Option<Vec<u8>>,
    child: Option<(EspSuite, Proposal)>,
    responder_id: u32,
    pending: Option<Pending>,
    liveness: Option<Duration>,
    waiting_until: Option<Duration>,
}

/// A CREATE_CHILD_SA without an answer.
struct Pending {
    session: u8,
    nas: Vec<u8>,
    nonce: Vec<u8>,
    spi_in: u32,
    suite: EspSuite,
}

/// The N3IWF.
pub struct N3iwf {
    local: IpAddr,
    remote: IpAddr,
    port: u16,
    certificate: Vec<u8>,
    signer: RsaSigner,
    /// Message IDs are looked at: the newest edition does.
    pub counts_ids: bool,
    /// For worse than it does by itself.
    pub tamper: Option<Tamper>,
    rng: Box<dyn CryptoRng + Send>,
    ues: Vec<Ue>,
    /// Everything in XFRM.
    pub children: Vec<Child>,
    connected: bool,
    cached: Option<Vec<u8>>,
    /// What it logged instead of answering.
    pub complaints: Vec<&'static str>,
    out: VecDeque<Output>,
}

impl N3iwf {
    /// One that serves a single UE. The certificate is DER.
    pub fn new(
        (local, remote): (IpAddr, IpAddr),
        certificate: Vec<u8>,
        signer: RsaSigner,
        rng: Box<dyn CryptoRng + Send>,
    ) -> Self {
        Self {
            local,
            remote,
            port: 500,
            certificate,
            signer,
            counts_ids: false,
            tamper: None,
            rng,
            ues: Vec::new(),
            children: Vec::new(),
            connected: false,
            cached: None,
            complaints: Vec::new(),
            out: VecDeque::new(),
        }
    }

    /// What it wants done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// IKE SAs it holds; they never expire.
    pub fn ike_sas(&self) -> usize {
        self.ues.len()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.ues
            .iter()
            .flat_map(|ue| [ue.liveness, ue.waiting_until])
            .flatten()
            .min()
    }

    /// Questions for a sign of life, and the end of those who did not answer.
    pub fn handle_timeout(&mut self, now: Duration) {
        for at in 0..self.ues.len() {
            let Some(ue) = self.ues.get_mut(at) else {
                return;
            };
            if ue.waiting_until.take_if(|until| *until <= now).is_some() {
                ue.liveness = None;
                self.out.push_back(Output::ReleaseRequest);
            } else if ue.liveness.is_some_and(|due| due <= now) {
                ue.liveness = Some(now + LIVENESS);
                ue.waiting_until = Some(now + LIVENESS_WAIT);
                let id = ue.responder_id;
                self.send(at, ExchangeType::Informational, false, id, &[]);
            }
        }
    }

    /// A datagram for the socket of this port.
    pub fn handle_datagram(&mut self, now: Duration, port: u16, datagram: &[u8]) {
        let message = match port {
            4500 => datagram.strip_prefix(&[0; 4]),
            _ => Some(datagram),
        };
        let Some(Ok(parsed)) = message.map(wire::parse) else {
            return;
        };
        self.port = port;
        let outcome = match parsed.header.exchange {
            ExchangeType::IkeSaInit => self.init(&parsed),
            exchange => match self.find(&parsed) {
                Some((at, payloads)) => match exchange {
                    ExchangeType::IkeAuth => self.auth(now, at, &parsed, &payloads),
                    ExchangeType::CreateChildSa => self.child_response(at, &parsed, &payloads),
                    ExchangeType::Informational => self.informational(now, at, &parsed, &payloads),
                    _ => Some(()),
                },
                None => self.unknown(&parsed),
            },
        };
        if outcome.is_none() {
            self.complaints
                .push("something is nil, and nothing is sent");
        }
    }

    fn find(&self, parsed: &Parsed<'_>) -> Option<(usize, Vec<Payload>)> {
        let spi_r = parsed.header.spi_r;
        let at = self
            .ues
            .iter()
            .position(|ue| ue.sa.transcript.spi_r == spi_r)?;
        Some((at, self.ues.get(at)?.sa.open(parsed)?))
    }

    fn unknown(&mut self, parsed: &Parsed<'_>) -> Option<()> {
        self.clear(
            &Header {
                exchange: ExchangeType::Informational,
                ..parsed.header
            },
            &[notify(NotifyType::INVALID_IKE_SPI, Vec::new())],
        )
        .map(|_| ())
    }

    fn clear(&mut self, request: &Header, payloads: &[Payload]) -> Option<Vec<u8>> {
        let header = Header {
            flags: Flags {
                initiator: false,
                response: true,
            },
            ..*request
        };
        let mut payloads = payloads.to_vec();
        if let Some(tamper) = &mut self.tamper {
            tamper(&header, &mut payloads);
        }
        let message = wire::encode(&header, &payloads).ok()?;
        self.out_datagram(message.clone());
        Some(message)
    }

    fn out_datagram(&mut self, mut message: Vec<u8>) {
        if self.port == 4500 {
            message = [&[0; 4], &message[..]].concat();
        }
        self.out.push_back(Output::Datagram(self.port, message));
    }

    /// Every request makes an IKE SA.
    fn init(&mut self, parsed: &Parsed<'_>) -> Option<()> {
        let Body::Clear(payloads) = &parsed.body else {
            return Some(());
        };
        if parsed.header.flags.response {
            return Some(());
        }
        let mut offer = None;
        let mut ke = None;
        let mut ni = None;
        for payload in payloads {
            match payload {
                Payload::Sa(sa) => offer = Some(sa),
                Payload::Ke { method, data } => ke = Some((*method, data)),
                Payload::Nonce(nonce) => ni = Some(nonce.clone()),
                _ => {}
            }
        }
        let (offer, (method, value), ni) = (offer?, ke?, ni?);
        let Some((suite, chosen)) = offer.proposals.iter().find_map(select_ike) else {
            let refusal = [notify(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new())];
            return self.clear(&parsed.header, &refusal).map(|_| ());
        };
        let group = KeMethod::Modp2048;
        if method != group.id() {
            let wish = group.id().to_be_bytes().to_vec();
            let refusal = [notify(NotifyType::INVALID_KE_PAYLOAD, wish)];
            return self.clear(&parsed.header, &refusal).map(|_| ());
        }
        let (public, shared) = group.respond(value, &mut *self.rng).ok()?;
        let mut transcript = Transcript {
            spi_i: parsed.header.spi_i,
            spi_r: self.rng.next_u64().max(1),
            request: parsed.datagram.to_vec(),
            ni,
            nr: nonce(&mut *self.rng),
            ..Transcript::default()
        };
        let hash = |kind, address| {
            let address = SocketAddr::new(address, self.port);
            let hash = nat::detection_hash(transcript.spi_i, transcript.spi_r, address);
            notify(kind, hash.to_vec())
        };
        let answer = [
            Payload::Sa(SaPayload {
                proposals: vec![chosen],
            }),
            Payload::Nonce(transcript.nr.clone()),
            Payload::Ke {
                method: group.id(),
                data: public,
            },
            hash(NotifyType::NAT_DETECTION_SOURCE_IP, self.local),
            hash(NotifyType::NAT_DETECTION_DESTINATION_IP, self.remote),
        ];
        let header = Header {
            spi_r: transcript.spi_r,
            ..parsed.header
        };
        transcript.response = self.clear(&header, &answer)?;
        self.ues.push(Ue {
            sa: IkeSa::new(&suite, transcript, &shared, false)?,
            suite,
            step: Step::First,
            idi: None,
            identifier: 0,
            asked: None,
            k_n3iwf: None,
            child: None,
            responder_id: 0,
            pending: None,
            liveness: None,
            waiting_until: None,
        });
        Some(())
    }

    fn send(
        &mut self,
        at: usize,
        exchange: ExchangeType,
        response: bool,
        id: u32,
        payloads: &[Payload],
    ) -> Option<()> {
        let ue = self.ues.get_mut(at)?;
        let mut payloads = payloads.to_vec();
        if let Some(tamper) = &mut self.tamper {
            tamper(&ue.sa.header(exchange, response, id), &mut payloads);
        }
        let message = ue
            .sa
            .seal(&mut *self.rng, exchange, response, id, &payloads)?;
        self.out_datagram(message);
        Some(())
    }

    fn eap(&mut self, at: usize, id: u32, before: Vec<Payload>, message: Request) -> Option<()> {
        let identifier = self.rng.next_u32().to_be_bytes()[0];
        let packet = Packet::Request {
            identifier,
            message,
        };
        self.ues.get_mut(at)?.identifier = identifier;
        let mut payloads = before;
        payloads.push(Payload::Eap(packet.encode().ok()?));
        self.send(at, ExchangeType::IkeAuth, true, id, &payloads)
    }

    fn auth(
        &mut self,
        now: Duration,
        at: usize,
        parsed: &Parsed<'_>,
        payloads: &[Payload],
    ) -> Option<()> {
        let id = parsed.header.message_id;
        match self.ues.get(at)?.step {
            Step::First => self.first(at, id, payloads),
            Step::Eap => {
                let packet = payloads.iter().find_map(|payload| match payload {
                    Payload::Eap(packet) => Some(packet),
                    _ => None,
                })?;
                let Packet::Response {
                    identifier,
                    message,
                } = Packet::decode(packet).ok()?
                else {
                    return None;
                };
                let ue = self.ues.get_mut(at)?;
                if identifier != ue.identifier {
                    return None;
                }
                ue.asked = Some(id);
                match message {
                    Response::Nas { nas, .. } => self.out.push_back(Output::Uplink(nas)),
                    _ => {
                        let failure = Packet::Failure { identifier }.encode().ok()?;
                        let failure = [Payload::Eap(failure)];
                        self.send(at, ExchangeType::IkeAuth, true, id, &failure)?;
                    }
                }
                Some(())
            }
            Step::Final => self.last(now, at, id, payloads),
            Step::Up => None,
        }
    }

    fn first(&mut self, at: usize, id: u32, payloads: &[Payload]) -> Option<()> {
        let mut offer = None;
        let mut idi = None;
        let (mut ts_i, mut ts_r) = (false, false);
        for payload in payloads {
            match payload {
                Payload::IdI(id) => idi = Some(id.clone()),
                Payload::Sa(sa) => offer = Some(sa),
                Payload::TsI(_) => ts_i = true,
                Payload::TsR(_) => ts_r = true,
                _ => {}
            }
        }
        let (idi, offer) = (idi?, offer.filter(|_| ts_i && ts_r)?);
        let Some(chosen) = offer.proposals.iter().find_map(select_esp) else {
            let refusal = [notify(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new())];
            return self.send(at, ExchangeType::IkeAuth, true, id, &refusal);
        };
        let idr = Identification::fqdn(FQDN);
        let ue = self.ues.get_mut(at)?;
        ue.idi = Some(idi);
        ue.child = Some(chosen);
        ue.step = Step::Eap;
        let octets = ue.sa.signed_octets(false, &idr);
        let proof = vec![
            Payload::IdR(idr),
            Payload::Cert {
                encoding: CertEncoding::X509_SIGNATURE,
                data: self.certificate.clone(),
            },
            Payload::Auth {
                method: AuthMethod::RSA,
                data: self.signer.sign(&octets, &mut *self.rng).ok()?,
            },
        ];
        self.eap(at, id, proof, Request::Start)
    }

    /// DOWNLINK NAS TRANSPORT.
    pub fn downlink_nas(&mut self, nas: Vec<u8>) {
        let at = self.ues.len().saturating_sub(1);
        let Some(ue) = self.ues.get_mut(at) else {
            return;
        };
        if ue.step == Step::Eap {
            if let Some(id) = ue.asked.take() {
                self.eap(at, id, Vec::new(), Request::Nas(nas));
            }
            return;
        }
        let Ok(framed) = nas_envelope::wrap(&nas) else {
            return;
        };
        match self.connected {
            true => self.out.push_back(Output::Nas(framed)),
            // One slot: a second message takes the place of the first.
            false => self.cached = Some(framed),
        }
    }

    /// INITIAL CONTEXT SETUP REQUEST: EAP-Success, with an identifier that means nothing.
    pub fn context_setup(&mut self, k_n3iwf: &[u8]) {
        let at = self.ues.len().saturating_sub(1);
        let identifier = self.rng.next_u32().to_be_bytes()[1];
        let Some(ue) = self.ues.get_mut(at) else {
            return;
        };
        ue.k_n3iwf = Some(k_n3iwf.to_vec());
        ue.step = Step::Final;
        if let (Some(id), Ok(packet)) = (ue.asked.take(), Packet::Success { identifier }.encode()) {
            let packet = [Payload::Eap(packet)];
            self.send(at, ExchangeType::IkeAuth, true, id, &packet);
        }
    }

    fn last(&mut self, now: Duration, at: usize, id: u32, payloads: &[Payload]) -> Option<()> {
        let mut auth = None;
        let mut wanted = None;
        for payload in payloads {
            match payload {
                Payload::Auth { data, .. } => auth = Some(data),
                Payload::Cp(cp) => wanted = cp.find(CfgAttributeType::INTERNAL_IP4_ADDRESS),
                _ => {}
            }
        }
        let spi_in = self.rng.next_u32() | 0x100;
        let ue = self.ues.get_mut(at)?;
        let key = ue.k_n3iwf.clone()?;
        let idi = ue.idi.clone()?;
        if auth != Some(&ue.sa.shared_key_auth(true, &idi, &key)) {
            let refusal = [notify(NotifyType::AUTHENTICATION_FAILED, Vec::new())];
            return self.send(at, ExchangeType::IkeAuth, true, id, &refusal);
        }
        // Without it the original logs and sends nothing.
        wanted?;
        let (suite, proposal) = ue.child.take()?;
        let (ni, nr) = (&ue.sa.transcript.ni, &ue.sa.transcript.nr);
        let child = Child {
            spi_in,
            spi_out: proposal.esp_spi()?,
            keys: ue.sa.child_keys(&suite, ni, nr)?,
            suite,
            user: false,
        };
        let host = |address: Ipv4Addr| vec![TrafficSelector::host(address.into())];
        let attributes = vec![
            CfgAttribute::ipv4(CfgAttributeType::INTERNAL_IP4_ADDRESS, UE_INNER),
            CfgAttribute::ipv4(
                CfgAttributeType::INTERNAL_IP4_NETMASK,
                Ipv4Addr::new(255, 255, 255, 0),
            ),
        ];
        let idr = Identification::fqdn(FQDN);
        let answer = [
            Payload::Auth {
                method: AuthMethod::SHARED_KEY,
                data: ue.sa.shared_key_auth(false, &idr, &key),
            },
            Payload::Cp(Configuration {
                kind: CfgType::REPLY,
                attributes,
            }),
            Payload::Sa(SaPayload {
                proposals: vec![Proposal {
                    spi: spi_in.to_be_bytes().to_vec(),
                    ..proposal
                }],
            }),
            Payload::TsI(host(UE_INNER)),
            Payload::TsR(host(INNER)),
            notify(NotifyType::NAS_IP4_ADDRESS, INNER.octets().to_vec()),
            notify(NotifyType::NAS_TCP_PORT, NAS_PORT.to_be_bytes().to_vec()),
        ];
        ue.step = Step::Up;
        ue.liveness = Some(now + LIVENESS);
        self.children.push(child);
        self.send(at, ExchangeType::IkeAuth, true, id, &answer)?;
        self.out.push_back(Output::ContextReady);
        Some(())
    }

    /// A TCP connection: the UE is known by where it comes from.
    pub fn nas_connected(&mut self, from: IpAddr) {
        self.connected = from == IpAddr::V4(UE_INNER);
        if let Some(framed) = self.cached.take_if(|_| self.connected) {
            self.out.push_back(Output::Nas(framed));
        }
    }

    /// One NAS message of the connection.
    pub fn nas_received(&mut self, message: Vec<u8>) {
        self.out.push_back(Output::Uplink(message));
    }

    fn informational(
        &mut self,
        now: Duration,
        at: usize,
        parsed: &Parsed<'_>,
        payloads: &[Payload],
    ) -> Option<()> {
        let ue = self.ues.get_mut(at)?;
        // Whatever it is, the UE lives.
        ue.waiting_until = None;
        if ue.step == Step::Up {
            ue.liveness = Some(now + LIVENESS);
        }
        if parsed.header.flags.response {
            ue.responder_id = ue.responder_id.wrapping_add(1);
            return Some(());
        }
        let id = parsed.header.message_id;
        self.send(at, ExchangeType::Informational, true, id, &[])?;
        if payloads.contains(&Payload::Delete(Delete::Ike)) {
            self.ues.remove(at);
            self.children.clear();
            self.out.push_back(Output::ReleaseRequest);
        }
        Some(())
    }

    /// UE CONTEXT RELEASE COMMAND: a Delete, and nothing is waited for.
    pub fn release(&mut self) {
        let at = self.ues.len().saturating_sub(1);
        let Some(id) = self.ues.get(at).map(|ue| ue.responder_id) else {
            return;
        };
        let delete = [Payload::Delete(Delete::Ike)];
        self.send(at, ExchangeType::Informational, false, id, &delete);
        self.ues.remove(at);
        self.children.clear();
        self.connected = false;
    }

    /// A protected request that is not sent.
    pub fn sealed(
        &mut self,
        exchange: ExchangeType,
        id: u32,
        payloads: &[Payload],
    ) -> Option<Vec<u8>> {
        let ue = self.ues.last_mut()?;
        ue.sa.seal(&mut *self.rng, exchange, false, id, payloads)
    }

    /// As [`IkeSa::seal_raw`], and not sent.
    pub fn sealed_raw(
        &self,
        exchange: ExchangeType,
        id: u32,
        content: &[u8],
        pad_length: u8,
    ) -> Option<Vec<u8>> {
        let sa = &self.ues.last()?.sa;
        sa.seal_raw(exchange, id, wire::PayloadType::NONE, content, pad_length)
    }

    /// A question for a sign of life out of turn, with the ID of whatever is unanswered.
    pub fn probe(&mut self, now: Duration) {
        let at = self.ues.len().saturating_sub(1);
        if let Some(ue) = self.ues.get_mut(at) {
            ue.waiting_until = Some(now + LIVENESS_WAIT);
            let id = ue.responder_id;
            self.send(at, ExchangeType::Informational, false, id, &[]);
        }
    }
}
