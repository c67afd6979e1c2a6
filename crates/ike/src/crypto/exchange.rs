//! Which key exchanges make the secret of an SA: one, and up to seven more (RFC 9370).

use std::fmt;

use super::{method::KeMethod, suite::SuiteError};
use crate::wire::{Transform, TransformType};

/// Additional key exchanges there can be: ADDKE1 to ADDKE7.
pub(super) const SLOTS: usize = 7;

/// A key exchange and its additional ones, in the order they take place.
///
/// No method is there twice (RFC 9370, section 2.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyExchange {
    first: KeMethod,
    additional: [Option<KeMethod>; SLOTS],
}

impl KeyExchange {
    /// A key exchange without additional ones.
    pub const fn single(first: KeMethod) -> Self {
        Self {
            first,
            additional: [None; SLOTS],
        }
    }

    /// The same with `method` as additional key exchange `number`, from 1 to 7.
    pub fn with_additional(mut self, number: usize, method: KeMethod) -> Result<Self, SuiteError> {
        if self.methods().any(|other| other == method) {
            return Err(SuiteError::Combination(
                "a key exchange method twice in a suite",
            ));
        }
        let slot = number
            .checked_sub(1)
            .and_then(|index| self.additional.get_mut(index))
            .ok_or(SuiteError::Combination(
                "additional key exchanges have the numbers 1 to 7",
            ))?;
        match slot.replace(method) {
            None => Ok(self),
            Some(_) => Err(SuiteError::Combination("two algorithms of one kind")),
        }
    }

    /// The method of transform type 4: of the KE payload of IKE_SA_INIT or CREATE_CHILD_SA.
    pub const fn first(&self) -> KeMethod {
        self.first
    }

    /// The additional ones in order, each with its transform type: one exchange each of
    /// IKE_INTERMEDIATE or IKE_FOLLOWUP_KE.
    pub fn additional(&self) -> impl Iterator<Item = (TransformType, KeMethod)> + '_ {
        (TransformType::ADDKE1.0..)
            .zip(&self.additional)
            .filter_map(|(kind, method)| Some((TransformType(kind), (*method)?)))
    }

    /// All of them in order.
    pub fn methods(&self) -> impl Iterator<Item = KeMethod> + '_ {
        std::iter::once(self.first).chain(self.additional.iter().flatten().copied())
    }

    pub(super) fn transforms(&self) -> impl Iterator<Item = Transform> + '_ {
        std::iter::once(self.first.transform(TransformType::KE)).chain(
            self.additional()
                .map(|(kind, method)| method.transform(kind)),
        )
    }

    /// The additional ones with their numbers, from 1.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (usize, KeMethod)> + '_ {
        (1..)
            .zip(&self.additional)
            .filter_map(|(number, method)| Some((number, (*method)?)))
    }
}

impl From<KeMethod> for KeyExchange {
    fn from(first: KeMethod) -> Self {
        Self::single(first)
    }
}

/// As in `swanctl --list-sas`: `ECP_384/KE1_ML_KEM_768`.
impl fmt::Display for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.numbered()
            .try_for_each(|(number, method)| write!(f, "/KE{number}_{method}"))
    }
}
