//! The core joined to an IKE endpoint: still no socket, no clock, no thread.
//!
//! One input at a time; afterwards drain [`Gateway::poll_transmit`] and [`Gateway::poll_action`]
//! and arm a timer for [`Gateway::poll_timeout`].

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use daemon::timeline::{Phase, PhaseTimes};
use dataplane::Notice;
use ike::{
    ChildAnswer, ChildId, Endpoint, Event, Instant, KeyRequestId, Path, QkdFailure, SaId, SaStatus,
    Transmit, wire::NotifyType,
};
use keys::{QkdKey, SaeId};

use crate::{
    core::{self, Action, AmfNumber, AmfStatus, Command, N3iwf, NasLink, UeStatus},
    tally::{Counts, Tally},
};

/// Everything in numbers.
#[derive(Clone, Debug)]
pub struct Census {
    /// When they were counted.
    pub now: Instant,
    /// IKE SAs and Child SAs now.
    pub ike: ike::Census,
    /// IKE messages so far.
    pub messages: ike::Counters,
    /// IKE SAs that have not reached their final IKE_AUTH.
    pub half_open: usize,
    /// UEs that are recognised by a tag, and buckets in use.
    pub recognised: (usize, usize),
    /// UEs and PDU sessions.
    pub core: core::Census,
    /// AMFs.
    pub amfs: Vec<AmfStatus>,
    /// Inner addresses given out.
    pub addresses_taken: usize,
    /// What came of requests for keys.
    pub desk: core::DeskCounts,
    /// What came of attaches and IKE SAs.
    pub tally: Counts,
}

/// What an operator wants rekeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RekeyWhat {
    /// The IKE SA.
    Ike,
    /// All Child SAs.
    Children,
    /// The Child SA of this number.
    Child(u64),
}

/// An N3IWF without input or output.
pub struct Gateway {
    endpoint: Endpoint,
    core: N3iwf,
    tally: Tally,
}

impl Gateway {
    /// Joins the two.
    pub fn new(endpoint: Endpoint, core: N3iwf) -> Self {
        Self {
            endpoint,
            core,
            tally: Tally::default(),
        }
    }

    /// Begins: connects to the AMFs.
    pub fn start(&mut self, now: Instant) {
        self.core.start(now);
        self.settle(now);
    }

