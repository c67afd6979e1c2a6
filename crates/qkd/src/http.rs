//! One HTTPS request to one endpoint: octets out, octets in, errors typed.
//!
//! Keys come over connections of their own ([`lines`]), since whoever asks for them waits; a status, which nobody waits
//! for, by `reqwest`.

mod body;
mod lines;
mod pool;

use std::{error::Error as StdError, sync::Arc, time::Duration};

use keys::SaeId;
use reqwest::{Client, StatusCode, Url, header, redirect};
use zeroize::Zeroizing;

use self::{
    body::read,
    lines::{Lines, Site},
};
use crate::{
    KmsConfig, QkdError, SetupError,
    codec::{self, Operation},
    tls,
};

/// How long a connection is kept that nobody uses. Its buffers hold the last response, keys and all,
/// until it closes; the pools look once in this time, so they are gone after twice of it.
const IDLE: Duration = Duration::from_secs(12);
/// Connections to one endpoint that are kept: as many as a busy daemon has under way, since opening one costs both
/// ends more than ten requests.
const KEPT: usize = 64;

/// What a request carries.
pub(crate) enum Payload {
    /// A GET without query.
    None,
    /// A GET with this query.
    Query(String),
    /// A POST with this JSON body.
    Body(Vec<u8>),
}

/// A failed request, and whether the KME may have acted on it.
pub(crate) struct Failure {
    pub(crate) error: QkdError,
    /// Keys may have left the KME although none arrived here.
    pub(crate) uncertain: bool,
}

/// The connections to all endpoints.
pub(crate) struct Http {
    /// For statuses.
    client: Client,
    /// For keys.
    lines: Lines,
    endpoints: Vec<Endpoint>,
}

struct Endpoint {
    /// As configured, for people.
    url: String,
    /// Scheme, authority and prefix, without slash at the end.
    base: String,
    /// The prefix alone.
    prefix: String,
    site: Arc<Site>,
}

impl Http {
    pub(crate) fn new(config: &KmsConfig) -> Result<Self, SetupError> {
        if config.endpoints.is_empty() {
            return Err(SetupError::NoEndpoint);
        }
        let endpoints = config
            .endpoints
            .iter()
            .map(|url| endpoint(url))
            .collect::<Result<_, _>>()?;
        let tls = tls::client_config(config)?;
        let lines = Lines::new(tls.clone(), config.connect_timeout, config.timeout);
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .http1_only()
            .no_proxy()
            .referer(false)
            // A KME does not redirect; whoever does must not learn what was asked for.
            .redirect(redirect::Policy::none())
            .connect_timeout(config.connect_timeout)
            .timeout(config.timeout)
            .tcp_keepalive(Duration::from_secs(30))
            .tcp_nodelay(true)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(KEPT)
            .build()
            .map_err(|error| SetupError::Http(chain(&error)))?;
        Ok(Self {
            client,
            lines,
            endpoints,
        })
    }

    pub(crate) fn urls(&self) -> impl ExactSizeIterator<Item = &str> {
        self.endpoints.iter().map(|endpoint| endpoint.url.as_str())
    }

    /// Opens a connection for keys, if none is there.
    pub(crate) async fn ready(&self, endpoint: usize) -> Result<(), QkdError> {
        let Some(endpoint) = self.endpoints.get(endpoint) else {
            return Err(QkdError::Request("no such endpoint"));
        };
        let ready = self.lines.ready(&endpoint.site).await;
        ready.map_err(|failure| failure.error)
    }

    /// Sends one request and returns the body of a 200.
    pub(crate) async fn send(
        &self,
        endpoint: usize,
        operation: Operation,
        sae: &SaeId,
        payload: &Payload,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let refused = |why| Failure {
            error: QkdError::Request(why),
            uncertain: false,
        };
        let endpoint = self
            .endpoints
            .get(endpoint)
            .ok_or_else(|| refused("no such endpoint"))?;
        let path = codec::path(operation, sae)
            .ok_or_else(|| refused("this SAE ID cannot be part of a URL"))?;
        let (status, body) = match operation {
            Operation::Status => self.status(endpoint, &path).await?,
            Operation::EncKeys | Operation::DecKeys => {
                let path = format!("{}{path}", endpoint.prefix);
                self.lines.ask(&endpoint.site, &path, payload).await?
            }
        };
        if status == StatusCode::OK {
            return body;
        }
        // A body that broke or has no end does not change what the status code says.
        let body = body.as_deref().map_or(&[][..], Vec::as_slice);
        Err(Failure {
            error: refusal(operation, status, body),
            // A gateway that lost the KME's answer says 502 or 504.
            uncertain: status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE,
        })
    }

    async fn status(&self, endpoint: &Endpoint, path: &str) -> Result<Answer, Failure> {
        let response = self
            .client
            .get(format!("{}{path}", endpoint.base))
            .header(header::ACCEPT, "application/json")
            .send()
            .await
            .map_err(broken)?;
        let status = response.status();
        let body = read(reqwest::Body::from(response), status, broken).await;
        Ok((status, body))
    }
}

/// A status code, and the body as far as it could be read.
type Answer = (StatusCode, Result<Zeroizing<Vec<u8>>, Failure>);

/// The longest body that is read with this status code.
fn limit_of(status: StatusCode) -> usize {
    if status == StatusCode::OK {
        codec::MAX_BODY
    } else {
        MAX_ERROR_BODY
    }
}

