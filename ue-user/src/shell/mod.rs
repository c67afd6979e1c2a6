//! The daemon around the core: sockets, time, the KMS, the data plane, files.
//!
//! One task owns the [`Ue`]; everything else sends it what happened. Each input is followed by
//! sending what the core wants sent and doing what it wants done, in its order.

mod control;
mod nas_tcp;
mod plane;
mod preflight;
mod sockets;
mod sqn_file;

use std::{future::pending, time::Duration};

use daemon::{Shutdown, timeline::Stopwatch};
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

use self::{nas_tcp::NasConnection, plane::UserPlane, sockets::Sockets};
pub use self::{
    preflight::report as preflight,
    sockets::SocketError,
    sqn_file::{SqnFile, SqnFileError},
};
use crate::{
    config::Config,
    core::{
        ue::{Action, AttachFailure, Command, State, Ue},
        usim::SqnState,
    },
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
    Asked {
        request: Request,
        reply: oneshot::Sender<Result<Value, String>>,
    },
}

/// The daemon of one UE.
struct Daemon {
    ue: Ue,
    origin: std::time::Instant,
    sockets: Sockets,
    plane: UserPlane,
    kms: Kms,
    sqn: SqnFile,
    nas: Option<NasConnection>,
    events: mpsc::UnboundedSender<Happened>,
    /// Leave when an attach fails.
    once: bool,
    failed: Option<AttachFailure>,
}

/// Runs until SIGTERM or SIGINT; with `once`, also until an attach fails.
pub async fn run(config: &Config, once: bool) -> Result<(), RunError> {
    let mut shutdown = Shutdown::catch()?;
    let sqn = SqnFile::new(&config.subscriber.sqn_file, &config.subscriber.supi);
    let state = match sqn.load()? {
        Some(state) => state,
        None => SqnState::starting_at(config.subscriber.sqn)
            .map_err(|error| RunError::Config(error.to_string()))?,
    };
    let usim = config.usim(state).map_err(RunError::Config)?;
    let mut ue_config = config.ue().map_err(RunError::Config)?;
    if once {
        ue_config.retry.attempts = 1;
    }
    let kms = Kms::new(&config.qkd.kms)?;
    let sockets = Sockets::bind(config.nwu.local_address)?;
    let plane = UserPlane::new(config)?;
    if plane.is_kernel() {
        sockets.enable_udp_encap()?;
    }
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
    let report = plane.dataplane().start().await?;
    for line in &report.removed {
        info!(line, "left by an earlier run, removed");
    }
    for line in &report.warnings {
        warn!("{line}");
    }
    let mut daemon = Daemon {
        ue: Ue::new(ue_config, usim, system_rng(), system_rng()),
        origin: std::time::Instant::now(),
        sockets,
        plane,
        kms,
        sqn,
        nas: None,
        events,
        once,
        failed: None,
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
                self.sockets.send(&transmit).await;
            }
            match self.ue.poll_action() {
                Some(action) => self.perform(action).await,
                None => return,
            }
        }
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::FetchKeys {
                sa,
                request,
                master,
                ids,
            } => {
                let (kms, events) = (self.kms.clone(), self.events.clone());
                tokio::spawn(async move {
                    let keys = kms.dec_keys(&master, &ids).await.map_err(|error| {
                        warn!(%error, master = %master, "no keys");
                        qkd_failure(&error)
                    });
                    drop(events.send(Happened::Keys { sa, request, keys }));
                });
            }
            Action::KeyFate { id, fate, sa } => self.book(&id, fate, sa),
            Action::ForgetKeys(sa) => {
                self.kms.account().release(&format!("IKE SA {sa}"));
            }
            Action::StoreSqn(state) => {
                let outcome = self.sqn.store(&state).map_err(|error| error.to_string());
                self.timed(|ue, now| ue.sqn_stored(now, outcome));
            }
            Action::Install(install) => {
                let child = install.child.id;
                let outcome = self.plane.install(*install).await;
                self.timed(|ue, now| ue.installed(now, child, outcome));
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
            Action::RemoveSession(id) => self.plane.remove_session(id),
            Action::Attached => info!("attached"),
            Action::Detached { failure, .. } => {
                if self.once {
                    self.failed = failure;
                }
            }
        }
    }

    /// Books what became of a key.
    fn book(&self, id: &keys::KeyId, fate: Fate, sa: SaId) {
        let account = self.kms.account();
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
        self.timed(|ue, now| {
            if let Err(why) = ue.command(now, command) {
                info!(why, "nothing to do");
            }
        });
    }

    /// Calls the core and charges the attach with the processor time.
    fn timed(&mut self, call: impl FnOnce(&mut Ue, Instant)) {
        let now = self.now();
        let watch = Stopwatch::start();
        call(&mut self.ue, now);
        self.ue.add_own(watch.cpu());
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
    }
}
