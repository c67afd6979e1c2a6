//! MOBIKE (RFC 4555): the initiator of the first IKE SA moves, and says so.
//!
//! | what | who | where |
//! |---|---|---|
//! | MOBIKE_SUPPORTED beside the SA of IKE_AUTH, port 4500 from there on (3.1, 3.3) | both | [`Sa::offer_mobike`], [`Sa::mobike_offered`] |
//! | own request again from the new address, then UPDATE_SA_ADDRESSES (3.5) | initiator | [`Sa::roam`], [`Sa::send_update`] |
//! | UPDATE_SA_ADDRESSES: the addresses of its IP header count, not its words (3.5) | responder | [`Sa::mobike_request`] |
//! | COOKIE2 before Child SAs follow, if so configured (3.7) | responder | [`Sa::send_check`] |
//! | a NAT's new mapping, found with the question for a sign of life (3.8) | initiator | [`Sa::probe_response`] |
//! | NO_NATS_ALLOWED (3.9) | both | |
//!
//! With a window of 1 the update waits for the response to the request under way, which is why that one goes out from
//! the new address at once. An update that was overtaken by a further change is answered to no effect.

use std::net::{IpAddr, SocketAddr};

use super::{Command, Cx, Denial, Phase, Sa, keys as key_material, legacy};
use crate::{
    config::{Mode, Profile},
    event::{CloseReason, CommandError, Event, Path},
    wire::{
        ExchangeType, Notify, NotifyType, Payload, find_notify,
        mobike::{additional_addresses, is_untranslated, no_nats_allowed},
        notifies,
    },
};

const COOKIE2_LEN: usize = 16;
/// Octets of a COOKIE2 (RFC 4555 4.2.5).
const COOKIE2_LENS: std::ops::RangeInclusive<usize> = 8..=64;

/// What an IKE SA knows of MOBIKE.
#[derive(Default)]
pub(super) struct Mobility {
    /// Initiator: the peer knows NAT traversal, so IKE_AUTH goes to port 4500.
    floats: bool,
    /// We have said MOBIKE_SUPPORTED.
    offered: bool,
    /// Both have.
    agreed: bool,
    /// Initiator: our changes of address so far, and the one the last update tells of.
    changes: u64,
    told: u64,
    /// Initiator: our address as the peer sees it (NAT_DETECTION_DESTINATION_IP), under the present SPIs.
    seen: Option<Vec<u8>>,
    /// Responder: the cookie under way to the new address; whether that has changed since.
    cookie: Option<Vec<u8>>,
    unchecked: bool,
    peer_addresses: Vec<IpAddr>,
}

impl Mobility {
    pub(super) const fn floats(&self) -> bool {
        self.floats
    }

    pub(super) const fn is_agreed(&self) -> bool {
        self.agreed
    }

    pub(super) fn peer_addresses(&self) -> &[IpAddr] {
        &self.peer_addresses
    }

    /// Initiator: the response to IKE_SA_INIT. RFC 4555 3.3: who has both MOBIKE and NAT traversal goes to port 4500
    /// without a NAT too, so that there is nothing to change when one appears.
    pub(super) fn note_init(&mut self, cx: &Cx<'_>, mode: Mode, payloads: &[Payload]) {
        let offers = offers(cx, true, mode);
        self.floats =
            offers && find_notify(payloads, NotifyType::NAT_DETECTION_SOURCE_IP).is_some();
    }

    /// Responder: MOBIKE_SUPPORTED for the last IKE_AUTH response.
    pub(super) fn answer(&self) -> Option<Payload> {
        self.agreed
            .then(|| Notify::status(NotifyType::MOBIKE_SUPPORTED, Vec::new()).into())
    }
}

fn offers(cx: &Cx<'_>, ue: bool, mode: Mode) -> bool {
    cx.config.mobike.is_some()
        && mode != Mode::Qkd(Profile::Paper)
        && !(ue && legacy::is_legacy(cx.config.peer_profile, true, mode, None))
}

impl Sa {
    pub(super) const fn udp_encap(&self) -> bool {
        self.nat_local || self.nat_remote
    }

    /// Initiator: what the first IKE_AUTH request says.
    pub(super) fn offer_mobike(&mut self, cx: &Cx<'_>) -> Vec<Payload> {
        if !offers(cx, true, self.mode) {
            return Vec::new();
        }
        self.mobility.offered = true;
        let supported = Notify::status(NotifyType::MOBIKE_SUPPORTED, Vec::new());
        let mut payloads = vec![supported.into()];
        payloads.extend(self.no_nats(cx));
        payloads
    }

    fn no_nats(&self, cx: &Cx<'_>) -> Option<Payload> {
        let forbids = cx.config.mobike.is_some_and(|mobike| mobike.no_nats);
        forbids.then(|| no_nats_allowed(self.path.local, self.path.remote).into())
    }

