//! N2 associations: setup, loss, reset, and which AMF a UE goes to.

use std::{cmp::Reverse, time::Duration};

use ike::Instant;
use nwu::{AnParameters, Guami};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{
    N3iwf,
    overload::Load,
    types::{Action, AmfNumber, CoreTiming, IkeState, N2State},
};
use crate::ngap::{self, AmfInfo, Backups, Cause, ResetScope, Withdrawn};

/// One AMF.
pub(super) struct Amf {
    state: State,
    pub(super) info: AmfInfo,
    pub(super) load: Load,
    backoff: Duration,
    setups: u64,
    losses: u64,
    /// Why it is not ready, in words.
    trouble: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not connected; the next attempt is at this time.
    Down(Instant),
    /// The transport is being set up.
    Connecting,
    /// NG SETUP REQUEST is sent; this is the deadline.
    SettingUp(Instant),
    /// NG SETUP FAILURE with a time to wait, which ends at this time.
    Waiting(Instant),
    /// In service.
    Ready,
}

/// Why a UE has no AMF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAmf {
    /// None is in service.
    Down,
    /// Those that would do turn it away.
    Overloaded,
}

/// An AMF, for status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AmfStatus {
    /// Its address as configured.
    pub address: String,
    /// `down`, `connecting`, `setting up`, `waiting`, `ready`.
    pub state: String,
    /// AMF name, once it told.
    pub name: String,
    /// Relative capacity, once it told.
    pub capacity: u8,
    /// UEs it serves here.
    pub ues: usize,
    /// How often NG Setup was done.
    #[serde(default)]
    pub setups: u64,
    /// How often an association was lost, or did not come about.
    #[serde(default)]
    pub losses: u64,
    /// What it wants less of since its OVERLOAD START.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub overload: Option<String>,
    /// Attaches that went elsewhere, or nowhere, because of that.
    #[serde(default)]
    pub turned_away: u64,
    /// GUAMIs out of service, as PLMN, region, set, pointer and, if told, the AMF that takes over.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub withdrawn: Vec<String>,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trouble: Option<String>,
}

impl Amf {
    pub(super) fn new(timing: &CoreTiming) -> Self {
        Self {
            state: State::Down(Instant::from_origin(Duration::MAX)),
            info: AmfInfo::default(),
            load: Load::default(),
            backoff: timing.reconnect_first,
            setups: 0,
            losses: 0,
            trouble: None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether it takes UEs at all: it is ready, and one of its GUAMIs is not withdrawn.
    pub(super) fn in_service(&self) -> bool {
        let guamis = &self.info.guamis;
        self.is_ready() && (guamis.is_empty() || guamis.iter().any(|guami| self.load.serves(guami)))
    }

    /// Whom it names to take over from this GUAMI.
    fn backup_of(&self, guami: &Guami) -> Option<&str> {
        let served = self.info.backups.iter();
        let named = served.map(|(of, name)| (of, Some(name)));
        let withdrawn = self.load.withdrawn().iter();
        withdrawn
            .map(|gone| (&gone.guami, gone.backup.as_ref()))
            .chain(named)
            .find_map(|(of, name)| name.filter(|_| of == guami))
            .map(String::as_str)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Down(at) | State::SettingUp(at) | State::Waiting(at) => Some(at),
            State::Connecting | State::Ready => None,
        }
    }
}

impl N3iwf {
    /// The transport to `amf` is up: says who we are.
    pub fn amf_connected(&mut self, now: Instant, amf: AmfNumber) {
        let deadline = now + self.config.timing.ng_setup;
        let Some(entry) = self.amfs.get_mut(amf) else {
            return;
        };
        if entry.state != State::Connecting {
            return;
        }
        entry.state = State::SettingUp(deadline);
        let request = ngap::ng_setup_request(&self.config.node);
        self.send_ngap(amf, None, request);
    }

    /// The transport to `amf` failed, could not be set up, or ended.
    ///
    /// Its UEs are deleted (IKE SA and all): without the AMF they can neither signal nor be
    /// released later, and a UE that attaches anew is served at once when the AMF is back.
    pub fn amf_lost(&mut self, now: Instant, amf: AmfNumber, reason: &str) {
        let Some(entry) = self.amfs.get_mut(amf) else {
            return;
        };
        if matches!(entry.state, State::Down(_)) {
            return;
        }
        let wait = entry.backoff;
        entry.losses += 1;
        entry.state = State::Down(now + wait);
        entry.load.reset();
        entry.trouble = Some(reason.to_owned());
        entry.backoff = (wait * 2).min(self.config.timing.reconnect_max);
        warn!(amf = self.amf_name(amf), reason, retry_in = ?wait, "no association with the AMF");
        for number in self.ues_of(amf) {
            self.forget_context(now, number);
        }
        self.early_attaches(now);
    }

