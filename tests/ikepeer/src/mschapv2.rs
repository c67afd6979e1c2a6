//! EAP-MSCHAPv2, both ends (draft-kamath-pppext-eap-mschapv2-02; RFC 2759, RFC 3079): a method of the past whose only use
//! here is that every IKEv2 implementation has it, and that it gives an MSK.

use des::{
    Des,
    cipher::{Array, BlockCipherEncrypt, KeyInit},
};
use keys::Secret;
use md4::Md4;
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
const SUCCESS: u8 = 3;
const FAILURE: u8 = 4;
const TYPE_IDENTITY: u8 = 1;
const TYPE_MSCHAPV2: u8 = 26;
const OP_CHALLENGE: u8 = 1;
const OP_RESPONSE: u8 = 2;
const OP_SUCCESS: u8 = 3;

/// Magic constants of RFC 2759 8.7 and RFC 3079 3.4.
const SERVER_SIGNING: &[u8] = b"Magic server to client signing constant";
const MORE_ITERATION: &[u8] = b"Pad to make it do more than one iteration";
const MASTER_KEY: &[u8] = b"This is the MPPE Master Key";
const CLIENT_SENDS: &[u8] =
    b"On the client side, this is the send key; on the server side, it is the receive key.";
const CLIENT_RECEIVES: &[u8] =
    b"On the client side, this is the receive key; on the server side, it is the send key.";

/// What to do next.
pub(crate) enum Step {
    /// Send this packet.
    Send(Vec<u8>),
    /// The peer proved itself: EAP-Success, and the MSK.
    Success(Vec<u8>, Secret),
    /// It did not: EAP-Failure.
    Failure(Vec<u8>),
}

/// User name and password.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// The end that proves itself by its password.
pub(crate) struct Client {
    account: Account,
    challenge: [u8; 16],
    /// The authenticator's challenge and our response to it, until the server has proven itself.
    sent: Option<([u8; 16], [u8; 24])>,
}

impl Client {
    pub(crate) fn new(account: Account, challenge: [u8; 16]) -> Self {
        Self {
            account,
            challenge,
            sent: None,
        }
    }

    /// The response to a request; `None` to one that makes no sense, or when the server does not know the password.
    pub(crate) fn answer(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let [REQUEST, id, _, _, kind, data @ ..] = packet else {
            return None;
        };
        if *kind == TYPE_IDENTITY {
            return Some(eap(
                RESPONSE,
                *id,
                TYPE_IDENTITY,
                self.account.user.as_bytes(),
            ));
        }
        if *kind != TYPE_MSCHAPV2 {
            return None;
        }
        match data {
            [OP_CHALLENGE, ms_id, _, _, 16, rest @ ..] => {
                let challenge: [u8; 16] = rest.get(..16)?.try_into().ok()?;
                let hash = password_hash(&self.account.password);
                let response = nt_response(&challenge, &self.challenge, &self.account.user, &hash);
                self.sent = Some((challenge, response));
                let mut value = vec![49];
                value.extend(self.challenge);
                value.extend([0; 8]);
                value.extend(response);
                value.push(0);
                value.extend(self.account.user.as_bytes());
                Some(eap(
                    RESPONSE,
                    *id,
                    TYPE_MSCHAPV2,
                    &mschapv2(OP_RESPONSE, *ms_id, &value),
                ))
            }
            [OP_SUCCESS, _, _, _, text @ ..] => {
                let (challenge, response) = self.sent?;
                let expected =
                    authenticator_response(&self.account, &response, &self.challenge, &challenge);
                let proof = text.get(..expected.len())?;
                bool::from(proof.ct_eq(expected.as_bytes()))
                    .then(|| eap(RESPONSE, *id, TYPE_MSCHAPV2, &[OP_SUCCESS]))
            }
            _ => None,
        }
    }

    /// The MSK, once the response was made.
    pub(crate) fn msk(&self) -> Option<Secret> {
        let (_, response) = self.sent?;
        Some(msk(&self.account.password, &response))
    }
}

/// The end that knows the password.
pub(crate) struct Server {
    account: Account,
    challenge: [u8; 16],
    /// The MSK of a peer that has proven itself.
    proven: Option<Secret>,
}

