//! Many UEs and what they share: socket, KME client, timers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use daemon::datagrams::Datagrams;
use getrandom::SysRng;
use ike::{KeyRequestId, QkdFailure, SaId};
use keys::QkdKey;
use qkd::Kms;
use rand_core::{CryptoRng, UnwrapErr};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant as TokioInstant, sleep_until};
use ue_user::config::Config;
use ue_user::core::ue::{Action, Command, State, Ue};
use ue_user::core::usim::SqnState;

use crate::nas::Connection;

/// Octets of the largest datagram.
const MAX_DATAGRAM: usize = 65_535;
/// Requests to the KME at one time, as those of a daemon; all UEs have one client.
const AT_ONCE: usize = 64;
/// Datagrams read in one go.
const BATCH: usize = 64;

/// What happened outside the UEs.
pub(crate) struct Happened {
    pub(crate) ue: usize,
    pub(crate) what: What,
}

pub(crate) enum What {
    Keys {
        sa: SaId,
        request: KeyRequestId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    },
    NasConnected {
        token: u64,
    },
    Nas {
        token: u64,
        octets: Vec<u8>,
    },
    NasClosed {
        token: u64,
        why: String,
    },
}

/// An attach that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The UE.
    pub ue: usize,
    /// From the command to attach to the PDU session.
    pub took: Duration,
    /// Why it failed.
    pub failure: Option<String>,
}

/// What is rekeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rekeyed {
    /// The IKE SA.
    Ike,
    /// All Child SAs.
    Children,
}

/// SAs of a UE that are up, and how many keys each has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sas {
    /// IKE SAs by the initiator's SPI.
    pub ike: BTreeMap<String, usize>,
    /// Child SAs by their number.
    pub children: BTreeMap<u64, usize>,
}

struct Member {
    ue: Ue,
    begun: Option<Instant>,
    timer: Option<Instant>,
    nas: Option<Connection>,
}

/// The UEs.
pub struct Fleet {
    origin: Instant,
    socket: Datagrams,
    kms: Kms,
    slots: Arc<Semaphore>,
    members: Vec<Member>,
    /// UEs by initiator's SPI.
    spis: HashMap<[u8; 8], usize>,
    timers: BTreeSet<(Instant, usize)>,
    sender: mpsc::UnboundedSender<Happened>,
    events: mpsc::UnboundedReceiver<Happened>,
    ended: Vec<Ended>,
    arrivals: Vec<(usize, Instant)>,
    buffer: Vec<u8>,
}

impl Fleet {
    /// UEs like that of a configuration file, with IMSIs that count up from its SUPI. Each tries
    /// once: whoever drives the load decides what comes after a failure.
    ///
    /// # Errors
    /// When the file is wrong or the socket cannot be bound.
    pub fn new(config: &Path, number: usize) -> Result<Self> {
        Self::with_attempts(config, number, Some(1))
    }