    /// The AMFs, in the order of configuration.
    pub fn amf_status(&self) -> Vec<AmfStatus> {
        self.amfs
            .iter()
            .enumerate()
            .map(|(number, amf)| AmfStatus {
                address: self.amf_name(number).to_owned(),
                state: match amf.state {
                    State::Down(_) => "down",
                    State::Connecting => "connecting",
                    State::SettingUp(_) => "setting up",
                    State::Waiting(_) => "waiting",
                    State::Ready => "ready",
                }
                .to_owned(),
                name: amf.info.name.clone(),
                capacity: amf.info.capacity,
                ues: self.ues.of_amf(number),
                setups: amf.setups,
                losses: amf.losses,
                overload: amf.load.overload().map(ToString::to_string),
                turned_away: amf.load.turned_away(),
                withdrawn: amf.load.withdrawn().iter().map(withdrawn_text).collect(),
                trouble: amf.trouble.clone(),
            })
            .collect()
    }

    pub(super) fn any_amf_ready(&self) -> bool {
        self.amfs.iter().any(Amf::in_service)
    }

    /// Whether an association is being set up.
    pub(super) fn any_amf_coming(&self) -> bool {
        let coming = |amf: &Amf| matches!(amf.state, State::Connecting | State::SettingUp(_));
        self.amfs.iter().any(coming)
    }

    pub(super) fn amf_name(&self, amf: AmfNumber) -> &str {
        self.config.amfs.get(amf).map_or("?", String::as_str)
    }

    pub(super) fn connect(&mut self, amf: AmfNumber) {
        let Some(entry) = self.amfs.get_mut(amf) else {
            return;
        };
        if self.stopping {
            entry.state = State::Down(Instant::from_origin(Duration::MAX));
            return;
        }
        entry.state = State::Connecting;
        self.actions.push_back(Action::ConnectAmf { amf });
    }

    pub(super) fn amf_timeout(&mut self, now: Instant, amf: AmfNumber) {
        let due = self
            .amfs
            .get(amf)
            .filter(|entry| entry.deadline().is_some_and(|at| at <= now))
            .map(|entry| entry.state);
        match due {
            Some(State::Down(_)) => self.connect(amf),
            Some(State::SettingUp(_)) => {
                self.actions.push_back(Action::DisconnectAmf { amf });
                self.amf_lost(now, amf, "no answer to NG SETUP REQUEST");
            }
            Some(State::Waiting(_)) => {
                if let Some(entry) = self.amfs.get_mut(amf) {
                    entry.state = State::Connecting;
                }
                // The association still stands: only the request is repeated.
                self.amf_connected(now, amf);
            }
            Some(State::Connecting | State::Ready) | None => {}
        }
    }

    pub(super) fn ng_setup_done(&mut self, amf: AmfNumber, info: AmfInfo) {
        let first = self.config.timing.reconnect_first;
        let Some(entry) = self.amfs.get_mut(amf) else {
            return;
        };
        if !matches!(entry.state, State::SettingUp(_)) {
            return;
        }
        info!(
            name = info.name,
            capacity = info.capacity,
            guamis = info.guamis.len(),
            "NG Setup done"
        );
        entry.state = State::Ready;
        entry.setups += 1;
        entry.info = info;
        entry.load.reset();
        entry.backoff = first;
        entry.trouble = None;
    }

    pub(super) fn ng_setup_failed(
        &mut self,
        now: Instant,
        amf: AmfNumber,
        cause: Option<&Cause>,
        wait: Option<Duration>,
    ) {
        let text = cause.map(ngap::cause_text).unwrap_or_default();
        let Some(entry) = self.amfs.get_mut(amf) else {
            return;
        };
        if !matches!(entry.state, State::SettingUp(_)) {
            return;
        }
        let reason = format!("NG SETUP FAILURE ({text})");
        if let Some(wait) = wait {
            warn!(amf = self.amf_name(amf), reason, retry_in = ?wait, "NG Setup refused");
            if let Some(entry) = self.amfs.get_mut(amf) {
                entry.trouble = Some(reason);
                entry.state = State::Waiting(now + wait);
            }
        } else {
            self.actions.push_back(Action::DisconnectAmf { amf });
            self.amf_lost(now, amf, &reason);
        }
    }

