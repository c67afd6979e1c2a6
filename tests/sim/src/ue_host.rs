//! A UE's host: its daemon, its SIM, its KMS client and its data plane.

use std::{collections::BTreeSet, time::Duration};

use ike::{Instant, Path, QkdFailure};
use keys::SaeId;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tracing::{debug, trace};
use ue_user::core::{
    ue::{Action, Command, State, Ue},
    usim::SqnState,
};

use crate::{
    account::Account,
    files,
    network::Window,
    plane::{Plane, Sa},
    world::{Answer, Collect, Due, Violation, World},
};

/// How long and how often the 014 client asks for keys that are not there yet (its defaults).
const REPLICATION: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// One UE, through all lives of its daemon.
pub(crate) struct UeHost {
    index: usize,
    seed: u64,
    pub(crate) life: u32,
    pub(crate) ue: Option<Ue>,
    /// What the file holds.
    sqn: SqnState,
    pub(crate) plane: Plane,
    /// PDU sessions with an interface.
    pub(crate) interfaces: BTreeSet<u8>,
    pub(crate) account: Account,
    pub(crate) plane_refuses: Window<()>,
    pub(crate) disk_full: Window<()>,
    /// The NAS connection by its number.
    pub(crate) connection: Option<u64>,
}

impl UeHost {
    pub(crate) fn new(index: usize, seed: u64) -> Result<Self, Violation> {
        let mut host = Self {
            index,
            seed,
            life: 0,
            ue: None,
            sqn: SqnState::starting_at(0).map_err(|error| Violation::new(error.to_string()))?,
            plane: Plane::default(),
            interfaces: BTreeSet::new(),
            account: Account::new(format!("UE {index}")),
            plane_refuses: Window::default(),
            disk_full: Window::default(),
            connection: None,
        };
        host.switch_on()?;
        Ok(host)
    }

    fn switch_on(&mut self) -> Result<(), Violation> {
        let config = files::ue(self.index)?;
        let usim = config.usim(self.sqn.clone()).map_err(Violation::new)?;
        let ue = config
            .ue()
            .map_err(|complaint| Violation::new(format!("{complaint:?}")))?;
        self.life += 1;
        let rng = |stream: u64| {
            let mut rng = ChaCha20Rng::seed_from_u64(self.seed ^ ((self.index as u64 + 1) << 32));
            rng.set_stream(u64::from(self.life) * 4 + stream);
            Box::new(rng)
        };
        self.ue = Some(Ue::new(ue, usim, rng(1), rng(2)));
        Ok(())
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.ue.as_ref().and_then(Ue::poll_timeout)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(ue) = self.ue.as_mut()
            && ue.poll_timeout().is_some_and(|at| at <= now)
        {
            ue.handle_timeout(now);
        }
    }

    pub(crate) fn state(&self) -> Option<State> {
        self.ue.as_ref().map(Ue::state)
    }

    /// Detached, without an attempt to come.
    pub(crate) fn is_idle(&self) -> bool {
        self.state() == Some(State::Detached)
    }
}

impl World {
    pub(crate) fn ue(&mut self, ue: usize) -> Option<&mut Ue> {
        self.ues.get_mut(ue)?.ue.as_mut()
    }

    pub(crate) fn ue_of_life(&mut self, ue: usize, life: u32) -> Option<&mut Ue> {
        let host = self.ues.get_mut(ue)?;
        (host.life == life).then_some(host.ue.as_mut())?
    }

    /// `uectl`: a refusal is an answer, too.
    pub(crate) fn command(&mut self, ue: usize, command: Command) -> Result<(), Violation> {
        let now = self.now;
        if let Some(core) = self.ue(ue) {
            let outcome = core.command(now, command);
            debug!(at = ?now, ue, ?command, ?outcome, "command");
        }
        Ok(())
    }

    pub(crate) fn ue_crashes(&mut self, ue: usize, down: Duration) {
        if let Some(host) = self.ues.get_mut(ue)
            && host.ue.take().is_some()
        {
            host.account.crashed();
            host.plane.clear();
            host.interfaces.clear();
            host.life += 1;
            let connection = host.connection.take();
            self.nas.ue_gone(connection);
            self.after(down, Due::UeStart { ue });
        }
    }

    pub(crate) fn ue_starts(&mut self, ue: usize) -> Result<(), Violation> {
        if let Some(host) = self.ues.get_mut(ue)
            && host.ue.is_none()
        {
            host.switch_on()?;
            self.command(ue, Command::Attach)?;
        }
        Ok(())
    }

    /// `dec_keys`, as often as the client asks: keys may still be on their way.
    pub(crate) fn ue_collects(
        &mut self,
        ue: usize,
        life: u32,
        collect: Collect,
    ) -> Result<(), Violation> {
        if self.ue_of_life(ue, life).is_none() {
            return Ok(());
        }
        let slave: SaeId = files::sae(ue)
            .parse()
            .map_err(|_| Violation::new("SAE ID"))?;
        let Collect { master, ids, .. } = &collect;
        let keys = self.kms.collect(self.now, &slave, master, ids)?;
        if matches!(keys, Err(QkdFailure::UnknownKey)) && self.now < collect.until {
            self.after(ASK_AGAIN, Due::Collect { ue, life, collect });
        } else {
            let Collect {
                sa,
                request,
                master: peer,
                ..
            } = collect;
            let answer = Answer {
                sa,
                request,
                peer,
                keys,
            };
            self.after(Duration::ZERO, Due::UeKeys { ue, life, answer });
        }
        Ok(())
    }

