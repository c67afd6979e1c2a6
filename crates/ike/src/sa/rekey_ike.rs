//! Rekeying of the IKE SA (RFC 7296 1.3.2, 2.8, 2.18, 2.25.2).
//!
//! | initiator of the rekey | in CREATE_CHILD_SA | responder of the rekey |
//! |---|---|---|
//! | modes with a key exchange | SA, Ni, KEi; SA, Nr, KEr; additional ones in IKE_FOLLOWUP_KE, see [`followup`] | |
//! | mode `hybrid` | the same; the N3IWF's message names a fresh PPK, see [`naming`](super::naming) | |
//! | mode `qkd` | SA, Ni; SA, Nr; the N3IWF's message names two or four keys and a new `K_auth` | |
//!
//! The suite, and with it the PRF, stays: 2.18 is read in two ways when it changes. The initiator goes over to the new
//! SA with the response and deletes the old one; the responder goes over when it sees either. The Child SAs stay where
//! they are.
//!
//! Both at once: each end answers the other as usual. Then four nonces are on the table, and the new SA made with the
//! lowest of them is deleted by the end that asked for it (2.8.2); see [`collision`].

mod collision;
mod followup;
mod keys;

use std::sync::Arc;

use ::keys::{KeyId, QkdKey, Secret};

use self::followup::{Awaited, Following};
use super::{
    Command, Cx, Denial, Sa, SpiChange,
    keys::{self as key_material, Crypt, key_method},
    ledger,
    lifetime::Life,
    naming::{Named, PpkContext, Proof},
    retired::{End, Retired},
};
use crate::{
    config::Profile,
    crypto::{IkeSuite, KeSecret},
    event::{ChildFailure, CommandError, Event, KeyRequestId, QkdFailure},
    wire::{ExchangeType, Notify, NotifyType, Payload, Protocol, SaPayload, notifies},
};

const NONCE_LEN: usize = 32;

/// Where a rekey that this side began stands.
enum Step {
    /// Master: the KMS is being asked.
    Allocating(KeyRequestId),
    /// The request waits for the window.
    Queued,
    /// The request is sent.
    Sent,
    /// CREATE_CHILD_SA is over, IKE_FOLLOWUP_KE is not.
    Following(Following),
    /// Slave: the response names keys, for which the KMS is being asked.
    Collecting {
        request: KeyRequestId,
        named: Named,
        spi_r: u64,
        nonce_r: Vec<u8>,
    },
}

/// A rekey that this side began.
pub(super) struct OwnRekey {
    step: Step,
    spi: u64,
    nonce: Vec<u8>,
    ke: Option<KeSecret>,
    /// Secrets of the key exchanges so far.
    shared: Vec<Secret>,
    keys: Vec<QkdKey>,
    key_ids: Vec<KeyId>,
}

impl OwnRekey {
    /// Whether other exchanges may come first.
    pub(super) fn may_wait(&self) -> bool {
        matches!(self.step, Step::Allocating(_) | Step::Queued)
    }
}

/// A rekey of the peer that waits for keys, or for IKE_FOLLOWUP_KE.
pub(super) struct PeerRekey {
    request: Option<KeyRequestId>,
    /// Slave: the keys named.
    named: Option<Named>,
    new: Born,
    /// Until CREATE_CHILD_SA is answered.
    answer: Option<SaPayload>,
    /// Our public value, for the next answer.
    ke: Option<Payload>,
    /// Secrets of the key exchanges so far.
    shared: Vec<Secret>,
    keys: Vec<QkdKey>,
    awaited: Awaited,
}

/// SPIs and nonces of a new IKE SA.
struct Born {
    spi_i: u64,
    spi_r: u64,
    ni: Vec<u8>,
    nr: Vec<u8>,
}

/// A new IKE SA that is not in use yet.
pub(super) struct Heir {
    pub(super) spi_i: u64,
    pub(super) spi_r: u64,
    pub(super) crypt: Crypt,
    initiator: bool,
    key_ids: Vec<KeyId>,
    ni: Vec<u8>,
    nr: Vec<u8>,
}

