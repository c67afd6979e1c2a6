//! Faults on demand: everything a KMS, its network and its proxies do to a client.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A fault, the requests it strikes, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// To which requests.
    #[serde(default)]
    pub on: On,
    /// How many requests it strikes before it is over; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// For `latency` and `drip`: the delay, or the time between two octets.
    #[serde(default = "default_delay", with = "qkd::duration")]
    pub delay: Duration,
    /// For `status`: the HTTP status code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The answer is late by `delay`; keys have left the KME by then.
    Latency,
    /// 503 with an Error.
    Unavailable,
    /// The buffer looks empty: status says 0 keys, `enc_keys` gets 503.
    Empty,
    /// 401.
    Unauthorized,
    /// An HTML page with the status code `status`, 502 unless given.
    Status,
    /// Keys delivered here never reach the other KME.
    Loss,
    /// New connections get a certificate of an unknown CA.
    WrongCertificate,
    /// New connections are closed before TLS.
    Refuse,
    /// 200 with half a JSON document.
    Malformed,
    /// 200 with two megabytes of white space before the JSON document.
    Oversized,
    /// The body comes one octet each `delay`.
    Drip,
    /// All keys of a container carry the same ID.
    DuplicateIds,
    /// One key of a container has an ID that nobody asked for.
    ForeignIds,
    /// One key of a container is missing.
    MissingKey,
    /// Keys are 8 bits shorter than asked for.
    WrongSize,
    /// The connection closes instead of an answer; keys have left the KME.
    LostResponse,
    /// The QKD link is down: `enc_keys` gets 503, nothing is replicated.
    LinkDown,
}

/// Which requests a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// All.
    #[default]
    All,
    /// Get status.
    Status,
    /// Get key.
    EncKeys,
    /// Get key with key IDs.
    DecKeys,
}

impl Fault {
    /// A fault of this kind for all requests until cleared.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            on: On::All,
            count: None,
            delay: default_delay(),
            status: None,
        }
    }

    /// The same for the next `count` requests only.
    #[must_use]
    pub fn times(self, count: u32) -> Self {
        Self {
            count: Some(count),
            ..self
        }
    }

    /// The same for one operation only.
    #[must_use]
    pub fn on(self, on: On) -> Self {
        Self { on, ..self }
    }

    /// The same with this delay.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// The faults in force at one KME.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

/// The faults that strike one request.
#[derive(Debug, Default)]
pub(crate) struct Struck(Vec<Fault>);

impl Faults {
    pub(crate) fn new(faults: Vec<Fault>) -> Self {
        Self(faults)
    }

    pub(crate) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn list(&self) -> &[Fault] {
        &self.0
    }

    /// Whether connections, not requests, are struck by `kind`; counts as one strike.
    pub(crate) fn strike_connection(&mut self, kind: Kind) -> bool {
        !self.take(|fault| fault.kind == kind).0.is_empty()
    }

    /// The faults that strike a request for `operation`; counts as one strike of each.
    pub(crate) fn strike(&mut self, operation: On) -> Struck {
        self.take(|fault| {
            !matches!(fault.kind, Kind::WrongCertificate | Kind::Refuse)
                && (fault.on == On::All || fault.on == operation)
        })
    }

    fn take(&mut self, strikes: impl Fn(&Fault) -> bool) -> Struck {
        let mut struck = Vec::new();
        self.0.retain_mut(|fault| {
            if !strikes(fault) {
                return true;
            }
            match &mut fault.count {
                Some(0) => return false,
                Some(count) => *count -= 1,
                None => {}
            }
            struck.push(fault.clone());
            fault.count != Some(0)
        });
        Struck(struck)
    }
}

impl Struck {
    pub(crate) fn get(&self, kind: Kind) -> Option<&Fault> {
        self.0.iter().find(|fault| fault.kind == kind)
    }

    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.get(kind).is_some()
    }
}

const fn default_delay() -> Duration {
    Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_strike_what_they_name_and_as_often() {
        let mut faults = Faults::new(vec![
            Fault::new(Kind::Unavailable).on(On::EncKeys).times(2),
            Fault::new(Kind::Latency),
            Fault::new(Kind::Refuse).times(1),
        ]);
        assert!(!faults.strike(On::DecKeys).has(Kind::Unavailable));
        assert!(faults.strike(On::EncKeys).has(Kind::Unavailable));
        assert!(faults.strike(On::EncKeys).has(Kind::Unavailable));
        let third = faults.strike(On::EncKeys);
        assert!(!third.has(Kind::Unavailable) && third.has(Kind::Latency));
        assert!(!third.has(Kind::Refuse), "requests are not connections");
        assert!(faults.strike_connection(Kind::Refuse));
        assert!(!faults.strike_connection(Kind::Refuse));
        assert_eq!(faults.list().len(), 1);
        faults.clear();
        assert!(faults.list().is_empty());
    }
}
