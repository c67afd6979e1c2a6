//! What the fuzz targets do with an input; the corpus test does the same on any compiler.

use std::collections::HashSet;

use qkd::{
    KeyId, Malformed,
    codec::{Expect, MAX_BODY, parse_error, parse_keys, parse_status},
};
use serde_json::Value;

/// A body where a Key container should be.
pub fn keys(input: &[u8]) {
    for number in 0..4 {
        for size_bits in [8, 256] {
            let Ok(keys) = parse_keys(input, Expect::New { number, size_bits }) else {
                continue;
            };
            assert_eq!(keys.len(), number);
            let ids: HashSet<KeyId> = keys.iter().map(|key| key.id).collect();
            assert_eq!(ids.len(), number, "no ID twice");
            for key in &keys {
                assert_eq!(key.secret.len() * 8, usize::try_from(size_bits).unwrap());
            }
        }
    }

    // Asked for in the opposite order, whatever is in there comes in that order.
    let mut asked = ids_in(input);
    asked.reverse();
    match parse_keys(input, Expect::These(&asked)) {
        Ok(keys) => {
            assert!(keys.iter().map(|key| &key.id).eq(&asked));
            assert!(keys.iter().all(|key| !key.secret.is_empty()));
        }
        Err(Malformed::TooLong { .. }) => assert!(input.len() > MAX_BODY),
        Err(error) => assert!(error.to_string().len() < 200),
    }
}

/// A body where a Status or an Error should be.
pub fn status(input: &[u8]) {
    if let Ok(status) = parse_status(input) {
        let again = serde_json::to_vec(&status).unwrap();
        assert_eq!(parse_status(&again), Ok(status));
    }
    if let Some(error) = parse_error(input) {
        assert!(error.details.len() <= 16);
        for text in error.details.iter().chain([&error.message]) {
            assert!(text.chars().count() <= 201);
            assert!(!text.chars().any(char::is_control), "fit for a log line");
        }
    }
}

/// The key IDs in what may be a Key container.
fn ids_in(input: &[u8]) -> Vec<KeyId> {
    let container: Value = serde_json::from_slice(input).unwrap_or_default();
    let keys = container.get("keys").and_then(Value::as_array);
    keys.into_iter()
        .flatten()
        .filter_map(|key| key.get("key_ID")?.as_str()?.parse().ok())
        .collect()
}
