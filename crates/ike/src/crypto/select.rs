//! Suites and their negotiation (RFC 7296, sections 2.7 and 3.3.6).

use std::{fmt, str::FromStr};

use super::{
    exchange::KeyExchange,
    method::KeMethod,
    prf::Prf,
    proposal,
    suite::{Encr, Integ, SuiteError},
};
use crate::wire::{Proposal, Protocol, SaPayload, Transform, TransformType};

/// Algorithms of an IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IkeSuite {
    /// Encryption.
    pub encr: Encr,
    /// Integrity, exactly when `encr` is no AEAD.
    pub integ: Option<Integ>,
    /// Pseudorandom function.
    pub prf: Prf,
    /// Key exchange and additional ones; none in mode `qkd`.
    pub ke: Option<KeyExchange>,
}

/// Algorithms of a Child SA with ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EspSuite {
    /// Encryption.
    pub encr: Encr,
    /// Integrity, exactly when `encr` is no AEAD.
    pub integ: Option<Integ>,
    /// Extended sequence numbers of 64 bits.
    pub esn: bool,
}

/// What CREATE_CHILD_SA negotiates for a Child SA: its algorithms, and a key exchange for secrecy
/// that does not rest on `SK_d` alone.
///
/// Child SAs of IKE_AUTH have no key exchange (RFC 7296, section 1.2): they take [`Self::esp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChildSuite {
    /// Algorithms of the Child SA.
    pub esp: EspSuite,
    /// Key exchange and additional ones.
    pub ke: Option<KeyExchange>,
}

/// What two ends agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection<S> {
    /// The suite.
    pub suite: S,
    /// Its place in our list.
    pub index: usize,
    /// The peer's proposal cut down to what was chosen: the peer's number and SPI, and one
    /// transform of each type it holds.
    pub proposal: Proposal,
}

impl<S> Selection<S> {
    /// The SA payload that answers the offer; `spi` is the SPI we receive on.
    pub fn answer(&self, spi: Vec<u8>) -> SaPayload {
        SaPayload {
            proposals: vec![Proposal {
                spi,
                ..self.proposal.clone()
            }],
        }
    }
}

impl IkeSuite {
    /// The proposal that offers this suite.
    pub fn proposal(&self, number: u8, spi: Vec<u8>) -> Proposal {
        Proposal {
            number,
            protocol: Protocol::IKE,
            spi,
            transforms: Suite::transforms(self),
        }
    }

    /// An SA payload with one proposal for each suite, in this order. No more than 255 fit.
    pub fn offer(suites: &[Self], spi: &[u8]) -> SaPayload {
        offer(suites, spi)
    }

    /// The first of `ours` that some proposal of the peer allows.
    pub fn select(ours: &[Self], offered: &SaPayload) -> Option<Selection<Self>> {
        select(ours, offered)
    }

    /// What the peer chose from `offered`, or `None` when it answered with anything else.
    pub fn accepted(offered: &[Self], answer: &SaPayload) -> Option<Selection<Self>> {
        accepted(offered, answer)
    }
}

impl EspSuite {
    /// The proposal that offers this suite; `spi` is the one we receive on.
    pub fn proposal(&self, number: u8, spi: u32) -> Proposal {
        Proposal {
            number,
            protocol: Protocol::ESP,
            spi: spi.to_be_bytes().to_vec(),
            transforms: Suite::transforms(self),
        }
    }

    /// An SA payload with one proposal for each suite, in this order. No more than 255 fit.
    pub fn offer(suites: &[Self], spi: u32) -> SaPayload {
        offer(suites, &spi.to_be_bytes())
    }

    /// The first of `ours` that some proposal of the peer allows.
    pub fn select(ours: &[Self], offered: &SaPayload) -> Option<Selection<Self>> {
        select(ours, offered)
    }

    /// What the peer chose from `offered`, or `None` when it answered with anything else.
    pub fn accepted(offered: &[Self], answer: &SaPayload) -> Option<Selection<Self>> {
        accepted(offered, answer)
    }
}

impl ChildSuite {
    /// The proposal that offers this suite; `spi` is the one we receive on.
    pub fn proposal(&self, number: u8, spi: u32) -> Proposal {
        Proposal {
            number,
            protocol: Protocol::ESP,
            spi: spi.to_be_bytes().to_vec(),
            transforms: Suite::transforms(self),
        }
    }

    /// An SA payload with one proposal for each suite, in this order. No more than 255 fit.
    pub fn offer(suites: &[Self], spi: u32) -> SaPayload {
        offer(suites, &spi.to_be_bytes())
    }

    /// The first of `ours` that some proposal of the peer allows.
    pub fn select(ours: &[Self], offered: &SaPayload) -> Option<Selection<Self>> {
        select(ours, offered)
    }

    /// What the peer chose from `offered`, or `None` when it answered with anything else.
    pub fn accepted(offered: &[Self], answer: &SaPayload) -> Option<Selection<Self>> {
        accepted(offered, answer)
    }
}

