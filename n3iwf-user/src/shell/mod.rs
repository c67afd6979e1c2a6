//! The daemon: sockets, clock, KMS and data plane around the gateway.
//!
//! One task owns the gateway. Everything that waits (KMS, data plane, N2, NAS TCP) does so in tasks
//! of its own and reports back through one channel, so that the gateway sees one input at a time.

mod control;
mod keylog;
mod kms;
mod n2link;
mod nas;
mod plane;
mod queues;
#[cfg(test)]
mod scarce;
#[cfg(test)]
mod tests;
mod udp;

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use daemon::{
    Shutdown,
    control::Server,
    hardening::{Hardening, sheltered},
    timeline::Stopwatch,
};
use dataplane::{
    Dataplane, StartReport,
    relay::{self, AccessEvent, AccessRelay},
};
use ike::{ChildId, Endpoint, Instant, KeyRequestId, QkdFailure, SaId};
use ike_config::Choice;
use keys::{QkdKey, SaeId};
use qkd::Kms;
use rand_core::UnwrapErr;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep_until, timeout},
};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use self::{keylog::DebugKeyLog, kms::Keys, n2link::N2, nas::Nas, plane::Plane, udp::Udp};
use crate::{
    config::{Choices, File},
    core::{Action, AmfNumber, N3iwf, NasLink, UeStatus},
    gateway::{Census, Gateway, RekeyWhat},
    metrics::{Metrics, PORT},
};

/// Inputs that wait for the gateway; whoever sends more waits itself.
const INPUTS: usize = 4096;
/// How long a shutdown waits for UEs and the AMF.
const FAREWELL: Duration = Duration::from_secs(3);
/// How often the relay is asked for events.
const RELAY_POLL: Duration = Duration::from_millis(500);

/// What the other tasks tell the one that owns the gateway.
enum Input {
    AmfConnected {
        amf: AmfNumber,
        attempt: u64,
        sender: n2::SendHalf,
    },
    AmfLost {
        amf: AmfNumber,
        attempt: u64,
        reason: String,
    },
    Ngap {
        amf: AmfNumber,
        attempt: u64,
        /// May carry K_N3IWF.
        data: Zeroizing<Vec<u8>>,
    },
    Keys {
        sa: SaId,
        request: KeyRequestId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    },
    Ahead {
        slave: SaeId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    },
    Stock {
        slave: SaeId,
        stored: Option<u64>,
    },
    Installed {
        sa: SaId,
        child: ChildId,
        result: Result<(), String>,
    },
    Removed {
        child: ChildId,
    },
    SessionAdded {
        ue: u32,
        dl_teid: u32,
        result: Result<(), String>,
    },
    SessionModified {
        ue: u32,
        token: u64,
        result: Result<(), String>,
    },
    SessionRemoved {
        ue: u32,
        dl_teid: u32,
    },
    NasConnected {
        link: NasLink,
        from: IpAddr,
        writer: mpsc::Sender<Vec<u8>>,
    },
    Nas {
        link: NasLink,
        message: Vec<u8>,
    },
    NasClosed {
        link: NasLink,
    },
    Snapshot(oneshot::Sender<Snapshot>),
    /// Keys held ahead, by peer.
    HeldAhead(oneshot::Sender<BTreeMap<SaeId, usize>>),
    Census {
        /// How many UEs to name.
        ues: usize,
        reply: oneshot::Sender<(Box<Census>, Vec<UeStatus>)>,
    },
    Release {
        ue: u32,
        done: oneshot::Sender<bool>,
    },
    Rekey {
        ue: u32,
        what: RekeyWhat,
        done: oneshot::Sender<Result<(), String>>,
    },
}