/// Error bodies are read to keep the connection usable, but not at any length.
const MAX_ERROR_BODY: usize = 64 << 10;

/// The error of a status code other than 200 (014, Tables 4, 6 and 8).
fn refusal(operation: Operation, status: StatusCode, body: &[u8]) -> QkdError {
    let error = codec::parse_error(body);
    match status {
        StatusCode::BAD_REQUEST => match error {
            Some(error) if operation == Operation::DecKeys && not_found(&error.message) => {
                QkdError::KeysNotFound
            }
            Some(error) => QkdError::BadRequest {
                message: error.message,
                details: error.details,
            },
            None => QkdError::BadRequest {
                message: "no Error object in the response".into(),
                details: Vec::new(),
            },
        },
        StatusCode::UNAUTHORIZED => QkdError::Unauthorized,
        StatusCode::SERVICE_UNAVAILABLE => QkdError::Unavailable {
            message: error.map_or_else(|| "no Error object in the response".into(), |e| e.message),
        },
        other => QkdError::Unexpected {
            status: other.as_u16(),
        },
    }
}

/// Whether this is the fixed message, a final stop and letter case aside.
fn not_found(message: &str) -> bool {
    message
        .trim()
        .trim_end_matches('.')
        .eq_ignore_ascii_case(codec::KEYS_NOT_FOUND)
}

/// Types an error of the HTTP client.
fn broken(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let uncertain = !error.is_connect() && !error.is_builder();
    let typed = if let Some(tls) = tls_error(&error) {
        QkdError::Tls(tls)
    } else if error.is_timeout() {
        QkdError::Timeout
    } else {
        QkdError::Connect(root(&error))
    };
    Failure {
        // Our certificate is refused after our side of a TLS 1.3 handshake: nothing was served.
        uncertain: uncertain && !matches!(typed, QkdError::Tls(_)),
        error: typed,
    }
}

/// The TLS error among the causes of `error`.
fn tls_error(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls.to_string());
        }
        // `io::Error` does not name the error inside it as its source, but as itself.
        if let Some(inner) = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            && let Some(tls) = tls_error(inner)
        {
            return Some(tls);
        }
        cause = error.source();
    }
    None
}

/// The innermost cause in words.
fn root(error: &(dyn StdError + 'static)) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}

/// All causes in words.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn endpoint(url: &str) -> Result<Endpoint, SetupError> {
    let wrong = |reason| SetupError::Endpoint {
        url: url.to_owned(),
        reason,
    };
    let parsed = Url::parse(url).map_err(|_| wrong("not a URL"))?;
    if parsed.scheme() != "https" {
        return Err(wrong("only https"));
    }
    if parsed.host_str().is_none() {
        return Err(wrong("no host"));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(wrong("no query or fragment, please"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(wrong(
            "no user or password: the certificate identifies the SAE",
        ));
    }
    Ok(Endpoint {
        url: url.to_owned(),
        base: parsed.as_str().trim_end_matches('/').to_owned(),
        prefix: parsed.path().trim_end_matches('/').to_owned(),
        site: Arc::new(Site::of(&parsed).ok_or_else(|| wrong("not a host that TLS can verify"))?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_https_and_nothing_else() {
        for (url, base) in [
            ("https://198.51.100.2:8443", "https://198.51.100.2:8443"),
            ("https://KME.example/", "https://kme.example"),
            (
                "https://[2001:db8::1]:8443/site/a/",
                "https://[2001:db8::1]:8443/site/a",
            ),
        ] {
            assert_eq!(endpoint(url).unwrap().base, base);
        }
        for url in [
            "",
            "kme.example",
            "http://kme.example",
            "https://",
            "https://kme.example/?a=b",
            "https://kme.example/#a",
            "https://sae@kme.example/",
        ] {
            assert!(endpoint(url).is_err(), "{url}");
        }
    }

    #[test]
    fn status_codes_are_typed_by_the_code_first() {
        let error = |status, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            refusal(Operation::DecKeys, status, body.as_bytes())
        };
        let not_found = format!(r#"{{"message":"{}"}}"#, codec::KEYS_NOT_FOUND);
        assert!(matches!(error(400, &not_found), QkdError::KeysNotFound));
        assert!(matches!(
            refusal(
                Operation::EncKeys,
                StatusCode::BAD_REQUEST,
                not_found.as_bytes()
            ),
            QkdError::BadRequest { .. }
        ));
        assert!(matches!(
            error(400, r#"{"message":"size shall be a multiple of 8","details":[{"size":"7"}]}"#),
            QkdError::BadRequest { message, details }
                if message == "size shall be a multiple of 8" && details == ["size: 7"]
        ));
        assert!(matches!(error(400, "<html>"), QkdError::BadRequest { .. }));
        assert!(matches!(error(401, ""), QkdError::Unauthorized));
        assert!(matches!(
            error(503, r#"{"message":"link down"}"#),
            QkdError::Unavailable { message } if message == "link down"
        ));
        assert!(matches!(error(503, "<html>"), QkdError::Unavailable { .. }));
        for status in [201, 204, 301, 307, 403, 404, 405, 413, 429, 500, 502, 504] {
            assert!(matches!(
                error(status, "<html>bad gateway</html>"),
                QkdError::Unexpected { status: s } if s == status
            ));
        }
    }
}