impl From<EspSuite> for ChildSuite {
    fn from(esp: EspSuite) -> Self {
        Self { esp, ke: None }
    }
}

/// What the kinds of suite have in common.
trait Suite: Copy {
    const PROTOCOL: Protocol;

    /// One transform of each type.
    fn transforms(&self) -> Vec<Transform>;
}

impl Suite for IkeSuite {
    const PROTOCOL: Protocol = Protocol::IKE;

    fn transforms(&self) -> Vec<Transform> {
        let mut list = vec![self.encr.transform()];
        list.extend(self.integ.map(Integ::transform));
        list.push(self.prf.transform());
        list.extend(self.ke.iter().flat_map(KeyExchange::transforms));
        list
    }
}

impl Suite for EspSuite {
    const PROTOCOL: Protocol = Protocol::ESP;

    fn transforms(&self) -> Vec<Transform> {
        let mut list = vec![self.encr.transform()];
        list.extend(self.integ.map(Integ::transform));
        list.push(Transform::new(TransformType::ESN, self.esn.into()));
        list
    }
}

impl Suite for ChildSuite {
    const PROTOCOL: Protocol = Protocol::ESP;

    fn transforms(&self) -> Vec<Transform> {
        let mut list = Suite::transforms(&self.esp);
        list.extend(self.ke.iter().flat_map(KeyExchange::transforms));
        list
    }
}

fn offer<S: Suite>(suites: &[S], spi: &[u8]) -> SaPayload {
    let proposals = (1..=u8::MAX)
        .zip(suites)
        .map(|(number, suite)| Proposal {
            number,
            protocol: S::PROTOCOL,
            spi: spi.to_vec(),
            transforms: suite.transforms(),
        })
        .collect();
    SaPayload { proposals }
}

fn select<S: Suite>(ours: &[S], offered: &SaPayload) -> Option<Selection<S>> {
    ours.iter().enumerate().find_map(|(index, suite)| {
        let wanted = suite.transforms();
        offered.proposals.iter().find_map(|proposal| {
            let transforms = choose(&wanted, S::PROTOCOL, proposal)?;
            Some(Selection {
                suite: *suite,
                index,
                proposal: Proposal {
                    transforms,
                    ..proposal.clone()
                },
            })
        })
    })
}

/// Each proposal offers one transform of each type, so the answer holds just these: one that lacks a
/// type, adds one, or still leaves a choice is none (RFC 7296, section 3.3.6).
fn accepted<S: Suite>(offered: &[S], answer: &SaPayload) -> Option<Selection<S>> {
    let [proposal] = answer.proposals.as_slice() else {
        return None;
    };
    let index = usize::from(proposal.number).checked_sub(1)?;
    let suite = *offered.get(index)?;
    let transforms = suite.transforms();
    let same = proposal.protocol == S::PROTOCOL
        && proposal.transforms.len() == transforms.len()
        && transforms
            .iter()
            .all(|transform| proposal.transforms.contains(transform));
    same.then(|| Selection {
        suite,
        index,
        proposal: proposal.clone(),
    })
}

/// One transform of each type in `proposal`, when they are what we want and all that we want.
///
/// NONE stands for a type we do not want, and no ESN transform at all for short sequence numbers. A
/// type we do not know makes the proposal unacceptable; an unknown ID or attribute is passed over.
fn choose(wanted: &[Transform], protocol: Protocol, proposal: &Proposal) -> Option<Vec<Transform>> {
    if proposal.protocol != protocol {
        return None;
    }
    let mut chosen: Vec<Transform> = Vec::new();
    for kind in proposal.transforms.iter().map(|transform| transform.kind) {
        if chosen.iter().any(|transform| transform.kind == kind) {
            continue;
        }
        let none = Transform::new(kind, 0);
        let want = match wanted.iter().find(|transform| transform.kind == kind) {
            Some(want) => want,
            None if may_be_none(kind) => &none,
            None => return None,
        };
        chosen.push(proposal.of_type(kind).find(|offer| *offer == want)?.clone());
    }
    wanted
        .iter()
        .all(|want| {
            let present = chosen.iter().any(|transform| transform.kind == want.kind);
            present || (want.kind == TransformType::ESN && want.id == 0)
        })
        .then_some(chosen)
}

fn may_be_none(kind: TransformType) -> bool {
    matches!(kind, TransformType::INTEG | TransformType::KE) || kind.is_additional_ke()
}

/// As in `swanctl --list-sas`: `AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256`.
impl fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.encr)?;
        if let Some(integ) = self.integ {
            write!(f, "/{integ}")?;
        }
        write!(f, "/{}", self.prf)?;
        if let Some(ke) = self.ke {
            write!(f, "/{ke}")?;
        }
        Ok(())
    }
}

/// As in `swanctl --list-sas`: `AES_GCM_16-256/ESN`.
impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.encr)?;
        if let Some(integ) = self.integ {
            write!(f, "/{integ}")?;
        }
        if self.esn {
            f.write_str("/ESN")?;
        }
        Ok(())
    }
}

