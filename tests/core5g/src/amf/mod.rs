//! The AMF with its SMF, without a socket or a clock.
//!
//! Whoever hosts it gives it the messages of the associations and the time
//! ([`Amf::handle`], [`Amf::handle_timeout`]) and does what the returned
//! [`Action`]s say. Times are [`Duration`]s since an origin of the host's.
//!
//! The order of one attach over untrusted non-3GPP access (TS 23.502
//! 4.12.2.2): INITIAL UE MESSAGE (REGISTRATION REQUEST), [IDENTITY REQUEST and
//! RESPONSE,] AUTHENTICATION REQUEST and RESPONSE, SECURITY MODE COMMAND and
//! COMPLETE, INITIAL CONTEXT SETUP REQUEST with K_N3IWF and RESPONSE,
//! REGISTRATION ACCEPT and COMPLETE[, CONFIGURATION UPDATE COMMAND and
//! COMPLETE].

mod addresses;
mod interface;
mod modify;
mod overload;
mod registration;
mod release;
mod session;
mod status;
mod ue;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use oxirush_ngap::ngap::Cause;
use rand_core::CryptoRng;

use self::addresses::Addresses;
use crate::config::{AmfConfig, FlowConfig, SmfConfig};
use crate::home::Home;
use crate::ngap::{self, UeIds};
use crate::policy::{self, Effect, Fault, Policy};
use crate::router::Ipv6Session;

pub use modify::SessionChange;
pub use overload::OverloadAction;
pub use status::{SessionStatus, SubscriberStatus, UeStatus};
pub(crate) use ue::Ue;

/// One NGAP association, named by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssociationId(pub u64);

/// What the host has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send an NGAP message.
    Send {
        /// Where to.
        association: AssociationId,
        /// On which stream; the host keeps it below the number it has.
        stream: u16,
        /// What it is, for logs: the NAS message it carries, or its own name.
        name: String,
        /// The UE it concerns, by AMF UE NGAP ID.
        ue: Option<u64>,
        /// The message.
        data: Vec<u8>,
    },
    /// Break an association off.
    Abort(AssociationId),
    /// A new user-plane session.
    Install(UpfSession),
    /// The N3IWF's end of a session's tunnel.
    Connect {
        /// Our TEID of the session.
        uplink_teid: u32,
        /// Address and TEID to send downlink packets to.
        downlink: (IpAddr, u32),
        /// The flows that the N3IWF accepted.
        qfis: Vec<u8>,
    },
    /// The flows of a session are others now.
    Reflow {
        /// Our TEID of the session.
        uplink_teid: u32,
        /// The flows; the first is the default one.
        flows: Vec<FlowConfig>,
    },
    /// The session is over.
    Remove {
        /// Our TEID of the session.
        uplink_teid: u32,
    },
}

/// A session as the UPF needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpfSession {
    /// Our TEID.
    pub uplink_teid: u32,
    /// The UE's address.
    pub address: Ipv4Addr,
    /// Whether the UE has that address: not in a session of IPv6 alone.
    pub ipv4: bool,
    /// Its prefix.
    pub ipv6: Option<Ipv6Session>,
    /// Its flows; the first is the default one.
    pub flows: Vec<FlowConfig>,
}

/// What one input led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Handled {
    /// The message that came in, by name; of a NAS transport the NAS message.
    pub received: String,
    /// The UE it concerned, by AMF UE NGAP ID.
    pub ue: Option<u64>,
    /// What to do, in this order.
    pub actions: Vec<Action>,
}

/// A command that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// No registered UE of this SUPI.
    #[error("no UE of {0} is registered")]
    NoUe(String),
    /// The UE has no such session.
    #[error("{supi} has no PDU session {session}")]
    NoSession {
        /// The UE.
        supi: String,
        /// The session.
        session: u8,
    },
    /// The session cannot be changed like this, or not now.
    #[error("PDU session {session} of {supi}: {why}")]
    NotNow {
        /// The UE.
        supi: String,
        /// The session.
        session: u8,
        /// What is in the way.
        why: &'static str,
    },
    /// The message could not be built.
    #[error("{0}")]
    Build(String),
}

/// Counters of things that a healthy run does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// NGAP messages that did not decode.
    pub ngap_undecodable: u64,
    /// NGAP messages of an unknown UE.
    pub ngap_unknown_ue: u64,
    /// NAS messages that did not decode.
    pub nas_undecodable: u64,
    /// NAS messages with a wrong MAC, or a COUNT used before.
    pub nas_integrity_failures: u64,
    /// NAS messages that do not fit the state.
    pub nas_unexpected: u64,
    /// AUTHENTICATION REJECTs sent.
    pub authentication_rejects: u64,
    /// Re-synchronisations of a SQN.
    pub resynchronisations: u64,
    /// Guard timers that ran out.
    pub timeouts: u64,
}

