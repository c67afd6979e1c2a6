//! What this kernel offers, as plain facts.

use serde::{Deserialize, Serialize};

/// One thing a daemon needs from the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Short name: `esp`, `xfrm-interface`, `bpf`, `tcx`, `tun`, ...
    pub name: String,
    /// Whether it is there.
    pub ok: bool,
    /// Whether the daemon can run without it.
    pub optional: bool,
    /// What was found.
    pub detail: String,
    /// How to get it; empty when it is there.
    pub hint: String,
}