/// Where the keys come from.
struct Source<'a> {
    shared: &'a [Secret],
    keys: Vec<QkdKey>,
}

impl Sa {
    /// Whether a rekey of the IKE SA is under way.
    pub(super) fn ike_is_rekeyed(&self) -> bool {
        self.own_rekey.is_some() || self.peer_rekey.is_some() || self.heir.is_some()
    }

    /// Whether a rekey's request is on its way or being worked on, and the new IKE SA not there yet.
    pub(super) fn is_between(&self) -> bool {
        self.peer_rekey.is_some() || self.own_rekey.as_ref().is_some_and(|own| !own.may_wait())
    }

    /// Begins a rekey.
    pub(crate) fn rekey_ike(&mut self, cx: &mut Cx<'_>) -> Result<(), CommandError> {
        if !self.is_established() || self.ike_is_rekeyed() {
            return Err(CommandError::NotEstablished);
        }
        if self.profile() == Profile::Paper || self.never_rekeys(cx.config) {
            return Err(CommandError::NotInThisMode);
        }
        let method = self.suite.as_ref().and_then(key_method);
        let mut own = OwnRekey {
            step: Step::Queued,
            spi: cx.ike_spi(),
            nonce: cx.random(NONCE_LEN),
            ke: method.map(|method| method.generate(cx.rng)),
            shared: Vec::new(),
            keys: Vec::new(),
            key_ids: Vec::new(),
        };
        self.spi_changes.push(SpiChange::Taken(own.spi));
        if self.ike_key_count() > 0 && self.is_master() {
            own.step = Step::Allocating(self.allocate_for_ike(cx));
        } else {
            self.queue.push_back(Command::RekeyIke);
        }
        self.own_rekey = Some(Box::new(own));
        self.pump(cx);
        Ok(())
    }

    pub(super) fn rekey_waits_for(&self, request: KeyRequestId) -> bool {
        let own = self.own_rekey.as_ref().is_some_and(|own| match &own.step {
            Step::Allocating(asked) | Step::Collecting { request: asked, .. } => *asked == request,
            Step::Queued | Step::Sent | Step::Following(_) => false,
        });
        own || self
            .peer_rekey
            .as_ref()
            .is_some_and(|peer| peer.request == Some(request))
    }

    /// The KMS's answer for a rekey of the IKE SA.
    pub(super) fn rekey_keys(
        &mut self,
        cx: &mut Cx<'_>,
        request: KeyRequestId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) {
        let of_peer = |peer: &mut Box<PeerRekey>| peer.request == Some(request);
        if let Some(peer) = self.peer_rekey.take_if(of_peer) {
            return self.peer_rekey_keys(cx, *peer, keys);
        }
        let Some(mut own) = self.own_rekey.take() else {
            return ledger::lose_unclaimed(self.id, keys.unwrap_or_default(), cx.events);
        };
        match std::mem::replace(&mut own.step, Step::Queued) {
            Step::Collecting {
                named,
                spi_r,
                nonce_r,
                ..
            } => {
                let made = self.sorted(cx, &named, keys).and_then(|keys| {
                    let new = Born {
                        spi_i: own.spi,
                        spi_r,
                        ni: own.nonce.clone(),
                        nr: nonce_r,
                    };
                    let shared = &own.shared;
                    self.bear(cx, true, &new, Source { shared, keys })
                });
                match made {
                    Ok(heir) => self.succeed(cx, heir),
                    Err(failure) => {
                        self.own_rekey_failed(cx, &own, failure);
                        // The peer is told by it that the old IKE SA goes on.
                        self.queue.push_front(Command::Probe);
                    }
                }
            }
            _ => match self.allocated_for_ike(cx, keys) {
                Ok(keys) => {
                    own.key_ids = keys.iter().map(|key| key.id).collect();
                    own.keys = keys;
                    self.own_rekey = Some(own);
                    self.queue.push_back(Command::RekeyIke);
                }
                Err(failure) => self.own_rekey_failed(cx, &own, failure),
            },
        }
    }

