//! The primitives as they are called here, against published vectors.

use aes::{Aes128, Aes192, Aes256};
use aes_gcm::{AesGcm, KeyInit, aead::consts::U12};
use cbc::cipher::KeyIvInit;
use chacha20poly1305::ChaCha20Poly1305;

use super::{aead_open, aead_seal, cbc_open, cbc_seal};
use crate::crypto::vectors::cases;

#[test]
fn aes_cbc() {
    let file = cases(include_str!("../../tests/vectors/aes-cbc.txt"));
    assert_eq!(file.len(), 4);
    for case in &file {
        let (key, iv) = (case.octets("key"), case.octets("iv"));
        let mut octets = case.octets("plaintext");
        match key.len() {
            16 => cbc_seal(
                cbc::Encryptor::<Aes128>::new_from_slices(&key, &iv),
                &mut octets,
            ),
            24 => cbc_seal(
                cbc::Encryptor::<Aes192>::new_from_slices(&key, &iv),
                &mut octets,
            ),
            _ => cbc_seal(
                cbc::Encryptor::<Aes256>::new_from_slices(&key, &iv),
                &mut octets,
            ),
        }
        .unwrap();
        assert_eq!(hex::encode(&octets), case.text("ciphertext"));
        match key.len() {
            16 => cbc_open(
                cbc::Decryptor::<Aes128>::new_from_slices(&key, &iv),
                &mut octets,
            ),
            24 => cbc_open(
                cbc::Decryptor::<Aes192>::new_from_slices(&key, &iv),
                &mut octets,
            ),
            _ => cbc_open(
                cbc::Decryptor::<Aes256>::new_from_slices(&key, &iv),
                &mut octets,
            ),
        }
        .unwrap();
        assert_eq!(octets, case.octets("plaintext"));
        let half = octets.get_mut(..15).unwrap();
        let opened = cbc_open(
            cbc::Decryptor::<Aes128>::new_from_slices(&[0; 16], &iv),
            half,
        );
        assert_eq!(opened, None, "half a block");
    }
}

#[test]
fn aes_gcm() {
    let file = cases(include_str!("../../tests/vectors/aes-gcm.txt"));
    assert_eq!(file.len(), 6);
    for case in &file {
        let key = case.octets("key");
        let nonce: [u8; 12] = case.octets("nonce").try_into().unwrap();
        let (aad, tag) = (case.octets("aad"), case.octets("tag"));
        let mut octets = case.octets("plaintext");
        let made = match key.len() {
            16 => aead_seal(&gcm::<Aes128>(&key), nonce, &aad, &mut octets),
            24 => aead_seal(&gcm::<Aes192>(&key), nonce, &aad, &mut octets),
            _ => aead_seal(&gcm::<Aes256>(&key), nonce, &aad, &mut octets),
        };
        assert_eq!(hex::encode(&octets), case.text("ciphertext"));
        assert_eq!(made, Some(tag.clone()));
        let mut open = |aad: &[u8], tag: &[u8]| match key.len() {
            16 => aead_open(&gcm::<Aes128>(&key), nonce, aad, &mut octets, tag),
            24 => aead_open(&gcm::<Aes192>(&key), nonce, aad, &mut octets, tag),
            _ => aead_open(&gcm::<Aes256>(&key), nonce, aad, &mut octets, tag),
        };
        assert_eq!(open(b"other", &tag), None);
        assert_eq!(open(&aad, &tag[1..]), None);
        assert_eq!(open(&aad, &tag), Some(()));
        assert_eq!(octets, case.octets("plaintext"));
    }
}

#[test]
fn chacha20_poly1305() {
    let file = cases(include_str!("../../tests/vectors/chacha20-poly1305.txt"));
    assert_eq!(file.len(), 3);
    for case in &file {
        let key = case.octets("key");
        let cipher = ChaCha20Poly1305::new_from_slice(&key).unwrap();
        let nonce: [u8; 12] = case.octets("nonce").try_into().unwrap();
        let (aad, tag) = (case.octets("aad"), case.octets("tag"));
        let mut octets = case.octets("plaintext");
        let made = aead_seal(&cipher, nonce, &aad, &mut octets);
        assert_eq!(hex::encode(&octets), case.text("ciphertext"));
        assert_eq!(made, Some(tag.clone()));
        assert_eq!(aead_open(&cipher, nonce, b"other", &mut octets, &tag), None);
        assert_eq!(aead_open(&cipher, nonce, &aad, &mut octets, &tag), Some(()));
        assert_eq!(octets, case.octets("plaintext"));
    }
}

fn gcm<A>(key: &[u8]) -> AesGcm<A, U12>
where
    AesGcm<A, U12>: KeyInit,
{
    KeyInit::new_from_slice(key).unwrap()
}

#[test]
fn an_aead_never_seals_with_an_iv_twice() {
    use super::{Protector, SealError};
    use crate::{
        crypto::{AesBits, DirectionKeys, Encr},
        wire::{ExchangeType, Flags, Header},
    };
    use keys::Secret;
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    let keys = DirectionKeys {
        encr: Secret::from_slice(&[1; 32]),
        salt: [0; 4],
        integ: None,
    };
    let mut protector = Protector::new(Encr::AesGcm16(AesBits::B256), None, keys).unwrap();
    let header = Header {
        spi_i: 1,
        spi_r: 2,
        exchange: ExchangeType::Informational,
        flags: Flags::default(),
        message_id: 0,
    };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    protector.sealed = u64::MAX - 1;
    assert!(protector.seal(&header, &[], &mut rng).is_ok());
    assert_eq!(
        protector.seal(&header, &[], &mut rng),
        Err(SealError::Exhausted)
    );
}
