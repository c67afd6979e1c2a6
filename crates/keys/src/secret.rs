//! Octets that are wiped when dropped.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::KeyId;

/// Secret octets: wiped on drop, never printed, compared in constant time, moved and not copied.
///
/// The buffer is allocated once at its final size, so no stale copy is left behind by growth.
pub struct Secret(Zeroizing<Box<[u8]>>);

impl Secret {
    /// Takes over a copy of `octets`; the caller wipes its own.
    pub fn from_slice(octets: &[u8]) -> Self {
        Self(Zeroizing::new(octets.into()))
    }

    /// A secret of `len` octets written by `fill`, so that no intermediate copy exists.
    pub fn filled(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut octets = Zeroizing::new(vec![0; len].into_boxed_slice());
        fill(&mut octets);
        Self(octets)
    }

    /// The octets, for the primitive that consumes them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in octets.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no octets at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The leading `len` octets as a secret of its own, or `None` when there are fewer.
    pub fn leading(&self, len: usize) -> Option<Self> {
        self.0.get(..len).map(Self::from_slice)
    }

    /// A second owner of the same octets. Named, so that a duplicate is always a visible decision.
    pub fn duplicate(&self) -> Self {
        Self::from_slice(&self.0)
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(octets: Zeroizing<Vec<u8>>) -> Self {
        Self::from_slice(&octets)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

/// One key as delivered by a KMS: its identifier and its octets (ETSI GS QKD 014, 6.3).
pub struct QkdKey {
    /// The identifier both sides know the key by.
    pub id: KeyId,
    /// The key itself.
    pub secret: Secret,
}

/// Shows the identifier, which travels in clear, and nothing of the key.
impl fmt::Debug for QkdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QkdKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_key_shows_its_id_alone() {
        let key = QkdKey {
            id: KeyId::from_octets([0x11; 16]),
            secret: Secret::from_slice(b"\xde\xad\xbe\xef"),
        };
        assert_eq!(
            format!("{key:?}"),
            "QkdKey { id: KeyId(11111111-1111-1111-1111-111111111111), .. }"
        );
    }

    #[test]
    fn leading_octets_need_enough_octets() {
        let secret = Secret::from_slice(&[1, 2, 3]);
        assert_eq!(secret.leading(2).unwrap().expose(), [1, 2]);
        assert!(secret.leading(4).is_none());
    }

    #[test]
    fn equality_is_by_content() {
        assert!(Secret::from_slice(&[7; 32]) == Secret::filled(32, |o| o.fill(7)));
        assert!(Secret::from_slice(&[7; 32]) != Secret::from_slice(&[7; 31]));
    }
}
