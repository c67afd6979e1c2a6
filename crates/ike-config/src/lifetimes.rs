//! When SAs are rekeyed and ended by age; by what they have carried: `dataplane.limits`.

use std::time::Duration;

use serde::Deserialize;

/// The ages of all SAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Lifetimes {
    /// Child SAs; absent: not by age.
    pub child: Option<Lifetime>,
    /// IKE SAs; absent: not by age.
    pub ike: Option<Lifetime>,
    /// Wait before a rekey that failed is tried again, until the hard age.
    #[serde(with = "qkd::duration")]
    pub retry: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            child: None,
            ike: None,
            retry: ike::Lifetimes::default().retry,
        }
    }
}

impl From<Lifetimes> for ike::Lifetimes {
    fn from(lifetimes: Lifetimes) -> Self {
        Self {
            child: lifetimes.child.map(Into::into),
            ike: lifetimes.ike.map(Into::into),
            retry: lifetimes.retry,
            from_peer: true,
        }
    }
}

/// The ages of one SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lifetime {
    /// Rekeyed at this age.
    #[serde(with = "qkd::duration")]
    pub soft: Duration,
    /// Or up to this much earlier, by chance.
    #[serde(with = "qkd::duration", default)]
    pub jitter: Duration,
    /// Deleted at this age.
    #[serde(with = "qkd::duration")]
    pub hard: Duration,
}

impl From<Lifetime> for ike::Lifetime {
    fn from(ages: Lifetime) -> Self {
        Self {
            soft: ages.soft,
            jitter: ages.jitter,
            hard: ages.hard,
        }
    }
}
