//! Status (014, 6.1) and Error (014, 6.5).

use keys::SaeId;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use super::text::printable;
use crate::Malformed;

/// The answer to `status`: what this KME can deliver between two SAEs. Sizes in bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The KME that answers.
    #[serde(rename = "source_KME_ID", deserialize_with = "name")]
    pub source_kme_id: String,
    /// The KME of the slave SAE.
    #[serde(rename = "target_KME_ID", deserialize_with = "name")]
    pub target_kme_id: String,
    /// The calling SAE.
    #[serde(rename = "master_SAE_ID")]
    pub master_sae_id: SaeId,
    /// The SAE of the path.
    #[serde(rename = "slave_SAE_ID")]
    pub slave_sae_id: SaeId,
    /// Default key size.
    pub key_size: u32,
    /// Keys ready for delivery.
    pub stored_key_count: u64,
    /// Most keys the KME stores.
    pub max_key_count: u64,
    /// Most keys of one request.
    pub max_key_per_request: u32,
    /// Largest key size.
    pub max_key_size: u32,
    /// Smallest key size.
    pub min_key_size: u32,
    /// Most additional slave SAEs; 0 without multicast.
    #[serde(rename = "max_SAE_ID_count")]
    pub max_sae_id_count: u32,
}

/// The body of a 400 or 503.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorBody {
    /// `message`, fit for a log line.
    pub message: String,
    /// The members of `details`, each as `name: value`, fit for a log line; at most 16.
    pub details: Vec<String>,
}

/// Reads a Status.
///
/// # Errors
/// [`Malformed`] when a required member is missing, of another type or out of range.
pub fn parse_status(body: &[u8]) -> Result<Status, Malformed> {
    super::from_slice(body)
}

/// Reads an Error as far as it is one: proxies send anything, and the status code says enough.
pub fn parse_error(body: &[u8]) -> Option<ErrorBody> {
    const MOST_DETAILS: usize = 16;
    let value: Value = serde_json::from_slice(body).ok()?;
    let message = printable(value.get("message")?.as_str()?);
    let mut details = Vec::new();
    for object in value
        .get("details")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        for (name, value) in object.as_object().into_iter().flatten() {
            let text = match value {
                Value::String(text) => format!("{name}: {text}"),
                other => format!("{name}: {other}"),
            };
            details.push(printable(&text));
        }
    }
    details.truncate(MOST_DETAILS);
    Some(ErrorBody { message, details })
}

/// A KME ID: the standard gives no format, a log line wants a bounded printable one.
fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() > 255 || text.chars().any(char::is_control) {
        return Err(de::Error::custom("not a KME ID"));
    }
    Ok(text)
}