    /// A UDP payload arrived.
    pub fn handle_datagram(&mut self, now: Instant, path: Path, data: &[u8]) {
        self.endpoint.handle_datagram(now, path, data);
        self.settle(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
        self.core.handle_timeout(now);
        self.settle(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.endpoint
            .poll_timeout()
            .into_iter()
            .chain(self.core.poll_timeout())
            .min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.endpoint.poll_transmit()
    }

    /// The next thing to do outside.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.core.poll_action();
        if let Some(Action::SendNgap { .. }) = action {
            self.tally.ngap_out();
        }
        action
    }

    /// An answer to [`Action::FetchKeys`].
    pub fn keys_fetched(
        &mut self,
        now: Instant,
        sa: SaId,
        request: KeyRequestId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) {
        self.core.keys_fetched(now, sa, request, keys);
        self.settle(now);
    }

    /// An answer to [`Action::FetchAhead`].
    pub fn keys_ahead(
        &mut self,
        now: Instant,
        slave: &SaeId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) {
        self.core.keys_ahead(now, slave, keys);
        self.settle(now);
    }

    /// An answer to [`Action::AskStock`].
    pub fn stock_told(&mut self, now: Instant, slave: &SaeId, stored: Option<u64>) {
        self.core.stock_told(now, slave, stored);
        self.settle(now);
    }

    /// Keys held ahead, by peer.
    pub fn held_ahead(&self) -> BTreeMap<SaeId, usize> {
        self.core.held_ahead()
    }

    /// Keys in IKE SAs that have keyed nothing yet.
    pub fn keys_in_sas(&self) -> usize {
        self.endpoint.keys_held()
    }

    /// An answer to [`Action::InstallSa`].
    pub fn child_installed(
        &mut self,
        now: Instant,
        sa: SaId,
        child: ChildId,
        result: Result<(), String>,
    ) {
        self.core.child_installed(sa, child, result);
        self.settle(now);
    }

    /// An answer to [`Action::RemoveSa`].
    pub fn child_removed(&mut self, now: Instant, child: ChildId) {
        self.core.child_removed(child);
        self.settle(now);
    }

    /// An answer to [`Action::AddSession`].
    pub fn session_added(
        &mut self,
        now: Instant,
        ue: u32,
        dl_teid: u32,
        result: Result<(), String>,
    ) {
        self.core.session_added(now, ue, dl_teid, result);
        self.settle(now);
    }

    /// An answer to [`Action::ModifySession`].
    pub fn session_modified(
        &mut self,
        now: Instant,
        ue: u32,
        token: u64,
        result: Result<(), String>,
    ) {
        self.core.session_modified(now, ue, token, result);
        self.settle(now);
    }

    /// An answer to [`Action::RemoveSession`].
    pub fn session_removed(&mut self, now: Instant, ue: u32, dl_teid: u32) {
        self.core.session_removed(ue, dl_teid);
        self.settle(now);
    }

    /// The UPF does not know the tunnel of a session any more.
    pub fn tunnel_lost(&mut self, now: Instant, dl_teid: u32) {
        self.core.tunnel_lost(dl_teid);
        self.settle(now);
    }

    /// The transport to an AMF is up.
    pub fn amf_connected(&mut self, now: Instant, amf: AmfNumber) {
        self.core.amf_connected(now, amf);
        self.settle(now);
    }

    /// The transport to an AMF is gone, or did not come about.
    pub fn amf_lost(&mut self, now: Instant, amf: AmfNumber, reason: &str) {
        self.core.amf_lost(now, amf, reason);
        self.settle(now);
    }

    /// An NGAP message.
    pub fn handle_ngap(&mut self, now: Instant, amf: AmfNumber, octets: &[u8]) {
        self.tally.ngap_in();
        self.core.handle_ngap(now, amf, octets);
        self.settle(now);
    }

    /// A NAS TCP connection was accepted.
    pub fn nas_connected(&mut self, now: Instant, link: NasLink, from: IpAddr) {
        self.core.nas_connected(now, link, from);
        self.settle(now);
    }

    /// A NAS message arrived over TCP.
    pub fn nas_received(&mut self, now: Instant, link: NasLink, nas: &[u8]) {
        self.core.nas_received(now, link, nas);
        self.settle(now);
    }

    /// A NAS TCP connection ended.
    pub fn nas_closed(&mut self, now: Instant, link: NasLink) {
        self.core.nas_closed(link);
        self.settle(now);
    }

    /// Lets the AMF release a UE. `false`: no such UE.
    pub fn release(&mut self, now: Instant, ue: u32) -> bool {
        let known = self.core.release(now, ue);
        self.settle(now);
        known
    }

    /// What the kernel says of a Child SA: a limit it counts is reached, or its NAT has another mapping.
    pub fn notice(&mut self, now: Instant, notice: Notice) {
        match notice {
            Notice::Expired { id, hard } => self.child_expired(now, id, hard),
            Notice::Remapped { id, remote } => {
                if let Some(sa) = self.core.owner(id) {
                    self.endpoint.remap(now, sa, remote);
                }
                self.settle(now);
            }
            _ => {}
        }
    }

    /// A Child SA reached a limit the kernel counts.
    pub fn child_expired(&mut self, now: Instant, child: u64, hard: bool) {
        self.core.child_expired(child, hard);
        self.settle(now);
    }

    /// Rekeys the IKE SA of a UE, or one or all of its Child SAs.
    ///
    /// # Errors
    /// What keeps it from beginning, in words.
    pub fn rekey(&mut self, now: Instant, ue: u32, what: RekeyWhat) -> Result<(), String> {
        let outcome = self.begin_rekey(now, ue, what);
        self.settle(now);
        outcome
    }

    fn begin_rekey(&mut self, now: Instant, ue: u32, what: RekeyWhat) -> Result<(), String> {
        let (sa, children) = self
            .core
            .rekeyable(ue)
            .ok_or_else(|| format!("no UE {ue} with an IKE SA in use"))?;
        let wanted: Vec<ChildId> = match what {
            RekeyWhat::Ike => {
                let begun = self.endpoint.rekey_ike(now, sa);
                return begun.map_err(|error| error.to_string());
            }
            RekeyWhat::Children => children,
            RekeyWhat::Child(number) => {
                let mut children = children.into_iter();
                let child = children.find(|child| child.number() == number);
                vec![child.ok_or_else(|| format!("UE {ue} has no Child SA {number} in use"))?]
            }
        };
        for child in wanted {
            self.endpoint
                .rekey_child(now, sa, child)
                .map_err(|error| format!("Child SA {child}: {error}"))?;
        }
        Ok(())
    }

    /// Releases everybody; done when [`is_empty`](Self::is_empty).
    pub fn shut_down(&mut self, now: Instant) {
        self.core.shut_down(now);
        self.settle(now);
    }

    /// Gives up waiting for UEs that do not confirm the end of their IKE SA.
    pub fn abandon_all(&mut self, now: Instant) {
        let all: Vec<SaId> = self.endpoint.sas().map(|sa| sa.id).collect();
        for sa in all {
            self.endpoint.abandon(now, sa);
        }
        self.settle(now);
    }

    /// Whether no UE is left.
    pub fn is_empty(&self) -> bool {
        self.core.is_empty()
    }

    /// Charges handler time to the UE the last inputs were about.
    pub fn charge(&mut self, spent: Duration) {
        self.core.charge(spent);
    }

    /// All IKE SAs.
    pub fn sas(&self) -> Vec<SaStatus> {
        self.endpoint.sas().collect()
    }

    /// All UEs.
    pub fn ues(&self, now: Instant) -> Vec<UeStatus> {
        self.core.ues(now)
    }

    /// The UEs with the lowest numbers.
    pub fn first_ues(&self, now: Instant, limit: usize) -> Vec<UeStatus> {
        self.core.first_ues(now, limit)
    }

    /// All AMFs.
    pub fn amfs(&self) -> Vec<AmfStatus> {
        self.core.amf_status()
    }

    /// IKE SAs that have not reached their final IKE_AUTH.
    pub fn half_open(&self) -> usize {
        self.endpoint.half_open()
    }

    /// Everything in numbers, at a cost that does not grow with what is asked of each UE.
    pub fn census(&self, now: Instant) -> Census {
        Census {
            now,
            ike: self.endpoint.census(),
            messages: *self.endpoint.counters(),
            half_open: self.endpoint.half_open(),
            recognised: self.endpoint.recognised(),
            core: self.core.census(),
            amfs: self.core.amf_status(),
            addresses_taken: self.core.addresses_taken(),
            desk: self.core.desk(),
            tally: self.tally.counts().clone(),
        }
    }

    /// A phase of an attach that ended since the last call.
    pub fn poll_phase(&mut self) -> Option<(Phase, PhaseTimes)> {
        self.tally.poll_phase()
    }

    /// Inner addresses given out.
    pub fn addresses_taken(&self) -> usize {
        self.core.addresses_taken()
    }

    /// Commands and events go back and forth until neither side has anything to say.
    fn settle(&mut self, now: Instant) {
        loop {
            if let Some(command) = self.core.poll_command() {
                self.command(now, command);
            } else if let Some(event) = self.endpoint.poll_event() {
                self.tally.event(&self.endpoint, &event);
                if let Event::Established { sa, .. } = event
                    && let (Some(mode), Some(policy)) =
                        (self.endpoint.mode(sa), self.endpoint.policy(sa))
                {
                    tracing::info!(%sa, %mode, %policy, "IKE SA established");
                }
                self.core.handle_ike(now, event);
            } else {
                break;
            }
        }
        self.core.settle();
        while let Some((phase, times)) = self.core.poll_phase() {
            self.tally.phase(phase, times);
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
        let endpoint = &mut self.endpoint;
        match command {
            Command::ProvideKeys { sa, request, keys } => {
                endpoint.provide_keys(now, sa, request, keys);
            }
            Command::SendEap { sa, packet } => endpoint.send_eap(now, sa, packet),
            Command::EapSuccess { sa, success } => endpoint.eap_success(now, sa, *success),
            Command::EapFailure { sa, packet } => endpoint.eap_failure(now, sa, packet),
            Command::Refuse { sa, notifies } => endpoint.refuse(now, sa, notifies),
            Command::ChildInstalled { sa, child, ok } => {
                endpoint.child_installed(now, sa, child, if ok { Ok(()) } else { Err(()) });
            }
            Command::CreateChild { sa, child } => {
                let token = child.token;
                if let Err(error) = endpoint.create_child(now, sa, child) {
                    tracing::warn!(%sa, %error, "CREATE_CHILD_SA");
                    self.core.child_refused(sa, token);
                }
            }
            Command::Inform {
                sa,
                token,
                notifies,
            } => {
                if let Err(error) = endpoint.inform(now, sa, token, notifies) {
                    tracing::warn!(%sa, %error, "INFORMATIONAL");
                    self.core.inform_refused(sa, token);
                }
            }
            Command::RefuseChild { sa, child } => {
                let refusal: Result<ChildAnswer, NotifyType> = Err(NotifyType::NO_ADDITIONAL_SAS);
                endpoint.answer_child(now, sa, child, refusal);
            }
            Command::DeleteChild { sa, child } => endpoint.delete_child(now, sa, child),
            Command::RekeyChild { sa, child } => {
                if let Err(error) = endpoint.rekey_child(now, sa, child) {
                    tracing::debug!(%sa, %child, %error, "nothing to rekey");
                }
            }
            Command::Close { sa } => endpoint.close(now, sa),
        }
    }
}
