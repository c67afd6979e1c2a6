//! Key container (014, 6.3): from octets to keys.

use std::{borrow::Cow, collections::HashSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keys::{KeyId, QkdKey, Secret};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Object, text};
use crate::Malformed;

/// What a key container has to hold to be an answer.
#[derive(Debug, Clone, Copy)]
pub enum Expect<'a> {
    /// `enc_keys`: so many keys of this size, with IDs not seen before.
    New {
        /// How many keys.
        number: usize,
        /// Their size in bits.
        size_bits: u32,
    },
    /// `dec_keys`: exactly these, in any order and of any size but none.
    These(&'a [KeyId]),
}

/// `key` is kept as raw JSON: reading it as a string could leave an unwiped copy behind when it
/// has escapes (`\/`, or `\u002B` for `+`, which some encoders write).
#[derive(Deserialize)]
struct Container<'a> {
    #[serde(borrow)]
    keys: Vec<Object<Item<'a>>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(rename = "key_ID", borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    key: &'a RawValue,
}

/// Reads a key container and holds it against what was asked for.
///
/// Only the member `keys` is accepted, as in the examples of the standard; its Table 11 spells it
/// `Keys`. The keys come in the order of the IDs asked for, or in that of the container.
///
/// # Errors
/// [`Malformed`] for anything that is not exactly the keys asked for.
pub fn parse_keys(body: &[u8], expect: Expect<'_>) -> Result<Vec<QkdKey>, Malformed> {
    if body.len() > super::MAX_BODY {
        return Err(Malformed::TooLong {
            limit: super::MAX_BODY,
        });
    }
    let container: Container<'_> = super::from_slice(body)?;
    let asked = match expect {
        Expect::New { number, .. } => number,
        Expect::These(ids) => ids.len(),
    };

    let mut seen = HashSet::with_capacity(container.keys.len());
    let mut keys = Vec::with_capacity(container.keys.len());
    for (index, Object(item)) in container.keys.iter().enumerate() {
        let id: KeyId = item.id.parse().map_err(|_| Malformed::KeyId { index })?;
        if !seen.insert(id) {
            return Err(Malformed::Duplicate(id));
        }
        keys.push(QkdKey {
            id,
            secret: decode(item.key.get()).ok_or(Malformed::Base64 { id })?,
        });
    }

    if let Expect::These(ids) = expect {
        let wanted: HashSet<&KeyId> = ids.iter().collect();
        if let Some(key) = keys.iter().find(|key| !wanted.contains(&key.id)) {
            return Err(Malformed::Foreign(key.id));
        }
    }
    if keys.len() != asked {
        return Err(Malformed::Count {
            got: keys.len(),
            asked,
        });
    }
    for QkdKey { id, secret } in &keys {
        let bits = secret.len().saturating_mul(8);
        let asked = match expect {
            Expect::New { size_bits, .. } => usize::try_from(size_bits).unwrap_or(usize::MAX),
            Expect::These(_) => 0,
        };
        if bits == 0 || (asked != 0 && bits != asked) {
            return Err(Malformed::Size {
                id: *id,
                bits,
                asked,
            });
        }
    }
    if let Expect::These(ids) = expect {
        keys.sort_by_cached_key(|key| ids.iter().position(|id| *id == key.id));
    }
    Ok(keys)
}

/// A JSON string of padded base64 (RFC 4648, 4) as a secret, without a copy in between.
fn decode(json: &str) -> Option<Secret> {
    let base64 = text::unescape(json)?;
    let padding = base64.iter().rev().take(2).filter(|b| **b == b'=').count();
    let len = (base64.len() / 4).checked_mul(3)?.checked_sub(padding)?;
    let mut written = None;
    let secret = Secret::filled(len, |octets| {
        written = STANDARD.decode_slice(&*base64, octets).ok();
    });
    (written == Some(len)).then_some(secret)
}