/// The AMF and the SMF.
pub struct Amf {
    config: AmfConfig,
    smf: SmfConfig,
    upf_address: IpAddr,
    home: Home,
    rng: Box<dyn CryptoRng + Send>,
    /// Refusals, which may change at any time.
    pub policy: Policy,
    /// Faults, which may change at any time and are used up.
    pub faults: Vec<Fault>,
    /// Counters of what went wrong.
    pub counters: Counters,
    associations: BTreeMap<AssociationId, interface::Association>,
    /// Associations that are gone and whose UEs stay until then, and the N3IWF's ID.
    lost: BTreeMap<AssociationId, (Duration, Option<u64>)>,
    ues: BTreeMap<u64, Ue>,
    by_ran_id: BTreeMap<(AssociationId, u32), u64>,
    gutis: BTreeMap<u32, String>,
    /// Of each SUPI.
    guti_of: BTreeMap<String, u32>,
    /// Who registered last as each SUPI.
    registered: BTreeMap<String, u64>,
    addresses: Addresses,
    teids: BTreeSet<u32>,
    guards: BTreeSet<(Duration, u64)>,
    next_ue: u64,
    now: Duration,
    ready: Vec<Action>,
    later: BTreeMap<(Duration, u64), Action>,
    sequence: u64,
}

