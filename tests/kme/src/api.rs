//! Requests of ETSI GS QKD 014 as a KME reads them, and its answers.
//!
//! Written from the standard and sharing no code with the `qkd` client, so that a mistake in one
//! is not hidden by the same mistake in the other.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keys::{KeyId, QkdKey, SaeId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

/// A request that makes sense.
#[derive(Debug, PartialEq)]
pub(crate) enum Call {
    /// Get status (014, 5.2).
    Status { slave: SaeId },
    /// Get key (014, 5.3).
    EncKeys { slave: SaeId, request: KeyRequest },
    /// Get key with key IDs (014, 5.4).
    DecKeys { master: SaeId, ids: Vec<KeyId> },
}

/// Key request (014, 6.2).
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct KeyRequest {
    pub(crate) number: Option<u64>,
    pub(crate) size: Option<u64>,
    #[serde(rename = "additional_slave_SAE_IDs")]
    pub(crate) additional_slaves: Vec<SaeId>,
    pub(crate) extension_mandatory: Vec<Map<String, Value>>,
    pub(crate) extension_optional: Vec<Map<String, Value>>,
}

/// Key IDs (014, 6.4).
#[derive(Deserialize)]
struct KeyIds {
    #[serde(rename = "key_IDs")]
    ids: Vec<KeyIdObject>,
}

#[derive(Deserialize)]
struct KeyIdObject {
    #[serde(rename = "key_ID")]
    id: KeyId,
}

/// What a KME answers.
pub(crate) enum Answer {
    /// 200 with a Key container.
    Keys(Vec<QkdKey>),
    /// 200 with another object.
    Object(Value),
    /// Anything else.
    Refusal(Refusal),
}

/// A status code other than 200, with an Error object unless it is 401.
#[derive(Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) message: String,
    pub(crate) details: Vec<(&'static str, String)>,
}

impl Refusal {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self {
            status: 400,
            message: message.into(),
            details: Vec::new(),
        }
    }

    pub(crate) const fn unauthorized() -> Self {
        Self {
            status: 401,
            message: String::new(),
            details: Vec::new(),
        }
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            status: 503,
            message: message.into(),
            details: Vec::new(),
        }
    }

    pub(crate) fn detail(mut self, name: &'static str, value: &impl ToString) -> Self {
        self.details.push((name, value.to_string()));
        self
    }

    /// The Error object; 401 has none (014, Table 4).
    pub(crate) fn body(&self) -> Option<Value> {
        if self.status == 401 {
            return None;
        }
        let details = self.details.iter();
        let details: Vec<Value> = details
            .map(|(name, value)| json!({ *name: value }))
            .collect();
        Some(match details.is_empty() {
            true => json!({ "message": self.message }),
            false => json!({ "message": self.message, "details": details }),
        })
    }
}

/// Reads a request, given the path and query of its URL.
pub(crate) fn read(
    method: &str,
    path: &str,
    query: Option<&str>,
    body: &[u8],
) -> Result<Call, Refusal> {
    let not_found = || Refusal {
        status: 404,
        message: "no such resource".into(),
        details: Vec::new(),
    };
    let rest = path.strip_prefix("/api/v1/keys/").ok_or_else(not_found)?;
    let (sae, operation) = rest.split_once('/').ok_or_else(not_found)?;
    if !matches!(operation, "status" | "enc_keys" | "dec_keys") {
        return Err(not_found());
    }
    let sae = percent_decode(sae)
        .and_then(|octets| SaeId::from_octets(&octets).ok())
        .ok_or_else(|| Refusal::bad_request("the path has no valid SAE ID"))?;
    let get = match (method, operation) {
        ("GET", _) => true,
        ("POST", "enc_keys" | "dec_keys") => false,
        _ => {
            return Err(Refusal {
                status: 405,
                message: "method not allowed".into(),
                details: Vec::new(),
            });
        }
    };
    if get && !body.is_empty() {
        return Err(Refusal::bad_request("GET has no body"));
    }
    if !get && query.is_some_and(|query| !query.is_empty()) {
        return Err(Refusal::bad_request("POST has no query"));
    }
    let query = pairs(query.unwrap_or_default())?;
    match operation {
        "status" => {
            if let Some((name, _)) = query.first() {
                return Err(
                    Refusal::bad_request("status has no parameters").detail("parameter", name)
                );
            }
            Ok(Call::Status { slave: sae })
        }
        "enc_keys" => Ok(Call::EncKeys {
            slave: sae,
            request: if get {
                key_request_of_query(&query)?
            } else {
                from_body(body, "Key request")?
            },
        }),
        _ => Ok(Call::DecKeys {
            master: sae,
            ids: if get {
                key_id_of_query(&query)?
            } else {
                let KeyIds { ids } = from_body(body, "Key IDs")?;
                ids.into_iter().map(|object| object.id).collect()
            },
        }),
    }
}

