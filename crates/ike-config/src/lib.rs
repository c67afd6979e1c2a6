//! IKE in the configuration files of both daemons: which key modes, in what order, with what proposals
//! and certificates. Complaints name file, line and key.

mod fragments;
mod lifetimes;
mod peers;
mod pem;
pub mod preflight;
mod proposals;

use ike::{Mode, Profile, QkdPolicy};
use serde::Deserialize;

pub use self::{
    fragments::{FRAGMENT_SIZE, fragmentation},
    lifetimes::{Lifetime, Lifetimes},
    peers::{FREE5GC_GRE, PeerWord},
    pem::{authorities, credential, describe_all, read, trust},
    proposals::{Proposals, Suites},
};
use daemon::config::Complaint;

/// A key mode in the words of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeWord {
    /// QKD keys directly.
    Qkd,
    /// A key exchange, and a QKD key as PPK (RFC 9867).
    Hybrid,
    /// Diffie-Hellman and K_N3IWF (TS 24.502).
    Psk,
    /// Diffie-Hellman and certificates of both ends.
    Cert,
}

/// What an attach needs, in the words of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyWord {
    /// No attach without QKD keys.
    RequireQkd,
    /// With QKD keys where they can be had, else in the open without.
    PreferQkd,
    /// Without QKD keys.
    NoQkd,
}

impl From<PolicyWord> for QkdPolicy {
    fn from(word: PolicyWord) -> Self {
        match word {
            PolicyWord::RequireQkd => Self::Require,
            PolicyWord::PreferQkd => Self::Prefer,
            PolicyWord::NoQkd => Self::Forbid,
        }
    }
}

/// The key modes of a file, and the policy that orders them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// As listed, best first.
    pub modes: Vec<Mode>,
    /// What the policy is, or follows from the list.
    pub policy: QkdPolicy,
}

impl Choice {
    /// From the words of the file; `prefix` is what its keys `modes` and `policy` stand under, with
    /// its dot. `profiles` are the wire profiles of mode `qkd`, best first.
    ///
    /// Without `policy` a list of QKD modes alone means `require-qkd`, one without any `no-qkd`. A
    /// list of both kinds leaves open whether an attach without QKD keys is wanted: it needs the word.
    ///
    /// # Errors
    /// A [`Complaint`] about `modes` or `policy`.
    pub fn new(
        prefix: &str,
        words: &[ModeWord],
        policy: Option<PolicyWord>,
        profiles: &[Profile],
    ) -> Result<Self, Complaint> {
        let complain = |key: &str, what: &str| Err(Complaint::new(format!("{prefix}{key}"), what));
        let mut modes = Vec::new();
        for (at, word) in words.iter().enumerate() {
            if words.get(..at).is_some_and(|before| before.contains(word)) {
                return complain(&format!("modes[{at}]"), "twice in the list");
            }
            match word {
                ModeWord::Qkd => modes.extend(profiles.iter().copied().map(Mode::Qkd)),
                ModeWord::Hybrid => modes.push(Mode::Hybrid),
                ModeWord::Psk => modes.push(Mode::Psk),
                ModeWord::Cert => modes.push(Mode::Cert),
            }
        }
        let with_qkd = modes.iter().filter(|mode| mode.has_qkd_key()).count();
        let policy = match policy {
            Some(word) => word.into(),
            None if with_qkd == modes.len() => QkdPolicy::Require,
            None if with_qkd == 0 => QkdPolicy::Forbid,
            None => {
                return complain(
                    "modes",
                    "modes with and without QKD keys: `policy` has to say `require-qkd`, \
                     `prefer-qkd` or `no-qkd`",
                );
            }
        };
        let choice = Self { modes, policy };
        if choice.order().is_empty() {
            let what = match choice.modes.is_empty() {
                true => "at least one mode is needed".to_owned(),
                false => format!("{policy} leaves none of `modes`"),
            };
            let key = if choice.modes.is_empty() {
                "modes"
            } else {
                "policy"
            };
            return complain(key, &what);
        }
        Ok(choice)
    }

    /// The modes that count, in the order the policy wants.
    pub fn order(&self) -> Vec<Mode> {
        self.policy.order(&self.modes)
    }

    /// Whether a mode that counts takes keys from the KMS.
    pub fn needs_kms(&self) -> bool {
        self.order().iter().any(|mode| mode.has_qkd_key())
    }

    /// Whether a mode that counts has a key exchange.
    pub fn exchanges_keys(&self) -> bool {
        self.order().iter().any(|mode| !mode.is_qkd())
    }

    /// Whether this mode counts.
    pub fn has(&self, mode: Mode) -> bool {
        self.order().contains(&mode)
    }

    /// What to offer or accept when nothing is configured: for mode `qkd` AES-256-GCM, for the others
    /// [`ike::crypto::IkeSuite::defaults`].
    pub fn default_proposals(&self) -> Vec<ike::crypto::IkeSuite> {
        let direct = self.order().iter().any(|mode| mode.is_qkd());
        let qkd = direct.then_some("aes256gcm16-prfsha256");
        let exchange = self.exchanges_keys().then_some("default");
        qkd.into_iter()
            .chain(exchange)
            .filter_map(|words| ike::crypto::IkeSuite::from_keywords(words).ok())
            .flatten()
            .collect()
    }

