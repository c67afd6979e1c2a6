//! Peers whose faults are borne with, and the suites they need.

use ike::{
    PeerProfile,
    crypto::{ChildSuite, IkeSuite},
};
use serde::Deserialize;

/// Whose faults are borne with, in the words of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerWord {
    /// Nobody's.
    #[default]
    Standard,
    /// Those of free5GC's N3IWF and N3IWUE.
    Free5gc,
}

/// GRE protocol type without which N3IWUE's devices take nothing.
pub const FREE5GC_GRE: u16 = 0x0800;

/// What free5GC's N3IWF knows, best first; N3IWUE knows the last alone.
const IKE: [&str; 2] = [
    "aes256-sha256-prfsha256-modp2048",
    "aes256-sha1-prfsha1-modp2048",
];
const ESP: [&str; 2] = ["aes256-sha256", "aes256-sha1"];

impl PeerWord {
    /// Whether it is free5GC's.
    pub const fn is_free5gc(self) -> bool {
        matches!(self, Self::Free5gc)
    }

    /// Adds what these peers need to what is configured.
    pub fn extend(self, ike: &mut Vec<IkeSuite>, esp: &mut Vec<ChildSuite>) {
        if self.is_free5gc() {
            add(ike, &Self::ike_suites());
            let needed = ESP.iter().filter_map(|text| text.parse().ok());
            add(esp, &needed.collect::<Vec<_>>());
        }
    }

    /// Suites of the IKE SA that free5GC's N3IWF knows.
    pub fn ike_suites() -> Vec<IkeSuite> {
        IKE.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

fn add<S: Copy + PartialEq>(list: &mut Vec<S>, needed: &[S]) {
    for suite in needed {
        if !list.contains(suite) {
            list.push(*suite);
        }
    }
}

impl From<PeerWord> for PeerProfile {
    fn from(word: PeerWord) -> Self {
        match word {
            PeerWord::Standard => Self::Standard,
            PeerWord::Free5gc => Self::Free5gc,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_is_one() {
        let (mut ike, mut esp) = (Vec::new(), Vec::new());
        PeerWord::Free5gc.extend(&mut ike, &mut esp);
        let ike: Vec<String> = ike.iter().map(ToString::to_string).collect();
        assert_eq!(
            ike,
            [
                "AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048",
                "AES_CBC-256/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_2048",
            ]
        );
        let esp: Vec<String> = esp.iter().map(ToString::to_string).collect();
        assert_eq!(
            esp,
            ["AES_CBC-256/HMAC_SHA2_256_128", "AES_CBC-256/HMAC_SHA1_96"]
        );
        let mut none = (Vec::new(), Vec::new());
        PeerWord::Standard.extend(&mut none.0, &mut none.1);
        assert_eq!(none, (Vec::new(), Vec::new()));
    }
}