fn from_body<'a, T: Deserialize<'a>>(body: &'a [u8], what: &str) -> Result<T, Refusal> {
    let wrong = || Refusal::bad_request(format!("the body is not a {what} object"));
    // serde would take an array for an object as well.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(wrong());
    }
    serde_json::from_slice(body).map_err(|error| wrong().detail("error", &error))
}

/// GET `enc_keys`: `number` and `size` at most (014, 6.2).
fn key_request_of_query(query: &[(String, String)]) -> Result<KeyRequest, Refusal> {
    let mut request = KeyRequest::default();
    for (name, value) in query {
        let slot = match name.as_str() {
            "number" => &mut request.number,
            "size" => &mut request.size,
            _ => {
                return Err(Refusal::bad_request("GET takes number and size only")
                    .detail("parameter", name));
            }
        };
        let value = value
            .parse()
            .map_err(|_| Refusal::bad_request("not a number").detail("parameter", name))?;
        if slot.replace(value).is_some() {
            return Err(Refusal::bad_request("parameter given twice").detail("parameter", name));
        }
    }
    Ok(request)
}

/// GET `dec_keys`: exactly one `key_ID` (014, 6.4).
fn key_id_of_query(query: &[(String, String)]) -> Result<Vec<KeyId>, Refusal> {
    match query {
        [(name, value)] if name == "key_ID" => value
            .parse()
            .map(|id| vec![id])
            .map_err(|_| Refusal::bad_request("key_ID is not a UUID")),
        _ => Err(Refusal::bad_request(
            "GET takes one key_ID and nothing else",
        )),
    }
}

fn pairs(query: &str) -> Result<Vec<(String, String)>, Refusal> {
    let text = |part: &str| {
        percent_decode(part)
            .and_then(|octets| String::from_utf8(octets).ok())
            .ok_or_else(|| Refusal::bad_request("the query is not percent-encoded UTF-8"))
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((text(name)?, text(value)?))
        })
        .collect()
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(octet);
        }
    }
    Some(out)
}

/// A Key container (014, 6.3). The member is `keys` as in all examples of the standard; its Table
/// 11 spells it `Keys`.
pub(crate) fn container(keys: &[QkdKey]) -> Zeroizing<Vec<u8>> {
    #[derive(Serialize)]
    struct Container<'a> {
        keys: Vec<Item<'a>>,
    }
    #[derive(Serialize)]
    struct Item<'a> {
        #[serde(rename = "key_ID")]
        id: KeyId,
        key: &'a str,
    }
    let texts: Vec<Zeroizing<String>> = keys
        .iter()
        .map(|key| Zeroizing::new(STANDARD.encode(key.secret.expose())))
        .collect();
    let container = Container {
        keys: keys
            .iter()
            .zip(&texts)
            .map(|(key, text)| Item {
                id: key.id,
                key: text,
            })
            .collect(),
    };
    // Large enough from the start: growing would leave copies behind.
    let size = texts.iter().map(|text| text.len() + 64).sum::<usize>() + 16;
    let mut out = Zeroizing::new(Vec::with_capacity(size));
    #[expect(
        clippy::expect_used,
        reason = "IDs and text in a Vec: nothing that serde_json can refuse"
    )]
    serde_json::to_writer(&mut *out, &container).expect("plain data is JSON");
    out
}

#[cfg(test)]
mod tests {
    use keys::Secret;

    use super::*;

    const ID: &str = "bc490419-7d60-487f-adc1-4ddcc177c139";

    fn sae(name: &str) -> SaeId {
        name.parse().unwrap()
    }

    fn status(method: &str, path: &str, query: &str, body: &str) -> u16 {
        match read(method, path, Some(query), body.as_bytes()) {
            Ok(_) => 200,
            Err(refusal) => refusal.status,
        }
    }

