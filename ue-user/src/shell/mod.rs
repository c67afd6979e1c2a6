//! The daemon around the core: sockets, time, the KMS, the data plane, files.
//!
//! One task owns the [`Ue`]; everything else sends it what happened. Each input is followed by
//! sending what the core wants sent and doing what it wants done, in its order.

mod control;
mod nas_tcp;
mod plane;
mod preflight;
mod roaming;
mod sockets;
mod sqn_file;

use std::{future::pending, net::IpAddr, path::Path, sync::Arc, time::Duration};

use daemon::{
    Shutdown,
    hardening::{Hardening, sheltered, sheltered_steps},
    timeline::Stopwatch,
};
use dataplane::{Notice, relay::SessionReading};
use getrandom::SysRng;
use ike::{Fate, Instant, KeyPurpose, KeyRequestId, QkdFailure, SaId};
use keys::QkdKey;
use qkd::Kms;
use rand_core::{CryptoRng, UnwrapErr};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant as TokioInstant, sleep_until},
};
use tracing::{error, info, warn};

use self::{nas_tcp::NasConnection, plane::UserPlane, roaming::Whereabouts, sockets::Sockets};
pub use self::{
    preflight::report as preflight,
    sockets::SocketError,
    sqn_file::{SqnFile, SqnFileError},
};
use crate::{
    config::Config,
    core::{
        ue::{Action, AttachFailure, Census, Command, State, Ue},
        usim::SqnState,
    },
    metrics::{Counts, Metrics, PORT},
};