    pub(crate) fn ue_keys(
        &mut self,
        ue: usize,
        life: u32,
        answer: Answer,
    ) -> Result<(), Violation> {
        let now = self.now;
        if let Some(host) = self.ues.get_mut(ue) {
            match (host.ue.as_mut().filter(|_| host.life == life), &answer.keys) {
                (Some(ue), keys) => {
                    if let Ok(keys) = keys {
                        host.account.fetched(&answer.peer, keys)?;
                    }
                    ue.keys_fetched(now, answer.sa, answer.request, answer.keys);
                }
                (None, Ok(keys)) => host.account.came_too_late(keys)?,
                (None, Err(_)) => {}
            }
        }
        Ok(())
    }

    /// Sends and does what a UE wants. `true`: there was something.
    pub(crate) fn settle_ue(&mut self, ue: usize) -> Result<bool, Violation> {
        let mut busy = false;
        loop {
            let Some(core) = self.ue(ue) else {
                return Ok(busy);
            };
            if let Some(transmit) = core.poll_transmit() {
                self.ue_sends(ue, transmit.path, &transmit.data);
            } else if let Some(action) = core.poll_action() {
                self.ue_acts(ue, action)?;
            } else {
                return Ok(busy);
            }
            busy = true;
        }
    }

    fn ue_sends(&mut self, ue: usize, path: Path, data: &[u8]) {
        let path = self.network.outside(ue, path);
        for at in self.network.arrivals(self.now, ue, &mut self.dice) {
            let data = data.to_vec();
            self.at(at, Due::ToN3iwf { path, data });
        }
    }

    fn ue_acts(&mut self, ue: usize, action: Action) -> Result<(), Violation> {
        let (now, kms_delay) = (self.now, self.kms_delay());
        let late = self.dice.time(Duration::from_millis(5));
        let Some(host) = self.ues.get_mut(ue) else {
            return Ok(());
        };
        let life = host.life;
        trace!(at = ?now, ue, ?action);
        match action {
            Action::FetchKeys {
                sa,
                request,
                master,
                ids,
            } => {
                let collect = Collect {
                    sa,
                    request,
                    master,
                    ids,
                    until: now + REPLICATION,
                };
                self.after(kms_delay, Due::Collect { ue, life, collect });
            }
            Action::KeyFate { id, fate, sa } => {
                host.account.fate(id, fate, &sa.to_string())?;
                self.purposes.book(id, fate)?;
            }
            Action::ForgetKeys(sa) => host.account.release(&sa.to_string()),
            Action::ReleaseKeys(ids) => host.account.release_keys(&ids),
            Action::StoreSqn(state) => {
                let outcome = match host.disk_full.at(now) {
                    Some(()) => Err("no space left on device".to_owned()),
                    None => {
                        host.sqn = state;
                        Ok(())
                    }
                };
                if let Some(core) = host.ue.as_mut() {
                    core.sqn_stored(now, outcome);
                }
            }
            Action::Install(install) => {
                let child = install.child.id;
                let outcome = if host.plane_refuses.at(now).is_some() {
                    Err("ENOMEM".to_owned())
                } else {
                    let sa = Sa {
                        spi_in: install.child.spi_in,
                        spi_out: install.child.spi_out,
                        key_in: install.child.keys_in.encr.expose().to_vec(),
                        key_out: install.child.keys_out.encr.expose().to_vec(),
                        session: install.pdu_session,
                    };
                    let who = format!("UE {ue}");
                    host.plane.install(&mut self.esp_keys, &who, child, sa)?;
                    Ok(())
                };
                self.after(
                    late,
                    Due::UeInstalled {
                        ue,
                        life,
                        child,
                        outcome,
                    },
                );
            }
            Action::Remove(child) => host.plane.remove(child),
            Action::ConnectNas { local, token, .. } => {
                let number = self.nas.open(ue, life, token, local, now);
                host.connection = Some(number);
                self.after(Duration::ZERO, Due::Nas { connection: number });
            }
            Action::SendNas(octets) => {
                if let Some(connection) = host.connection {
                    self.nas.send_up(connection, octets, now);
                    self.after(self.network.delay(), Due::Nas { connection });
                }
            }
            Action::CloseNas => {
                if let Some(connection) = host.connection.take() {
                    self.nas.ue_closes(connection, now);
                    self.after(self.network.delay(), Due::Nas { connection });
                }
            }
            Action::AddSession(session) => {
                let id = session.accept.id;
                host.interfaces.insert(id);
                if let Some(core) = host.ue.as_mut() {
                    core.session_added(now, id, Ok(()));
                }
            }
            Action::RemoveSession(id) => {
                host.interfaces.remove(&id);
            }
            Action::Attached => self.summary.attaches += 1,
            Action::Detached { .. } => self.summary.detaches += 1,
            _ => {}
        }
        Ok(())
    }
}
