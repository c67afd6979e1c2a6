//! How long the core took over each message, so that an attach can tell the
//! core's time from its own.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

/// Kept at most; the oldest go first.
const KEPT: usize = 4096;

/// One message of an N3IWF and what followed from it at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transaction {
    /// When it came, microseconds since the core started.
    pub at_us: u64,
    /// AMF UE NGAP ID.
    pub ue: Option<u64>,
    /// SUPI, where known.
    pub supi: Option<String>,
    /// The message: NAS name where it carried NAS, else NGAP name.
    pub received: String,
    /// What the core sent at once; delayed messages are not in it.
    pub sent: Vec<String>,
    /// From the message in hand to the answer in hand, microseconds.
    pub spent_us: u64,
}

/// The latest transactions.
#[derive(Debug, Default)]
pub(crate) struct Transactions(VecDeque<Transaction>);

impl Transactions {
    pub(crate) fn push(&mut self, transaction: Transaction) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(transaction);
    }

    pub(crate) fn list(&self, supi: Option<&str>) -> Vec<&Transaction> {
        self.0
            .iter()
            .filter(|one| supi.is_none() || one.supi.as_deref() == supi)
            .collect()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
