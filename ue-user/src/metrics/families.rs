//! Every family a UE exports. `docs/metrics.md` is checked against this list.

use metrics::{Kind, buckets, families};

use Kind::{Counter, Gauge, Histogram};

families! {
    /// What the UE alone exports.
    pub OWN;
    BUILD: Gauge, "ue_build_info", ["version" = "version of the daemon"],
        "1, with the version as label.";
    STATE: Gauge, "ue_state", ["state" = "`detached`, `backing_off`, `connecting`, `authenticating`, `registering`, `registered`, `detaching`"],
        "1 for the state the UE is in, 0 for the others.";
    FAILURES: Gauge, "ue_attach_failures_in_a_row", [],
        "Attaches that failed since the last registration.";
    ATTACHES: Counter, "ue_attaches_total", ["outcome" = "`attached`, `requested` (ended on request), or the word of the failure: `nas`, `nwu`, `data_plane`, `nas_connection`, `timed_out`, or of the end of the IKE SA"],
        "Attaches that ended well or not.";
    DETACHES: Counter, "ue_detaches_total", ["reason" = "`requested`, or the word of the failure"],
        "Ends of attaches that had succeeded.";
    PHASE: Histogram(buckets::ATTACH), "ue_attach_phase_duration_seconds", ["phase" = "`init`, `auth`, `child`"],
        "Wall clock of the phases of attaches that succeeded.";
    SESSIONS: Gauge, "ue_pdu_sessions", ["state" = "`up`, `down`"],
        "PDU sessions wanted, by whether their interface is up.";
}

nwu_metrics::shared_families!("ue");

/// All families but those of the process.
pub static ALL: [&[&dyn metrics::Described]; 2] = [OWN, SHARED];