    /// Initiator: the last IKE_AUTH response.
    pub(super) fn mobike_answered(&mut self, payloads: &[Payload]) {
        self.mobility.agreed =
            self.mobility.offered && find_notify(payloads, NotifyType::MOBIKE_SUPPORTED).is_some();
        if self.mobility.agreed {
            self.note_addresses(payloads);
        }
    }

    /// Responder: the first IKE_AUTH request.
    pub(super) fn mobike_offered(
        &mut self,
        cx: &Cx<'_>,
        path: Path,
        payloads: &[Payload],
    ) -> Result<(), Denial> {
        if !offers(cx, false, self.mode)
            || find_notify(payloads, NotifyType::MOBIKE_SUPPORTED).is_none()
        {
            return Ok(());
        }
        if is_translated(payloads, path) {
            return Err(Denial::fatal(
                NotifyType::UNEXPECTED_NAT_DETECTED,
                CloseReason::UnexpectedNat,
            ));
        }
        self.mobility.agreed = true;
        self.note_addresses(payloads);
        Ok(())
    }

    fn note_addresses(&mut self, payloads: &[Payload]) {
        if let Some(told) = additional_addresses(payloads) {
            self.mobility.peer_addresses = told;
        }
    }

    /// Tells the daemon where datagrams go, and sends a request under way there.
    pub(super) fn path_changed(&mut self, cx: &mut Cx<'_>) {
        cx.events.push_back(Event::PathChanged {
            sa: self.id,
            path: self.path,
            udp_encap: self.udp_encap(),
        });
    }

    fn send_again(&mut self, cx: &mut Cx<'_>) {
        let timing = self.timing(cx.config);
        if let Some(datagrams) = self.requests.again(cx.now, &timing) {
            self.last_sent = cx.now;
            cx.counters.retransmitted += 1;
            cx.transmit_all(self.path, datagrams);
        }
    }

    /// Initiator: this host is at another address.
    pub(crate) fn roam(&mut self, cx: &mut Cx<'_>, local: IpAddr) -> Result<(), CommandError> {
        if !matches!(self.phase, Phase::Established | Phase::Deleting) {
            return Err(CommandError::NotEstablished);
        }
        if !self.ue {
            return Err(CommandError::NotInThisMode);
        }
        if !self.mobility.agreed {
            return Err(CommandError::NoMobike);
        }
        self.path.local = SocketAddr::new(local, self.path.local.port());
        self.mobility.changes += 1;
        self.responses.leave_from(self.path.local);
        self.path_changed(cx);
        self.send_again(cx);
        if self.is_established() {
            self.queue_first(Command::UpdateAddresses);
            self.pump(cx);
        }
        Ok(())
    }

    fn queue_first(&mut self, command: Command) {
        if !self.queue.contains(&command) {
            self.queue.push_front(command);
        }
    }

    /// Initiator: tells the peer. Its NAT detection is wanted unless there may be no NAT.
    pub(super) fn send_update(&mut self, cx: &mut Cx<'_>) {
        self.mobility.told = self.mobility.changes;
        let update = Notify::status(NotifyType::UPDATE_SA_ADDRESSES, Vec::new());
        let mut payloads = vec![update.into()];
        match self.no_nats(cx) {
            Some(no_nats) => payloads.push(no_nats),
            None => payloads.extend(key_material::nat_detection(
                self.spi_i, self.spi_r, self.path,
            )),
        }
        self.request(cx, ExchangeType::Informational, &payloads);
    }

    /// Initiator: the peer's answer to that.
    pub(super) fn update_response(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) {
        if self.mobility.told != self.mobility.changes {
            // Moved again since: the next update is queued.
            return;
        }
        let error = notifies(payloads).find(|notify| notify.kind.is_error());
        if let Some(error) = error {
            cx.events.push_back(Event::MoveRefused {
                sa: self.id,
                path: self.path,
                notify: error.kind,
            });
            return;
        }
        if let Some(seen) = find_notify(payloads, NotifyType::NAT_DETECTION_DESTINATION_IP) {
            self.mobility.seen = Some(seen.data.clone());
            let before = self.udp_encap();
            (self.nat_local, self.nat_remote) =
                key_material::detect_nat(self.spi_i, self.spi_r, self.path, payloads);
            if before != self.udp_encap() {
                self.path_changed(cx);
            }
        }
    }

    /// Asks whether the peer lives; an initiator behind a NAT also where the peer sees it.
    pub(super) fn send_probe(&mut self, cx: &mut Cx<'_>) {
        let asks = self.ue && self.mobility.agreed && self.nat_local;
        let detection = key_material::nat_detection(self.spi_i, self.spi_r, self.path);
        let payloads: &[Payload] = if asks { &detection } else { &[] };
        self.request(cx, ExchangeType::Informational, payloads);
    }