/// What the gateway knows at one moment.
struct Snapshot {
    now: Instant,
    sas: Vec<ike::SaStatus>,
    ues: Vec<UeStatus>,
}

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// What keeps it from starting. Once it runs, nothing outside ends it but a signal.
pub async fn run(path: &Path, file: File, hardening: Option<&Hardening>) -> anyhow::Result<()> {
    // From here on a signal is answered in order.
    let mut shutdown = Shutdown::catch()?;
    let own = &file.configuration;
    let complaint = |complaint| daemon::config::place(path, complaint);
    let core = file.core().map_err(complaint)?;
    let choices = file.choices().map_err(complaint)?;
    let mut endpoint = file.endpoint().map_err(complaint)?;
    let key_log = own.debug_key_log.as_deref().map(DebugKeyLog::open);
    let key_log = key_log.transpose().context("debugKeyLog")?;
    if let Some(log) = &key_log {
        warn!(
            directory = %log.directory().display(),
            "debugKeyLog: ALL KEYS ARE WRITTEN TO DISK. Never in service."
        );
        keylog::attach(&mut endpoint, log);
    }

    // First of all: a second daemon with the same file ends here and disturbs nothing.
    let server = Server::bind(&own.control).await?;
    crate::tls_provider();
    let kms = match own.qkd.as_ref().filter(|_| choices.needs_kms()) {
        Some(qkd) => Some(Kms::new(&qkd.kms).context("configuration.qkd.kms")?),
        None => None,
    };
    if let Some(kms) = kms.clone() {
        // UEs that lost the last run are waiting.
        tokio::spawn(async move { kms.ready().await });
    }
    report_modes(&choices);
    // What UEs send while the data plane starts waits here: lost, it would come again only after a pause that doubles.
    let encapsulate = own.dataplane.kind == dataplane::Kind::Kernel;
    let udp = Udp::bind(own.ike_bind_address, encapsulate)?;
    let dataplane = dataplane::open(file.dataplane())?;
    let (started, relay) = start_planes(&file, &dataplane).await;
    let started = started.context("data plane")?;
    report_start(&started);

    let result = serve(
        &file,
        core,
        endpoint,
        server,
        udp,
        kms,
        &dataplane,
        started,
        relay,
        key_log,
        hardening,
        &mut shutdown,
    )
    .await;
    match dataplane.stop().await {
        Ok(report) if report.left.is_empty() => {
            info!(
                removed = report.removed.len(),
                "data plane stopped, nothing left"
            );
        }
        Ok(report) => warn!(left = ?report.left, "data plane stopped, something is left"),
        Err(error) => error!(%error, "data plane"),
    }
    result
}

/// The data plane and the relay, one beside the other: both wait for the kernel, which takes away what an earlier run
/// left and goes through the programs. Both are done when this is.
async fn start_planes(
    file: &File,
    dataplane: &Arc<dyn Dataplane>,
) -> (
    Result<StartReport, dataplane::Error>,
    anyhow::Result<Arc<dyn AccessRelay>>,
) {
    let (config, options) = (file.relay(), file.configuration.dataplane.clone());
    // A thread with the rights of this one, which those of the runtime do not have.
    let relay = std::thread::spawn(move || relay::open(config, &options));
    let started = dataplane.start().await;
    let relay = match relay.join() {
        Ok(opened) => opened.context("user-plane relay"),
        Err(panic) => std::panic::resume_unwind(panic),
    };
    (started, relay)
}

fn report_modes(choices: &Choices) {
    let join = |choice: &Choice| {
        let modes: Vec<String> = choice.order().iter().map(ToString::to_string).collect();
        modes.join(" ")
    };
    let general = &choices.general;
    info!(modes = join(general), policy = %general.policy, "key modes accepted");
    for (ranges, choice) in &choices.peers {
        for range in ranges {
            info!(peers = %range, modes = join(choice), policy = %choice.policy, "key modes accepted");
        }
    }
}

