//! The JSON bodies of ETSI GS QKD 014, clause 6, read and written without a socket.
//!
//! Readers take the octets of a body and never panic. They are strict where a mistake could key
//! something wrongly (IDs, sizes, counts, base64) and indifferent to members they do not know, as
//! the extensions of the standard need. Keys go from the body straight into a [`keys::Secret`].

mod container;
mod request;
mod status;
#[cfg(test)]
mod tests;
mod text;

use serde::Deserialize;

use crate::Malformed;

pub use container::{Expect, parse_keys};
pub use request::{Operation, key_id_query, key_ids, key_request, key_request_query, path};
pub use status::{ErrorBody, Status, parse_error, parse_status};

/// The largest body worth reading: 128 keys of 32768 bits with room to spare.
pub const MAX_BODY: usize = 1 << 20;

/// The message of the 400 response for keys a KME does not have (014, 6.4).
pub const KEYS_NOT_FOUND: &str = "one or more keys specified are not found on KME";

/// JSON from octets; of the error only the position is kept, since its text may quote a key.
fn from_slice<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Malformed> {
    serde_json::from_slice(body).map_err(|error| Malformed::Json {
        line: error.line(),
        column: error.column(),
    })
}