impl Server {
    pub(crate) fn new(account: Account, challenge: [u8; 16]) -> Self {
        Self {
            account,
            challenge,
            proven: None,
        }
    }

    /// The first request.
    pub(crate) fn begin(&self) -> Vec<u8> {
        let mut value = vec![16];
        value.extend(self.challenge);
        value.extend(b"ikepeer");
        eap(
            REQUEST,
            1,
            TYPE_MSCHAPV2,
            &mschapv2(OP_CHALLENGE, 1, &value),
        )
    }

    /// What follows a response.
    pub(crate) fn next(&mut self, packet: &[u8]) -> Step {
        let id = packet.get(1).copied().unwrap_or_default();
        let failure = Step::Failure(vec![FAILURE, id, 0, 4]);
        let [RESPONSE, _, _, _, TYPE_MSCHAPV2, data @ ..] = packet else {
            return failure;
        };
        match data {
            [OP_RESPONSE, 1, _, _, 49, rest @ ..] if self.proven.is_none() => {
                let Some((peer, response)) = read_response(rest) else {
                    return failure;
                };
                let hash = password_hash(&self.account.password);
                let expected = nt_response(&self.challenge, &peer, &self.account.user, &hash);
                if !bool::from(expected.ct_eq(&response)) {
                    return failure;
                }
                self.proven = Some(msk(&self.account.password, &response));
                let mut text =
                    authenticator_response(&self.account, &response, &peer, &self.challenge);
                text.push_str(" M=OK");
                let value = mschapv2(OP_SUCCESS, 1, text.as_bytes());
                Step::Send(eap(REQUEST, id.wrapping_add(1), TYPE_MSCHAPV2, &value))
            }
            [OP_SUCCESS, ..] => match self.proven.take() {
                Some(msk) => Step::Success(vec![SUCCESS, id, 0, 4], msk),
                None => failure,
            },
            _ => failure,
        }
    }
}

/// Peer challenge and NT response of a Response's value.
fn read_response(value: &[u8]) -> Option<([u8; 16], [u8; 24])> {
    let peer = value.get(..16)?.try_into().ok()?;
    let response = value.get(24..48)?.try_into().ok()?;
    Some((peer, response))
}

fn eap(code: u8, id: u8, kind: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(5 + data.len()).unwrap_or(u16::MAX);
    let mut packet = vec![code, id];
    packet.extend(length.to_be_bytes());
    packet.push(kind);
    packet.extend(data);
    packet
}

fn mschapv2(op: u8, id: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut data = vec![op, id];
    data.extend(length.to_be_bytes());
    data.extend(value);
    data
}

fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = Sha1::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// RFC 2759 8.3: MD4 of the password in UTF-16.
fn password_hash(password: &str) -> [u8; 16] {
    let unicode: Vec<u8> = password.encode_utf16().flat_map(u16::to_le_bytes).collect();
    Md4::digest(unicode).into()
}

/// RFC 2759 8.2.
fn challenge_hash(peer: &[u8; 16], authenticator: &[u8; 16], user: &str) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = sha1(&[peer, authenticator, user.as_bytes()]);
    [a, b, c, d, e, f, g, h]
}

/// RFC 2759 8.1.
fn nt_response(
    authenticator: &[u8; 16],
    peer: &[u8; 16],
    user: &str,
    password_hash: &[u8; 16],
) -> [u8; 24] {
    let challenge = challenge_hash(peer, authenticator, user);
    // Three DES keys of seven octets.
    let mut padded = [0; 21];
    padded[..16].copy_from_slice(password_hash);
    let mut response = [0; 24];
    for (key, out) in padded.chunks_exact(7).zip(response.chunks_exact_mut(8)) {
        out.copy_from_slice(&des(key, challenge));
    }
    response
}

/// One block under a key of seven octets, spread over eight with room for parity.
fn des(key: &[u8], block: [u8; 8]) -> [u8; 8] {
    let bits = key
        .iter()
        .fold(0u64, |bits, octet| bits << 8 | u64::from(*octet));
    let spread: [u8; 8] = std::array::from_fn(|place| {
        let seven = (bits >> (49 - 7 * place)) & 0x7f;
        u8::try_from(seven << 1).unwrap_or_default()
    });
    let mut block = Array::from(block);
    Des::new(&Array::from(spread)).encrypt_block(&mut block);
    block.into()
}

