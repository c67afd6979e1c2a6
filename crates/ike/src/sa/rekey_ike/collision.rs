//! Both ends rekey the IKE SA at once (RFC 7296 2.8.2, 2.25.2).
//!
//! Each answers the other's request as usual, so two new SAs stand beside the old one. When an end has the response to
//! its own request it knows all four nonces. The SA with the lowest of them is redundant: the end that asked for it
//! deletes it, goes over to the other when its creator does, and leaves the old one to that creator. An end whose
//! response is late may see the redundant SA deleted first; an end whose request never arrived sees the old one deleted
//! or the new one used, and gives up. With QKD keys the UE does not fetch the keys of a redundant SA, so it cannot
//! delete it: the N3IWF knows the nonces as well and drops it.

use super::{Born, Heir, OwnRekey, Source, Step};
use crate::{
    event::ChildFailure,
    sa::{
        Cx, Sa,
        fragments::Inbox,
        keys::has_additional,
        retired::{End, Retired},
        window::{Requests, Responses},
    },
    wire::{Delete, Parsed, Payload},
};

impl Born {
    fn lowest_nonce(&self) -> &[u8] {
        self.ni.as_slice().min(self.nr.as_slice())
    }
}

impl Heir {
    fn lowest_nonce(&self) -> &[u8] {
        self.ni.as_slice().min(self.nr.as_slice())
    }
}

impl Sa {
    /// Whether the peer's rekey stands beside ours and ours has the lowest nonce.
    pub(super) fn own_rekey_loses(&self, own: &Born) -> bool {
        let heir = self.heir.as_ref().map(|heir| heir.lowest_nonce());
        let waiting = self.peer_rekey.as_ref().map(|peer| peer.new.lowest_nonce());
        heir.or(waiting)
            .is_some_and(|rival| own.lowest_nonce() < rival)
    }

    /// Our new SA is redundant: it is deleted as soon as it is there.
    pub(super) fn close_redundant(
        &mut self,
        cx: &mut Cx<'_>,
        own: &mut OwnRekey,
        new: &Born,
        ke: Option<(u16, &[u8])>,
    ) -> Result<Option<Heir>, ChildFailure> {
        let shared = own.ke.as_ref().zip(ke).and_then(|(ours, (id, value))| {
            (id == ours.method().id()).then(|| ours.finish(value).ok())?
        });
        let keys = std::mem::take(&mut own.keys);
        // With additional key exchanges it will never be there: the peer drops its half.
        let complete = own.ke.is_some() == shared.is_some()
            && keys.len() == self.ike_key_count()
            && !self.suite.as_ref().is_some_and(has_additional);
        let shared = shared.as_slice();
        let made = match complete {
            true => self.bear(cx, true, new, Source { shared, keys }).ok(),
            false => None,
        };
        if let Some(redundant) = made {
            // Freed when that is forgotten.
            own.spi = 0;
            let path = self.path;
            self.retire(cx, redundant);
            if let Some(redundant) = self.retired.last_mut() {
                redundant.delete(cx, path);
            }
        }
        Err(ChildFailure::Superseded)
    }

    /// Ours stays: the peer deletes its own, or gets no answer that makes one.
    pub(super) fn drop_rival(&mut self, cx: &mut Cx<'_>) {
        if let Some(rival) = self.heir.take() {
            self.retire(cx, *rival);
        }
        self.drop_peer_rekey(cx);
    }

    /// A message on the SA that the peer's rekey has made, while ours is under way. Whether it is the Delete of a
    /// redundant SA, and has been dealt with.
    pub(in crate::sa) fn redundant_deleted(
        &mut self,
        cx: &mut Cx<'_>,
        payloads: &[Payload],
        parsed: &Parsed<'_>,
    ) -> bool {
        let deletes = payloads
            .iter()
            .any(|payload| matches!(payload, Payload::Delete(Delete::Ike)));
        let ours_is_out = self
            .own_rekey
            .as_ref()
            .is_some_and(|own| matches!(own.step, Step::Sent | Step::Collecting { .. }));
        if !deletes || !ours_is_out || parsed.header.flags.response {
            return false;
        }
        let Some(rival) = self.heir.take() else {
            return false;
        };
        self.retire(cx, *rival);
        true
    }

    /// An SA that never was in use, and answers only what ends it.
    fn retire(&mut self, cx: &mut Cx<'_>, redundant: Heir) {
        self.ledger.lost(self.id, &redundant.key_ids, cx.events);
        self.keep_retired(Retired {
            initiator: redundant.initiator,
            spi_i: redundant.spi_i,
            spi_r: redundant.spi_r,
            requests: Requests::default(),
            responses: Responses::default(),
            crypt: Some(Box::new(redundant.crypt)),
            inbox: Inbox::default(),
            end: End::Open,
            fragments: self.fragments,
            until: cx.now + cx.config.timing.linger,
        });
    }
}
