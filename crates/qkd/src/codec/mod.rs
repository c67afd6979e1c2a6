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

use std::{fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, de};

use crate::Malformed;

pub use container::{Expect, parse_keys};
pub use request::{Operation, key_id_query, key_ids, key_request, key_request_query, path};
pub use status::{ErrorBody, Status, parse_error, parse_status};

/// The largest body worth reading: 128 keys of 32768 bits with room to spare.
pub const MAX_BODY: usize = 1 << 20;

/// The message of the 400 response for keys a KME does not have (014, 6.4).
pub const KEYS_NOT_FOUND: &str = "one or more keys specified are not found on KME";

/// A JSON object from octets; of the error only the position is kept, since its text may quote a
/// key.
fn from_slice<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Malformed> {
    match serde_json::from_slice(body) {
        Ok(Object(value)) => Ok(value),
        Err(error) => Err(Malformed::Json {
            line: error.line(),
            column: error.column(),
        }),
    }
}

/// A `T` from a JSON object and nothing else: derived readers take an array of the members in
/// their order as well.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}
