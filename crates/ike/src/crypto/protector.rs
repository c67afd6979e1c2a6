//! Sealing and opening the Encrypted payload (RFC 7296, section 3.14; RFC 5282; RFC 7634; RFC 7383).

use aes::{Aes128, Aes192, Aes256};
use aes_gcm::{
    AesGcm, KeyInit,
    aead::{AeadInOut, consts::U12},
};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, block_padding::NoPadding};
use chacha20poly1305::ChaCha20Poly1305;
use keys::Secret;
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use super::{
    keymat::{DirectionKeys, KeyError, checked},
    prf::Prf,
    suite::{AesBits, Encr, Integ},
};
use crate::wire::{
    Body, EncodeError, HEADER_LEN, Header, PAYLOAD_HEADER_LEN, Parsed, Payload, PayloadType,
    WireError, encode_payloads, message_length, parse_payloads,
};

/// Why a message cannot be protected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SealError {
    /// The content cannot be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Every IV of the counter is used: the SA has to end.
    #[error("the IV counter is used up")]
    Exhausted,
}

/// Why a protected message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no Encrypted payload, or it is a fragment where a whole was expected or the reverse.
    #[error("not the expected kind of Encrypted payload")]
    Kind,
    /// Too short, no whole blocks, or the integrity check failed: to be dropped without an answer.
    #[error("integrity check failed")]
    Integrity,
    /// The peer's own words, and they make no sense: to be answered (RFC 7296, section 2.21).
    #[error("content: {0}")]
    Content(#[from] WireError),
}

/// One direction of an IKE SA: the same object seals what we send or opens what we receive.
///
/// AEAD nonces are the salt and a 64-bit counter that starts at 1, so that no nonce repeats under a
/// key; IVs of CBC are random.
pub struct Protector {
    cipher: Cipher,
    integ: Option<(Integ, Secret)>,
    salt: [u8; 4],
    sealed: u64,
}

// Expanded key schedules are large; boxed, an SA stays small to move.
enum Cipher {
    Gcm128(Box<AesGcm<Aes128, U12>>),
    Gcm192(Box<AesGcm<Aes192, U12>>),
    Gcm256(Box<AesGcm<Aes256, U12>>),
    ChaCha(Box<ChaCha20Poly1305>),
    Cbc(AesBits, Secret),
}

/// Where things are in a protected message.
struct Layout {
    /// Octets in front of the IV: header, clear payloads, header of SK or SKF.
    head: usize,
    iv: usize,
    icv: usize,
}

const BLOCK: usize = 16;
const FRAGMENT_HEADER_LEN: usize = 4;

impl Protector {
    /// Takes over the keys of one direction.
    pub fn new(encr: Encr, integ: Option<Integ>, keys: DirectionKeys) -> Result<Self, KeyError> {
        let (encr, integ) = checked(encr, integ)?;
        exact(&keys.encr, encr.key_len())?;
        let wrong = |_| KeyError::TooShort {
            have: keys.encr.len(),
            need: encr.key_len(),
        };
        let key = keys.encr.expose();
        let cipher = match encr {
            Encr::AesGcm16(AesBits::B128) => {
                Cipher::Gcm128(Box::new(KeyInit::new_from_slice(key).map_err(wrong)?))
            }
            Encr::AesGcm16(AesBits::B192) => {
                Cipher::Gcm192(Box::new(KeyInit::new_from_slice(key).map_err(wrong)?))
            }
            Encr::AesGcm16(AesBits::B256) => {
                Cipher::Gcm256(Box::new(KeyInit::new_from_slice(key).map_err(wrong)?))
            }
            Encr::ChaCha20Poly1305 => {
                Cipher::ChaCha(Box::new(KeyInit::new_from_slice(key).map_err(wrong)?))
            }
            Encr::AesCbc(bits) => Cipher::Cbc(bits, keys.encr),
        };
        let integ = match (integ, keys.integ) {
            (Some(integ), Some(key)) => {
                exact(&key, integ.key_len())?;
                Some((integ, key))
            }
            (None, None) => None,
            _ => return Err(KeyError::Suite),
        };
        Ok(Self {
            cipher,
            integ,
            salt: keys.salt,
            sealed: 0,
        })
    }

