//! One KME without its sockets: requests in, answers out, keys to its peer.

use std::{
    collections::HashSet,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keys::{KeyId, QkdKey, SaeId, Secret};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

use crate::{
    api::{Answer, Call, KeyRequest, Refusal},
    config::{KmeConfig, LinkConfig, Offer, allowed},
    fault::{Fault, Faults, Kind, On, Struck},
    store::{Buffer, Record, Store, TakeError},
};

/// What happened at one KME so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// TLS connections with an accepted client certificate.
    pub connections: u64,
    /// Requests on them.
    pub requests: u64,
    /// Keys delivered by `enc_keys`.
    pub delivered_enc: u64,
    /// Keys delivered by `dec_keys`; a key for several slaves counts for each.
    pub delivered_dec: u64,
    /// Keys waiting for slave SAEs of this KME now.
    pub stored: u64,
    /// Keys that the fault `loss` kept from the other KME.
    pub lost: u64,
    /// Answers 400.
    pub bad_request: u64,
    /// Answers 401.
    pub unauthorized: u64,
    /// Answers 503.
    pub unavailable: u64,
}

/// What `kme status` shows.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// KME ID.
    pub id: String,
    /// KME ID of the other end, once known.
    pub peer: Option<String>,
    /// Whether keys reach the other end.
    pub link_up: bool,
    /// Bits in the buffer.
    pub buffer_bits: u64,
    /// Counters.
    pub counters: Counters,
    /// Faults in force.
    pub faults: Vec<Fault>,
}

/// The other end of the link.
pub(crate) enum Peer {
    /// In this process.
    Here(Arc<Node>),
    /// Behind a connection: keys go into its queue.
    There(mpsc::UnboundedSender<Record>),
}

/// What is known of the other end.
#[derive(Debug, Clone, Default)]
pub(crate) struct PeerInfo {
    pub(crate) id: Option<String>,
    pub(crate) saes: Vec<String>,
    pub(crate) up: bool,
}

/// One KME.
pub(crate) struct Node {
    id: String,
    saes: Vec<String>,
    offer: Offer,
    delay: Duration,
    origin: Instant,
    journal: Option<PathBuf>,
    peer: OnceLock<Peer>,
    info: watch::Sender<PeerInfo>,
    /// Counts changes after which open connections must go.
    hang_up: watch::Sender<u64>,
    state: Mutex<State>,
}

struct State {
    buffer: Buffer,
    store: Store,
    faults: Faults,
    counters: Counters,
}

