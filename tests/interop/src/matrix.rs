//! What is run: rows of suite, key exchange and authentication, in both roles.

use serde::{Deserialize, Serialize};

/// Who begins the IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Begins {
    /// `ikepeer`.
    Us,
    /// The other maker's daemon.
    Them,
}

impl Begins {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Us, Self::Them];
}

/// How both ends prove themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Auth {
    /// Method 2.
    Psk,
    /// Method 14, ECDSA with P-256.
    EcdsaP256,
    /// Method 14, ECDSA with P-384.
    EcdsaP384,
    /// Method 14, Ed25519 (RFC 8420).
    Ed25519,
    /// Method 14, RSASSA-PSS on both sides.
    RsaPss,
    /// Method 14; the other side signs with RSASSA-PKCS1-v1_5.
    RsaPkcs1,
    /// Method 1, RSA with SHA-1, as the other side knows nothing newer.
    RsaMethod1,
    /// The initiator by EAP-MSCHAPv2, the responder by ECDSA with P-256: as the daemons do it with EAP-5G.
    Eap,
}

impl Auth {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Psk,
        Self::EcdsaP256,
        Self::EcdsaP384,
        Self::Ed25519,
        Self::RsaPss,
        Self::RsaPkcs1,
        Self::RsaMethod1,
        Self::Eap,
    ];

    /// In the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Psk => "shared key",
            Self::EcdsaP256 => "ECDSA P-256",
            Self::EcdsaP384 => "ECDSA P-384",
            Self::Ed25519 => "Ed25519",
            Self::RsaPss => "RSA-PSS",
            Self::RsaPkcs1 => "RSA PKCS #1",
            Self::RsaMethod1 => "RSA, method 1",
            Self::Eap => "EAP",
        }
    }

    /// The key pair it needs.
    #[must_use]
    pub const fn key(self) -> Option<&'static str> {
        match self {
            Self::Psk => None,
            Self::EcdsaP256 | Self::Eap => Some("p256"),
            Self::EcdsaP384 => Some("p384"),
            Self::Ed25519 => Some("ed25519"),
            Self::RsaPss | Self::RsaPkcs1 | Self::RsaMethod1 => Some("rsa"),
        }
    }
}

/// Suites without key exchange: for IKE and for ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suite {
    /// In swanctl's words, for the IKE SA.
    pub ike: &'static str,
    /// In swanctl's words, for the Child SA.
    pub esp: &'static str,
}

const fn suite(ike: &'static str, esp: &'static str) -> Suite {
    Suite { ike, esp }
}

/// Every encryption, integrity and PRF algorithm the engine has.
pub const SUITES: [Suite; 9] = [
    suite("aes256gcm16-prfsha384", "aes256gcm16"),
    suite("aes128gcm16-prfsha256", "aes128gcm16"),
    suite("aes192gcm16-prfsha512", "aes192gcm16-esn"),
    suite("chacha20poly1305-prfsha256", "chacha20poly1305"),
    suite("aes256-sha512", "aes256-sha512"),
    suite("aes192-sha384", "aes192-sha384-esn"),
    suite("aes128-sha256", "aes128-sha256"),
    suite("aes256-sha1-prfsha1", "aes256-sha1"),
    suite("aes256-sha256-prfsha512", "aes128gcm16-esn"),
];

/// Every key exchange method both sides have.
pub const METHODS: [&str; 7] = [
    "ecp384", "ecp256", "ecp521", "x25519", "modp2048", "modp3072", "modp4096",
];

/// What the older version of the other side does not have.
pub const HYBRIDS: [&str; 2] = ["ecp384-ke1_mlkem768", "x25519-ke1_mlkem1024"];

/// What is special about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Situation {
    /// Nothing.
    Plain,
    /// The responder asks for a cookie.
    Cookie,
    /// A NAT in front of `ikepeer`, which rewrites its ports.
    Nat,
    /// Both sides have to fragment IKE_AUTH.
    Fragments,
    /// RFC 8784.
    Ppk,
    /// RFC 4555: the initiator changes its address, the responder follows.
    Mobike,
    /// RFC 9370: ML-KEM beside another key exchange, with a newer version of the other maker's software.
    MlKem,
}

impl Situation {
    /// In the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Cookie => "cookie",
            Self::Nat => "NAT",
            Self::Fragments => "fragments",
            Self::Ppk => "PPK (RFC 8784)",
            Self::Mobike => "MOBIKE",
            Self::MlKem => "ML-KEM (RFC 9370)",
        }
    }
}

/// One IKE SA, from IKE_SA_INIT to its Delete.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Suite of the IKE SA with its key exchange, in swanctl's words.
    pub ike: String,
    /// Suite of the Child SA.
    pub esp: String,
    /// Authentication of both ends.
    pub auth: Auth,
    /// Who begins.
    pub begins: Begins,
    /// What is special.
    pub situation: Situation,
}

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Extent {
    /// Each algorithm, method and authentication once in each role.
    Quick,
    /// Each suite with each key exchange method, and each authentication with each method.
    Usual,
    /// Every combination.
    Full,
    /// A handful.
    Few,
}

