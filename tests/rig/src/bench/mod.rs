//! Measurements: what the daemons do in a row, under load and in number, as lines of a result file
//! ([`::bench::records`]). What they mean is worked out by whoever reads them.

pub(crate) mod attach;
pub mod cpu;
mod flood;
mod ike;
pub(crate) mod load;
mod soak;
mod ues;

pub use self::flood::flood;
pub use attach::{AttachOptions, attach, frames};
pub use ike::{IkeOptions, ike};
pub use load::{qkd, rate, scale};
pub use soak::{SoakOptions, soak};
