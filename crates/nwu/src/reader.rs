//! A cursor over input that cannot run past its end.

use thiserror::Error;

/// Why octets are not what the format says.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ends before the field does.
    #[error("{field}: {missing} octets missing")]
    Truncated {
        /// The field being read.
        field: &'static str,
        /// How many octets more it would take.
        missing: usize,
    },
    /// A length field contradicts the data or the format.
    #[error("{field}: length {found} is not valid")]
    Length {
        /// The field.
        field: &'static str,
        /// The length found.
        found: usize,
    },
    /// A value the format does not define.
    #[error("{field}: value {found:#x} is not valid")]
    Value {
        /// The field.
        field: &'static str,
        /// The value found.
        found: u32,
    },
}

/// A value that the wire format cannot hold.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{field}: {size} octets do not fit its length field")]
pub struct EncodeError {
    /// The field.
    pub field: &'static str,
    /// Its size.
    pub size: usize,
}

/// Reads forward; every read is checked.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        Self { rest: octets }
    }

    pub(crate) fn take(
        &mut self,
        len: usize,
        field: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let Some((head, tail)) = self.rest.split_at_checked(len) else {
            let missing = len.saturating_sub(self.rest.len());
            return Err(DecodeError::Truncated { field, missing });
        };
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let Some((head, tail)) = self.rest.split_first_chunk::<N>() else {
            let missing = N.saturating_sub(self.rest.len());
            return Err(DecodeError::Truncated { field, missing });
        };
        self.rest = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[octet]| octet)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn finish(self, field: &'static str) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            found => Err(DecodeError::Length { field, found }),
        }
    }
}

/// A length as the 8-bit field that carries it.
pub(crate) fn len8(size: usize, field: &'static str) -> Result<u8, EncodeError> {
    u8::try_from(size).map_err(|_| EncodeError { field, size })
}

/// A length as the 16-bit field that carries it.
pub(crate) fn len16(size: usize, field: &'static str) -> Result<u16, EncodeError> {
    u16::try_from(size).map_err(|_| EncodeError { field, size })
}