    /// Sends the request.
    pub(super) fn send_ike_rekey(&mut self, cx: &mut Cx<'_>) {
        let Some(suite) = self.suite else {
            self.current = None;
            return;
        };
        let naming = self.own_rekey.as_ref().and_then(|own| self.name(&own.keys));
        let Some(own) = &mut self.own_rekey else {
            self.current = None;
            return;
        };
        own.step = Step::Sent;
        let mut payloads = vec![
            Payload::Sa(IkeSuite::offer(&[suite], &own.spi.to_be_bytes())),
            Payload::Nonce(own.nonce.clone()),
        ];
        payloads.extend(own.ke.as_ref().map(|ke| Payload::Ke {
            method: ke.method().id(),
            data: ke.public().to_vec(),
        }));
        payloads.extend(naming.map(Payload::Notify));
        self.request(cx, ExchangeType::CreateChildSa, &payloads);
    }

    /// The response to it.
    pub(super) fn ike_rekey_response(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) {
        let Some(mut own) = self.own_rekey.take() else {
            return;
        };
        let follows = matches!(own.step, Step::Following(_));
        let read = match follows {
            true => self.read_ike_followup(cx, &mut own, payloads),
            false => self.read_ike_rekey_response(cx, &mut own, payloads),
        };
        match read {
            Ok(Some(heir)) => self.succeed(cx, heir),
            Ok(None) => {
                self.own_rekey = Some(own);
                self.send_ike_followup(cx);
            }
            Err(failure) => {
                self.own_rekey_failed(cx, &own, failure);
                if follows || Offer::read(payloads).sa.is_some() {
                    self.queue.push_front(Command::Probe);
                }
            }
        }
    }

    fn read_ike_rekey_response(
        &mut self,
        cx: &mut Cx<'_>,
        own: &mut OwnRekey,
        payloads: &[Payload],
    ) -> Result<Option<Heir>, ChildFailure> {
        let invalid = ChildFailure::InvalidAnswer;
        let suite = self.suite.ok_or(ChildFailure::Abandoned)?;
        let read = Offer::read(payloads);
        let (Some(sa), Some(nonce)) = (read.sa, read.nonce) else {
            return Err(match notifies(payloads).find(|n| n.kind.is_error()) {
                Some(error) => key_material::child_refusal(error),
                None => invalid("no SA or Nonce"),
            });
        };
        let chosen = IkeSuite::accepted(&[suite], sa).and_then(|chosen| chosen.proposal.ike_spi());
        let spi_r = chosen
            .filter(|spi| *spi != 0)
            .ok_or(invalid("a proposal that was not offered"))?;
        let new = own.born(spi_r, nonce);
        if self.own_rekey_loses(&new) {
            return self.close_redundant(cx, own, &new, read.ke);
        }
        self.check_consent(&own.key_ids, payloads)?;
        match (&own.ke, read.ke) {
            (None, _) => {}
            (Some(ke), Some((id, value))) if id == ke.method().id() => {
                let shared = ke.finish(value).map_err(|_| invalid("a KE value"))?;
                own.shared.push(shared);
            }
            _ => return Err(invalid("no KE")),
        }
        if let Some(following) =
            Following::begin(&suite, spi_r, nonce, payloads, self.naming_kind())?
        {
            own.step = Step::Following(following);
            return Ok(None);
        }
        self.exchanged(cx, own, spi_r, nonce, payloads)
    }

    /// All key exchanges are over: the new IKE SA, or, of a slave, the keys that the response named are asked for.
    fn exchanged(
        &mut self,
        cx: &mut Cx<'_>,
        own: &mut OwnRekey,
        spi_r: u64,
        nonce_r: &[u8],
        payloads: &[Payload],
    ) -> Result<Option<Heir>, ChildFailure> {
        if self.is_master() || self.ike_key_count() == 0 {
            let new = own.born(spi_r, nonce_r);
            let keys = std::mem::take(&mut own.keys);
            let shared = &own.shared;
            return self.bear(cx, true, &new, Source { shared, keys }).map(Some);
        }
        if !self.is_established() {
            return Err(ChildFailure::Abandoned);
        }
        let (request, named) = self.collect_for_ike(cx, payloads)?;
        own.step = Step::Collecting {
            request,
            named,
            spi_r,
            nonce_r: nonce_r.to_vec(),
        };
        Ok(None)
    }

