//! Bounds of histograms.

/// Phases of an attach: from a millisecond on a LAN to a UE that retransmits for a minute.
pub const ATTACH: &[f64] = &[
    0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
];

/// Requests to a KMS: from its own LAN to the longest timeout one may configure sensibly.
pub const KMS: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];
