//! How keys are given out, and what came of it.

use std::time::Duration;

use keys::SaeId;

/// How keys are given out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPolicy {
    /// Keys fetched ahead; `None`: none.
    pub ahead: Option<Ahead>,
    /// Keys of each peer, at the KMS and here together, that new attaches leave for rekeys; 0: none.
    pub floor: u64,
    /// What becomes of an attach without keys.
    pub empty: WhenEmpty,
}

/// Keys fetched ahead, per peer. For peers that have attached, or are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Keys held for a peer after a refill.
    pub keys: usize,
    /// A refill begins when fewer are left.
    pub low: usize,
    /// Older ones are wiped.
    pub age: Duration,
    /// Keys held for all peers at most.
    pub total: usize,
    /// Peers whose keys are fetched before they ever attached, and while they are away.
    pub peers: Vec<SaeId>,
}

/// What becomes of an attach while there are no keys for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenEmpty {
    /// QKD_UNAVAILABLE at once.
    #[default]
    Refuse,
    /// It waits this long, then QKD_UNAVAILABLE. The UE's retransmissions cost nothing meanwhile.
    Wait(Duration),
}

/// What the desk did so far, and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeskCounts {
    /// Requests answered with keys fetched ahead.
    pub ahead: u64,
    /// Requests for which the KMS was asked.
    pub on_demand: u64,
    /// Keys fetched ahead that grew too old.
    pub aged: u64,
    /// Attaches refused for want of keys.
    pub refused: u64,
    /// Attaches that had to wait.
    pub waited: u64,
    /// Attaches that wait now.
    pub waiting: usize,
    /// Keys fetched ahead and held now.
    pub held: usize,
}