    fn own_rekey_failed(&mut self, cx: &mut Cx<'_>, own: &OwnRekey, reason: ChildFailure) {
        if own.spi != 0 {
            self.spi_changes.push(SpiChange::Free(own.spi));
        }
        self.queue.retain(|command| *command != Command::RekeyIke);
        self.ledger.lost(self.id, &own.key_ids, cx.events);
        if let Step::Collecting { named, .. } = &own.step {
            self.ledger.lost(self.id, &named.ids, cx.events);
        }
        if reason == ChildFailure::Superseded {
            return;
        }
        self.life.retry(cx);
        let sa = self.id;
        cx.events.push_back(Event::IkeRekeyFailed { sa, reason });
    }

    /// CREATE_CHILD_SA of the peer: for a Child SA, or to rekey this IKE SA.
    pub(super) fn create_request(
        &mut self,
        cx: &mut Cx<'_>,
        payloads: &[Payload],
    ) -> Result<(), Denial> {
        let for_ike = Offer::read(payloads).sa.is_some_and(|sa| {
            let mut proposals = sa.proposals.iter();
            proposals.any(|proposal| proposal.protocol == Protocol::IKE)
        });
        if for_ike {
            return self.ike_rekey_request(cx, payloads);
        }
        // RFC 7296 2.25.2: not while the IKE SA it would belong to is changing.
        if self.is_between() {
            return Err(deny(NotifyType::TEMPORARY_FAILURE));
        }
        self.child_request(cx, payloads)
    }

    fn ike_rekey_request(&mut self, cx: &mut Cx<'_>, payloads: &[Payload]) -> Result<(), Denial> {
        let busy = || deny(NotifyType::TEMPORARY_FAILURE);
        let refused = !cx.config.lifetimes.from_peer || self.never_rekeys(cx.config);
        if self.profile() == Profile::Paper || refused {
            return Err(deny(NotifyType::NO_ADDITIONAL_SAS));
        }
        let read = Offer::read(payloads);
        let (Some(suite), Some(sa), Some(nonce)) = (self.suite, read.sa, read.nonce) else {
            return Err(Denial::syntax("rekey of the IKE SA without a Nonce"));
        };
        self.refuse_foreign_ppks(payloads)?;
        self.make_way(cx).map_err(|()| busy())?;
        let selection =
            IkeSuite::select(&[suite], sa).ok_or(deny(NotifyType::NO_PROPOSAL_CHOSEN))?;
        let spi_i = selection
            .proposal
            .ike_spi()
            .filter(|spi| *spi != 0)
            .ok_or(Denial::syntax("rekey of the IKE SA without an SPI"))?;
        let new = Born {
            spi_i,
            spi_r: cx.ike_spi(),
            ni: nonce.to_vec(),
            nr: cx.random(NONCE_LEN),
        };
        let mut peer = PeerRekey {
            request: None,
            named: None,
            answer: Some(selection.answer(new.spi_r.to_be_bytes().to_vec())),
            new,
            ke: None,
            shared: Vec::new(),
            keys: Vec::new(),
            awaited: Awaited::of(&suite),
        };
        if let Some(method) = key_method(&suite) {
            let Some((_, value)) = read.ke.filter(|(id, _)| *id == method.id()) else {
                let wish = method.id().to_be_bytes().to_vec();
                return Err(Denial {
                    answer: Notify::status(NotifyType::INVALID_KE_PAYLOAD, wish),
                    fatal: None,
                });
            };
            peer.answer_ke(cx, method, value)?;
        }
        if self.ike_key_count() == 0 {
            self.go_on_with_peer(cx, peer);
            return Ok(());
        }
        if self.is_master() {
            peer.request = Some(self.allocate_for_ike(cx));
        } else {
            let (request, named) = self
                .collect_for_ike(cx, payloads)
                .map_err(|_| deny(NotifyType::INVALID_SYNTAX))?;
            (peer.request, peer.named) = (Some(request), Some(named));
        }
        self.peer_rekey = Some(Box::new(peer));
        Ok(())
    }