impl Amf {
    /// An AMF without associations.
    #[must_use]
    pub fn new(
        config: AmfConfig,
        smf: SmfConfig,
        upf_address: IpAddr,
        home: Home,
        rng: Box<dyn CryptoRng + Send>,
    ) -> Self {
        Self {
            config,
            smf,
            upf_address,
            home,
            rng,
            policy: Policy::default(),
            faults: Vec::new(),
            counters: Counters::default(),
            associations: BTreeMap::new(),
            lost: BTreeMap::new(),
            ues: BTreeMap::new(),
            by_ran_id: BTreeMap::new(),
            gutis: BTreeMap::new(),
            guti_of: BTreeMap::new(),
            registered: BTreeMap::new(),
            addresses: Addresses::default(),
            teids: BTreeSet::new(),
            guards: BTreeSet::new(),
            next_ue: 1,
            now: Duration::ZERO,
            ready: Vec::new(),
            later: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// A new association.
    pub fn connected(&mut self, now: Duration, association: AssociationId, peer: &str) {
        self.advance(now);
        self.associations
            .insert(association, interface::Association::new(peer));
    }

    /// An association ended: its UEs are gone, or will be unless their N3IWF is back in time.
    pub fn disconnected(&mut self, now: Duration, association: AssociationId) -> Vec<Action> {
        self.advance(now);
        let node = self.associations.remove(&association);
        let keep = self.config.keep_lost();
        if keep.is_zero() {
            self.forget_ues(association, |_| true);
        } else {
            let node = node.and_then(|gone| Some(gone.node?.id));
            self.lost.insert(association, (self.now + keep, node));
        }
        self.later.retain(
            |_, action| !matches!(action, Action::Send { association: a, .. } if *a == association),
        );
        std::mem::take(&mut self.ready)
    }

    /// A message of an association.
    pub fn handle(&mut self, now: Duration, association: AssociationId, data: &[u8]) -> Handled {
        self.advance(now);
        if !self.associations.contains_key(&association) || self.policy.silent {
            return Handled {
                received: ngap::name(data),
                ..Handled::default()
            };
        }
        let (received, ue) = self.ngap(association, data);
        Handled {
            received,
            ue,
            actions: std::mem::take(&mut self.ready),
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let later = self.later.keys().next().map(|(at, _)| *at);
        let guard = self.guards.first().map(|(at, _)| *at);
        let lost = self.lost.values().map(|(until, _)| *until);
        later.into_iter().chain(guard).chain(lost).min()
    }

    /// Does what the time calls for: delayed messages, guard timers.
    pub fn handle_timeout(&mut self, now: Duration) -> Vec<Action> {
        self.advance(now);
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let action = entry.remove();
            self.ready.push(action);
        }
        self.forget_lost(|until, _| until <= now);
        while let Some((_, id)) = self.guards.first().copied().filter(|(at, _)| *at <= now) {
            self.set_guard(id, false);
            self.guard_expired(id);
        }
        std::mem::take(&mut self.ready)
    }

    fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// Sends a message, as the faults let it.
    fn emit(
        &mut self,
        association: AssociationId,
        ue: Option<u64>,
        names: &[&str],
        built: Result<Vec<u8>, impl std::fmt::Display>,
    ) {
        let name = names.first().copied().unwrap_or_default().to_owned();
        let mut data = match built {
            Ok(data) => data,
            Err(error) => {
                tracing::error!(message = %name, %error, "cannot encode");
                return;
            }
        };
        let context = ue.and_then(|id| self.ues.get_mut(&id));
        let stream = context.as_ref().map_or(0, |ue| ue.stream);
        let supi = context.as_ref().and_then(|ue| ue.supi.clone());
        let fault = policy::apply(&mut self.faults, names, supi.as_deref());
        let mut delay = Duration::ZERO;
        let mut copies = 1;
        if let Some((effect, ms)) = fault {
            tracing::info!(message = %name, ?effect, "fault");
            match effect {
                Effect::Delay => delay = Duration::from_millis(ms),
                Effect::Silence => return,
                Effect::Duplicate => copies = 2,
                Effect::Truncate => data.truncate(data.len() / 2),
                Effect::Garbage => self.rng.fill_bytes(&mut data),
                Effect::Drop => {
                    self.ready.push(Action::Abort(association));
                    return;
                }
            }
        }
        // Messages of one UE keep their order, also behind a delayed one.
        let mut at = self.now + delay;
        if let Some(ue) = ue.and_then(|id| self.ues.get_mut(&id)) {
            at = at.max(ue.last_sent);
            ue.last_sent = at;
        }
        for _ in 0..copies {
            let action = Action::Send {
                association,
                stream,
                name: name.clone(),
                ue,
                data: data.clone(),
            };
            if at > self.now {
                self.sequence += 1;
                self.later.insert((at, self.sequence), action);
            } else {
                self.ready.push(action);
            }
        }
    }

    /// Sends a message on a UE's connection.
    fn emit_ue(
        &mut self,
        id: u64,
        names: &[&str],
        build: impl FnOnce(UeIds) -> Result<Vec<u8>, oxirush_ngap::Error>,
    ) {
        let Some(ue) = self.ues.get(&id) else {
            return;
        };
        let association = ue.association;
        let built = build(ue.ids(id));
        self.emit(association, Some(id), names, built);
    }

    /// Releases a UE's connection: command, then wait for the answer.
    fn release_ue(&mut self, id: u64, cause: Cause) {
        self.drop_sessions(id);
        let Some(ue) = self.ues.get_mut(&id) else {
            return;
        };
        if matches!(ue.phase, ue::Phase::Release) {
            return;
        }
        ue.phase = ue::Phase::Release;
        self.set_guard(id, true);
        self.emit_ue(id, &["UEContextReleaseCommand"], |ids| {
            ngap::ue_context_release(ids, cause)
        });
    }

    /// Forgets a UE without a word.
    fn forget_ue(&mut self, id: u64) {
        self.drop_sessions(id);
        self.set_guard(id, false);
        if let Some(ue) = self.ues.remove(&id) {
            let key = (ue.association, ue.ran_id);
            if self.by_ran_id.get(&key) == Some(&id) {
                self.by_ran_id.remove(&key);
            }
        }
    }

    /// Forgets the UEs of lost associations, by how long they stay and by the ID of their N3IWF.
    fn forget_lost(&mut self, which: impl Fn(Duration, Option<u64>) -> bool) {
        let over = self.lost.iter();
        let over: Vec<AssociationId> = over
            .filter(|(_, (until, node))| which(*until, *node))
            .map(|(association, _)| *association)
            .collect();
        for association in over {
            self.lost.remove(&association);
            self.forget_ues(association, |_| true);
        }
    }

    fn forget_ues(&mut self, association: AssociationId, which: impl Fn(&Ue) -> bool) {
        let gone: Vec<u64> = self
            .ues
            .iter()
            .filter(|(_, ue)| ue.association == association && which(ue))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.forget_ue(id);
        }
    }

    /// Starts or stops the guard timer of a UE.
    fn set_guard(&mut self, id: u64, on: bool) {
        let Some(ue) = self.ues.get_mut(&id) else {
            return;
        };
        if let Some(at) = ue.guard.take() {
            self.guards.remove(&(at, id));
        }
        if on {
            let at = self.now + self.config.guard();
            ue.guard = Some(at);
            self.guards.insert((at, id));
        }
    }

    fn random_u32(&mut self) -> u32 {
        let mut octets = [0; 4];
        self.rng.fill_bytes(&mut octets);
        u32::from_be_bytes(octets)
    }
}