    #[test]
    fn the_requests_of_the_standard() {
        assert_eq!(
            read("GET", "/api/v1/keys/s/status", None, b""),
            Ok(Call::Status { slave: sae("s") })
        );
        assert_eq!(
            read("POST", "/api/v1/keys/s%2F1/enc_keys", None, b"{}"),
            Ok(Call::EncKeys {
                slave: sae("s/1"),
                request: KeyRequest::default()
            })
        );
        assert_eq!(
            read(
                "GET",
                "/api/v1/keys/s/enc_keys",
                Some("number=3&size=1024"),
                b""
            ),
            Ok(Call::EncKeys {
                slave: sae("s"),
                request: KeyRequest {
                    number: Some(3),
                    size: Some(1024),
                    ..KeyRequest::default()
                }
            })
        );
        let ids = vec![ID.parse().unwrap()];
        for (method, query, body) in [
            (
                "GET",
                format!("key_ID={}", ID.to_uppercase()),
                String::new(),
            ),
            (
                "POST",
                String::new(),
                format!(r#"{{"key_IDs":[{{"key_ID":"{ID}","key_ID_extension":{{}}}}]}}"#),
            ),
        ] {
            assert_eq!(
                read(
                    method,
                    "/api/v1/keys/m/dec_keys",
                    Some(&query),
                    body.as_bytes()
                ),
                Ok(Call::DecKeys {
                    master: sae("m"),
                    ids: ids.clone()
                })
            );
        }
        let Ok(Call::EncKeys { request, .. }) = read(
            "POST",
            "/api/v1/keys/s/enc_keys",
            None,
            br#"{"number":20,"size":512,"additional_slave_SAE_IDs":["t"],
                "extension_mandatory":[{"abc_route_type":"direct"}],"extension_optional":[{"abc_max_age":30000}]}"#,
        ) else {
            panic!("the example of 014, 6.2 is a Key request");
        };
        assert_eq!(request.additional_slaves, [sae("t")]);
        assert_eq!(request.extension_mandatory.len(), 1);
    }

    #[test]
    fn requests_that_are_none() {
        let enc = "/api/v1/keys/s/enc_keys";
        let dec = "/api/v1/keys/m/dec_keys";
        for (method, path, query, body, expected) in [
            ("GET", "/", "", "", 404),
            ("GET", "/api/v1/keys/s", "", "", 404),
            ("GET", "/api/v1/keys/s/t/status", "", "", 404),
            ("GET", "/api/v2/keys/s/status", "", "", 404),
            ("POST", "/api/v1/keys/s/status", "", "", 405),
            ("PUT", enc, "", "{}", 405),
            ("DELETE", dec, "", "", 405),
            ("GET", "/api/v1/keys//status", "", "", 400),
            ("GET", "/api/v1/keys/%zz/status", "", "", 400),
            ("GET", "/api/v1/keys/%ff/status", "", "", 400),
            ("GET", "/api/v1/keys/%/status", "", "", 400),
            ("GET", "/api/v1/keys/s/status", "x=1", "", 400),
            ("GET", enc, "", "{}", 400),
            ("GET", enc, "number=1&number=2", "", 400),
            ("GET", enc, "number=-1", "", 400),
            ("GET", enc, "number=", "", 400),
            ("GET", enc, "extension_mandatory=x", "", 400),
            ("POST", enc, "number=1", "{}", 400),
            ("POST", enc, "", "", 400),
            ("POST", enc, "", "[]", 400),
            ("POST", enc, "", r#"{"number":"1"}"#, 400),
            ("POST", enc, "", r#"{"number":1.5}"#, 400),
            ("POST", enc, "", r#"{"extension_mandatory":{"a":1}}"#, 400),
            ("POST", enc, "", r#"{"extension_optional":["a"]}"#, 400),
            ("GET", dec, "", "", 400),
            ("GET", dec, "key_ID=1", "", 400),
            (
                "GET",
                dec,
                "key_ID=bc490419-7d60-487f-adc1-4ddcc177c139&x=1",
                "",
                400,
            ),
            ("POST", dec, "", "{}", 400),
            (
                "POST",
                dec,
                "",
                r#"{"key_IDs":["bc490419-7d60-487f-adc1-4ddcc177c139"]}"#,
                400,
            ),
            ("POST", dec, "", r#"{"key_IDs":[{"key_ID":"x"}]}"#, 400),
        ] {
            assert_eq!(
                status(method, path, query, body),
                expected,
                "{method} {path}?{query} {body}"
            );
        }
    }

    #[test]
    fn answers() {
        let key = QkdKey {
            id: ID.parse().unwrap(),
            secret: Secret::from_slice(&[0xff, 0xfe, 0xfd, 0xfc]),
        };
        let body = container(&[key]);
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            format!(r#"{{"keys":[{{"key_ID":"{ID}","key":"//79/A=="}}]}}"#)
        );
        let refusal = Refusal::bad_request("no").detail("size", &7);
        assert_eq!(
            refusal.body(),
            Some(json!({"message": "no", "details": [{"size": "7"}]}))
        );
        assert_eq!(Refusal::unauthorized().body(), None);
    }
}
