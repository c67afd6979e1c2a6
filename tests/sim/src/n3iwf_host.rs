//! The N3IWF's host: its daemon, its KMS client, its data plane and its relay.

use std::{collections::BTreeMap, time::Duration};

use ike::{Endpoint, Fate, Instant, Path, QkdFailure};
use keys::{QkdKey, SaeId};
use n3iwf_user::{
    core::{Action, N3iwf, RelaySession},
    gateway::Gateway,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tracing::trace;

use crate::{
    account::Account,
    files,
    network::Window,
    plan::{Plan, Supply},
    plane::{Plane, Sa},
    world::{Answer, Due, N2Event, Violation, World},
};

/// One way over N2.
const N2: Duration = Duration::from_millis(1);

fn n3iwf_sae() -> Result<SaeId, Violation> {
    let sae = files::SAE_N3IWF.parse();
    sae.map_err(|_| Violation::new("SAE ID"))
}

/// The N3IWF, through all lives of its daemon.
pub(crate) struct N3iwfHost {
    seed: u64,
    supply: Supply,
    pub(crate) life: u32,
    gateway: Option<Gateway>,
    pub(crate) plane: Plane,
    /// By downlink TEID.
    pub(crate) relay: BTreeMap<u32, RelaySession>,
    pub(crate) account: Account,
    pub(crate) plane_refuses: Window<()>,
}

impl N3iwfHost {
    pub(crate) fn new(plan: &Plan) -> Result<Self, Violation> {
        let mut host = Self {
            seed: plan.seed,
            supply: plan.supply,
            life: 0,
            gateway: None,
            plane: Plane::default(),
            relay: BTreeMap::new(),
            account: Account::new("N3IWF".to_owned()),
            plane_refuses: Window::default(),
        };
        host.switch_on()?;
        Ok(host)
    }

    fn switch_on(&mut self) -> Result<(), Violation> {
        let file = files::n3iwf(self.supply)?;
        let complaint = |complaint| Violation::new(format!("{complaint:?}"));
        let core = file.core().map_err(complaint)?;
        let endpoint = file.endpoint().map_err(complaint)?;
        self.life += 1;
        let mut rng = ChaCha20Rng::seed_from_u64(self.seed ^ 0x6e33_6977_6600);
        rng.set_stream(u64::from(self.life));
        let endpoint = Endpoint::new(endpoint, Box::new(rng));
        self.gateway = Some(Gateway::new(endpoint, N3iwf::new(core)));
        Ok(())
    }

    pub(crate) fn start(&mut self, now: Instant) {
        if let Some(gateway) = self.gateway.as_mut() {
            gateway.start(now);
        }
    }

    pub(crate) fn gateway(&mut self) -> Option<&mut Gateway> {
        self.gateway.as_mut()
    }

    pub(crate) fn look(&self) -> Option<&Gateway> {
        self.gateway.as_ref()
    }

    pub(crate) fn of_life(&mut self, life: u32) -> Option<&mut Gateway> {
        self.gateway.as_mut().filter(|_| self.life == life)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.gateway.as_ref().and_then(Gateway::poll_timeout)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(gateway) = self.gateway.as_mut()
            && gateway.poll_timeout().is_some_and(|at| at <= now)
        {
            gateway.handle_timeout(now);
        }
    }
}

impl World {
    pub(crate) fn n3iwf_crashes(&mut self, down: Duration) -> Result<(), Violation> {
        if self.n3iwf.gateway.take().is_some() {
            self.n3iwf.life += 1;
            self.n3iwf.account.crashed();
            self.n3iwf.plane.clear();
            self.n3iwf.relay.clear();
            self.nas.n3iwf_gone();
            let actions = self.core.break_association(self.now);
            self.core_acts(actions)?;
            self.after(down, Due::N3iwfStart);
        }
        Ok(())
    }

    pub(crate) fn n3iwf_starts(&mut self) -> Result<(), Violation> {
        if self.n3iwf.gateway.is_none() {
            self.n3iwf.switch_on()?;
            self.n3iwf.start(self.now);
        }
        Ok(())
    }

    pub(crate) fn n3iwf_keys(&mut self, life: u32, answer: Answer) -> Result<(), Violation> {
        let now = self.now;
        let host = &mut self.n3iwf;
        match (
            host.gateway.as_mut().filter(|_| host.life == life),
            &answer.keys,
        ) {
            (Some(gateway), keys) => {
                if let Ok(keys) = keys {
                    host.account.fetched(&answer.peer, keys)?;
                }
                gateway.keys_fetched(now, answer.sa, answer.request, answer.keys);
            }
            (None, Ok(keys)) => host.account.came_too_late(keys)?,
            (None, Err(_)) => {}
        }
        Ok(())
    }

    pub(crate) fn n3iwf_ahead(
        &mut self,
        life: u32,
        slave: &SaeId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) -> Result<(), Violation> {
        let now = self.now;
        let host = &mut self.n3iwf;
        match (host.gateway.as_mut().filter(|_| host.life == life), &keys) {
            (Some(gateway), answer) => {
                if let Ok(keys) = answer {
                    host.account.fetched(slave, keys)?;
                }
                gateway.keys_ahead(now, slave, keys);
            }
            (None, Ok(keys)) => host.account.came_too_late(keys)?,
            (None, Err(_)) => {}
        }
        Ok(())
    }

    /// Sends and does what the N3IWF wants. `true`: there was something.
    pub(crate) fn settle_n3iwf(&mut self) -> Result<bool, Violation> {
        let mut busy = false;
        loop {
            let Some(gateway) = self.n3iwf.gateway() else {
                return Ok(busy);
            };
            if let Some(transmit) = gateway.poll_transmit() {
                self.n3iwf_sends(transmit.path, &transmit.data);
            } else if let Some(action) = gateway.poll_action() {
                self.n3iwf_acts(action)?;
            } else {
                return Ok(busy);
            }
            busy = true;
        }
    }

    fn n3iwf_sends(&mut self, path: Path, data: &[u8]) {
        if let Some((ue, path)) = self.network.inside(path) {
            for at in self.network.arrivals(self.now, ue, &mut self.dice) {
                let data = data.to_vec();
                self.at(at, Due::ToUe { ue, path, data });
            }
        }
    }

    fn n3iwf_acts(&mut self, action: Action) -> Result<(), Violation> {
        let (now, kms_delay) = (self.now, self.kms_delay());
        let late = self.dice.time(Duration::from_millis(5));
        let host = &mut self.n3iwf;
        let life = host.life;
        trace!(at = ?now, ?action);
        match action {
            Action::ConnectAmf { .. } => {
                let event = N2Event::Connect;
                self.after(N2, Due::N2 { life, event });
            }
            Action::DisconnectAmf { .. } => {
                let actions = self.core.break_association(now);
                self.core_acts(actions)?;
            }
            Action::SendNgap { data, .. } => {
                let event = N2Event::ToAmf(self.core.association(), data);
                self.after(N2, Due::N2 { life, event });
            }
            Action::FetchKeys {
                sa,
                request,
                slave,
                number,
                size_bits,
            } => {
                let keys = self
                    .kms
                    .allocate(now, &n3iwf_sae()?, &slave, number, size_bits);
                let answer = Answer {
                    sa,
                    request,
                    peer: slave,
                    keys,
                };
                self.after(kms_delay, Due::N3iwfKeys { life, answer });
            }
            Action::FetchAhead {
                slave,
                number,
                size_bits,
            } => {
                let keys = self
                    .kms
                    .allocate(now, &n3iwf_sae()?, &slave, number, size_bits);
                self.after(kms_delay, Due::N3iwfAhead { life, slave, keys });
            }
            Action::AskStock { slave } => {
                let stored = self.kms.stored(now);
                self.after(
                    kms_delay,
                    Due::N3iwfStock {
                        life,
                        slave,
                        stored,
                    },
                );
            }
            Action::LoseKeys { ids } => {
                for id in ids {
                    host.account.fate(id, Fate::Lost, "none")?;
                }
            }
            Action::BookKey { sa, id, fate } => {
                host.account.fate(id, fate, &sa.to_string())?;
                self.purposes.book(id, fate)?;
            }
            Action::ForgetKeys { sa } => host.account.release(&sa.to_string()),
            Action::ReleaseKeys { ids } => host.account.release_keys(&ids),
            Action::InstallSa {
                sa, child, spec, ..
            } => {
                let outcome = if host.plane_refuses.at(now).is_some() {
                    Err("ENOBUFS".to_owned())
                } else {
                    let held = Sa {
                        spi_in: spec.spi_in,
                        spi_out: spec.spi_out,
                        key_in: spec.keys_in.encr.expose().to_vec(),
                        key_out: spec.keys_out.encr.expose().to_vec(),
                        session: spec.pdu_session,
                    };
                    host.plane
                        .install(&mut self.esp_keys, "N3IWF", child, held)?;
                    Ok(())
                };
                self.after(
                    late,
                    Due::N3iwfInstalled {
                        life,
                        sa,
                        child,
                        outcome,
                    },
                );
            }
            Action::RemoveSa { child } => {
                host.plane.remove(child);
                if let Some(gateway) = host.gateway() {
                    gateway.child_removed(now, child);
                }
            }
            Action::AddSession(session) => {
                let (ue, teid) = (session.ue, session.dl_teid);
                if host.relay.insert(teid, session).is_some() {
                    return Err(Violation::new(format!("downlink TEID {teid} twice")));
                }
                if let Some(gateway) = host.gateway() {
                    gateway.session_added(now, ue, teid, Ok(()));
                }
            }
            Action::ModifySession { session, token } => {
                let (ue, teid) = (session.ue, session.dl_teid);
                if host.relay.insert(teid, session).is_none() {
                    return Err(Violation::new(format!("no downlink TEID {teid} to modify")));
                }
                if let Some(gateway) = host.gateway() {
                    gateway.session_modified(now, ue, token, Ok(()));
                }
            }
            Action::SetUeAmbr { ue, ambr } => {
                for session in host.relay.values_mut().filter(|s| s.ue == ue) {
                    session.ue_ambr = Some(ambr);
                }
            }
            Action::RemoveSession { ue, dl_teid } => {
                host.relay.remove(&dl_teid);
                if let Some(gateway) = host.gateway() {
                    gateway.session_removed(now, ue, dl_teid);
                }
            }
            Action::SendNas { link, message } => {
                self.nas.send_down(link.0, &message, now)?;
                self.after(self.network.delay(), Due::Nas { connection: link.0 });
            }
            Action::CloseNas { link } => {
                self.nas.n3iwf_closes(link.0, now);
                self.after(self.network.delay(), Due::Nas { connection: link.0 });
            }
            _ => {}
        }
        Ok(())
    }
}
