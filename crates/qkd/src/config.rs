//! The `kms` section of a daemon's configuration.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};

/// How to reach the KMS of this site, and how hard to try.
///
/// ```yaml
/// kms:
///   endpoints: [https://198.51.100.2:8443]  # in order of preference
///   ca: /etc/qkd/ca.pem                     # the only trusted roots
///   certificate: /etc/qkd/sae-n3iwf.pem     # this SAE, leaf first
///   privateKey: /etc/qkd/sae-n3iwf.key
///   kmeId: kme-a                            # optional: CN or SAN the server certificate must carry
///   method: post                            # or get
///   connectTimeout: 1s
///   timeout: 2s                             # one request, connection included
///   retry:
///     attempts: 4
///     initial: 100ms
///     maximum: 1s
///     deadline: 5s
///     replication: 3s
///     cooldown: 10s
///     longestCooldown: 2m
/// ```
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KmsConfig {
    /// `https://host[:port][/prefix]` of each KME (or address of one KME), preferred ones first.
    pub endpoints: Vec<String>,
    /// PEM file with the root certificates server certificates must chain to.
    pub ca: PathBuf,
    /// PEM file with this SAE's certificate and its intermediates, leaf first.
    pub certificate: PathBuf,
    /// PEM file with the private key of `certificate` (PKCS#8, PKCS#1 or SEC1).
    pub private_key: PathBuf,
    /// KME IDs (one, or a list) of which the server certificate must carry one, as CN or as DNS or
    /// URI SAN. When given, this replaces the check of the URL's host name: KME certificates
    /// often name the KME and not its address.
    #[serde(default, deserialize_with = "one_or_many")]
    pub kme_id: Vec<String>,
    /// How keys are asked for.
    #[serde(default)]
    pub method: Method,
    /// Most keys to ask for in one request; otherwise `max_key_per_request` of the KME's status.
    #[serde(default)]
    pub max_keys_per_request: Option<u32>,
    /// Time to establish TCP and TLS.
    #[serde(default = "default_connect_timeout", with = "crate::duration")]
    pub connect_timeout: Duration,
    /// Time for one request from connection to last octet.
    #[serde(default = "default_timeout", with = "crate::duration")]
    pub timeout: Duration,
    /// What happens when a request fails.
    #[serde(default)]
    pub retry: RetryConfig,
}

/// The HTTP method of `enc_keys` and `dec_keys` (014, 6.2 and 6.4 allow both in simple cases).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// One POST for all keys.
    #[default]
    Post,
    /// GET with `number` and `size`, or one GET per `key_ID`.
    Get,
}

/// Bounds of the retry and failover policy ([`crate::policy`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Rounds over the endpoints, the first included.
    pub attempts: u32,
    /// Pause after the first failed round; doubles each round.
    #[serde(with = "crate::duration")]
    pub initial: Duration,
    /// Longest pause.
    #[serde(with = "crate::duration")]
    pub maximum: Duration,
    /// No further attempt starts later than this after the first.
    #[serde(with = "crate::duration")]
    pub deadline: Duration,
    /// How long `dec_keys` waits for keys that the KME does not have yet (replication delay
    /// between KMEs, on which the standard is silent); these rounds do not count as `attempts`.
    #[serde(with = "crate::duration")]
    pub replication: Duration,
    /// Pause before `dec_keys` asks again for such keys; doubles each time.
    #[serde(with = "crate::duration")]
    pub replication_pause: Duration,
    /// How long a failed endpoint comes after the others before it is probed; doubles with each probe that fails.
    #[serde(with = "crate::duration")]
    pub cooldown: Duration,
    /// Longest wait before a probe.
    #[serde(with = "crate::duration")]
    pub longest_cooldown: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts: 4,
            initial: Duration::from_millis(100),
            maximum: Duration::from_secs(1),
            deadline: Duration::from_secs(5),
            replication: Duration::from_secs(3),
            // The own KME is near, and two KMEs of one link are rarely seconds apart.
            replication_pause: Duration::from_millis(2),
            cooldown: Duration::from_secs(10),
            longest_cooldown: Duration::from_secs(120),
        }
    }
}

const fn default_connect_timeout() -> Duration {
    Duration::from_secs(1)
}

const fn default_timeout() -> Duration {
    Duration::from_secs(2)
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct OneOrMany;

    impl<'de> de::Visitor<'de> for OneOrMany {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a KME ID or a list of KME IDs")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut ids = Vec::new();
            while let Some(id) = list.next_element()? {
                ids.push(id);
            }
            Ok(ids)
        }
    }

    deserializer.deserialize_any(OneOrMany)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: &str = "endpoints: [https://198.51.100.2:8443]
ca: ca.pem
certificate: sae.pem
privateKey: sae.key
";

    fn read(more: &str) -> Result<KmsConfig, String> {
        serde_saphyr::from_str(&format!("{REQUIRED}{more}")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let config = read("").unwrap();
        assert_eq!(config.method, Method::Post);
        assert_eq!(config.timeout, Duration::from_secs(2));
        assert_eq!(config.retry, RetryConfig::default());
        assert!(config.kme_id.is_empty());
    }

    #[test]
    fn everything_can_be_set() {
        let config = read(
            "kmeId: kme-a
method: get
maxKeysPerRequest: 4
connectTimeout: 300ms
timeout: 1s
retry: { attempts: 2, initial: 10ms, maximum: 1s, deadline: 3s, replication: 4s, replicationPause: 5ms, cooldown: 1m }
",
        )
        .unwrap();
        assert_eq!(config.kme_id, ["kme-a"]);
        assert_eq!(config.method, Method::Get);
        assert_eq!(config.max_keys_per_request, Some(4));
        assert_eq!(config.connect_timeout, Duration::from_millis(300));
        assert_eq!(config.retry.attempts, 2);
        assert_eq!(config.retry.replication, Duration::from_secs(4));
        assert_eq!(config.retry.replication_pause, Duration::from_millis(5));
        assert_eq!(config.retry.cooldown, Duration::from_secs(60));
        let several = read("kmeId: [kme-a, kme-b]").unwrap();
        assert_eq!(several.kme_id, ["kme-a", "kme-b"]);
    }

    #[test]
    fn mistakes_are_errors() {
        for (text, complaint) in [
            ("kmeID: kme-a", "kmeID"),
            ("method: put", "put"),
            ("timeout: 2", "unit"),
            ("retry: { tries: 4 }", "tries"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(complaint), "{text}: {error}");
        }
        assert!(serde_saphyr::from_str::<KmsConfig>("endpoints: []").is_err());
    }
}
