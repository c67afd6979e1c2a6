//! A conversation of two endpoints, directed by the octets of a fuzzer: messages lost, repeated, changed or forged with
//! the right keys, daemons that answer well or badly, time that passes. Nothing may panic, and every key has to be
//! accounted for after every step.
//!
//! The first octet is the setting: bit 0 cookies, bit 1 mode `hybrid` with an additional key exchange and rekeys, bit 2
//! messages that take several datagrams, bit 3 mode `psk`, bit 4 mode `cert`, bit 5 MOBIKE. With neither mode it is
//! `qkd`; with `psk` and `hybrid` both, the first with `prefer-qkd` and the other to fall back to.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use ike::{
    Acceptance, ChildAnswer, ChildId, CookiePolicy, EapSuccess, Endpoint, EndpointConfig, Event,
    Fragmentation, InitiatorConfig, Instant, KeyLog, KeysWanted, Lifetimes, Mobike, Mode, NewChild,
    Offer, Path, PeerCertificate, Profile, QkdFailure, QkdPolicy, ResponderConfig, SaId, Trust,
    crypto::{
        AesBits, Encr, EspSuite, IkeKeys, IkeSuite, KeMethod, KeyExchange, Prf, Protector,
        certificate::{Credential, TrustAnchors},
        qkd,
    },
    wire::{
        Body, CfgAttribute, CfgAttributeType, ExchangeType, Flags, Header, IdType, Identification,
        NotifyType, Payload, PayloadType, TrafficSelector, encode_payloads, parse,
    },
};
use keys::{KeyId, QkdKey, Secret};
use rand_core::SeedableRng;

const SUITE: IkeSuite = IkeSuite {
    encr: Encr::AesGcm16(AesBits::B256),
    integ: None,
    prf: Prf::HmacSha2_256,
    ke: None,
};
const ESP: EspSuite = EspSuite {
    encr: Encr::AesGcm16(AesBits::B256),
    integ: None,
    esn: false,
};
const UE: usize = 0;
const N3IWF: usize = 1;

const HYBRID: u8 = 2;
const FRAGMENTS: u8 = 4;
const PSK: u8 = 8;
const CERT: u8 = 16;
const MOBIKE: u8 = 32;
/// Modes with a key exchange: rekeys from both sides, and a forger who has the keys from the log.
const EXCHANGE: u8 = HYBRID | PSK | CERT;