/// The rows of a run. Where the kernel does not carry ESP, strongSwan's user space does, which has no extended sequence
/// numbers: rows go without them there.
#[must_use]
pub fn rows(extent: Extent, kernel_esp: bool) -> Vec<Row> {
    let mut choices: Vec<(Suite, &str, Auth, Situation)> = Vec::new();
    let first = SUITES[0];
    match extent {
        Extent::Few => {
            choices.push((first, "ecp384", Auth::Psk, Situation::Plain));
            choices.push((SUITES[6], "modp2048", Auth::EcdsaP256, Situation::Plain));
            choices.push((first, "x25519", Auth::Eap, Situation::Plain));
        }
        Extent::Quick => {
            let others = METHODS
                .into_iter()
                .cycle()
                .zip(Auth::ALL.into_iter().cycle());
            for (suite, (method, auth)) in SUITES.into_iter().zip(others) {
                choices.push((suite, method, auth, Situation::Plain));
            }
        }
        Extent::Usual => {
            for suite in SUITES {
                for method in METHODS {
                    choices.push((suite, method, Auth::Psk, Situation::Plain));
                }
            }
            for auth in Auth::ALL.into_iter().filter(|auth| *auth != Auth::Psk) {
                for method in METHODS {
                    choices.push((first, method, auth, Situation::Plain));
                }
            }
        }
        Extent::Full => {
            for suite in SUITES {
                for method in METHODS {
                    for auth in Auth::ALL {
                        choices.push((suite, method, auth, Situation::Plain));
                    }
                }
            }
        }
    }
    use Situation::{Cookie, Fragments, MlKem, Mobike, Nat, Ppk};
    choices.extend([
        (first, "ecp384", Auth::Psk, Cookie),
        (first, "ecp384", Auth::Psk, Nat),
        (first, "ecp384", Auth::RsaPss, Fragments),
        (first, "ecp384", Auth::Psk, Ppk),
        (first, "x25519", Auth::EcdsaP256, Ppk),
        (first, "ecp384", Auth::Psk, Mobike),
        (first, HYBRIDS[0], Auth::Psk, MlKem),
    ]);
    if extent != Extent::Few {
        choices.push((first, HYBRIDS[1], Auth::EcdsaP256, MlKem));
        // A Child SA rekeyed with ML-KEM, too.
        let hybrid_child = suite("aes256gcm16-prfsha384", "aes256gcm16-ecp384-ke1_mlkem768");
        choices.push((hybrid_child, HYBRIDS[0], Auth::EcdsaP384, MlKem));
    }
    if matches!(extent, Extent::Usual | Extent::Full) {
        for suite in SUITES.into_iter().filter(|suite| *suite != first) {
            for method in HYBRIDS {
                choices.push((suite, method, Auth::Psk, MlKem));
            }
        }
    }
    choices
        .into_iter()
        .flat_map(|(suite, method, auth, situation)| {
            Begins::ALL.map(|begins| Row {
                ike: format!("{}-{method}", suite.ike),
                esp: match kernel_esp {
                    true => suite.esp,
                    false => suite.esp.trim_end_matches("-esn"),
                }
                .to_owned(),
                auth,
                begins,
                situation,
            })
        })
        // Nobody can begin towards an end behind a NAT.
        .filter(|row| (row.situation, row.begins) != (Nat, Begins::Them))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_quick_run_leaves_no_algorithm_method_or_authentication_out() {
        let rows = rows(Extent::Quick, true);
        for suite in SUITES {
            assert!(rows.iter().any(|row| row.ike.starts_with(suite.ike)));
        }
        for method in METHODS {
            assert!(rows.iter().any(|row| row.ike.ends_with(method)), "{method}");
        }
        for auth in Auth::ALL {
            assert!(rows.iter().any(|row| row.auth == auth), "{auth:?}");
        }
    }

    #[test]
    fn every_extent_has_every_situation_in_both_roles() {
        use Situation::{Cookie, Fragments, MlKem, Mobike, Ppk};
        for extent in [Extent::Few, Extent::Quick, Extent::Usual, Extent::Full] {
            let rows = rows(extent, true);
            for situation in [Cookie, Fragments, Ppk, Mobike, MlKem] {
                for begins in Begins::ALL {
                    let is_it = |row: &Row| (row.situation, row.begins) == (situation, begins);
                    assert!(
                        rows.iter().any(is_it),
                        "{extent:?} {situation:?} {begins:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn no_row_is_there_twice() {
        for (extent, number) in [(Extent::Usual, 112), (Extent::Full, 504)] {
            let rows = rows(extent, true);
            let plain = rows.iter().filter(|row| row.situation == Situation::Plain);
            assert_eq!(plain.count(), 2 * number, "{extent:?}");
            assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len());
        }
    }
}
