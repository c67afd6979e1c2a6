//! What the measurements of `cargo xtask bench` leave behind: one JSON object per line
//! ([`records`]), the statistics over them ([`stats`]), and, with the feature `figures`, the tables
//! and pictures of `docs/benchmarks.md`.

pub mod records;
pub mod stats;

#[cfg(feature = "figures")]
pub mod figures;
#[cfg(feature = "figures")]
pub mod tables;
