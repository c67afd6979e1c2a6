//! The USIM: K, OPc, and which challenges are fresh (TS 33.102, TS 35.206).
//!
//! A challenge is accepted once. What was accepted is in [`SqnState`], and the caller has to make
//! that state durable *before* the answer leaves: a UE that answers first and loses its power then
//! would accept the same challenge again.

use std::fmt;

use keys::Secret;
use oxirush_security::{
    Autn, Rand,
    milenage::{Auts, K, Milenage, Op, Opc, Sqn},
    nas_5gs::{KAmf, ResStar, Supi, derive_kamf, derive_kausf, derive_kseaf},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a USIM cannot be made of what the configuration says.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum UsimError {
    /// K, OPc or OP has another length than 16 octets.
    #[error("{0} has 16 octets (32 hexadecimal digits)")]
    KeyLength(&'static str),
    /// The SUPI is no IMSI of 6 to 15 digits.
    #[error("the SUPI is an IMSI, as imsi-208930000000001")]
    Supi,
    /// A sequence number with more than 48 bits.
    #[error("a sequence number has 48 bits at most")]
    Sqn,
}

/// The operator's constant of the subscriber: derived already, or still to be.
pub enum OperatorKey {
    /// OPc, as provisioned in a USIM.
    Opc(Secret),
    /// OP, from which OPc is derived with K (TS 35.206, 4.1).
    Op(Secret),
}

/// A subscriber as a USIM holds it.
pub struct Usim {
    milenage: Milenage,
    supi: Supi<'static>,
    sqn: SqnState,
}

/// The answer of the USIM and the ME to a challenge of 5G AKA (TS 33.501, 6.1.3.2).
pub enum Challenge {
    /// Authentic and fresh.
    Accepted(Box<Accepted>),
    /// MAC-A is not the one of this subscriber: 5GMM cause 20.
    MacFailure,
    /// The separation bit of the AMF field is 0, so this is no challenge for 5GS: 5GMM cause 26.
    NotFor5gs,
    /// Authentic but not fresh: 5GMM cause 21 with this AUTS (14 octets).
    SynchFailure([u8; 14]),
}

/// What an accepted challenge gives.
pub struct Accepted {
    /// RES* (16 octets) for the AUTHENTICATION RESPONSE.
    pub res_star: ResStar,
    /// K_AMF of the new partial security context.
    pub k_amf: KAmf,
}

/// Highest accepted SEQ for each index: the array of TS 33.102 Annex C.1.2 with 5 bits of IND.
///
/// SQN (48 bits) = SEQ (43 bits) | IND (5 bits). A challenge is fresh if its SEQ is above the one
/// stored at its IND (C.2.2), so authentication vectors fetched by different nodes may arrive out
/// of order, each still only once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SqnState {
    seq: [u64; INDICES],
}

const IND_BITS: u32 = 5;
const INDICES: usize = 1 << IND_BITS;
/// The largest jump forward that is accepted (TS 33.102 C.2.1, C.3: 2^28): a home network that
/// errs, or someone with one stolen vector, cannot use up the sequence numbers at once.
const DELTA: u64 = 1 << 28;

impl Usim {
    /// A USIM from K (16 octets), OPc or OP (16 octets), a SUPI and its stored sequence numbers.
    pub fn new(
        k: &Secret,
        operator: &OperatorKey,
        supi: &str,
        sqn: SqnState,
    ) -> Result<Self, UsimError> {
        let k = K::from_slice(k.expose()).map_err(|_| UsimError::KeyLength("K"))?;
        let opc = match operator {
            OperatorKey::Opc(opc) => {
                Opc::from_slice(opc.expose()).map_err(|_| UsimError::KeyLength("OPc"))?
            }
            OperatorKey::Op(op) => Opc::from_op(
                &k,
                &Op::from_slice(op.expose()).map_err(|_| UsimError::KeyLength("OP"))?,
            ),
        };
        let digits = supi.strip_prefix("imsi-").unwrap_or(supi);
        let supi = Supi::imsi(digits)
            .map_err(|_| UsimError::Supi)?
            .into_owned();
        Ok(Self {
            milenage: Milenage::new(&k, &opc),
            supi,
            sqn,
        })
    }

    /// Checks a challenge and, if it is authentic and fresh, derives RES* and K_AMF.
    ///
    /// The order is that of TS 33.102, 6.3.3: MAC-A first, so that nothing of an unauthentic
    /// challenge has an effect; then the separation bit (TS 33.501, 6.1.3.2); then freshness. An
    /// accepted SQN is marked as used in [`Self::sqn_state`] at once.
    ///
    /// `abba` is used as received (TS 33.501 A.7.1).
    pub fn challenge(
        &mut self,
        sn_name: &str,
        rand: &[u8; 16],
        autn: &[u8; 16],
        abba: &[u8],
    ) -> Challenge {
        let (rand, autn) = (Rand::new(rand), Autn::new(autn));
        let Ok(response) = self.milenage.check_autn(&rand, &autn) else {
            return Challenge::MacFailure;
        };
        if !response.amf().separation_bit() {
            return Challenge::NotFor5gs;
        }
        if !self.sqn.accept(response.sqn().get()) {
            return Challenge::SynchFailure(*self.auts(&rand).as_octets());
        }
        let derived = || {
            let sn_name = sn_name.as_bytes();
            let res_star = response.res_star(sn_name)?;
            let k_ausf = derive_kausf(response.ck(), response.ik(), sn_name, &autn)?;
            let k_seaf = derive_kseaf(&k_ausf, sn_name)?;
            let k_amf = derive_kamf(&k_seaf, &self.supi, abba)?;
            Ok::<_, oxirush_security::SecurityError>(Accepted { res_star, k_amf })
        };
        match derived() {
            Ok(accepted) => Challenge::Accepted(Box::new(accepted)),
            // Only a KDF parameter above 65 535 octets errs, which no NAS message can carry.
            Err(_) => Challenge::MacFailure,
        }
    }

    /// What has to be stored before the answer to an accepted challenge is sent.
    pub fn sqn_state(&self) -> &SqnState {
        &self.sqn
    }

    /// The digits of the IMSI.
    pub fn imsi(&self) -> &str {
        self.supi.identity()
    }

    fn auts(&self, rand: &Rand) -> Auts {
        let sqn_ms = Sqn::try_from(self.sqn.highest()).unwrap_or(Sqn::new(&[0xff; 6]));
        self.milenage.auts(rand, &sqn_ms)
    }
}

/// Shows the subscriber and nothing of the key.
impl fmt::Debug for Usim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Usim")
            .field("supi", &self.supi)
            .finish_non_exhaustive()
    }
}

