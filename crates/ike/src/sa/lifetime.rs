//! Lifetimes by time: soft, after which an SA is rekeyed, and hard, after which it is deleted (RFC 7296 2.8).

use std::time::Duration;

use super::{Cx, Sa, child::ChildState};
use crate::{config::Lifetime, event::ChildId, time::Instant};

/// When an SA that is in use wants attention.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Life {
    /// When it is rekeyed; `None` while that is under way, or somebody else's business.
    pub(super) soft: Option<Instant>,
    /// When it ends.
    pub(super) hard: Option<Instant>,
}

impl Life {
    /// The life of an SA that goes into use now.
    pub(super) fn begin(cx: &mut Cx<'_>, lifetime: Option<Lifetime>) -> Self {
        let Some(lifetime) = lifetime else {
            return Self::default();
        };
        let early = up_to(cx, lifetime.jitter);
        Self {
            soft: Some(cx.now + lifetime.soft.saturating_sub(early)),
            hard: Some(cx.now + lifetime.hard),
        }
    }

    /// A rekey by lifetime failed: again, a little later.
    pub(super) fn retry(&mut self, cx: &mut Cx<'_>) {
        if self.hard.is_some() {
            let late = up_to(cx, cx.config.lifetimes.retry / 2);
            self.soft = Some(cx.now + cx.config.lifetimes.retry + late);
        }
    }

    fn next(&self) -> Option<Instant> {
        [self.soft, self.hard].into_iter().flatten().min()
    }
}

fn up_to(cx: &mut Cx<'_>, bound: Duration) -> Duration {
    match u64::try_from(bound.as_millis()).unwrap_or(u64::MAX) {
        0 => Duration::ZERO,
        millis => Duration::from_millis(cx.rng.next_u64() % millis),
    }
}

impl Sa {
    /// When [`lifetimes_over`](Self::lifetimes_over) has something to do.
    pub(super) fn next_lifetime(&self) -> Option<Instant> {
        let children = self.children.values();
        self.is_established()
            .then(|| {
                children
                    .filter(|child| child.state == ChildState::Up)
                    .filter_map(|child| child.life.next())
                    .chain(self.life.next())
                    .chain(
                        self.children
                            .values()
                            .filter_map(|child| child.given_up_at()),
                    )
                    .min()
            })
            .flatten()
    }

    /// Rekeys what is old and deletes what is too old.
    pub(super) fn lifetimes_over(&mut self, cx: &mut Cx<'_>) {
        if !self.is_established() {
            return;
        }
        let now = cx.now;
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if over(self.life.hard) {
            return self.close(cx);
        }
        if over(self.life.soft) {
            self.life.soft = None;
            if self.rekey_ike(cx).is_err() && !self.ike_is_rekeyed() {
                self.life.retry(cx);
            }
        }
        self.give_up_children(cx);
        let due: Vec<(ChildId, bool)> = self
            .children
            .values()
            .filter(|child| child.state == ChildState::Up)
            .filter(|child| over(child.life.next()))
            .map(|child| (child.id, over(child.life.hard)))
            .collect();
        for (id, ends) in due {
            if ends {
                self.delete_one(cx, id);
                continue;
            }
            if let Some(child) = self.children.get_mut(&id) {
                child.life.soft = None;
            }
            if self.rekey_child(cx, id).is_err()
                && !self.is_succeeded(id)
                && let Some(child) = self.children.get_mut(&id)
            {
                child.life.retry(cx);
            }
        }
    }
}