/// The newest keys of the UE's IKE SAs, for the forger.
#[derive(Default)]
struct Log(Mutex<Option<(u64, u64, IkeKeys)>>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl KeyLog for Log {
    fn ike_sa(&self, spi_i: u64, spi_r: u64, _: &IkeSuite, keys: &IkeKeys) {
        let copy = IkeKeys {
            sk_d: keys.sk_d.duplicate(),
            sk_pi: keys.sk_pi.duplicate(),
            sk_pr: keys.sk_pr.duplicate(),
            initiator: keys.initiator.duplicate(),
            responder: keys.responder.duplicate(),
        };
        *self.0.lock().unwrap() = Some((spi_i, spi_r, copy));
    }
}

struct End {
    endpoint: Endpoint,
    questions: VecDeque<Event>,
    provided: usize,
    fates: HashSet<KeyId>,
    sas: Vec<SaId>,
    children: Vec<(SaId, ChildId)>,
}

struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> usize {
        let high = usize::from(self.octet().unwrap_or(0));
        high << 8 | usize::from(self.octet().unwrap_or(0))
    }

    fn octets(&mut self, len: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

struct Conversation {
    ends: [End; 2],
    wire: VecDeque<(usize, Path, Vec<u8>)>,
    now: Instant,
    /// Keys are numbered, so that both sides and the forger know them.
    keys: u8,
    /// Clear messages of the first IKE_SA_INIT, from which the forger makes keys.
    init: [Option<Vec<u8>>; 2],
    outcome: Outcome,
    setting: u8,
    log: Arc<Log>,
}

/// What a conversation came to, on the UE and on the N3IWF.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) established: [usize; 2],
    pub(crate) children: [usize; 2],
    pub(crate) downs: [usize; 2],
    pub(crate) closed: [usize; 2],
}

/// Plays a script, and what it came to before everything was left to expire.
pub(crate) fn conversation(script: &[u8]) -> Outcome {
    let mut script = Script(script);
    let mut play = Conversation::new(script.octet().unwrap_or(0));
    play.ends[UE].endpoint.initiate_with(
        play.now,
        path(UE),
        initiator(play.setting),
        &play.offer(),
    );
    play.drain();
    while let Some(direction) = script.octet() {
        play.act(direction, &mut script);
        play.drain();
    }
    let outcome = play.outcome;
    for _ in 0..200 {
        play.pass(Duration::from_secs(10));
        play.wire.clear();
        play.questions_put_off();
        play.drain();
    }
    assert_eq!(play.ends[N3IWF].endpoint.half_open(), 0);
    outcome
}

impl Conversation {
    fn new(setting: u8) -> Self {
        let responder = ResponderConfig {
            profiles: vec![Profile::Native],
            sae_id: "n".parse().unwrap(),
            // A name of the certificate.
            identity: Identification::fqdn("n3iwf.example.net"),
            paper: None,
            ike_suites: suites(setting),
            esp_suites: vec![ESP.into()],
            cookies: if setting & 1 == 0 {
                CookiePolicy::Never
            } else {
                CookiePolicy::Always
            },
            half_open_limit: 8,
        };
        let log = Arc::new(Log::default());
        let end = |responder: Option<ResponderConfig>, seed| End {
            endpoint: Endpoint::new(
                EndpointConfig {
                    key_log: match responder {
                        None => Some(Arc::clone(&log) as Arc<dyn KeyLog>),
                        Some(_) => None,
                    },
                    responder,
                    lifetimes: Lifetimes {
                        from_peer: setting & EXCHANGE != 0,
                        ..Lifetimes::default()
                    },
                    acceptance: Acceptance {
                        modes: modes(setting),
                        credential: certified(setting).map(|(own, _)| own),
                        trust: certified(setting).map(|(_, trust)| trust),
                        ..Acceptance::default()
                    },
                    mobike: (setting & MOBIKE != 0).then(Mobike::default),
                    fragmentation: Fragmentation {
                        datagram: Some(if setting & FRAGMENTS == 0 { 1280 } else { 576 }),
                        ..Fragmentation::default()
                    },
                    ..EndpointConfig::default()
                },
                Box::new(rand_chacha::ChaCha8Rng::seed_from_u64(seed)),
            ),
            questions: VecDeque::new(),
            provided: 0,
            fates: HashSet::new(),
            sas: Vec::new(),
            children: Vec::new(),
        };
        Self {
            ends: [end(None, 1), end(Some(responder), 2)],
            wire: VecDeque::new(),
            now: Instant::ZERO,
            keys: 0,
            init: [None, None],
            outcome: Outcome::default(),
            setting,
            log: Arc::clone(&log),
        }
    }

    fn is(&self, bit: u8) -> bool {
        self.setting & bit != 0
    }

    fn offer(&self) -> Offer {
        Offer {
            modes: modes(self.setting),
            policy: QkdPolicy::Prefer,
            credential: certified(self.setting).map(|(own, _)| own),
            trust: certified(self.setting).map(|(_, trust)| trust),
            ..Offer::default()
        }
    }

    /// An EAP packet with this code.
    fn eap(&self, code: u8) -> Vec<u8> {
        match self.is(FRAGMENTS) {
            false => vec![code, 1, 0, 5, 254],
            true => [vec![code, 1, 4, 0, 254], vec![0; 1019]].concat(),
        }
    }

    fn act(&mut self, direction: u8, script: &mut Script<'_>) {
        let side = usize::from(direction >> 7);
        match direction & 0x0f {
            0..=3 => {
                self.answer(true);
                self.drain();
                self.deliver();
            }
            4 => drop(self.wire.pop_front()),
            5 => {
                if let Some(next) = self.wire.front().cloned() {
                    self.wire.push_back(next);
                }
            }
            6 => {
                let (at, mask) = (script.number(), script.octet().unwrap_or(1));
                if let Some((_, _, data)) = self.wire.front_mut()
                    && !data.is_empty()
                {
                    let at = at % data.len();
                    data[at] ^= mask;
                }
                self.deliver();
            }
            7 => {
                let len = script.number();
                if let Some((_, _, data)) = self.wire.front_mut() {
                    data.truncate(len);
                }
                self.deliver();
            }
            8 => {
                let len = usize::from(script.octet().unwrap_or(0));
                let data = script.octets(len);
                self.wire.push_front((side, seen(side), data));
                self.deliver();
            }
            9 => {
                let time = u64::from(script.octet().unwrap_or(1));
                self.pass(Duration::from_millis(time * 100));
            }
            10 => self.answer(false),
            11 | 12 => self.forge(side, script),
            13 => self.create(side),
            14 => self.command(side, script.octet().unwrap_or(0)),
            _ => self.wire.rotate_left(1.min(self.wire.len())),
        }
    }

    fn deliver(&mut self) {
        if let Some((to, path, data)) = self.wire.pop_front() {
            self.ends[to]
                .endpoint
                .handle_datagram(self.now, path, &data);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for end in &mut self.ends {
            end.endpoint.handle_timeout(self.now);
        }
    }

    /// A protected message from the peer of `to`, made with the right keys: any exchange, any payloads.
    fn forge(&mut self, to: usize, script: &mut Script<'_>) {
        let exchanges = if self.is(EXCHANGE) { 10 } else { 4 };
        let exchange = ExchangeType::from_number(35 + script.octet().unwrap_or(0) % exchanges);
        let flags = script.octet().unwrap_or(0);
        let message_id = u32::from(script.octet().unwrap_or(0) % 16);
        let mut payloads = Vec::new();
        for _ in 0..script.octet().unwrap_or(0) % 8 {
            let payload_type = 33 + script.octet().unwrap_or(0) % 17;
            let len = usize::from(script.octet().unwrap_or(0));
            let data = script.octets(len);
            payloads.push(Payload::Unknown { payload_type, data });
        }
        let fragment = (self.is(FRAGMENTS) && flags & 2 != 0)
            .then(|| [(); 2].map(|()| u16::from(script.octet().unwrap_or(0) % 4)));
        let Some((mut protector, spi_i, spi_r)) = self.forger(to) else {
            return;
        };
        let header = Header {
            spi_i,
            spi_r,
            exchange,
            flags: Flags {
                initiator: to == N3IWF,
                response: flags & 1 == 1,
            },
            message_id,
        };
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let sealed = match fragment {
            None => protector.seal(&header, &payloads, &mut rng).ok(),
            Some([number, total]) => encode_payloads(&payloads).ok().and_then(|(first, chain)| {
                let first = if number == 1 {
                    first
                } else {
                    PayloadType::NONE
                };
                protector
                    .seal_fragment(&header, first, (number, total), &chain, &mut rng)
                    .ok()
            }),
        };
        if let Some(data) = sealed {
            self.wire.push_front((to, seen(to), data));
            self.deliver();
        }
    }

    /// What seals messages to `to`: for the first IKE SA, in modes with a key exchange for the newest.
    fn forger(&self, to: usize) -> Option<(Protector, u64, u64)> {
        if self.is(EXCHANGE) {
            let log = self.log.0.lock().unwrap();
            let (spi_i, spi_r, keys) = log.as_ref()?;
            let direction = match to {
                N3IWF => keys.initiator.duplicate(),
                _ => keys.responder.duplicate(),
            };
            let protector = Protector::new(SUITE.encr, SUITE.integ, direction).ok()?;
            return Some((protector, *spi_i, *spi_r));
        }
        let read = |data: &[u8]| {
            let parsed = parse(data).ok()?;
            let Body::Clear(payloads) = parsed.body else {
                return None;
            };
            let nonce = payloads.into_iter().find_map(|payload| match payload {
                Payload::Nonce(nonce) => Some(nonce),
                _ => None,
            })?;
            Some((parsed.header, nonce))
        };
        let (_, ni) = read(self.init[UE].as_ref()?)?;
        let (header, nr) = read(self.init[N3IWF].as_ref()?)?;
        let keys = vec![key(0).secret, key(1).secret];
        let (spi_i, spi_r) = (header.spi_i, header.spi_r);
        let keys = qkd::ike_keys(&SUITE, keys, &key(6).secret, &ni, &nr, spi_i, spi_r).ok()?;
        let direction = match to {
            N3IWF => keys.initiator,
            _ => keys.responder,
        };
        let protector = Protector::new(SUITE.encr, SUITE.integ, direction).ok()?;
        Some((protector, spi_i, spi_r))
    }

    fn create(&mut self, side: usize) {
        let any = vec![TrafficSelector::any_v4()];
        if let Some(sa) = self.ends[side].sas.last().copied() {
            let new = NewChild {
                ts_local: any.clone(),
                ts_remote: any,
                notifies: vec![],
                token: 1,
            };
            // Refused unless established, which is fine.
            let _ = self.ends[side].endpoint.create_child(self.now, sa, new);
        }
    }

    fn command(&mut self, side: usize, which: u8) {
        let now = self.now;
        let end = &mut self.ends[side];
        let Some(sa) = end.sas.last().copied() else {
            return;
        };
        let known = match (self.setting & EXCHANGE, self.setting & MOBIKE) {
            (0, 0) => 6,
            (_, 0) => 8,
            _ => 10,
        };
        match which % known {
            0 => end.endpoint.close(now, sa),
            1 => end.endpoint.probe(now, sa),
            2 => {
                if let Some((sa, child)) = end.children.last().copied() {
                    end.endpoint.delete_child(now, sa, child);
                }
            }
            3 => end.endpoint.eap_failure(now, sa, vec![4, 1, 0, 4]),
            4 => end.endpoint.abandon(now, sa),
            // Refused in most states, which is fine.
            6 => {
                if let Some((sa, child)) = end.children.last().copied() {
                    let _ = end.endpoint.rekey_child(now, sa, child);
                }
            }
            7 => {
                let _ = end.endpoint.rekey_ike(now, sa);
            }
            8 | 9 => {
                let there = std::net::Ipv4Addr::new(192, 0, 2, 10 + which / 10 % 4);
                let _ = end.endpoint.roam(now, sa, there.into());
            }
            _ => end.endpoint.set_msk(now, sa, Secret::from_slice(&[9; 32])),
        }
    }

    fn questions_put_off(&mut self) {
        for end in &mut self.ends {
            end.questions.clear();
        }
    }

    /// The daemons answer everything they have been asked.
    fn answer(&mut self, well: bool) {
        let now = self.now;
        let (ask, tell) = (self.eap(1), self.eap(2));
        for (side, end) in self.ends.iter_mut().enumerate() {
            while let Some(question) = end.questions.pop_front() {
                match question {
                    Event::KeysNeeded {
                        sa,
                        request,
                        wanted,
                    } => {
                        let mut keys = match wanted {
                            KeysWanted::Allocate { number, .. } => (0..number)
                                .map(|_| {
                                    self.keys = self.keys.wrapping_add(1);
                                    key(self.keys.wrapping_sub(1))
                                })
                                .collect(),
                            KeysWanted::Collect { ids, .. } => {
                                ids.iter().map(|id| key(id.octets()[0])).collect::<Vec<_>>()
                            }
                        };
                        keys.retain(|key| !end.fates.contains(&key.id));
                        let result = match (well, now.since_origin().as_millis() % 3) {
                            (true, _) => Ok(keys),
                            (false, 0) => Err(QkdFailure::NoKeys),
                            (false, _) => {
                                keys.pop();
                                Ok(keys)
                            }
                        };
                        end.provided += result.as_ref().map_or(0, Vec::len);
                        end.endpoint.provide_keys(now, sa, request, result);
                    }
                    Event::EapBegin { sa, .. } => {
                        end.endpoint.send_eap(now, sa, ask.clone());
                    }
                    Event::Eap { sa, .. } if side == UE => {
                        end.endpoint.send_eap(now, sa, tell.clone());
                    }
                    Event::Eap { sa, .. } => end.endpoint.eap_success(
                        now,
                        sa,
                        EapSuccess {
                            packet: vec![3, 1, 0, 4],
                            msk: Secret::from_slice(&[9; 32]),
                            configuration: vec![],
                            ts_local: vec![TrafficSelector::any_v4()],
                            ts_remote: vec![TrafficSelector::any_v4()],
                            notifies: vec![],
                        },
                    ),
                    Event::EapSuccess { sa } => {
                        let octet = if well { 9 } else { 8 };
                        end.endpoint
                            .set_msk(now, sa, Secret::from_slice(&[octet; 32]));
                    }
                    Event::InstallChild { sa, child } => {
                        let result = if well { Ok(()) } else { Err(()) };
                        end.children.push((sa, child.id));
                        end.endpoint.child_installed(now, sa, child.id, result);
                    }
                    Event::ChildRequested { sa, child, .. } => {
                        let answer = match well {
                            true => Ok(ChildAnswer::default()),
                            false => Err(NotifyType::NO_ADDITIONAL_SAS),
                        };
                        end.endpoint.answer_child(now, sa, child, answer);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Takes everything the endpoints say, and checks their books.
    fn drain(&mut self) {
        for side in [UE, N3IWF] {
            while let Some(transmit) = self.ends[side].endpoint.poll_transmit() {
                let header = Header::peek(&transmit.data);
                if header.is_some_and(|header| {
                    header.exchange == ExchangeType::IkeSaInit && header.spi_r != 0
                        || side == UE && self.init[N3IWF].is_none()
                }) {
                    self.init[side] = Some(transmit.data.clone());
                }
                let path = Path {
                    local: transmit.path.remote,
                    remote: transmit.path.local,
                };
                self.wire.push_back((1 - side, path, transmit.data));
            }
            let end = &mut self.ends[side];
            while let Some(event) = end.endpoint.poll_event() {
                match &event {
                    Event::KeyFate { id, .. } => {
                        assert!(end.fates.insert(*id), "two fates for {id}");
                    }
                    Event::Established { .. } => self.outcome.established[side] += 1,
                    Event::ChildUp { .. } => self.outcome.children[side] += 1,
                    Event::ChildDown { .. } => self.outcome.downs[side] += 1,
                    Event::Closed { .. } => self.outcome.closed[side] += 1,
                    // Modes without QKD keys ask for none.
                    Event::KeysNeeded { sa, .. } | Event::Keyed { sa, .. }
                        if !end.sas.contains(sa) =>
                    {
                        end.sas.push(*sa);
                    }
                    _ => {}
                }
                end.questions.push_back(event);
            }
            let held: usize = end.endpoint.sas().map(|sa| sa.held_keys).sum();
            assert_eq!(end.provided, end.fates.len() + held);
        }
    }
}

/// The key with this number.
fn key(number: u8) -> QkdKey {
    QkdKey {
        id: KeyId::from_octets([number; 16]),
        secret: Secret::from_slice(&[number; 32]),
    }
}

fn path(side: usize) -> Path {
    let ue = ([192, 0, 2, 10], 500).into();
    let n3iwf = ([192, 0, 2, 1], 500).into();
    match side {
        UE => Path {
            local: ue,
            remote: n3iwf,
        },
        _ => Path {
            local: n3iwf,
            remote: ue,
        },
    }
}

/// A datagram's path as its receiver sees it.
fn seen(receiver: usize) -> Path {
    path(receiver)
}

fn modes(setting: u8) -> Vec<Mode> {
    [(HYBRID, Mode::Hybrid), (CERT, Mode::Cert), (PSK, Mode::Psk)]
        .into_iter()
        .filter(|(bit, _)| setting & bit != 0)
        .map(|(_, mode)| mode)
        .collect()
}

/// Certificate and authority of both ends, in mode `cert`.
fn certified(setting: u8) -> Option<(Arc<Credential>, Trust)> {
    if setting & CERT == 0 {
        return None;
    }
    let leaf = include_bytes!("../vectors/pki/ed25519.pem").as_slice();
    let chain = [leaf, include_bytes!("../vectors/pki/sub.pem")].concat();
    let key = include_bytes!("../vectors/pki/ed25519.key");
    let root = include_bytes!("../vectors/pki/root.pem");
    let trust = Trust {
        anchors: Arc::new(TrustAnchors::new(root).unwrap()),
        epoch: 1_800_000_000,
    };
    Some((Arc::new(Credential::new(&chain, key).unwrap()), trust))
}

fn suites(setting: u8) -> Vec<IkeSuite> {
    let single = KeyExchange::single(KeMethod::Curve25519);
    let ke = match setting & EXCHANGE {
        0 => None,
        some if some & HYBRID == 0 => Some(single),
        _ => single.with_additional(1, KeMethod::MlKem512).ok(),
    };
    vec![IkeSuite { ke, ..SUITE }]
}

fn initiator(setting: u8) -> InitiatorConfig {
    InitiatorConfig {
        profile: Profile::Native,
        sae_id: "u".parse().unwrap(),
        master_sae_id: None,
        identity: match setting & CERT {
            0 => Identification::key_id(vec![1, 2]),
            _ => Identification::new(IdType::RFC822_ADDR, b"n3iwf@example.net".to_vec()),
        },
        peer_identity: None,
        peer_certificate: PeerCertificate::Ignore,
        ike_suites: suites(setting),
        esp_suites: vec![ESP.into()],
        ts_local: vec![TrafficSelector::any_v4()],
        ts_remote: vec![TrafficSelector::any_v4()],
        configuration: vec![CfgAttribute::request(
            CfgAttributeType::INTERNAL_IP4_ADDRESS,
        )],
    }
}
