//! Secrets, QKD key identifiers and SAE identifiers shared by every room.
//!
//! A QKD key walks KMS -> `qkd` -> `ike` -> `dataplane` -> kernel. The types here make that walk
//! a move: [`Secret`] is neither `Clone` nor `Debug`, and whoever drops it wipes it.

mod id;
mod secret;

pub use id::{KeyId, KeyIdError, SaeId, SaeIdError};
pub use secret::{QkdKey, Secret};
