//! Requests (014, 6.2 and 6.4): URLs and bodies.

use std::fmt::Write as _;

use keys::{KeyId, SaeId};
use serde::Serialize;

/// The operation asked of a KME (014, Table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Get status; the SAE in the path is the slave.
    Status,
    /// Get key; the SAE in the path is the slave.
    EncKeys,
    /// Get key with key IDs; the SAE in the path is the **master**.
    DecKeys,
}

impl Operation {
    /// As in the path of its URL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::EncKeys => "enc_keys",
            Self::DecKeys => "dec_keys",
        }
    }
}

/// The path of `operation` with the other SAE percent-encoded (RFC 3986, 2.1), from `/api` on.
///
/// `None` for the IDs `.` and `..`: URL parsers take them for path navigation, encoded or not, so
/// an SAE ID sent by a stranger could otherwise choose another path.
pub fn path(operation: Operation, sae: &SaeId) -> Option<String> {
    if matches!(sae.as_str(), "." | "..") {
        return None;
    }
    let mut path = String::from("/api/v1/keys/");
    for octet in sae.as_str().bytes() {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                path.push(char::from(octet));
            }
            _ => {
                let _ = write!(path, "%{octet:02X}");
            }
        }
    }
    path.push_str(match operation {
        Operation::Status => "/status",
        Operation::EncKeys => "/enc_keys",
        Operation::DecKeys => "/dec_keys",
    });
    Some(path)
}

#[derive(Serialize)]
struct KeyRequest {
    number: usize,
    size: u32,
}

#[derive(Serialize)]
struct KeyIds<'a> {
    #[serde(rename = "key_IDs")]
    ids: Vec<Id<'a>>,
}

#[derive(Serialize)]
struct Id<'a> {
    #[serde(rename = "key_ID")]
    id: &'a KeyId,
}

/// The body of a POST `enc_keys`: `number` keys of `size_bits` bits.
pub fn key_request(number: usize, size_bits: u32) -> Vec<u8> {
    json(&KeyRequest {
        number,
        size: size_bits,
    })
}

/// The query of a GET `enc_keys`.
pub fn key_request_query(number: usize, size_bits: u32) -> String {
    format!("number={number}&size={size_bits}")
}

/// The body of a POST `dec_keys`.
pub fn key_ids(ids: &[KeyId]) -> Vec<u8> {
    json(&KeyIds {
        ids: ids.iter().map(|id| Id { id }).collect(),
    })
}

/// The query of a GET `dec_keys`, which takes one ID.
pub fn key_id_query(id: &KeyId) -> String {
    format!("key_ID={id}")
}

fn json(value: &impl Serialize) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "numbers and strings in a Vec: nothing that serde_json can refuse"
    )]
    serde_json::to_vec(value).expect("plain data is JSON")
}