    /// Whether the peer may rekey the IKE SA now; a plan of our own is given up for it.
    fn make_way(&mut self, cx: &mut Cx<'_>) -> Result<(), ()> {
        if !self.is_established() || self.peer_rekey.is_some() || self.heir.is_some() {
            return Err(());
        }
        if self.makes_child() {
            return Err(());
        }
        match &self.own_rekey {
            // Both at once: resolved when our response comes.
            Some(own) if matches!(own.step, Step::Sent) => Ok(()),
            Some(own) if matches!(own.step, Step::Collecting { .. }) => Err(()),
            _ if !self.requests.is_free() => Err(()),
            Some(_) => {
                if let Some(own) = self.own_rekey.take() {
                    self.own_rekey_failed(cx, &own, ChildFailure::Superseded);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn peer_rekey_keys(
        &mut self,
        cx: &mut Cx<'_>,
        mut peer: PeerRekey,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) {
        let keys = match &peer.named {
            None => self.allocated_for_ike(cx, keys),
            Some(named) => self.sorted(cx, named, keys),
        };
        match keys {
            Ok(keys) => {
                peer.keys = keys;
                self.go_on_with_peer(cx, peer);
            }
            Err(failure) => self.refuse_ike_rekey(cx, failure),
        }
    }

    fn refuse_ike_rekey(&mut self, cx: &mut Cx<'_>, failure: ChildFailure) {
        let refusal = match failure {
            _ if self.ike_key_count() == 0 => {
                Notify::status(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new())
            }
            ChildFailure::Qkd(failure) => key_material::unavailable(failure),
            _ => key_material::unavailable(QkdFailure::NoKeys),
        };
        self.respond(cx, &[refusal.into()]);
    }

    /// Answers the peer: with the new IKE SA, or with what its next IKE_FOLLOWUP_KE is to name.
    fn go_on_with_peer(&mut self, cx: &mut Cx<'_>, mut peer: PeerRekey) {
        let mut payloads = Vec::new();
        if let Some(answer) = peer.answer.take() {
            payloads.push(Payload::Sa(answer));
            payloads.push(Payload::Nonce(peer.new.nr.clone()));
        }
        payloads.extend(peer.ke.take());
        if payloads.len() > 1 {
            let proof = peer.named.as_ref().and_then(|named| named.proof.as_ref());
            let naming = match self.is_master() {
                true => self.name(&peer.keys),
                false => proof.map(Proof::consent),
            };
            payloads.extend(naming.map(Payload::Notify));
        }
        if let Some(link) = peer.awaited.next_link(cx) {
            payloads.push(link);
            peer.request = None;
            self.peer_rekey = Some(Box::new(peer));
            return self.respond(cx, &payloads);
        }
        let keys = std::mem::take(&mut peer.keys);
        let shared = &peer.shared;
        match self.bear(cx, false, &peer.new, Source { shared, keys }) {
            Ok(heir) => {
                self.spi_changes.push(SpiChange::Taken(heir.spi_r));
                self.heir = Some(Box::new(heir));
                self.respond(cx, &payloads);
            }
            Err(failure) => self.refuse_ike_rekey(cx, failure),
        }
    }

    /// Our rekey is through: the new IKE SA is in use, and the old one is deleted.
    fn succeed(&mut self, cx: &mut Cx<'_>, heir: Heir) {
        self.drop_rival(cx);
        self.replace(cx, heir);
        let path = self.path;
        if let Some(old) = self.retired.last_mut() {
            old.delete(cx, path);
        }
    }

    /// The peer uses the IKE SA it has rekeyed.
    pub(super) fn enthrone(&mut self, cx: &mut Cx<'_>) {
        if let Some(own) = self.own_rekey.take() {
            self.own_rekey_failed(cx, &own, ChildFailure::Superseded);
        }
        if let Some(heir) = self.heir.take() {
            self.replace(cx, *heir);
        }
    }

    /// The peer does not use the IKE SA it has rekeyed.
    pub(super) fn disown(&mut self, cx: &mut Cx<'_>) {
        if let Some(heir) = self.heir.take() {
            self.spi_changes.push(SpiChange::Free(heir.spi_r));
            self.ledger.lost(self.id, &heir.key_ids, cx.events);
        }
    }

    fn replace(&mut self, cx: &mut Cx<'_>, heir: Heir) {
        let Some(crypt) = self.crypt.replace(heir.crypt) else {
            return;
        };
        let old = Retired {
            initiator: std::mem::replace(&mut self.initiator, heir.initiator),
            spi_i: std::mem::replace(&mut self.spi_i, heir.spi_i),
            spi_r: std::mem::replace(&mut self.spi_r, heir.spi_r),
            requests: std::mem::take(&mut self.requests),
            responses: std::mem::take(&mut self.responses),
            crypt: Some(Box::new(crypt)),
            inbox: std::mem::take(&mut self.inbox),
            end: End::Open,
            fragments: self.fragments,
            until: cx.now + cx.config.timing.linger,
        };
        self.keep_retired(old);
        if self.ppk_context.is_some() {
            self.ppk_context = Some(Arc::new(PpkContext {
                ni: heir.ni,
                nr: heir.nr,
                spi_i: self.spi_i,
                spi_r: self.spi_r,
            }));
        }
        let under_way = self.current.take();
        self.mobike_rekeyed(under_way);
        let replaced = std::mem::replace(&mut self.ike_keys, heir.key_ids);
        self.life = Life::begin(cx, cx.config.lifetimes.ike);
        self.ledger.used(self.id, &self.ike_keys, None, cx.events);
        cx.events.push_back(Event::IkeRekeyed {
            sa: self.id,
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            replaced,
        });
    }

    /// The IKE SA is to be deleted: the one the peer knows best is the one to say it on.
    pub(super) fn settle_rekeys(&mut self, cx: &mut Cx<'_>) {
        if self.heir.is_some() {
            self.enthrone(cx);
        }
        self.drop_peer_rekey(cx);
        let own = self
            .own_rekey
            .take_if(|own| !matches!(own.step, Step::Sent));
        if let Some(own) = own {
            self.own_rekey_failed(cx, &own, ChildFailure::Superseded);
            if !own.may_wait() {
                self.queue.push_back(Command::Probe);
            }
        }
    }

    /// The IKE SA is gone, and with it every SPI but the current one.
    pub(super) fn free_rekeys(&mut self) {
        let spis = self
            .retired
            .drain(..)
            .map(|old| old.own_spi())
            .chain(self.own_rekey.take().map(|own| own.spi))
            .chain(self.heir.take().map(|heir| heir.spi_r));
        self.spi_changes.extend(spis.map(SpiChange::Free));
        self.peer_rekey = None;
    }
}

impl OwnRekey {
    fn born(&self, spi_r: u64, nonce_r: &[u8]) -> Born {
        Born {
            spi_i: self.spi,
            spi_r,
            ni: self.nonce.clone(),
            nr: nonce_r.to_vec(),
        }
    }
}

/// What both messages of the exchange hold.
struct Offer<'a> {
    sa: Option<&'a SaPayload>,
    nonce: Option<&'a [u8]>,
    ke: Option<(u16, &'a [u8])>,
}

impl<'a> Offer<'a> {
    fn read(payloads: &'a [Payload]) -> Self {
        let (mut sa, mut nonce, mut ke) = (None, None, None);
        for payload in payloads {
            match payload {
                Payload::Sa(payload) => sa = Some(payload),
                Payload::Nonce(octets) => nonce = Some(octets.as_slice()),
                Payload::Ke { method, data } => ke = Some((*method, data.as_slice())),
                _ => {}
            }
        }
        Self { sa, nonce, ke }
    }
}

fn deny(kind: NotifyType) -> Denial {
    Denial {
        answer: Notify::status(kind, Vec::new()),
        fatal: None,
    }
}