    /// The answer to that: a mapping that is not the one before, or not known yet, is told to the peer, which takes it
    /// from nothing else.
    pub(super) fn probe_response(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) {
        if !self.ue || !self.mobility.agreed || !self.is_established() {
            return;
        }
        let Some(seen) = find_notify(payloads, NotifyType::NAT_DETECTION_DESTINATION_IP) else {
            return;
        };
        if self.mobility.seen.as_ref() != Some(&seen.data) {
            self.queue_first(Command::UpdateAddresses);
            self.pump(cx);
        }
    }

    /// What MOBIKE answers to an INFORMATIONAL request on the IKE SA of these SPIs. `true`: the addresses are others
    /// now, [`follow_update`](Self::follow_update) is to come once the answer is sent.
    pub(super) fn mobike_request(
        &mut self,
        cx: &Cx<'_>,
        (spi_i, spi_r): (u64, u64),
        path: Path,
        payloads: &[Payload],
        answer: &mut Vec<Payload>,
    ) -> bool {
        if !self.mobility.agreed || !matches!(self.phase, Phase::Established | Phase::Deleting) {
            return false;
        }
        let cookie = find_notify(payloads, NotifyType::COOKIE2)
            .filter(|cookie| COOKIE2_LENS.contains(&cookie.data.len()));
        answer.extend(cookie.cloned().map(Payload::Notify));
        self.note_addresses(payloads);
        let refuse = |kind| Notify::status(kind, Vec::new()).into();
        let updates = !self.ue && find_notify(payloads, NotifyType::UPDATE_SA_ADDRESSES).is_some();
        if updates && is_translated(payloads, path) {
            answer.push(refuse(NotifyType::UNEXPECTED_NAT_DETECTED));
            return false;
        }
        if updates && !is_acceptable(self.path, path) {
            answer.push(refuse(NotifyType::UNACCEPTABLE_ADDRESSES));
            return false;
        }
        let detects = find_notify(payloads, NotifyType::NAT_DETECTION_SOURCE_IP).is_some();
        if detects {
            answer.extend(key_material::nat_detection(spi_i, spi_r, path));
        }
        if !updates {
            return false;
        }
        let before = (self.path, self.udp_encap());
        if detects && cx.config.mobike.is_some() {
            (self.nat_local, self.nat_remote) =
                key_material::detect_nat(spi_i, spi_r, path, payloads);
        }
        self.path = path;
        before != (self.path, self.udp_encap())
    }

    /// Responder: requests go to the new address from now on; Child SAs too, or when it has returned a cookie.
    pub(super) fn follow_update(&mut self, cx: &mut Cx<'_>) {
        self.send_again(cx);
        if cx
            .config
            .mobike
            .is_some_and(|mobike| mobike.check_routability)
            && self.is_established()
        {
            self.mobility.unchecked = true;
            self.queue_first(Command::CheckRoutability);
        } else {
            self.path_changed(cx);
        }
    }

    /// Responder: asks the new address for a cookie that only who receives there can return.
    pub(super) fn send_check(&mut self, cx: &mut Cx<'_>) {
        let cookie = cx.random(COOKIE2_LEN);
        self.mobility.unchecked = false;
        self.mobility.cookie = Some(cookie.clone());
        let cookie = Notify::status(NotifyType::COOKIE2, cookie);
        self.request(cx, ExchangeType::Informational, &[cookie.into()]);
    }

    /// Responder: the answer to that. Another cookie is not the peer's answer (RFC 4555 3.7).
    pub(super) fn check_response(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) {
        let returned = find_notify(payloads, NotifyType::COOKIE2);
        let sent = self.mobility.cookie.take();
        if returned.map(|cookie| &cookie.data) != sent.as_ref() {
            return self.finish(cx, CloseReason::Syntax("COOKIE2 returned changed"));
        }
        // It may have gone to two addresses, if the peer has moved meanwhile: then the next check counts.
        if !self.mobility.unchecked {
            self.path_changed(cx);
        }
    }

    /// The IKE SA was rekeyed: under new SPIs addresses hash otherwise, and what was under way is told anew.
    pub(super) fn mobike_rekeyed(&mut self, under_way: Option<Command>) {
        self.mobility.seen = None;
        if let Some(command @ (Command::UpdateAddresses | Command::CheckRoutability)) = under_way {
            self.queue_first(command);
        }
    }
}

/// Whether NO_NATS_ALLOWED shows that the addresses of a message were changed on the way.
fn is_translated(payloads: &[Payload], path: Path) -> bool {
    notifies(payloads)
        .filter(|notify| notify.kind == NotifyType::NO_NATS_ALLOWED)
        .any(|notify| !is_untranslated(notify, path.remote, path.local))
}

/// Whether a peer may be at this address: one that a host can have, as near or far as the one before.
fn is_acceptable(old: Path, new: Path) -> bool {
    let ip = new.remote.ip();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    new.remote.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && !broadcast
        && ip.is_loopback() == old.remote.ip().is_loopback()
        && ip.is_ipv4() == new.local.ip().is_ipv4()
}