/// RFC 2759 8.7: `S=` and 40 hexadecimal digits.
fn authenticator_response(
    account: &Account,
    response: &[u8; 24],
    peer: &[u8; 16],
    authenticator: &[u8; 16],
) -> String {
    let hash_hash = Md4::digest(password_hash(&account.password));
    let digest = sha1(&[&hash_hash, response, SERVER_SIGNING]);
    let challenge = challenge_hash(peer, authenticator, &account.user);
    let proof = sha1(&[&digest, &challenge, MORE_ITERATION]);
    let digits: String = proof.iter().map(|octet| format!("{octet:02X}")).collect();
    format!("S={digits}")
}

/// The server's receive key, its send key, and 32 octets of zero (RFC 3079 3.4; the draft, section 6).
fn msk(password: &str, response: &[u8; 24]) -> Secret {
    let hash_hash = Md4::digest(password_hash(password));
    let master = sha1(&[&hash_hash, response, MASTER_KEY]);
    let (pad1, pad2) = ([0; 40], [0xf2; 40]);
    let key = |magic: &[u8]| sha1(&[&master[..16], &pad1, magic, &pad2]);
    let (receive, send) = (key(CLIENT_SENDS), key(CLIENT_RECEIVES));
    Secret::from_slice(&[&receive[..16], &send[..16], &[0; 32]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    /// RFC 2759 9.2, RFC 3079 3.5.3.
    #[test]
    fn the_vectors_of_the_rfcs() {
        let authenticator = octets("5b5d7c7d7b3f2f3e3c2c602132262628");
        let peer = octets("21402324255e262a28295f2b3a337c7e");
        let hash = password_hash("clientPass");
        assert_eq!(hash, octets("44ebba8d5312b8d611474411f56989ae"));
        let response = nt_response(&authenticator, &peer, "User", &hash);
        let expected = octets("82309ecd8d708b5ea08faa3981cd83544233114a3d85d6df");
        assert_eq!(response, expected);
        let account = account();
        let text = authenticator_response(&account, &response, &peer, &authenticator);
        assert_eq!(text, "S=407A5589115FD0D6209F510FE9C04566932CDA56");
        let msk = msk(&account.password, &response);
        let server_sends = octets::<16>("8b7cdc149b993a1ba118cb153f56dccb");
        assert_eq!(&msk.expose()[16..32], server_sends);
        assert_eq!(msk.len(), 64);
    }

    fn account() -> Account {
        Account {
            user: "User".to_owned(),
            password: "clientPass".to_owned(),
        }
    }

    #[test]
    fn both_ends_agree_and_a_wrong_password_is_refused() {
        let mut server = Server::new(account(), [1; 16]);
        let mut client = Client::new(account(), [2; 16]);
        let response = client.answer(&server.begin()).unwrap();
        let Step::Send(success) = server.next(&response) else {
            panic!("refused");
        };
        let last = client.answer(&success).unwrap();
        let Step::Success(packet, msk) = server.next(&last) else {
            panic!("refused");
        };
        assert_eq!(packet[0], SUCCESS);
        assert!(msk == client.msk().unwrap());
        let mut server = Server::new(account(), [1; 16]);
        let mut stranger = Client::new(
            Account {
                password: "guess".to_owned(),
                ..account()
            },
            [2; 16],
        );
        let response = stranger.answer(&server.begin()).unwrap();
        assert!(matches!(server.next(&response), Step::Failure(_)));
        assert!(
            stranger.answer(&success).is_none(),
            "a server without the password"
        );
    }

    #[test]
    fn cut_packets_make_no_sense() {
        let mut client = Client::new(account(), [2; 16]);
        let begin = Server::new(account(), [1; 16]).begin();
        for length in 0..begin.len() - b"ikepeer".len() {
            assert!(client.answer(&begin[..length]).is_none(), "{length}");
        }
        let response = client.answer(&begin).unwrap();
        for length in 0..response.len() - 5 {
            let mut server = Server::new(account(), [1; 16]);
            assert!(
                matches!(server.next(&response[..length]), Step::Failure(_)),
                "{length}"
            );
        }
    }
}