    pub(super) fn amf_updated(
        &mut self,
        amf: AmfNumber,
        name: Option<String>,
        guamis: Option<(Vec<Guami>, Backups)>,
        plmns: Option<Vec<nwu::Plmn>>,
        capacity: Option<u8>,
    ) {
        let Some(entry) = self.amfs.get_mut(amf) else {
            return;
        };
        let info = &mut entry.info;
        info.name = name.unwrap_or_else(|| std::mem::take(&mut info.name));
        if let Some((served, backups)) = guamis {
            entry.load.restore(&served);
            info.guamis = served;
            info.backups = backups;
        }
        info.plmns = plmns.unwrap_or_else(|| std::mem::take(&mut info.plmns));
        info.capacity = capacity.unwrap_or(info.capacity);
        info!(name = info.name, "AMF configuration updated");
        self.send_ngap(amf, None, ngap::configuration_update_acknowledge());
    }

    /// NG RESET (TS 38.413, 8.7.4): the UEs named are gone for the AMF, so they go here too.
    pub(super) fn reset(&mut self, now: Instant, amf: AmfNumber, scope: ResetScope) {
        let part = match scope {
            ResetScope::All => {
                warn!(amf = self.amf_name(amf), "NG RESET of the whole interface");
                for number in self.ues_of(amf) {
                    self.forget_context(now, number);
                }
                Vec::new()
            }
            ResetScope::Part(list) => {
                warn!(amf = self.amf_name(amf), ues = list.len(), "NG RESET");
                for (id, ran) in &list {
                    let number = match ran {
                        Some(ran) => self.ues.get(ran),
                        None => self
                            .ues
                            .values()
                            .find(|ue| id.is_some() && ue.n2.amf_ue() == *id),
                    };
                    let number = number.filter(|ue| ue.amf == Some(amf)).map(|ue| ue.number);
                    if let Some(number) = number {
                        self.forget_context(now, number);
                    }
                }
                list
            }
        };
        self.send_ngap(amf, None, ngap::reset_acknowledge(&part));
    }

    /// The AMF for a UE (TS 23.501, 6.3.5 and 5.21.2): the one whose GUAMI the UE names, else the one that
    /// takes over from it, else one of the same AMF set, else one that serves the selected PLMN; among equals
    /// the one with most capacity per UE it has here, which shares UEs out by relative capacity. One that is
    /// overloaded may turn the UE away, and the next is asked.
    pub(super) fn select_amf(&mut self, parameters: &AnParameters) -> Result<AmfNumber, NoAmf> {
        let mut candidates: Vec<_> = self
            .amfs
            .iter()
            .enumerate()
            .filter(|(_, amf)| amf.in_service())
            .map(|(number, amf)| {
                let load = self.ues.of_amf(number) as u64;
                let free = u64::from(amf.info.capacity) * 1000 / (load + 1);
                (self.rank(amf, parameters), free, Reverse(number))
            })
            .collect();
        candidates.sort_unstable_by(|one, other| other.cmp(one));
        let Some((best, ..)) = candidates.first().copied() else {
            return Err(NoAmf::Down);
        };
        for (rank, _, Reverse(number)) in candidates {
            // An AMF of another PLMN is better than none, and no way round an overload.
            if best > 0 && rank == 0 {
                break;
            }
            if let Some(amf) = self.amfs.get_mut(number)
                && !amf.load.turns_away(parameters)
            {
                return Ok(number);
            }
        }
        Err(NoAmf::Overloaded)
    }

    fn rank(&self, amf: &Amf, parameters: &AnParameters) -> u8 {
        let same_set = |guami: &Guami, other: &Guami| {
            (guami.plmn, guami.region, guami.set) == (other.plmn, other.region, other.set)
        };
        let served = || {
            let guamis = amf.info.guamis.iter();
            guamis.filter(|guami| amf.load.serves(guami))
        };
        if let Some(wanted) = &parameters.guami {
            if served().any(|guami| guami == wanted) {
                return 4;
            }
            let mut backups = self.amfs.iter().filter_map(|other| other.backup_of(wanted));
            if backups.any(|name| name == amf.info.name) {
                return 3;
            }
            if served().any(|guami| same_set(guami, wanted)) {
                return 2;
            }
        }
        match &parameters.selected_plmn {
            Some(plmn) => u8::from(amf.info.plmns.contains(plmn)),
            None => 1,
        }
    }