fn report_start(report: &StartReport) {
    for line in &report.removed {
        info!("left by an earlier run and removed: {line}");
    }
    for line in &report.warnings {
        warn!("{line}");
    }
    info!(interface = ?report.interface, ebpf = ?report.bpf, "data plane started");
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of a daemon, put together once"
)]
async fn serve(
    file: &File,
    core: crate::core::CoreConfig,
    endpoint: ike::EndpointConfig,
    server: Server,
    udp: Udp,
    kms: Option<Kms>,
    dataplane: &Arc<dyn Dataplane>,
    started: StartReport,
    relay: anyhow::Result<Arc<dyn AccessRelay>>,
    key_log: Option<Arc<DebugKeyLog>>,
    hardening: Option<&Hardening>,
    shutdown: &mut Shutdown,
) -> anyhow::Result<()> {
    let own = &file.configuration;
    let encapsulate = own.dataplane.kind == dataplane::Kind::Kernel;
    let relay = relay?;
    let (inputs, mut input) = mpsc::channel(INPUTS);
    let device = started.interface.clone().filter(|_| encapsulate);
    let nas_address = (own.ip_sec_tunnel_address, own.nas_tcp_port).into();
    let nas = Nas::listen(nas_address, device.as_deref(), inputs.clone())
        .with_context(|| format!("NAS over TCP on {nas_address}"))?;
    let n2 = N2::new(file.amfs(), file.n2_options(), inputs.clone());
    let names = file.dataplane();
    let sums = Arc::<dataplane::Sums>::default();
    let plane = Plane::start(
        Arc::clone(dataplane),
        Arc::clone(&relay),
        move |slot| encapsulate.then(|| names.interface(slot)),
        key_log,
        Arc::clone(&sums),
        inputs.clone(),
    );
    let control = control::Context {
        inputs: inputs.clone(),
        dataplane: Arc::clone(dataplane),
        relay: Arc::clone(&relay),
        sums,
        kms: kms.clone(),
        sae_id: own.qkd.as_ref().map(|qkd| qkd.sae_id.to_string()),
        kme: own
            .qkd
            .as_ref()
            .map(|qkd| &qkd.kms)
            .and_then(|kms| kms.kme_id.first().or(kms.endpoints.first()))
            .cloned(),
        recording: !encapsulate,
        started,
    };
    let mut served = tokio::task::JoinSet::new();
    let metrics = match &own.metrics {
        Some(options) => {
            let metrics = Arc::new(Metrics::new(options, kms.as_ref()));
            let server = metrics::Server::bind(options.address(PORT)).await?;
            info!(address = %server.address()?, "metrics");
            served.spawn(server.serve({
                let (context, metrics) = (control.clone(), Arc::clone(&metrics));
                move || control::page(context.clone(), Arc::clone(&metrics))
            }));
            Some(metrics)
        }
        None => None,
    };
    let control =
        tokio::spawn(server.serve(move |request| control::answer(control.clone(), request)));

    // Everything is open and loaded; nothing of a peer was read yet.
    if let Some(hardening) = hardening {
        let standing = hardening.settle().context("hardening")?;
        info!(threads = standing.threads, "hardened: {standing}");
    }
    let rng = Box::new(UnwrapErr(getrandom::SysRng));
    let mut shell = Shell {
        origin: std::time::Instant::now(),
        gateway: Gateway::new(Endpoint::new(endpoint, rng), N3iwf::new(core)),
        udp,
        n2,
        nas,
        plane,
        keys: Keys::new(kms, inputs),
        metrics,
    };
    shell.turn(Gateway::start);
    info!("ready");
    shell.serve(&mut input, &relay, dataplane, shutdown).await;
    control.abort();
    shell.say_goodbye(&mut input).await;
    Ok(())
}

struct Shell {
    origin: std::time::Instant,
    gateway: Gateway,
    udp: Udp,
    n2: N2,
    nas: Nas,
    plane: Plane,
    keys: Keys,
    metrics: Option<Arc<Metrics>>,
}