    /// Checks that every mode that counts has a proposal it can use; `key` is where they stand.
    ///
    /// # Errors
    /// A [`Complaint`] about `key`.
    pub fn check_proposals(
        &self,
        key: &str,
        suites: &[ike::crypto::IkeSuite],
    ) -> Result<(), Complaint> {
        for mode in self.order() {
            let what = match mode {
                // That profile has a suite of its own.
                Mode::Qkd(Profile::Paper) => continue,
                Mode::Qkd(Profile::Native) if !suites.iter().any(|suite| suite.ke.is_none()) => {
                    "mode qkd needs a proposal without a key exchange method: aes256gcm16-prfsha256"
                }
                Mode::Hybrid | Mode::Psk | Mode::Cert | Mode::Plain
                    if !suites.iter().any(|suite| suite.ke.is_some()) =>
                {
                    "modes hybrid, psk and cert need a proposal with a key exchange method: \
                     aes256gcm16-prfsha384-ecp384"
                }
                _ => continue,
            };
            return Err(Complaint::new(key, what));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: &[Profile] = &[Profile::Native];

    fn choose(words: &[ModeWord], policy: Option<PolicyWord>) -> Result<Choice, String> {
        Choice::new("a.", words, policy, NATIVE).map_err(|complaint| complaint.to_string())
    }

    #[test]
    fn the_policy_follows_where_there_is_no_doubt() {
        use ModeWord::{Cert, Hybrid, Psk, Qkd};
        assert_eq!(choose(&[Qkd], None).unwrap().policy, QkdPolicy::Require);
        assert_eq!(choose(&[Psk], None).unwrap().policy, QkdPolicy::Forbid);
        let hybrid = choose(&[Hybrid], None).unwrap();
        assert_eq!(hybrid.policy, QkdPolicy::Require);
        assert!(hybrid.needs_kms() && hybrid.exchanges_keys());
        let both = choose(&[Psk, Cert], None).unwrap();
        assert_eq!(both.order(), [Mode::Psk, Mode::Cert]);
        let error = choose(&[Psk, Qkd], None).unwrap_err();
        assert!(error.starts_with("a.modes: "), "{error}");
    }

    #[test]
    fn the_policy_orders_and_forbids() {
        use ModeWord::{Hybrid, Psk, Qkd};
        let qkd = Mode::Qkd(Profile::Native);
        let order = |policy| choose(&[Psk, Qkd], Some(policy)).unwrap().order();
        assert_eq!(order(PolicyWord::RequireQkd), [qkd]);
        assert_eq!(order(PolicyWord::PreferQkd), [qkd, Mode::Psk]);
        assert_eq!(order(PolicyWord::NoQkd), [Mode::Psk]);
        let all = |policy| choose(&[Psk, Hybrid, Qkd], Some(policy)).unwrap().order();
        assert_eq!(all(PolicyWord::RequireQkd), [Mode::Hybrid, qkd]);
        assert_eq!(all(PolicyWord::PreferQkd), [Mode::Hybrid, qkd, Mode::Psk]);
        assert_eq!(all(PolicyWord::NoQkd), [Mode::Psk]);
        for (words, policy) in [
            (&[Psk][..], PolicyWord::RequireQkd),
            (&[Qkd], PolicyWord::NoQkd),
            (&[Hybrid], PolicyWord::NoQkd),
        ] {
            let error = choose(words, Some(policy)).unwrap_err();
            assert!(error.starts_with("a.policy: "), "{error}");
            assert!(error.ends_with("leaves none of `modes`"), "{error}");
        }
        assert!(choose(&[], None).unwrap_err().starts_with("a.modes: "));
        let twice = choose(&[Psk, Psk], None).unwrap_err();
        assert!(twice.starts_with("a.modes[1]: twice"), "{twice}");
    }

    #[test]
    fn every_mode_needs_a_proposal() {
        use ModeWord::{Psk, Qkd};
        let choice = choose(&[Qkd, Psk], Some(PolicyWord::PreferQkd)).unwrap();
        let check = |words: &str| {
            let suites = ike::crypto::IkeSuite::from_keywords(words).unwrap();
            choice
                .check_proposals("p", &suites)
                .map_err(|error| error.to_string())
        };
        assert!(check("aes256gcm16-prfsha256,aes256gcm16-prfsha384-ecp384").is_ok());
        assert!(
            check("aes256gcm16-prfsha384-ecp384")
                .unwrap_err()
                .contains("mode qkd")
        );
        assert!(
            check("aes256gcm16-prfsha256")
                .unwrap_err()
                .contains("hybrid, psk and cert")
        );
        let hybrid = choose(&[ModeWord::Hybrid], None).unwrap();
        let exchanges = hybrid.default_proposals();
        assert!(exchanges.iter().all(|suite| suite.ke.is_some()));
        assert!(hybrid.check_proposals("p", &exchanges).is_ok());
        let defaults = choice.default_proposals();
        assert!(choice.check_proposals("p", &defaults).is_ok());
        assert!(
            defaults
                .iter()
                .all(|suite| !suite.prf.to_string().ends_with("SHA1"))
        );
    }
}