    fn ues_of(&self, amf: AmfNumber) -> Vec<u32> {
        self.ues
            .values()
            .filter(|ue| ue.amf == Some(amf))
            .map(|ue| ue.number)
            .collect()
    }

    /// The AMF no longer knows this UE: its IKE SA goes, and N2 hears nothing more of it.
    pub(super) fn forget_context(&mut self, now: Instant, number: u32) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        ue.n2 = N2State::Gone;
        ue.context = None;
        ue.setups.clear();
        ue.releases.clear();
        ue.modifies.clear();
        if ue.ike == IkeState::Authenticating {
            // An answer is owed to the UE: EAP-Failure now, or when it has spoken.
            self.pump_eap(now, number);
        } else {
            self.close_ike(now, number);
        }
        self.reap(number);
    }
}

fn withdrawn_text(gone: &Withdrawn) -> String {
    let Guami {
        plmn,
        region,
        set,
        pointer,
    } = gone.guami;
    let backup = gone.backup.as_deref();
    let to = backup.map(|name| format!(" -> {name}")).unwrap_or_default();
    format!("{plmn} {region}/{set}/{pointer}{to}")
}

#[cfg(test)]
mod tests {
    use nwu::Plmn;

    use super::*;
    use crate::{core::CoreConfig, ngap::Node};

    fn plmn(mnc: &str) -> Plmn {
        Plmn::from_digits("208", mnc).unwrap()
    }

    fn guami(set: u16, pointer: u8) -> Guami {
        Guami {
            plmn: plmn("93"),
            region: 1,
            set,
            pointer,
        }
    }

    /// Three AMFs in service: set 1 (small), set 2, and one of another PLMN.
    fn core() -> N3iwf {
        let config = CoreConfig {
            node: Node {
                plmn: plmn("93"),
                id: 1,
                name: String::new(),
                areas: Vec::new(),
            },
            amfs: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
            inner_address: "10.0.0.1".parse().unwrap(),
            inner_range: "10.0.0.0/24".parse().unwrap(),
            nas_port: 1,
            gtp_address: "203.0.113.1".parse().unwrap(),
            slots: 1,
            child_sas: Default::default(),
            dscp: Default::default(),
            replay_window: 64,
            keys: crate::core::KeyPolicy::default(),
            timing: CoreTiming::default(),
        };
        let mut core = N3iwf::new(config);
        let infos = [
            (vec![guami(1, 0)], plmn("93"), 10),
            (vec![guami(2, 0)], plmn("93"), 200),
            (Vec::new(), plmn("01"), 255),
        ];
        for (amf, (guamis, plmn, capacity)) in core.amfs.iter_mut().zip(infos) {
            amf.state = State::Ready;
            amf.info = AmfInfo {
                name: String::new(),
                guamis,
                backups: Vec::new(),
                plmns: vec![plmn],
                capacity,
            };
        }
        core
    }

    fn wanted(guami: Option<Guami>, selected_plmn: Option<Plmn>) -> AnParameters {
        AnParameters {
            guami,
            selected_plmn,
            ..AnParameters::default()
        }
    }

    #[test]
    fn a_ue_goes_to_its_guami_then_its_set_then_its_plmn_then_the_roomiest() {
        let mut core = core();
        let mut select = |guami, plmn| core.select_amf(&wanted(guami, plmn)).ok();
        assert_eq!(select(Some(guami(1, 0)), Some(plmn("93"))), Some(0));
        assert_eq!(select(Some(guami(1, 5)), Some(plmn("93"))), Some(0));
        assert_eq!(select(Some(guami(7, 0)), Some(plmn("93"))), Some(1));
        assert_eq!(select(None, Some(plmn("01"))), Some(2));
        assert_eq!(select(None, None), Some(2), "no wish: most capacity");
    }

    #[test]
    fn an_amf_out_of_service_gets_nobody() {
        let mut core = core();
        let later = Instant::from_origin(Duration::from_secs(9));
        core.amfs[0].state = State::Waiting(later);
        let mine = wanted(Some(guami(1, 0)), Some(plmn("93")));
        assert_eq!(core.select_amf(&mine), Ok(1));
        for amf in &mut core.amfs {
            amf.state = State::Down(later);
        }
        assert_eq!(core.select_amf(&mine), Err(NoAmf::Down));
        assert!(!core.any_amf_ready());
    }
}