impl Shell {
    async fn serve(
        &mut self,
        input: &mut mpsc::Receiver<Input>,
        relay: &Arc<dyn AccessRelay>,
        dataplane: &Arc<dyn Dataplane>,
        shutdown: &mut Shutdown,
    ) {
        let mut relay_poll = tokio::time::interval(RELAY_POLL);
        relay_poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let deadline = self.deadline();
            tokio::select! {
                signal = shutdown.recv() => {
                    info!(signal, "shutting down");
                    return;
                }
                socket = self.udp.readable() => self.receive(socket),
                Some(first) = input.recv() => self.accept(first, input),
                () = sleep_until(deadline) => self.turn(Gateway::handle_timeout),
                notice = dataplane.notice() => {
                    self.turn(|gateway, now| gateway.notice(now, notice));
                }
                _ = relay_poll.tick() => {
                    while let Some(AccessEvent::TunnelUnknown { dl_teid }) = relay.poll_event() {
                        self.turn(|gateway, now| gateway.tunnel_lost(now, dl_teid));
                    }
                }
            }
        }
    }

    /// Releases every UE, waits a moment for the peers, then goes without them.
    async fn say_goodbye(&mut self, input: &mut mpsc::Receiver<Input>) {
        self.turn(Gateway::shut_down);
        if !self.emptied(input, FAREWELL).await {
            warn!("not every UE confirmed its end");
            self.turn(Gateway::abandon_all);
            // What is left is the data plane's to remove.
            self.emptied(input, FAREWELL).await;
        }
        self.n2.close().await;
        self.keys.report();
    }

    /// Goes on until no UE is left, or the time is over.
    async fn emptied(&mut self, input: &mut mpsc::Receiver<Input>, time: Duration) -> bool {
        timeout(time, async {
            while !self.gateway.is_empty() {
                let deadline = self.deadline();
                tokio::select! {
                    socket = self.udp.readable() => self.receive(socket),
                    Some(first) = input.recv() => self.accept(first, input),
                    () = sleep_until(deadline) => self.turn(Gateway::handle_timeout),
                }
            }
        })
        .await
        .is_ok()
    }

    fn now(&self) -> Instant {
        Instant::from_origin(self.origin.elapsed())
    }

    fn deadline(&self) -> tokio::time::Instant {
        // A day is far enough for "never" and does not overflow.
        let day = Duration::from_secs(86_400);
        let at = self
            .gateway
            .poll_timeout()
            .map_or(self.origin.elapsed() + day, Instant::since_origin);
        let wait = at.saturating_sub(self.origin.elapsed()).min(day);
        tokio::time::Instant::now() + wait
    }

    /// One input: the gateway handles it, its time is measured, its output goes out.
    fn turn(&mut self, handle: impl FnOnce(&mut Gateway, Instant)) {
        let now = self.now();
        let watch = Stopwatch::start();
        sheltered(|| handle(&mut self.gateway, now));
        self.gateway.charge(watch.cpu());
        while let Some(transmit) = self.gateway.poll_transmit() {
            self.udp.send(&transmit);
        }
        while let Some(action) = self.gateway.poll_action() {
            self.act(action);
        }
        while let Some((phase, times)) = self.gateway.poll_phase() {
            if let Some(metrics) = &self.metrics {
                metrics.phase(phase, times);
            }
        }
    }

    fn receive(&mut self, socket: usize) {
        while let Some((path, length)) = self.udp.try_receive(socket) {
            let datagram = self.udp.taken(length);
            self.turn(|gateway, now| gateway.handle_datagram(now, path, &datagram));
        }
    }

    fn accept(&mut self, first: Input, input: &mut mpsc::Receiver<Input>) {
        self.input(first);
        // Bounded, so that sockets and timers get their turn.
        for _ in 0..256 {
            match input.try_recv() {
                Ok(next) => self.input(next),
                Err(_) => return,
            }
        }
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::AmfConnected {
                amf,
                attempt,
                sender,
            } => {
                if self.n2.connected(amf, attempt, sender) {
                    self.turn(|gateway, now| gateway.amf_connected(now, amf));
                }
            }
            Input::AmfLost {
                amf,
                attempt,
                reason,
            } => {
                if self.n2.lost(amf, attempt) {
                    self.turn(|gateway, now| gateway.amf_lost(now, amf, &reason));
                }
            }
            Input::Ngap { amf, attempt, data } => {
                if self.n2.is_current(amf, attempt) {
                    self.turn(|gateway, now| gateway.handle_ngap(now, amf, &data));
                }
            }
            Input::Keys { sa, request, keys } => {
                self.turn(|gateway, now| gateway.keys_fetched(now, sa, request, keys));
            }
            Input::Ahead { slave, keys } => {
                self.turn(|gateway, now| gateway.keys_ahead(now, &slave, keys));
            }
            Input::Stock { slave, stored } => {
                self.turn(|gateway, now| gateway.stock_told(now, &slave, stored));
            }
            Input::Installed { sa, child, result } => {
                self.turn(|gateway, now| gateway.child_installed(now, sa, child, result));
            }
            Input::Removed { child } => {
                self.turn(|gateway, now| gateway.child_removed(now, child));
            }
            Input::SessionAdded {
                ue,
                dl_teid,
                result,
            } => self.turn(|gateway, now| gateway.session_added(now, ue, dl_teid, result)),
            Input::SessionModified { ue, token, result } => {
                self.turn(|gateway, now| gateway.session_modified(now, ue, token, result));
            }
            Input::SessionRemoved { ue, dl_teid } => {
                self.turn(|gateway, now| gateway.session_removed(now, ue, dl_teid));
            }
            Input::NasConnected { link, from, writer } => {
                self.nas.opened(link, writer);
                self.turn(|gateway, now| gateway.nas_connected(now, link, from));
            }
            Input::Nas { link, message } => {
                self.turn(|gateway, now| gateway.nas_received(now, link, &message));
            }
            Input::NasClosed { link } => {
                self.nas.close(link);
                self.turn(|gateway, now| gateway.nas_closed(now, link));
            }
            Input::Snapshot(reply) => {
                let now = self.now();
                // The asker may have gone meanwhile.
                drop(reply.send(Snapshot {
                    now,
                    sas: self.gateway.sas(),
                    ues: self.gateway.ues(now),
                }));
            }
            Input::HeldAhead(reply) => drop(reply.send(self.gateway.held_ahead())),
            Input::Census { ues, reply } => {
                let now = self.now();
                let census = Box::new(self.gateway.census(now));
                let _ = reply.send((census, self.gateway.first_ues(now, ues)));
            }
            Input::Release { ue, done } => {
                let mut known = false;
                self.turn(|gateway, now| known = gateway.release(now, ue));
                let _ = done.send(known);
            }
            Input::Rekey { ue, what, done } => {
                let mut outcome = Ok(());
                self.turn(|gateway, now| outcome = gateway.rekey(now, ue, what));
                let _ = done.send(outcome);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::ConnectAmf { amf } => self.n2.connect(amf),
            Action::DisconnectAmf { amf } => self.n2.disconnect(amf),
            Action::SendNgap { amf, ue, data } => self.n2.send(amf, ue, data),
            Action::FetchKeys {
                sa,
                request,
                slave,
                number,
                size_bits,
            } => self.keys.fetch(sa, request, slave, number, size_bits),
            Action::FetchAhead {
                slave,
                number,
                size_bits,
            } => self.keys.fetch_ahead(slave, number, size_bits),
            Action::AskStock { slave } => self.keys.ask_stock(slave),
            Action::BookKey { sa, id, fate } => self.keys.book(sa, id, fate),
            Action::LoseKeys { ids } => self.keys.lose(&ids),
            Action::ForgetKeys { sa } => self.keys.forget(sa),
            Action::ReleaseKeys { ids } => self.keys.release(&ids),
            Action::InstallSa {
                sa,
                child,
                spec,
                inbound,
            } => self.plane.install(sa, child, spec, inbound),
            Action::SwitchSa { child } => self.plane.switch(child),
            Action::MoveSa {
                child,
                path,
                udp_encap,
            } => self.plane.relocate(child, path, udp_encap),
            Action::RemoveSa { child } => self.plane.remove(child),
            Action::AddSession(session) => self.plane.add_session(session),
            Action::ModifySession { session, token } => self.plane.modify_session(session, token),
            Action::SetUeAmbr { ue, ambr } => self.plane.set_ue_ambr(ue, ambr),
            Action::RemoveSession { ue, dl_teid } => self.plane.remove_session(ue, dl_teid),
            Action::SendNas { link, message } => self.nas.send(link, &message),
            Action::CloseNas { link } => self.nas.close(link),
        }
    }
}
