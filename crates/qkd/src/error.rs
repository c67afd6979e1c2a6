//! What can go wrong between an SAE and its KMS, by what the caller can do about it.

use std::path::PathBuf;

use keys::KeyId;
use thiserror::Error;

/// Why a request for status or keys gave no result.
///
/// No variant carries key octets: response bodies that should have held keys are never quoted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QkdError {
    /// 400 with any message but the one of [`QkdError::KeysNotFound`] (014, 6.5).
    #[error("the KMS refused the request: {message}{}", Details(.details))]
    BadRequest {
        /// `message` of the Error object, shortened and without control characters.
        message: String,
        /// `details` of the Error object, each as `name: value`.
        details: Vec<String>,
    },
    /// 400 "one or more keys specified are not found on KME" (014, 6.4): not replicated yet,
    /// already delivered, or never made. `dec_keys` retries it for a bounded time.
    #[error("the KMS does not have one or more of the keys")]
    KeysNotFound,
    /// 401: the certificate is not accepted, or this SAE was not named as slave of the keys.
    #[error("the KMS does not authorise this SAE for the request")]
    Unauthorized,
    /// 503: the KMS works, but cannot deliver now.
    #[error("the KMS cannot deliver: {message}")]
    Unavailable {
        /// `message` of the Error object, shortened and without control characters.
        message: String,
    },
    /// No complete response in time. What was asked for may have left the KMS all the same.
    #[error("no complete response of the KMS in time")]
    Timeout,
    /// No connection, or it broke before the response was complete.
    #[error("no connection to the KMS: {0}")]
    Connect(String),
    /// The TLS handshake failed: certificate, name, version, or our own certificate refused.
    #[error("TLS with the KMS failed: {0}")]
    Tls(String),
    /// 200 with a body that is not what 014 defines, or not what was asked for.
    #[error("malformed response of the KMS: {0}")]
    Malformed(#[from] Malformed),
    /// A status code 014 does not define: a proxy, or no KMS at all.
    #[error("unexpected HTTP status {status} from the KMS")]
    Unexpected {
        /// The status code.
        status: u16,
    },
    /// The request itself makes no sense (no keys, too many, the same ID twice).
    #[error("not a request the KMS could answer: {0}")]
    Request(&'static str),
}

/// What is wrong with a response body.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Not the JSON object asked for. The position only: the text around it may be a key.
    #[error("not the expected JSON at line {line}, column {column}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1; 0 when the fault is in a whole value.
        column: usize,
    },
    /// Longer than any valid response.
    #[error("body longer than {limit} octets")]
    TooLong {
        /// The limit in octets.
        limit: usize,
    },
    /// The `key_ID` of the n-th key (from 0) is no UUID.
    #[error("key_ID of key {index} is not a UUID")]
    KeyId {
        /// Position in `keys`.
        index: usize,
    },
    /// The `key` member is not padded base64 of the standard alphabet (RFC 4648, 4).
    #[error("key {id} is not base64")]
    Base64 {
        /// Which key.
        id: KeyId,
    },
    /// A key of another size than asked for, or of none.
    #[error("key {id} has {bits} bits instead of {asked}")]
    Size {
        /// Which key.
        id: KeyId,
        /// Its size in bits.
        bits: usize,
        /// The size asked for in bits; 0 when any size but none would do.
        asked: usize,
    },
    /// More or fewer keys than asked for.
    #[error("{got} keys instead of {asked}")]
    Count {
        /// Keys in the container.
        got: usize,
        /// Keys asked for.
        asked: usize,
    },
    /// The same `key_ID` twice.
    #[error("key {0} twice")]
    Duplicate(KeyId),
    /// A `key_ID` that was not asked for.
    #[error("key {0} was not asked for")]
    Foreign(KeyId),
}

/// A failed request in the words of QKD_UNAVAILABLE (see the QKD exchange, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The KMS answers but has no keys to give.
    NoKeys,
    /// The KMS cannot be reached, or what answers is not a KMS.
    Unreachable,
    /// The KMS does not know or does not authorise one of the SAEs.
    UnknownSae,
}

impl QkdError {
    /// The reason a peer may be told.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::BadRequest { .. } | Self::KeysNotFound | Self::Unavailable { .. } => {
                Reason::NoKeys
            }
            Self::Unauthorized => Reason::UnknownSae,
            Self::Timeout
            | Self::Connect(_)
            | Self::Tls(_)
            | Self::Malformed(_)
            | Self::Unexpected { .. }
            | Self::Request(_) => Reason::Unreachable,
        }
    }

    /// One word for metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::BadRequest { .. } => "bad_request",
            Self::KeysNotFound => "keys_not_found",
            Self::Unauthorized => "unauthorized",
            Self::Unavailable { .. } => "unavailable",
            Self::Timeout => "timeout",
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::Malformed(_) => "malformed",
            Self::Unexpected { .. } => "unexpected",
            Self::Request(_) => "request",
        }
    }
}

/// Why a client could not be made from its configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SetupError {
    /// `endpoints` is empty.
    #[error("endpoints: at least one KME URL is needed")]
    NoEndpoint,
    /// An endpoint is not `https://host[:port][/prefix]`.
    #[error("endpoints: {url}: {reason}")]
    Endpoint {
        /// The URL as configured.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A value outside its range.
    #[error("{key}: {reason}")]
    Value {
        /// The configuration key.
        key: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A PEM file cannot be read, or does not hold what it should.
    #[error("{key}: {}: {reason}", .path.display())]
    File {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and private key do not go together, or TLS refuses them.
    #[error("TLS: {0}")]
    Tls(String),
    /// The HTTP client refuses its settings.
    #[error("HTTP client: {0}")]
    Http(String),
}

/// Prints details in brackets, and nothing when there are none.
struct Details<'a>(&'a [String]);

impl std::fmt::Display for Details<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.0.join("; "))
    }
}
