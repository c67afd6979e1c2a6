//! One IKE SA as a free5GC peer keeps it: keys once, and messages in whatever order it likes.

use aes::Aes256;
use cbc::cipher::{BlockModeEncrypt, KeyIvInit, block_padding::NoPadding};
use ike::{
    crypto::{
        AesBits, Encr, EspSuite, IkeSuite, Integ, KeMethod, KeyExchange, Prf, Protector,
        auth::{Signed, shared_key, signed_octets},
        keymat::{self, ChildKeys, DirectionKeys},
    },
    wire::{
        Body, ExchangeType, Flags, HEADER_LEN, Header, Identification, Notify, NotifyType, Parsed,
        Payload, PayloadType,
    },
};
use keys::Secret;
use rand_core::CryptoRng;

/// What N3IWUE offers and the N3IWF grants; neither has an option for anything else.
pub const IKE: IkeSuite = IkeSuite {
    encr: Encr::AesCbc(AesBits::B256),
    integ: Some(Integ::HmacSha1_96),
    prf: Prf::HmacSha1,
    ke: Some(KeyExchange::single(KeMethod::Modp2048)),
};

/// ESP, for signalling and user plane.
pub const ESP: EspSuite = EspSuite {
    encr: Encr::AesCbc(AesBits::B256),
    integ: Some(Integ::HmacSha1_96),
    esn: false,
};

/// What IKE_SA_INIT leaves behind.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    /// SPI of the initiator.
    pub spi_i: u64,
    /// SPI of the responder.
    pub spi_r: u64,
    /// The whole request.
    pub request: Vec<u8>,
    /// The whole response.
    pub response: Vec<u8>,
    /// The initiator's nonce.
    pub ni: Vec<u8>,
    /// The responder's nonce.
    pub nr: Vec<u8>,
}

/// An IKE SA with keys.
pub struct IkeSa {
    suite: IkeSuite,
    /// What was exchanged in clear.
    pub transcript: Transcript,
    /// Whether this side is the UE.
    initiator: bool,
    ours: Protector,
    theirs: Protector,
    /// The same keys again, to seal what no protector would.
    raw: DirectionKeys,
    sk_d: Secret,
    sk_pi: Secret,
    sk_pr: Secret,
}

impl IkeSa {
    /// Keys from the shared secret as this side computed it.
    pub fn new(
        suite: &IkeSuite,
        transcript: Transcript,
        shared: &Secret,
        initiator: bool,
    ) -> Option<Self> {
        let (ni, nr) = (&transcript.ni, &transcript.nr);
        let seed = keymat::skeyseed(suite.prf, ni, nr, shared);
        let (spi_i, spi_r) = (transcript.spi_i, transcript.spi_r);
        let keys = keymat::ike_keys(suite, &seed, ni, nr, spi_i, spi_r).ok()?;
        let (ours, theirs) = match initiator {
            true => (keys.initiator, keys.responder),
            false => (keys.responder, keys.initiator),
        };
        Some(Self {
            suite: *suite,
            transcript,
            initiator,
            raw: ours.duplicate(),
            ours: Protector::new(suite.encr, suite.integ, ours).ok()?,
            theirs: Protector::new(suite.encr, suite.integ, theirs).ok()?,
            sk_d: keys.sk_d,
            sk_pi: keys.sk_pi,
            sk_pr: keys.sk_pr,
        })
    }

    /// The header of a message of this side.
    pub fn header(&self, exchange: ExchangeType, response: bool, message_id: u32) -> Header {
        Header {
            spi_i: self.transcript.spi_i,
            spi_r: self.transcript.spi_r,
            exchange,
            flags: Flags {
                initiator: self.initiator,
                response,
            },
            message_id,
        }
    }

    /// A protected message.
    pub fn seal(
        &mut self,
        rng: &mut (dyn CryptoRng + Send),
        exchange: ExchangeType,
        response: bool,
        message_id: u32,
        payloads: &[Payload],
    ) -> Option<Vec<u8>> {
        let header = self.header(exchange, response, message_id);
        self.ours.seal(&header, payloads, rng).ok()
    }