/// As in `swanctl --list-sas`: `AES_GCM_16-256/ECP_256`.
impl fmt::Display for ChildSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.esp)?;
        self.ke.iter().try_for_each(|ke| write!(f, "/{ke}"))
    }
}

/// Reads what `Display` writes, the parts in any order, or a proposal in swanctl's words
/// ([`IkeSuite::from_keywords`]) that leaves no choice.
impl FromStr for IkeSuite {
    type Err = SuiteError;

    fn from_str(text: &str) -> Result<Self, SuiteError> {
        if proposal::is_keywords(text) {
            return proposal::only(Self::from_keywords(text)?);
        }
        let (mut encr, mut integ, mut prf, mut ke) = (None, None, None, Exchanges::default());
        for part in text.split('/') {
            if let Ok(found) = part.parse::<Encr>() {
                set(&mut encr, found)?;
            } else if let Ok(found) = part.parse::<Integ>() {
                set(&mut integ, found)?;
            } else if let Ok(found) = part.parse::<Prf>() {
                set(&mut prf, found)?;
            } else {
                ke.take(part)?;
            }
        }
        let encr = encr.ok_or(SuiteError::Combination("no encryption algorithm"))?;
        let prf = prf.ok_or(SuiteError::Combination("no pseudorandom function"))?;
        check(encr, integ)?;
        Ok(Self {
            encr,
            integ,
            prf,
            ke: ke.finish()?,
        })
    }
}

/// Reads what `Display` writes, the parts in any order, or a proposal in swanctl's words
/// ([`ChildSuite::from_keywords`]) that leaves no choice and names no key exchange.
impl FromStr for EspSuite {
    type Err = SuiteError;

    fn from_str(text: &str) -> Result<Self, SuiteError> {
        match text.parse()? {
            ChildSuite { esp, ke: None } => Ok(esp),
            ChildSuite { ke: Some(ke), .. } => Err(SuiteError::Keyword {
                keyword: ke.to_string(),
                why: "no key exchange has a place here",
            }),
        }
    }
}

/// Reads what `Display` writes, the parts in any order, or a proposal in swanctl's words
/// ([`ChildSuite::from_keywords`]) that leaves no choice.
impl FromStr for ChildSuite {
    type Err = SuiteError;

    fn from_str(text: &str) -> Result<Self, SuiteError> {
        if proposal::is_keywords(text) {
            return proposal::only(Self::from_keywords(text)?);
        }
        let (mut encr, mut integ, mut esn, mut ke) = (None, None, None, Exchanges::default());
        for part in text.split('/') {
            if let Ok(found) = part.parse::<Encr>() {
                set(&mut encr, found)?;
            } else if part == "ESN" {
                set(&mut esn, true)?;
            } else if let Ok(found) = part.parse::<Integ>() {
                set(&mut integ, found)?;
            } else {
                ke.take(part)?;
            }
        }
        let encr = encr.ok_or(SuiteError::Combination("no encryption algorithm"))?;
        check(encr, integ)?;
        Ok(Self {
            esp: EspSuite {
                encr,
                integ,
                esn: esn.unwrap_or(false),
            },
            ke: ke.finish()?,
        })
    }
}

/// Key exchanges found so far, before it is known that there is a first one.
#[derive(Default)]
struct Exchanges {
    first: Option<KeMethod>,
    additional: Vec<(usize, KeMethod)>,
}

impl Exchanges {
    /// `ECP_256` or `KE1_ML_KEM_768`.
    fn take(&mut self, part: &str) -> Result<(), SuiteError> {
        let unknown = || SuiteError::Unknown(part.to_owned());
        match part
            .strip_prefix("KE")
            .and_then(|rest| rest.split_once('_'))
        {
            Some((number, method)) => {
                let number = number.parse().map_err(|_| unknown())?;
                let method = method.parse().map_err(|_| unknown())?;
                self.additional.push((number, method));
                Ok(())
            }
            None => set(&mut self.first, part.parse()?),
        }
    }

    fn finish(self) -> Result<Option<KeyExchange>, SuiteError> {
        let Some(first) = self.first else {
            return match self.additional.is_empty() {
                true => Ok(None),
                false => Err(SuiteError::Combination(
                    "an additional key exchange without a first one",
                )),
            };
        };
        self.additional
            .into_iter()
            .try_fold(KeyExchange::single(first), |ke, (number, method)| {
                ke.with_additional(number, method)
            })
            .map(Some)
    }
}

fn set<T>(slot: &mut Option<T>, value: T) -> Result<(), SuiteError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(SuiteError::Combination("two algorithms of one kind")),
    }
}

pub(super) fn check(encr: Encr, integ: Option<Integ>) -> Result<(), SuiteError> {
    match (encr.is_aead(), integ) {
        (true, Some(_)) => Err(SuiteError::Combination(
            "an AEAD takes no integrity algorithm",
        )),
        (false, None) => Err(SuiteError::Combination("no integrity algorithm")),
        _ => Ok(()),
    }
}