    /// A whole message with these payloads inside an Encrypted payload.
    pub fn seal(
        &mut self,
        header: &Header,
        payloads: &[Payload],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Vec<u8>, SealError> {
        let (first, chain) = encode_payloads(payloads)?;
        self.seal_chain(header, first, &chain, rng)
    }

    /// A whole message around a payload chain that is written already.
    ///
    /// IKE_INTERMEDIATE needs the chain for `IntAuth` before it is sealed (RFC 9242, section 3.3.2).
    pub fn seal_chain(
        &mut self,
        header: &Header,
        first: PayloadType,
        chain: &[u8],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Vec<u8>, SealError> {
        self.seal_octets(header, first, None, chain, rng)
    }

    /// One fragment of a message: `chunk` is its part of the payload chain.
    ///
    /// `first` is the type of the first payload in fragment 1 and NONE in the others; `fragment` is
    /// the Fragment Number, from 1, and the Total Fragments (RFC 7383, section 2.5).
    pub fn seal_fragment(
        &mut self,
        header: &Header,
        first: PayloadType,
        fragment: (u16, u16),
        chunk: &[u8],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Vec<u8>, SealError> {
        self.seal_octets(header, first, Some(fragment), chunk, rng)
    }

    /// The payloads inside the Encrypted payload of a message.
    pub fn open(&self, parsed: &Parsed<'_>) -> Result<Vec<Payload>, OpenError> {
        let Body::Encrypted { first, .. } = &parsed.body else {
            return Err(OpenError::Kind);
        };
        let chain = self.open_chain(parsed)?;
        Ok(parse_payloads(*first, &chain)?)
    }

    /// The payload chain inside the Encrypted payload of a message.
    ///
    /// IKE_INTERMEDIATE needs it as it came, for `IntAuth` (RFC 9242, section 3.3.2).
    pub fn open_chain(&self, parsed: &Parsed<'_>) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        match &parsed.body {
            Body::Encrypted { fragment: None, .. } => self.open_octets(parsed),
            _ => Err(OpenError::Kind),
        }
    }

    /// Whether a message or a fragment was sealed by the peer.
    pub(crate) fn open_any(&self, parsed: &Parsed<'_>) -> bool {
        !matches!(
            self.open_octets(parsed),
            Err(OpenError::Kind | OpenError::Integrity)
        )
    }

    /// The part of the payload chain inside one Encrypted Fragment payload.
    pub fn open_fragment(&self, parsed: &Parsed<'_>) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        match &parsed.body {
            Body::Encrypted {
                fragment: Some(_), ..
            } => self.open_octets(parsed),
            _ => Err(OpenError::Kind),
        }
    }

    /// Octets a message of `content` octets of payloads takes in all.
    pub fn sealed_len(&self, content: usize) -> usize {
        let layout = self.layout(HEADER_LEN + PAYLOAD_HEADER_LEN);
        layout.head + layout.iv + content + 1 + self.pad_len(content) + layout.icv
    }

    /// Most octets of a payload chain that one fragment of `len` octets, header included, has room for.
    pub fn fragment_capacity(&self, len: usize) -> usize {
        let layout = self.layout(HEADER_LEN + PAYLOAD_HEADER_LEN + FRAGMENT_HEADER_LEN);
        let sealed = len.saturating_sub(layout.head + layout.iv + layout.icv);
        let blocks = match self.is_aead() {
            true => sealed,
            false => sealed / BLOCK * BLOCK,
        };
        // Pad Length.
        blocks.saturating_sub(1)
    }

    const fn is_aead(&self) -> bool {
        !matches!(self.cipher, Cipher::Cbc(..))
    }

    fn layout(&self, head: usize) -> Layout {
        match &self.integ {
            None => Layout {
                head,
                iv: 8,
                icv: 16,
            },
            Some((integ, _)) => Layout {
                head,
                iv: BLOCK,
                icv: integ.tag_len(),
            },
        }
    }

    /// Octets of padding so that content, padding and Pad Length are whole blocks.
    const fn pad_len(&self, content: usize) -> usize {
        if self.is_aead() {
            0
        } else {
            (BLOCK - (content + 1) % BLOCK) % BLOCK
        }
    }

    fn seal_octets(
        &mut self,
        header: &Header,
        first: PayloadType,
        fragment: Option<(u16, u16)>,
        content: &[u8],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Vec<u8>, SealError> {
        let extra = fragment.map_or(0, |_| FRAGMENT_HEADER_LEN);
        let layout = self.layout(HEADER_LEN + PAYLOAD_HEADER_LEN + extra);
        let total = self.sealed_len(content.len()) + extra;
        let length = message_length(total)?;
        let payload = u16::try_from(total - HEADER_LEN)
            .map_err(|_| EncodeError::TooLong("Encrypted payload"))?;
        let kind = match fragment {
            None => PayloadType::SK,
            Some(_) => PayloadType::SKF,
        };

        let mut out = Vec::with_capacity(total);
        header.write(&mut out, kind, length);
        out.extend_from_slice(&[first.0, 0]);
        out.extend_from_slice(&payload.to_be_bytes());
        if let Some((number, total)) = fragment {
            out.extend_from_slice(&number.to_be_bytes());
            out.extend_from_slice(&total.to_be_bytes());
        }
        let iv = self.next_iv(rng)?;
        out.extend_from_slice(&iv);
        out.extend_from_slice(content);
        let pad = self.pad_len(content.len());
        out.resize(out.len() + pad, 0);
        out.push(u8::try_from(pad).map_err(|_| EncodeError::TooLong("padding"))?);

        let (clear, secret) = out
            .split_at_mut_checked(layout.head + layout.iv)
            .ok_or(EncodeError::Invalid("layout of a message"))?;
        let aad = clear.get(..layout.head).unwrap_or_default();
        let tag = self
            .encrypt(aad, &iv, secret)
            .ok_or(EncodeError::TooLong("Encrypted payload"))?;
        match &self.integ {
            None => out.extend_from_slice(&tag),
            Some((integ, key)) => {
                let mac = integrity(*integ, key, &out);
                out.extend(mac.expose().iter().take(layout.icv));
            }
        }
        Ok(out)
    }

    fn open_octets(&self, parsed: &Parsed<'_>) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let Body::Encrypted {
            offset, fragment, ..
        } = &parsed.body
        else {
            return Err(OpenError::Kind);
        };
        let extra = fragment.map_or(0, |_| FRAGMENT_HEADER_LEN);
        let layout = self.layout(offset + PAYLOAD_HEADER_LEN + extra);
        let covered = parsed
            .datagram
            .len()
            .checked_sub(layout.icv)
            .ok_or(OpenError::Integrity)?;
        let (covered, icv) = parsed
            .datagram
            .split_at_checked(covered)
            .ok_or(OpenError::Integrity)?;
        let (aad, rest) = covered
            .split_at_checked(layout.head)
            .ok_or(OpenError::Integrity)?;
        let (iv, ciphertext) = rest
            .split_at_checked(layout.iv)
            .ok_or(OpenError::Integrity)?;
        let mut content = Zeroizing::new(ciphertext.to_vec());
        if let Some((integ, key)) = &self.integ {
            let mac = integrity(*integ, key, covered);
            let expected = mac.expose().get(..layout.icv).unwrap_or_default();
            if !bool::from(expected.ct_eq(icv)) {
                return Err(OpenError::Integrity);
            }
        }
        self.decrypt(aad, iv, &mut content, icv)
            .ok_or(OpenError::Integrity)?;
        // From here on it is the peer who speaks.
        let pad = content
            .pop()
            .ok_or(WireError::Truncated("Pad Length"))?
            .into();
        let len = content
            .len()
            .checked_sub(pad)
            .ok_or(WireError::InvalidSyntax("Pad Length"))?;
        content.truncate(len);
        Ok(content)
    }

    fn next_iv(&mut self, rng: &mut (impl CryptoRng + ?Sized)) -> Result<Vec<u8>, SealError> {
        if self.is_aead() {
            self.sealed = self.sealed.checked_add(1).ok_or(SealError::Exhausted)?;
            return Ok(self.sealed.to_be_bytes().to_vec());
        }
        let mut iv = vec![0; BLOCK];
        rng.fill_bytes(&mut iv);
        Ok(iv)
    }

    fn nonce(&self, iv: &[u8]) -> Option<[u8; 12]> {
        let mut nonce = self.salt.to_vec();
        nonce.extend_from_slice(iv);
        nonce.try_into().ok()
    }

    /// Encrypts in place; an AEAD gives its tag, CBC nothing.
    fn encrypt(&self, aad: &[u8], iv: &[u8], octets: &mut [u8]) -> Option<Vec<u8>> {
        let (bits, key) = match &self.cipher {
            Cipher::Cbc(bits, key) => (*bits, key.expose()),
            Cipher::Gcm128(gcm) => return aead_seal(&**gcm, self.nonce(iv)?, aad, octets),
            Cipher::Gcm192(gcm) => return aead_seal(&**gcm, self.nonce(iv)?, aad, octets),
            Cipher::Gcm256(gcm) => return aead_seal(&**gcm, self.nonce(iv)?, aad, octets),
            Cipher::ChaCha(chacha) => return aead_seal(&**chacha, self.nonce(iv)?, aad, octets),
        };
        match bits {
            AesBits::B128 => cbc_seal(cbc::Encryptor::<Aes128>::new_from_slices(key, iv), octets)?,
            AesBits::B192 => cbc_seal(cbc::Encryptor::<Aes192>::new_from_slices(key, iv), octets)?,
            AesBits::B256 => cbc_seal(cbc::Encryptor::<Aes256>::new_from_slices(key, iv), octets)?,
        }
        Some(Vec::new())
    }

    /// Decrypts in place; `None` when the tag is wrong or there are no whole blocks.
    fn decrypt(&self, aad: &[u8], iv: &[u8], octets: &mut [u8], tag: &[u8]) -> Option<()> {
        let (bits, key) = match &self.cipher {
            Cipher::Cbc(bits, key) => (*bits, key.expose()),
            Cipher::Gcm128(gcm) => return aead_open(&**gcm, self.nonce(iv)?, aad, octets, tag),
            Cipher::Gcm192(gcm) => return aead_open(&**gcm, self.nonce(iv)?, aad, octets, tag),
            Cipher::Gcm256(gcm) => return aead_open(&**gcm, self.nonce(iv)?, aad, octets, tag),
            Cipher::ChaCha(chacha) => {
                return aead_open(&**chacha, self.nonce(iv)?, aad, octets, tag);
            }
        };
        match bits {
            AesBits::B128 => cbc_open(cbc::Decryptor::<Aes128>::new_from_slices(key, iv), octets),
            AesBits::B192 => cbc_open(cbc::Decryptor::<Aes192>::new_from_slices(key, iv), octets),
            AesBits::B256 => cbc_open(cbc::Decryptor::<Aes256>::new_from_slices(key, iv), octets),
        }
    }
}

fn exact(key: &Secret, need: usize) -> Result<(), KeyError> {
    if key.len() == need {
        Ok(())
    } else {
        Err(KeyError::TooShort {
            have: key.len(),
            need,
        })
    }
}

/// The whole HMAC; the caller cuts it.
fn integrity(integ: Integ, key: &Secret, octets: &[u8]) -> Secret {
    let prf = match integ {
        Integ::HmacSha1_96 => Prf::HmacSha1,
        Integ::HmacSha2_256_128 => Prf::HmacSha2_256,
        Integ::HmacSha2_384_192 => Prf::HmacSha2_384,
        Integ::HmacSha2_512_256 => Prf::HmacSha2_512,
    };
    prf.mac(key.expose(), &[octets])
}

fn aead_seal<A>(aead: &A, nonce: [u8; 12], aad: &[u8], octets: &mut [u8]) -> Option<Vec<u8>>
where
    A: AeadInOut<NonceSize = U12>,
{
    aead.encrypt_inout_detached(&nonce.into(), aad, octets.into())
        .ok()
        .map(|tag| tag.to_vec())
}

fn aead_open<A>(aead: &A, nonce: [u8; 12], aad: &[u8], octets: &mut [u8], tag: &[u8]) -> Option<()>
where
    A: AeadInOut<NonceSize = U12>,
{
    let tag = tag.try_into().ok()?;
    aead.decrypt_inout_detached(&nonce.into(), aad, octets.into(), tag)
        .ok()
}

fn cbc_seal<C: BlockModeEncrypt, E>(cipher: Result<C, E>, octets: &mut [u8]) -> Option<()> {
    let len = octets.len();
    cipher
        .ok()?
        .encrypt_padded::<NoPadding>(octets, len)
        .ok()
        .map(|_| ())
}

fn cbc_open<C: BlockModeDecrypt, E>(cipher: Result<C, E>, octets: &mut [u8]) -> Option<()> {
    cipher
        .ok()?
        .decrypt_padded::<NoPadding>(octets)
        .ok()
        .map(|_| ())
}

#[cfg(test)]
#[path = "protector_tests.rs"]
mod tests;
