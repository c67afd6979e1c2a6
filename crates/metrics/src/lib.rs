//! Metrics for Prometheus: families that are declared once, a page that is filled at each scrape,
//! and an HTTP endpoint that a slow or hostile scraper cannot hurt the daemon with.
//!
//! Most values live elsewhere (in a core, a key account, a kernel map) and are read when somebody
//! asks; only durations are collected as they happen ([`Histogram`]). Names follow Prometheus'
//! conventions: base units, `_total` for counters, and labels whose values are few and known.
//! The format is the text format 0.0.4, which `promtool check metrics` reads.

pub mod buckets;
mod family;
mod options;
mod page;
mod server;

pub use family::{Described, Description, Family, Kind, Label};
pub use options::Options;
pub use page::{Exporter, Histogram, Page, Value};
pub use prometheus;
pub use server::{CONTENT_TYPE, Server, ServerError};