impl SqnState {
    /// The state of a USIM whose highest accepted sequence number is `sqn` (48 bits).
    ///
    /// Every index starts there, so that nothing at or below `sqn` is accepted.
    pub fn starting_at(sqn: u64) -> Result<Self, UsimError> {
        if sqn > Sqn::MAX {
            return Err(UsimError::Sqn);
        }
        let (seq, ind) = split(sqn);
        let mut state = Self {
            seq: [seq; INDICES],
        };
        // Indices above IND were not reached at this SEQ yet.
        for entry in state.seq.iter_mut().skip(ind + 1) {
            *entry = seq.saturating_sub(1);
        }
        Ok(state)
    }

    /// The highest accepted sequence number: SQN_MS of an AUTS.
    pub fn highest(&self) -> u64 {
        let join = |(ind, seq): (usize, &u64)| (seq << IND_BITS) | ind as u64;
        self.seq.iter().enumerate().map(join).max().unwrap_or(0)
    }

    fn accept(&mut self, sqn: u64) -> bool {
        let (seq, ind) = split(sqn);
        let ahead = seq.saturating_sub(split(self.highest()).0);
        let Some(stored) = self.seq.get_mut(ind) else {
            return false;
        };
        let fresh = seq > *stored && ahead <= DELTA;
        if fresh {
            *stored = seq;
        }
        fresh
    }
}

impl Default for SqnState {
    fn default() -> Self {
        Self { seq: [0; INDICES] }
    }
}

impl fmt::Debug for SqnState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqnState(highest {:#014x})", self.highest())
    }
}

