//! Downlink NAS towards free5GC's N3IWUE.
//!
//! It takes one read of its TCP connection for one message, so two that arrive together are one lost;
//! and it makes its interface for a PDU session after it has answered CREATE_CHILD_SA, so an accept
//! that comes at once finds none. Each message is therefore sent alone, [`GAP`] after the one before,
//! and nothing within [`SETTLE`] of a new Child SA. Nobody else is made to wait.

use std::{collections::VecDeque, time::Duration};

use ike::Instant;

use super::{
    N3iwf,
    types::{Action, NasLink},
};

/// Between two messages.
const GAP: Duration = Duration::from_millis(20);
/// Between a Child SA and the next message.
const SETTLE: Duration = Duration::from_millis(50);

/// Downlink NAS of one UE that has to be spared.
pub(crate) struct Pace {
    /// When the next message may go.
    free_at: Instant,
    waiting: VecDeque<Vec<u8>>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            free_at: Instant::ZERO,
            waiting: VecDeque::new(),
        }
    }

    /// When something waits to be sent.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.free_at)
    }
}

impl N3iwf {
    /// A NAS message over TCP, at once or when the UE is ready for it.
    pub(super) fn send_nas(&mut self, now: Instant, number: u32, link: NasLink, message: Vec<u8>) {
        match self.ues.get_mut(&number).and_then(|ue| ue.pace.as_mut()) {
            Some(pace) => {
                pace.waiting.push_back(message);
                self.pace(now, number);
            }
            None => self.actions.push_back(Action::SendNas { link, message }),
        }
    }

    /// The UE has got a Child SA that it has yet to build upon.
    pub(super) fn let_settle(&mut self, now: Instant, number: u32) {
        if let Some(pace) = self.ues.get_mut(&number).and_then(|ue| ue.pace.as_mut()) {
            pace.free_at = pace.free_at.max(now + SETTLE);
        }
    }

    /// Sends what is due to one UE. Without a connection it waits for the next one.
    pub(super) fn pace(&mut self, now: Instant, number: u32) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        let Some(pace) = ue.pace.as_mut() else {
            return;
        };
        let Some(link) = ue.link else {
            ue.downlink.extend(pace.waiting.drain(..));
            return;
        };
        if pace.free_at <= now
            && let Some(message) = pace.waiting.pop_front()
        {
            pace.free_at = now + GAP;
            self.actions.push_back(Action::SendNas { link, message });
        }
    }
}