/// Time for an orderly end after SIGTERM, beside `retry.releaseTimeout`.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Why the daemon ended, other than by request.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The configuration holds what cannot work.
    #[error("configuration: {0}")]
    Config(String),
    /// A key of the configuration file, or a file it names.
    #[error(transparent)]
    File(#[from] daemon::config::ConfigError),
    /// The sequence numbers cannot be read.
    #[error(transparent)]
    Sqn(#[from] SqnFileError),
    /// The KMS client cannot be made.
    #[error("qkd.kms: {0}")]
    Kms(#[from] qkd::SetupError),
    /// The NWu sockets cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The data plane does not start.
    #[error("data plane: {0}")]
    DataPlane(#[from] dataplane::Error),
    /// The control socket cannot be made.
    #[error("control socket: {0}")]
    Control(#[from] daemon::control::ControlError),
    /// The metrics endpoint cannot be made.
    #[error(transparent)]
    Metrics(#[from] metrics::ServerError),
    /// The daemon could not give up what it should.
    #[error("hardening: {0}")]
    Hardening(#[from] daemon::hardening::Failure),
    /// A network socket broke.
    #[error("NWu: {0}")]
    Io(#[from] std::io::Error),
    /// With `--once`: the attach failed, or ended.
    #[error("not attached: {0}")]
    Attach(AttachFailure),
}

/// A request of `uectl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Where the UE stands.
    Status,
    /// The same with the counters of the data plane.
    Sas,
    /// PDU sessions with their traffic.
    Sessions,
    /// The account of QKD keys.
    Keys,
    /// Attach.
    Attach,
    /// Establish a configured PDU session.
    Establish {
        /// PDU session identity.
        session: u8,
    },
    /// Release a PDU session.
    Release {
        /// PDU session identity.
        session: u8,
    },
    /// Rekey the IKE SA, or Child SAs.
    Rekey {
        /// The IKE SA; otherwise Child SAs.
        #[serde(default)]
        ike: bool,
        /// One Child SA by number; all of them without it.
        #[serde(default)]
        child: Option<u64>,
    },
    /// Go on from another address.
    Roam {
        /// The one the route to the N3IWF has, without it.
        #[serde(default)]
        address: Option<IpAddr>,
    },
    /// Deregister and stay detached.
    Deregister,
}

/// What happened outside the core.
enum Happened {
    Keys {
        sa: SaId,
        request: KeyRequestId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    },
    NasConnected {
        token: u64,
    },
    NasOctets {
        token: u64,
        octets: Vec<u8>,
    },
    NasClosed {
        token: u64,
        why: String,
    },
    /// The numbers, and what the relay counts.
    Scraped(oneshot::Sender<Scraped>),
    Asked {
        request: Request,
        reply: oneshot::Sender<Result<Value, String>>,
    },
}

/// What only the task of the UE knows.
struct Scraped {
    census: Census,
    counts: Counts,
    sessions: Vec<SessionReading>,
}

/// The daemon of one UE.
struct Daemon {
    ue: Ue,
    origin: std::time::Instant,
    sockets: Sockets,
    whereabouts: Whereabouts,
    plane: UserPlane,
    kms: Option<Kms>,
    sqn: SqnFile,
    nas: Option<NasConnection>,
    events: mpsc::UnboundedSender<Happened>,
    /// Leave when an attach fails.
    once: bool,
    failed: Option<AttachFailure>,
    counts: Counts,
    metrics: Option<Arc<Metrics>>,
}

/// Runs until SIGTERM or SIGINT; with `once`, also until an attach fails.
pub async fn run(
    path: &Path,
    config: &Config,
    once: bool,
    hardening: Option<&Hardening>,
) -> Result<(), RunError> {
    let mut shutdown = Shutdown::catch()?;
    let sqn = SqnFile::new(&config.subscriber.sqn_file, &config.subscriber.supi);
    let state = match sqn.load()? {
        Some(state) => state,
        None => SqnState::starting_at(config.subscriber.sqn)
            .map_err(|error| RunError::Config(error.to_string()))?,
    };
    let usim = config.usim(state).map_err(RunError::Config)?;
    let at = |complaint| RunError::File(daemon::config::place(path, complaint));
    let mut ue_config = config.ue().map_err(at)?;
    let choice = config.choice().map_err(at)?;
    if once {
        ue_config.retry.attempts = 1;
    }
    let kms = match config.qkd.as_ref().filter(|_| choice.needs_kms()) {
        Some(qkd) => Some(Kms::new(&qkd.kms)?),
        None => None,
    };
    let modes: Vec<String> = choice.order().iter().map(ToString::to_string).collect();
    info!(modes = modes.join(" "), policy = %choice.policy, "key modes offered");
    let plane = UserPlane::new(config)?;
    let sockets = Sockets::bind(config.nwu.local_address, plane.is_kernel())?;
    let whereabouts = Whereabouts::new(config)?;
    let (events, happened) = mpsc::unbounded_channel();
    let server = daemon::control::Server::bind(&config.control).await?;
    let control = tokio::spawn(server.serve({
        let events = events.clone();
        move |request: Request| {
            let events = events.clone();
            async move {
                let (reply, answer) = oneshot::channel();
                drop(events.send(Happened::Asked { request, reply }));
                answer
                    .await
                    .unwrap_or_else(|_| Err("the daemon is ending".to_owned()))
            }
        }
    }));
    let mut served = tokio::task::JoinSet::new();
    let mut metrics = None;
    if let Some(options) = &config.metrics {
        let own = Arc::new(Metrics::new(options, kms.as_ref()));
        let server = metrics::Server::bind(options.address(PORT)).await?;
        info!(address = %server.address()?, "metrics");
        served.spawn(server.serve({
            let (own, events) = (Arc::clone(&own), events.clone());
            let (dataplane, sums) = (Arc::clone(plane.dataplane()), Arc::clone(plane.sums()));
            move || {
                control::page(
                    Arc::clone(&own),
                    events.clone(),
                    Arc::clone(&dataplane),
                    Arc::clone(&sums),
                )
            }
        }));
        metrics = Some(own);
    }
    let report = plane.dataplane().start().await?;
    for line in &report.removed {
        info!(line, "left by an earlier run, removed");
    }
    for line in &report.warnings {
        warn!("{line}");
    }
    // Everything is open and loaded; nothing of a peer was read yet.
    if let Some(hardening) = hardening {
        let standing = hardening.settle()?;
        info!(threads = standing.threads, "hardened: {standing}");
    }
    let mut daemon = Daemon {
        ue: Ue::new(ue_config, usim, system_rng(), system_rng()),
        origin: std::time::Instant::now(),
        sockets,
        whereabouts,
        plane,
        kms,
        sqn,
        nas: None,
        events,
        once,
        failed: None,
        counts: Counts::default(),
        metrics,
    };
    info!(control = %config.control.display(), "ready");
    let outcome = daemon.serve(happened, &mut shutdown, config).await;
    control.abort();
    daemon.clean_up().await;
    outcome
}

impl Daemon {
    async fn serve(
        &mut self,
        mut happened: mpsc::UnboundedReceiver<Happened>,
        shutdown: &mut Shutdown,
        config: &Config,
    ) -> Result<(), RunError> {
        let mut leave_by: Option<TokioInstant> = None;
        let dataplane = Arc::clone(self.plane.dataplane());
        self.command(Command::Attach);
        loop {
            self.act().await;
            if let Some(failure) = self.failed.take() {
                return Err(RunError::Attach(failure));
            }
            if leave_by.is_some() && self.ue.state() == State::Detached {
                return Ok(());
            }
            let due = self
                .ue
                .poll_timeout()
                .map(|at| self.origin + at.since_origin());
            tokio::select! {
                received = self.sockets.recv() => {
                    let (path, data) = received?;
                    self.timed(|ue, now| ue.handle_datagram(now, path, &data));
                }
                Some(event) = happened.recv() => self.happened(event).await,
                () = self.whereabouts.changed() => self.look_around(),
                notice = dataplane.notice() => {
                    // The N3IWF is behind no NAT that a UE would follow (RFC 7296 2.23).
                    if let Notice::Expired { id, hard } = notice {
                        self.timed(|ue, now| ue.child_expired(now, id, hard));
                    }
                }
                () = until(due.map(TokioInstant::from_std)) => {
                    self.timed(Ue::handle_timeout);
                }
                signal = shutdown.recv() => {
                    if leave_by.is_some() {
                        warn!(signal, "leaving at once");
                        return Ok(());
                    }
                    info!(signal, "leaving");
                    self.once = false;
                    leave_by =
                        Some(TokioInstant::now() + config.retry.release_timeout + SHUTDOWN);
                    self.command(Command::Shutdown);
                }
                () = until(leave_by) => {
                    warn!("the N3IWF did not answer in time, leaving all the same");
                    return Ok(());
                }
            }
        }
    }

    async fn happened(&mut self, event: Happened) {
        match event {
            Happened::Keys { sa, request, keys } => {
                self.timed(|ue, now| ue.keys_fetched(now, sa, request, keys));
            }
            Happened::NasConnected { token } => {
                self.timed(|ue, now| ue.nas_connected(now, token));
            }
            Happened::NasOctets { token, octets } => {
                self.timed(|ue, now| ue.nas_received(now, token, &octets));
            }
            Happened::NasClosed { token, why } => {
                self.timed(|ue, now| ue.nas_closed(now, token, &why));
            }
            Happened::Scraped(reply) => drop(reply.send(Scraped {
                census: self.ue.census(),
                counts: self.counts.clone(),
                sessions: self.plane.relay_readings(),
            })),
            Happened::Asked { request, reply } => {
                let answer = self.answer(request).await;
                drop(reply.send(answer));
            }
        }
    }

    /// Sends and does what the core wants, until it wants nothing more.
    async fn act(&mut self) {
        loop {
            while let Some(transmit) = self.ue.poll_transmit() {
                self.sockets.send(&transmit);
            }
            match self.ue.poll_action() {
                Some(action) => self.perform(action).await,
                None => return,
            }
        }
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::ReadyKms => {
                if let Some(kms) = self.kms.clone() {
                    tokio::spawn(async move { kms.ready().await });
                }
            }
            Action::FetchKeys {
                sa,
                request,
                master,
                ids,
            } => {
                let (kms, events) = (self.kms.clone(), self.events.clone());
                tokio::spawn(async move {
                    let Some(kms) = kms else {
                        // Not asked for without a mode that takes keys.
                        let keys = Err(QkdFailure::Unreachable);
                        drop(events.send(Happened::Keys { sa, request, keys }));
                        return;
                    };
                    let keys = sheltered_steps(kms.dec_keys(&master, &ids)).await;
                    let keys = keys.map_err(|error| {
                        warn!(%error, master = %master, "no keys");
                        qkd_failure(&error)
                    });
                    drop(events.send(Happened::Keys { sa, request, keys }));
                });
            }
            Action::KeyFate { id, fate, sa } => self.book(&id, fate, sa),
            Action::ForgetKeys(sa) => {
                if let Some(kms) = &self.kms {
                    kms.account().release(&format!("IKE SA {sa}"));
                }
            }
            Action::StoreSqn(state) => {
                let outcome = self.sqn.store(&state).map_err(|error| error.to_string());
                self.timed(|ue, now| ue.sqn_stored(now, outcome));
            }
            Action::Install(install) => {
                let child = install.child.id;
                let outcome = sheltered_steps(self.plane.install(*install)).await;
                self.timed(|ue, now| ue.installed(now, child, outcome));
            }
            Action::Switch(child) => self.plane.switch(child).await,
            Action::Move {
                child,
                path,
                udp_encap,
            } => self.plane.relocate(child, path, udp_encap).await,
            Action::ReleaseKeys(ids) => {
                if let Some(kms) = &self.kms {
                    kms.account().release_keys(&ids);
                }
            }
            Action::Remove(child) => self.plane.remove(child).await,
            Action::ConnectNas {
                local,
                remote,
                token,
            } => {
                let events = self.events.clone();
                self.nas = Some(NasConnection::open(local, remote, token, events));
            }
            Action::SendNas(octets) => {
                if let Some(nas) = &self.nas {
                    nas.send(octets);
                }
            }
            Action::CloseNas => self.nas = None,
            Action::AddSession(session) => {
                let outcome = self.plane.add(&session);
                self.timed(|ue, now| ue.session_added(now, session.accept.id, outcome));
            }
            Action::SetTunnels { id, dscp, further } => self.plane.set_tunnels(id, dscp, further),
            Action::SetRules(id, rules) => self.plane.set_rules(id, rules),
            Action::RemoveSession(id) => self.plane.remove_session(id),
            Action::Attached => {
                info!("attached");
                self.counts.attached();
                if let Some(metrics) = &self.metrics {
                    metrics.attached(&self.ue.timeline());
                }
            }
            Action::Detached { failure, .. } => {
                self.counts.detached(failure.as_ref());
                if self.once {
                    self.failed = failure;
                }
            }
        }
    }

    /// Books what became of a key.
    fn book(&self, id: &keys::KeyId, fate: Fate, sa: SaId) {
        let Some(account) = self.kms.as_ref().map(Kms::account) else {
            return;
        };
        let booked = match fate {
            Fate::Used { purpose, child } => {
                let of = match child {
                    Some(child) => format!("Child SA {child}: "),
                    None => String::new(),
                };
                let purpose = format!("{of}{}", purpose_text(purpose));
                account.used(id, purpose, format!("IKE SA {sa}"))
            }
            Fate::Lost => account.lost(id),
        };
        if let Err(error) = booked {
            error!(%error, "key account");
        }
    }

    fn command(&mut self, command: Command) {
        if let Err(why) = self.timed(|ue, now| ue.command(now, command)) {
            info!(why, "nothing to do");
        }
    }

    /// Calls the core and charges the attach with what it took.
    fn timed<R>(&mut self, call: impl FnOnce(&mut Ue, Instant) -> R) -> R {
        let now = self.now();
        let watch = Stopwatch::start();
        let result = sheltered(|| call(&mut self.ue, now));
        self.ue.handled(watch.wall(), watch.cpu());
        result
    }

    fn now(&self) -> Instant {
        Instant::from_origin(self.origin.elapsed())
    }

    /// Nothing of this run stays on the host.
    async fn clean_up(&mut self) {
        self.nas = None;
        for reading in self.plane.relay_readings() {
            self.plane.remove_session(reading.pdu_session);
        }
        match self.plane.dataplane().stop().await {
            Ok(report) => {
                for line in &report.left {
                    error!(line, "could not be removed");
                }
                info!(removed = report.removed.len(), "data plane stopped");
            }
            Err(error) => error!(%error, "data plane"),
        }
    }
}

async fn until(at: Option<TokioInstant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// The operating system's generator.
fn system_rng() -> Box<dyn CryptoRng + Send> {
    Box::new(UnwrapErr(SysRng))
}

fn qkd_failure(error: &qkd::QkdError) -> QkdFailure {
    match error {
        qkd::QkdError::KeysNotFound => QkdFailure::UnknownKey,
        other => match other.reason() {
            qkd::Reason::NoKeys => QkdFailure::NoKeys,
            qkd::Reason::Unreachable => QkdFailure::Unreachable,
            qkd::Reason::UnknownSae => QkdFailure::UnknownSae,
        },
    }
}

fn purpose_text(purpose: KeyPurpose) -> &'static str {
    match purpose {
        KeyPurpose::IkeEncryptionUp => "SK_ei",
        KeyPurpose::IkeEncryptionDown => "SK_er",
        KeyPurpose::IkeIntegrityUp => "SK_ai",
        KeyPurpose::IkeIntegrityDown => "SK_ar",
        KeyPurpose::EspEncryptionUp => "ESP encryption, UE to N3IWF",
        KeyPurpose::EspEncryptionDown => "ESP encryption, N3IWF to UE",
        KeyPurpose::EspIntegrityUp => "ESP integrity, UE to N3IWF",
        KeyPurpose::EspIntegrityDown => "ESP integrity, N3IWF to UE",
        KeyPurpose::Authentication => "K_auth",
        KeyPurpose::Ppk => "PPK",
    }
}