    /// The same, of UEs that try again as their file says.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn persistent(config: &Path, number: usize) -> Result<Self> {
        Self::with_attempts(config, number, None)
    }

    fn with_attempts(config: &Path, number: usize, attempts: Option<u32>) -> Result<Self> {
        let mut config = Config::load(config).context("the UE's configuration")?;
        let first: u64 = config
            .subscriber
            .supi
            .strip_prefix("imsi-")
            .and_then(|digits| digits.parse().ok())
            .context("the SUPI is no IMSI")?;
        let digits = config.subscriber.supi.len() - "imsi-".len();
        let qkd = config.qkd.as_ref().context("the UE has no KMS")?;
        let kms = Kms::new(&qkd.kms)?;
        let local = config.path().local;
        let socket = UdpSocket::bind(local)
            .and_then(Datagrams::new)
            .with_context(|| format!("UDP {local}"))?;
        let mut members = Vec::with_capacity(number);
        for offset in 0..number {
            let imsi = first + u64::try_from(offset)?;
            config.subscriber.supi = format!("imsi-{imsi:0digits$}");
            let mut ue = config.ue().map_err(anyhow::Error::msg)?;
            if let Some(attempts) = attempts {
                ue.retry.attempts = attempts;
            }
            // All of them are on one socket, and none moves.
            ue.mobike = None;
            let sqn = SqnState::starting_at(config.subscriber.sqn)?;
            let usim = config.usim(sqn).map_err(anyhow::Error::msg)?;
            let mut ue = Ue::new(ue, usim, system_rng(), system_rng());
            ue.shares_its_sae();
            members.push(Member {
                ue,
                begun: None,
                timer: None,
                nas: None,
            });
        }
        let (sender, events) = mpsc::unbounded_channel();
        Ok(Self {
            origin: Instant::now(),
            socket,
            kms,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            members,
            spis: HashMap::new(),
            timers: BTreeSet::new(),
            sender,
            events,
            ended: Vec::new(),
            arrivals: Vec::new(),
            buffer: vec![0; MAX_DATAGRAM],
        })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Where a UE stands.
    #[must_use]
    pub fn state(&self, ue: usize) -> State {
        self.members
            .get(ue)
            .map_or(State::Detached, |member| member.ue.state())
    }

    /// Lets a detached UE attach; its end comes out of [`Self::ended`].
    pub fn attach(&mut self, ue: usize) {
        if let Some(member) = self.members.get_mut(ue) {
            member.begun = Some(Instant::now());
        }
        self.command(ue, Command::Attach);
    }

    /// Lets a UE deregister.
    pub fn detach(&mut self, ue: usize) {
        self.command(ue, Command::Deregister);
    }

    /// Lets a UE rekey its IKE SA, or all its Child SAs.
    ///
    /// # Errors
    /// When it cannot begin.
    pub fn rekey(&mut self, ue: usize, what: Rekeyed) -> Result<()> {
        let command = match what {
            Rekeyed::Ike => Command::RekeyIke,
            Rekeyed::Children => Command::RekeyChild(None),
        };
        let mut outcome = Ok(());
        self.with(ue, |ue, now| outcome = ue.command(now, command));
        outcome.map_err(anyhow::Error::msg)
    }

    /// The SAs of a UE and the keys in them.
    #[must_use]
    pub fn sas(&self, ue: usize) -> Sas {
        let mut sas = Sas::default();
        let Some(member) = self.members.get(ue) else {
            return sas;
        };
        let now = ike::Instant::from_origin(self.origin.elapsed());
        for ike in member.ue.status(now).ike {
            sas.ike.insert(ike.spi_i, ike.key_ids.len());
            let up = ike.children.into_iter().filter(|child| child.up);
            sas.children
                .extend(up.map(|child| (child.id, child.key_ids.len())));
        }
        sas
    }

    /// Keys that the UEs' client has fetched.
    #[must_use]
    pub fn keys_fetched(&self) -> u64 {
        self.kms.account().total().fetched
    }

    /// Attaches that have ended since the last call.
    pub fn ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }

    /// UEs that have registered and have their session since the last call, and when.
    pub fn arrivals(&mut self) -> Vec<(usize, Instant)> {
        std::mem::take(&mut self.arrivals)
    }

    fn command(&mut self, ue: usize, command: Command) {
        self.with(ue, |ue, now| {
            // A UE that is where it is wanted has nothing to do.
            drop(ue.command(now, command));
        });
    }

    /// Lets the UEs have what comes until `until`, or until an attach has ended.
    ///
    /// # Errors
    /// When the socket breaks.
    pub async fn turn(&mut self, until: Instant) -> Result<()> {
        while self.ended.is_empty() {
            let timer = self.timers.first().map(|(at, _)| *at);
            let due = timer.map_or(until, |at| at.min(until));
            tokio::select! {
                readable = self.socket.readable() => {
                    readable?;
                    self.receive();
                }
                Some(event) = self.events.recv() => self.happened(event),
                () = sleep_until(TokioInstant::from_std(due)) => {
                    let now = Instant::now();
                    while let Some((at, ue)) = self.timers.first().copied() {
                        if at > now {
                            break;
                        }
                        self.timers.pop_first();
                        if let Some(member) = self.members.get_mut(ue) {
                            member.timer = None;
                        }
                        self.with(ue, Ue::handle_timeout);
                    }
                    if now >= until {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self) {
        let Ok(local) = self.socket.local_addr() else {
            return;
        };
        for _ in 0..BATCH {
            let Ok((length, remote)) = self.socket.try_recv_from(&mut self.buffer) else {
                return;
            };
            let data = self.buffer.get(..length).unwrap_or_default().to_vec();
            let ue = data.first_chunk().and_then(|spi| self.spis.get(spi));
            if let Some(&ue) = ue {
                let path = ike::Path { local, remote };
                self.with(ue, |ue, now| ue.handle_datagram(now, path, &data));
            }
        }
    }

    fn happened(&mut self, Happened { ue, what }: Happened) {
        self.with(ue, |ue, now| match what {
            What::Keys { sa, request, keys } => ue.keys_fetched(now, sa, request, keys),
            What::NasConnected { token } => ue.nas_connected(now, token),
            What::Nas { token, octets } => ue.nas_received(now, token, &octets),
            What::NasClosed { token, why } => ue.nas_closed(now, token, &why),
        });
    }

    /// Calls a UE, and does what it wants done.
    fn with(&mut self, index: usize, call: impl FnOnce(&mut Ue, ike::Instant)) {
        let Some(member) = self.members.get_mut(index) else {
            return;
        };
        let origin = self.origin;
        let now = || ike::Instant::from_origin(origin.elapsed());
        call(&mut member.ue, now());
        loop {
            while let Some(transmit) = member.ue.poll_transmit() {
                if let Some(spi) = transmit.data.first_chunk() {
                    self.spis.insert(*spi, index);
                }
                // What the kernel cannot take is lost, as on any link.
                drop(
                    self.socket
                        .try_send_to(&transmit.data, transmit.path.remote),
                );
            }
            let Some(action) = member.ue.poll_action() else {
                break;
            };
            match action {
                Action::FetchKeys {
                    sa,
                    request,
                    master,
                    ids,
                } => {
                    let (kms, events) = (self.kms.clone(), self.sender.clone());
                    let slots = Arc::clone(&self.slots);
                    tokio::spawn(async move {
                        let _slot = slots.acquire().await;
                        let keys = kms.dec_keys(&master, &ids).await.map_err(|error| {
                            match error.reason() {
                                qkd::Reason::NoKeys => QkdFailure::NoKeys,
                                qkd::Reason::Unreachable => QkdFailure::Unreachable,
                                qkd::Reason::UnknownSae => QkdFailure::UnknownSae,
                            }
                        });
                        let what = What::Keys { sa, request, keys };
                        drop(events.send(Happened { ue: index, what }));
                    });
                }
                // The account is there to be balanced by daemons; here keys come and go.
                Action::ForgetKeys(_) | Action::KeyFate { .. } => {}
                Action::StoreSqn(_) => member.ue.sqn_stored(now(), Ok(())),
                Action::Install(install) => {
                    member.ue.installed(now(), install.child.id, Ok(()));
                }
                Action::ConnectNas {
                    local,
                    remote,
                    token,
                } => {
                    let events = self.sender.clone();
                    member.nas = Some(Connection::open(index, local, remote, token, events));
                }
                Action::SendNas(octets) => {
                    if let Some(nas) = &member.nas {
                        nas.send(octets);
                    }
                }
                Action::CloseNas => member.nas = None,
                Action::AddSession(session) => {
                    member.ue.session_added(now(), session.accept.id, Ok(()));
                }
                Action::Attached => {
                    self.arrivals.push((index, Instant::now()));
                    if let Some(begun) = member.begun.take() {
                        self.ended.push(Ended {
                            ue: index,
                            took: begun.elapsed(),
                            failure: None,
                        });
                    }
                }
                Action::Detached { failure, .. } => {
                    if let Some(begun) = member.begun.take() {
                        let failure = failure.map(|failure| failure.to_string());
                        self.ended.push(Ended {
                            ue: index,
                            took: begun.elapsed(),
                            failure: Some(failure.unwrap_or_else(|| "detached".to_owned())),
                        });
                    }
                }
                _ => {}
            }
        }
        let due = member
            .ue
            .poll_timeout()
            .map(|at| origin + at.since_origin());
        if due != member.timer {
            if let Some(old) = member.timer {
                self.timers.remove(&(old, index));
            }
            if let Some(new) = due {
                self.timers.insert((new, index));
            }
            member.timer = due;
        }
    }
}

/// The operating system's generator.
fn system_rng() -> Box<dyn CryptoRng + Send> {
    Box::new(UnwrapErr(SysRng))
}