/// SEQ and IND of a sequence number.
fn split(sqn: u64) -> (u64, usize) {
    let ind = sqn & (INDICES as u64 - 1);
    // Below 32, so the fallback is never taken.
    (sqn >> IND_BITS, usize::try_from(ind).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use oxirush_security::milenage::Amf;
    use proptest::prelude::*;

    use super::*;

    const SN_NAME: &str = "5G:mnc001.mcc001.3gppnetwork.org";

    fn secret(text: &str) -> Secret {
        Secret::from_slice(&hex::decode(text).unwrap())
    }

    /// The subscriber of TS 35.208 test set 1.
    fn test_set_1(sqn: u64) -> Usim {
        Usim::new(
            &secret("465b5ce8b199b49faa5f0a2ee238a6bc"),
            &OperatorKey::Op(secret("cdc202d5123e20f62b6d676ac72cb318")),
            "imsi-001010000000001",
            SqnState::starting_at(sqn).unwrap(),
        )
        .unwrap()
    }

    const RAND: &str = "23553cbe9637a89d218ae64dae47bf35";

    fn octets<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    /// A challenge as the home network of test set 1 makes it.
    fn vector(sqn: u64, amf: [u8; 2]) -> ([u8; 16], [u8; 16]) {
        let rand = octets(RAND);
        let usim = test_set_1(0);
        let vector = usim.milenage.authentication_vector(
            &Rand::new(&rand),
            &Sqn::try_from(sqn).unwrap(),
            &Amf::new(&amf),
        );
        (rand, *vector.autn().as_octets())
    }

    fn outcome(usim: &mut Usim, sqn: u64) -> &'static str {
        let (rand, autn) = vector(sqn, [0x80, 0]);
        match usim.challenge(SN_NAME, &rand, &autn, &[0, 0]) {
            Challenge::Accepted(_) => "accepted",
            Challenge::MacFailure => "mac",
            Challenge::NotFor5gs => "not 5gs",
            Challenge::SynchFailure(_) => "synch",
        }
    }

    #[test]
    fn chain_of_test_set_1() {
        let mut usim = test_set_1(0xff9b_b4d0_b5e7);
        let Challenge::Accepted(accepted) = usim.challenge(
            SN_NAME,
            &octets(RAND),
            &octets("55f328b43577b9b94a9ffac354dfafb3"),
            &[0, 0],
        ) else {
            panic!("the challenge of the test set is authentic and fresh")
        };
        assert_eq!(
            hex::encode(accepted.res_star.as_octets()),
            "f236a7417272bfb2d66d4d670733b527"
        );
        assert_eq!(
            hex::encode(accepted.k_amf.as_octets()),
            "daae216bc3dc9c6e0db9e56d2b744ea247d67eed51fdf2411847d056ec45a666"
        );
        assert_eq!(usim.sqn_state().highest(), 0xff9b_b4d0_b607);
    }

    #[test]
    fn opc_and_op_are_the_same_subscriber() {
        let mut by_opc = Usim::new(
            &secret("465b5ce8b199b49faa5f0a2ee238a6bc"),
            &OperatorKey::Opc(secret("cd63cb71954a9f4e48a5994e37a02baf")),
            "001010000000001",
            SqnState::default(),
        )
        .unwrap();
        assert_eq!(outcome(&mut by_opc, 0x20), "accepted");
    }

    #[test]
    fn a_challenge_is_accepted_once() {
        let mut usim = test_set_1(0);
        assert_eq!(outcome(&mut usim, 0x40), "accepted");
        assert_eq!(outcome(&mut usim, 0x40), "synch");
        // Another node's vector, older but of an index of its own.
        assert_eq!(outcome(&mut usim, 0x21), "accepted");
        assert_eq!(outcome(&mut usim, 0x21), "synch");
        assert_eq!(outcome(&mut usim, 0x41), "accepted");
    }

    #[test]
    fn a_home_network_that_counts_by_one_is_followed() {
        let mut usim = test_set_1(0x3e);
        for sqn in 0x3f..0x90 {
            assert_eq!(outcome(&mut usim, sqn), "accepted", "SQN {sqn:#x}");
        }
    }

    #[test]
    fn a_jump_beyond_delta_is_refused() {
        let mut usim = test_set_1(0);
        assert_eq!(outcome(&mut usim, (DELTA + 1) << IND_BITS), "synch");
        assert_eq!(outcome(&mut usim, DELTA << IND_BITS), "accepted");
    }

    #[test]
    fn auts_tells_the_highest_sqn() {
        let mut usim = test_set_1(0x1234);
        let (rand, autn) = vector(0x20, [0x80, 0]);
        let Challenge::SynchFailure(auts) = usim.challenge(SN_NAME, &rand, &autn, &[0, 0]) else {
            panic!("a SQN below the stored one is a synch failure")
        };
        let sqn_ms = usim
            .milenage
            .verify_auts(&Rand::new(&rand), &Auts::new(&auts))
            .unwrap();
        assert_eq!(sqn_ms.get(), 0x1234);
        // The home network goes on from there.
        assert_eq!(outcome(&mut usim, sqn_ms.get() + 1), "accepted");
    }

    #[test]
    fn a_forged_challenge_changes_nothing() {
        let mut usim = test_set_1(0);
        let (rand, mut autn) = vector(0x40, [0x80, 0]);
        autn[15] ^= 1;
        assert!(matches!(
            usim.challenge(SN_NAME, &rand, &autn, &[0, 0]),
            Challenge::MacFailure
        ));
        assert_eq!(usim.sqn_state(), &SqnState::default());
    }

    #[test]
    fn a_challenge_of_another_system_is_refused() {
        let mut usim = test_set_1(0);
        let (rand, autn) = vector(0x40, [0x7f, 0xff]);
        assert!(matches!(
            usim.challenge(SN_NAME, &rand, &autn, &[0, 0]),
            Challenge::NotFor5gs
        ));
        assert_eq!(usim.sqn_state(), &SqnState::default());
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(
            format!("{:?}", test_set_1(0)),
            "Usim { supi: Supi(imsi-001010000000001), .. }"
        );
    }

    proptest! {
        #[test]
        fn no_sequence_number_is_accepted_twice(start in 0u64..1 << 40, steps in proptest::collection::vec(0u64..200, 1..60)) {
            let mut state = SqnState::starting_at(start).unwrap();
            let mut accepted = std::collections::HashSet::new();
            for step in steps {
                let sqn = start + step;
                if state.accept(sqn) {
                    prop_assert!(sqn > start);
                    prop_assert!(accepted.insert(sqn), "{sqn:#x} twice");
                }
            }
        }

        #[test]
        fn the_next_sequence_number_is_always_fresh(start in 64u64..1 << 47, n in 1u64..64) {
            let mut state = SqnState::starting_at(start).unwrap();
            prop_assert_eq!(state.highest(), start);
            for sqn in start + 1..=start + n {
                prop_assert!(state.accept(sqn));
            }
            prop_assert_eq!(state.highest(), start + n);
        }
    }
}