    /// A protected request around octets that need not be payloads, announced as `first`, with this
    /// Pad Length behind them: what an encoder would refuse to write. The octets and the Pad Length
    /// have to fill whole blocks. Its integrity is good.
    pub fn seal_raw(
        &self,
        exchange: ExchangeType,
        message_id: u32,
        first: PayloadType,
        content: &[u8],
        pad_length: u8,
    ) -> Option<Vec<u8>> {
        let header = self.header(exchange, false, message_id);
        let mut plain = content.to_vec();
        plain.push(pad_length);
        let iv = [0x5a; 16];
        let len = plain.len();
        let cipher = cbc::Encryptor::<Aes256>::new_from_slices(self.raw.encr.expose(), &iv).ok()?;
        cipher.encrypt_padded::<NoPadding>(&mut plain, len).ok()?;
        let integ = self.suite.integ?;
        let icv = integ.tag_len();
        let payload = 4 + iv.len() + plain.len() + icv;
        let mut message = Vec::new();
        message.extend(header.spi_i.to_be_bytes());
        message.extend(header.spi_r.to_be_bytes());
        message.extend([
            PayloadType::SK.0,
            0x20,
            exchange.number(),
            header.flags.octet(),
        ]);
        message.extend(message_id.to_be_bytes());
        message.extend(u32::try_from(HEADER_LEN + payload).ok()?.to_be_bytes());
        message.extend([first.0, 0]);
        message.extend(u16::try_from(payload).ok()?.to_be_bytes());
        message.extend(iv);
        message.extend(plain);
        let integrity = self.raw.integ.as_ref()?;
        let hash = match integ {
            Integ::HmacSha1_96 => Prf::HmacSha1,
            Integ::HmacSha2_256_128 => Prf::HmacSha2_256,
            _ => return None,
        };
        let mac = hash.mac(integrity.expose(), &[&message]);
        message.extend(mac.expose().iter().take(icv));
        Some(message)
    }

    /// The payloads of a message of the peer; `None` when it is not the peer's.
    pub fn open(&self, parsed: &Parsed<'_>) -> Option<Vec<Payload>> {
        match &parsed.body {
            Body::Encrypted { .. } => self.theirs.open(parsed).ok(),
            Body::Clear(_) => None,
        }
    }

    /// What AUTH of one side covers.
    pub fn signed_octets(&self, of_initiator: bool, id: &Identification) -> Vec<u8> {
        let (message, peer_nonce, sk_p) = match of_initiator {
            true => (&self.transcript.request, &self.transcript.nr, &self.sk_pi),
            false => (&self.transcript.response, &self.transcript.ni, &self.sk_pr),
        };
        let signed = Signed {
            message,
            peer_nonce,
            id,
            sk_p,
            int_auth: None,
        };
        signed_octets(self.suite.prf, &signed)
    }

    /// AUTH of one side with K_N3IWF.
    pub fn shared_key_auth(
        &self,
        of_initiator: bool,
        id: &Identification,
        k_n3iwf: &[u8],
    ) -> Vec<u8> {
        let octets = self.signed_octets(of_initiator, id);
        shared_key(self.suite.prf, &Secret::from_slice(k_n3iwf), &octets)
    }

    /// Keys of a Child SA: nonces of its exchange, its initiator first.
    pub fn child_keys(&self, suite: &EspSuite, ni: &[u8], nr: &[u8]) -> Option<ChildKeys> {
        keymat::child_keys(self.suite.prf, suite, &self.sk_d, &[], ni, nr).ok()
    }
}

/// A nonce as both free5GC peers draw it: an integer below 2^2048 without its leading zeros, so
/// nearly always of 256 octets.
pub fn nonce(rng: &mut (dyn CryptoRng + Send)) -> Vec<u8> {
    let mut octets = vec![0; 256];
    rng.fill_bytes(&mut octets);
    stripped(&octets).to_vec()
}

/// Octets of a number as `math/big` gives them.
pub fn stripped(octets: &[u8]) -> &[u8] {
    let zeros = octets.iter().take_while(|octet| **octet == 0).count();
    octets.get(zeros..).unwrap_or_default()
}

/// A status notify without SPI.
pub fn notify(kind: NotifyType, data: Vec<u8>) -> Payload {
    Payload::Notify(Notify::status(kind, data))
}