impl Node {
    pub(crate) fn new(config: &KmeConfig, link: &LinkConfig) -> Arc<Self> {
        Arc::new(Self {
            id: config.id.clone(),
            saes: config.saes.clone(),
            offer: config.offer,
            delay: link.delay,
            origin: Instant::now(),
            journal: config.journal.clone(),
            peer: OnceLock::new(),
            info: watch::Sender::new(PeerInfo::default()),
            hang_up: watch::Sender::new(0),
            state: Mutex::new(State {
                buffer: Buffer::new(link),
                store: Store::default(),
                faults: Faults::new(config.faults.clone()),
                counters: Counters::default(),
            }),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn saes(&self) -> &[String] {
        &self.saes
    }

    /// Sets the other end; only the first call counts.
    pub(crate) fn connect(&self, peer: Peer) {
        if let Peer::Here(node) = &peer {
            self.info.send_replace(PeerInfo {
                id: Some(node.id.clone()),
                saes: node.saes.clone(),
                up: true,
            });
        }
        let _ = self.peer.set(peer);
    }

    pub(crate) const fn info(&self) -> &watch::Sender<PeerInfo> {
        &self.info
    }

    pub(crate) const fn hang_up(&self) -> &watch::Sender<u64> {
        &self.hang_up
    }

    /// A key arrives over the link; it is known here after the replication delay.
    pub(crate) fn replicate(&self, record: Record) {
        let visible = self.now().saturating_add(self.delay);
        self.state().store.put(visible, record);
    }

    pub(crate) fn status(&self) -> NodeStatus {
        let now = self.now();
        let info = self.info.borrow().clone();
        let mut state = self.state();
        NodeStatus {
            id: self.id.clone(),
            peer: info.id,
            link_up: info.up,
            buffer_bits: state.buffer.level(now),
            counters: state.counters(),
            faults: state.faults.list().to_vec(),
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.state().counters()
    }

    pub(crate) fn add_fault(&self, fault: Fault) {
        // These strike new connections; kept-alive ones would go on as if nothing happened.
        let hang_up = matches!(fault.kind, Kind::WrongCertificate | Kind::Refuse);
        self.state().faults.add(fault);
        if hang_up {
            self.hang_up.send_modify(|count| *count += 1);
        }
    }

    pub(crate) fn clear_faults(&self) {
        self.state().faults.clear();
    }

    pub(crate) fn strike_connection(&self, kind: Kind) -> bool {
        self.state().faults.strike_connection(kind)
    }

    pub(crate) fn count_connection(&self) {
        self.state().counters.connections += 1;
    }

    /// Answers a request of `caller`; `None` when its certificate has no SAE ID.
    pub(crate) fn answer(
        &self,
        caller: Option<&SaeId>,
        call: Result<Call, Refusal>,
    ) -> (Answer, Struck) {
        let operation = match &call {
            Ok(Call::Status { .. }) => On::Status,
            Ok(Call::EncKeys { .. }) => On::EncKeys,
            Ok(Call::DecKeys { .. }) => On::DecKeys,
            Err(_) => On::All,
        };
        let struck = {
            let mut state = self.state();
            state.counters.requests += 1;
            state.faults.strike(operation)
        };
        let answer = self
            .serve(caller, call, &struck)
            .unwrap_or_else(Answer::Refusal);
        if let (Answer::Keys(keys), Some(journal)) = (&answer, &self.journal)
            && let Err(error) = write_down(keys, journal)
        {
            tracing::error!(%error, journal = %journal.display(), "a key is not in the journal");
        }
        if let Answer::Refusal(refusal) = &answer {
            let mut state = self.state();
            match refusal.status {
                400 => state.counters.bad_request += 1,
                401 => state.counters.unauthorized += 1,
                503 => state.counters.unavailable += 1,
                _ => {}
            }
        }
        (answer, struck)
    }

    fn serve(
        &self,
        caller: Option<&SaeId>,
        call: Result<Call, Refusal>,
        struck: &Struck,
    ) -> Result<Answer, Refusal> {
        let caller = caller
            .filter(|caller| allowed(&self.saes, caller))
            .filter(|_| !struck.has(Kind::Unauthorized))
            .ok_or_else(Refusal::unauthorized)?;
        let call = call?;
        if struck.has(Kind::Unavailable) {
            return Err(Refusal::unavailable("the KME is not available"));
        }
        match call {
            Call::Status { slave } => self.get_status(caller, &slave, struck),
            Call::EncKeys { slave, request } => self.enc_keys(caller, slave, request, struck),
            Call::DecKeys { master, ids } => self.dec_keys(caller, &master, &ids),
        }
    }

    fn get_status(
        &self,
        caller: &SaeId,
        slave: &SaeId,
        struck: &Struck,
    ) -> Result<Answer, Refusal> {
        let target = match self.site_of(slave)? {
            Site::Here => self.id.clone(),
            Site::There => self.info.borrow().id.clone().unwrap_or_default(),
        };
        let key_size = u64::from(self.offer.key_size.max(1));
        let now = self.now();
        let mut state = self.state();
        let stored = if struck.has(Kind::Empty) {
            0
        } else {
            state.buffer.level(now) / key_size
        };
        Ok(Answer::Object(json!({
            "source_KME_ID": self.id,
            "target_KME_ID": target,
            "master_SAE_ID": caller,
            "slave_SAE_ID": slave,
            "key_size": self.offer.key_size,
            "stored_key_count": stored,
            "max_key_count": state.buffer.size() / key_size,
            "max_key_per_request": self.offer.max_key_per_request,
            "max_key_size": self.offer.max_key_size,
            "min_key_size": self.offer.min_key_size,
            "max_SAE_ID_count": self.offer.max_sae_id_count,
        })))
    }

    fn enc_keys(
        &self,
        caller: &SaeId,
        slave: SaeId,
        request: KeyRequest,
        struck: &Struck,
    ) -> Result<Answer, Refusal> {
        let (number, size) = self.check(&request)?;
        let mut slaves = vec![slave];
        for slave in request.additional_slaves {
            if !slaves.contains(&slave) {
                slaves.push(slave);
            }
        }
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for slave in slaves {
            match self.site_of(&slave)? {
                Site::Here => here.push(slave),
                Site::There => there.push(slave),
            }
        }
        if struck.has(Kind::LinkDown) || !self.info.borrow().up {
            return Err(Refusal::unavailable("the QKD link is down"));
        }

        let now = self.now();
        let bits = u64::from(size).saturating_mul(number);
        let enough = !struck.has(Kind::Empty) && self.state().buffer.draw(now, bits);
        if !enough {
            return Err(Refusal::unavailable("not enough keys"));
        }
        let keys = generate(size, number)?;
        for key in &keys {
            let record = |slaves: &[SaeId]| Record {
                id: key.id,
                secret: key.secret.duplicate(),
                master: caller.clone(),
                slaves: slaves.to_vec(),
            };
            if !here.is_empty() {
                self.state().store.put(now, record(&here));
            }
            if struck.has(Kind::Loss) {
                self.state().counters.lost += 1;
            } else if !there.is_empty() {
                match self.peer.get() {
                    Some(Peer::Here(node)) => node.replicate(record(&there)),
                    Some(Peer::There(queue)) if queue.send(record(&there)).is_ok() => {}
                    _ => return Err(Refusal::unavailable("the QKD link is down")),
                }
            }
        }
        self.state().counters.delivered_enc += number;
        Ok(Answer::Keys(keys))
    }

    /// Number and size of a Key request, when this KME can meet it (014, 6.2).
    fn check(&self, request: &KeyRequest) -> Result<(u64, u32), Refusal> {
        let offer = &self.offer;
        if !request.extension_mandatory.is_empty() {
            let names: Vec<&str> = request
                .extension_mandatory
                .iter()
                .flat_map(|object| object.keys().map(String::as_str))
                .collect();
            return Err(Refusal::bad_request(
                "not all extension_mandatory parameters are supported",
            )
            .detail("extension_mandatory_unsupported", &names.join(", ")));
        }
        // `extension_optional` may be left aside in silence.
        let additional = request.additional_slaves.len();
        if additional > usize::try_from(offer.max_sae_id_count).unwrap_or(usize::MAX) {
            return Err(Refusal::bad_request("too many additional_slave_SAE_IDs")
                .detail("max_SAE_ID_count", &offer.max_sae_id_count));
        }
        let number = request.number.unwrap_or(1);
        if number == 0 || number > u64::from(offer.max_key_per_request) {
            return Err(Refusal::bad_request("number is out of range")
                .detail("number", &number)
                .detail("max_key_per_request", &offer.max_key_per_request));
        }
        let size = request.size.unwrap_or_else(|| u64::from(offer.key_size));
        if !size.is_multiple_of(8) {
            return Err(Refusal::bad_request("size shall be a multiple of 8").detail("size", &size));
        }
        let size = u32::try_from(size)
            .ok()
            .filter(|size| (offer.min_key_size..=offer.max_key_size).contains(size))
            .ok_or_else(|| {
                Refusal::bad_request("size is out of range")
                    .detail("size", &size)
                    .detail("min_key_size", &offer.min_key_size)
                    .detail("max_key_size", &offer.max_key_size)
            })?;
        Ok((number, size))
    }

    fn dec_keys(&self, caller: &SaeId, master: &SaeId, ids: &[KeyId]) -> Result<Answer, Refusal> {
        if ids.is_empty() {
            return Err(Refusal::bad_request("key_IDs is empty"));
        }
        if ids.iter().collect::<HashSet<_>>().len() != ids.len() {
            return Err(Refusal::bad_request("the same key_ID twice"));
        }
        let now = self.now();
        let mut state = self.state();
        match state.store.take(now, caller, master, ids) {
            Ok(keys) => {
                state.counters.delivered_dec += u64::try_from(keys.len()).unwrap_or(u64::MAX);
                Ok(Answer::Keys(keys))
            }
            Err(TakeError::NotNamed) => Err(Refusal::unauthorized()),
            Err(TakeError::NotFound) => Err(Refusal::bad_request(
                "one or more keys specified are not found on KME",
            )),
        }
    }

    /// Where `sae` is; an SAE that either site may have is taken to be at the other one.
    fn site_of(&self, sae: &SaeId) -> Result<Site, Refusal> {
        let info = self.info.borrow();
        if !self.saes.is_empty() && allowed(&self.saes, sae) {
            Ok(Site::Here)
        } else if info.id.is_none() || allowed(&info.saes, sae) {
            Ok(Site::There)
        } else {
            Err(Refusal::bad_request("unknown slave SAE").detail("slave_SAE_ID", sae))
        }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Site {
    Here,
    There,
}

impl State {
    fn counters(&self) -> Counters {
        Counters {
            stored: u64::try_from(self.store.len()).unwrap_or(u64::MAX),
            ..self.counters
        }
    }
}

/// One line per key: its ID, a space, the key in base64.
fn write_down(keys: &[QkdKey], journal: &Path) -> io::Result<()> {
    let mut lines = String::new();
    for key in keys {
        lines.push_str(&format!(
            "{} {}\n",
            key.id,
            STANDARD.encode(key.secret.expose())
        ));
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .append(true)
        .mode(0o600)
        .open(journal)?;
    file.write_all(lines.as_bytes())
}

/// Stands for the QKD link: bits that nobody knows, and fresh UUIDs (version 4) for them.
fn generate(bits: u32, number: u64) -> Result<Vec<QkdKey>, Refusal> {
    const ID: usize = 16;
    let memory = || Refusal::unavailable("no memory");
    let octets = usize::try_from(bits / 8).map_err(|_| memory())?;
    let number = usize::try_from(number).map_err(|_| memory())?;
    let each = octets.checked_add(ID).ok_or_else(memory)?;
    let mut material = Zeroizing::new(vec![0; each.checked_mul(number).ok_or_else(memory)?]);
    getrandom::fill(&mut material).map_err(|_| Refusal::unavailable("no randomness"))?;
    let key = |material: &[u8]| {
        let (id, secret) = material.split_first_chunk::<ID>()?;
        let id = uuid::Builder::from_random_bytes(*id).into_uuid();
        Some(QkdKey {
            id: KeyId::from_octets(*id.as_bytes()),
            secret: Secret::from_slice(secret),
        })
    };
    let keys: Option<Vec<QkdKey>> = material.chunks_exact(each).map(key).collect();
    keys.ok_or_else(memory)
}
