//! Several key exchanges, preshared keys on top, and what AUTH covers of the exchanges between.

use ike::{
    crypto::{
        ChildKeys, DirectionKeys, Encr, EspSuite, IkeKeys, IkeSuite, Protector,
        intermediate::{Covered, IntAuth},
        keymat::{child_keys, ike_keys, skeyseed, skeyseed_rekey, skeyseed_update},
        ppk::{self, PpkId, PpkOffer},
    },
    wire::{
        ExchangeType, Flags, Header, Notify, NotifyType, PayloadType, WireError, encode, parse,
    },
};
use keys::{KeyId, Secret};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::vectors::{Case, cases};

fn secret(case: &Case, name: &str) -> Secret {
    Secret::from_slice(&case.octets(name))
}

fn same(case: &Case, name: &str, secret: &Secret) {
    assert_eq!(hex::encode(secret.expose()), case.text(name), "{name}");
}

fn with_salt(encr: Encr, keys: &DirectionKeys) -> Secret {
    let salt = &keys.salt[..encr.salt_len()];
    Secret::from_slice(&[keys.encr.expose(), salt].concat())
}

struct Setup {
    suite: IkeSuite,
    ni: Vec<u8>,
    nr: Vec<u8>,
    spi_i: u64,
    spi_r: u64,
    secrets: Vec<Secret>,
}

impl Setup {
    fn new(case: &Case) -> Self {
        let spi = |name| u64::from_be_bytes(case.octets(name).try_into().unwrap());
        Self {
            suite: case.text("suite_text").parse().unwrap(),
            ni: case.octets("ni"),
            nr: case.octets("nr"),
            spi_i: spi("spi_i"),
            spi_r: spi("spi_r"),
            secrets: ["secret0", "secret1", "secret2"]
                .map(|name| secret(case, name))
                .into(),
        }
    }

    fn keys(&self, seed: &Secret) -> IkeKeys {
        ike_keys(
            &self.suite,
            seed,
            &self.ni,
            &self.nr,
            self.spi_i,
            self.spi_r,
        )
        .unwrap()
    }

    /// The keys after IKE_SA_INIT and after each additional key exchange.
    fn rounds(&self) -> Vec<IkeKeys> {
        let prf = self.suite.prf;
        let first = skeyseed(prf, &self.ni, &self.nr, &self.secrets[0]);
        let mut rounds = vec![self.keys(&first)];
        for shared in &self.secrets[1..] {
            let last = &rounds.last().unwrap().sk_d;
            let seed = skeyseed_update(prf, last, shared, &self.ni, &self.nr);
            rounds.push(self.keys(&seed));
        }
        rounds
    }
}

fn all() -> Vec<Case> {
    let file = cases(include_str!("../vectors/mixed.txt"));
    assert_eq!(file.len(), 8);
    file
}

#[test]
fn several_key_exchanges() {
    for case in &all() {
        let setup = Setup::new(case);
        let (prf, encr) = (setup.suite.prf, setup.suite.encr);
        let keys = setup.rounds().pop().unwrap();
        same(case, "sk_d", &keys.sk_d);
        same(case, "sk_pi", &keys.sk_pi);
        same(case, "sk_pr", &keys.sk_pr);
        same(case, "sk_ei", &with_salt(encr, &keys.initiator));
        let (ni, nr) = (&setup.ni, &setup.nr);
        let rekeyed = skeyseed_rekey(prf, &keys.sk_d, &setup.secrets, ni, nr).unwrap();
        same(case, "rekeyed", &rekeyed);
        let esp = EspSuite {
            encr,
            integ: setup.suite.integ,
            esn: false,
        };
        let ChildKeys { first, second } =
            child_keys(prf, &esp, &keys.sk_d, &setup.secrets, ni, nr).unwrap();
        let material: Vec<u8> = [first, second]
            .iter()
            .flat_map(|keys| {
                let integ = keys.integ.as_ref().map_or(&[][..], Secret::expose);
                [with_salt(encr, keys).expose(), integ].concat()
            })
            .collect();
        assert_eq!(hex::encode(material), case.text("child"));
    }
}

#[test]
fn preshared_keys() {
    for case in &all() {
        let setup = Setup::new(case);
        let prf = setup.suite.prf;
        let ppk = secret(case, "ppk");
        let mut keys = setup.rounds().pop().unwrap();
        let before = with_salt(setup.suite.encr, &keys.initiator);
        // RFC 9867: everything anew.
        let seed = ppk::mix(prf, &ppk, &keys.sk_d).unwrap();
        same(case, "seeded", &seed);
        let mixed = setup.keys(&seed);
        same(case, "ppk_d", &mixed.sk_d);
        same(
            case,
            "ppk_ei",
            &with_salt(setup.suite.encr, &mixed.initiator),
        );
        same(case, "ppk_pi", &mixed.sk_pi);
        same(case, "ppk_pr", &mixed.sk_pr);
        // RFC 8784: three keys, the others as they were.
        ppk::mix_initial(prf, &ppk, &mut keys).unwrap();
        same(case, "auth_d", &keys.sk_d);
        same(case, "auth_pi", &keys.sk_pi);
        same(case, "auth_pr", &keys.sk_pr);
        assert!(with_salt(setup.suite.encr, &keys.initiator) == before);

        let confirm = |ppk: &Secret| {
            ppk::confirmation(prf, ppk, &setup.ni, &setup.nr, setup.spi_i, setup.spi_r)
        };
        let confirmation = confirm(&ppk);
        assert_eq!(hex::encode(confirmation), case.text("confirmation"));
        let offer = PpkOffer {
            id: PpkId::Fixed(b"key".to_vec()),
            confirmation,
        };
        assert!(offer.confirms(&confirm(&ppk)));
        assert!(!offer.confirms(&confirm(&Secret::from_slice(b"another"))));
    }
}

/// The message of a case, sealed, and whole or as the first of two fragments.
fn intermediate(setup: &Setup, chain: &[u8], id: u32, response: bool, whole: bool) -> Vec<u8> {
    let header = Header {
        spi_i: setup.spi_i,
        spi_r: setup.spi_r,
        exchange: ExchangeType::IkeIntermediate,
        flags: Flags {
            initiator: !response,
            response,
        },
        message_id: id,
    };
    let suite = &setup.suite;
    let keys = setup.rounds().remove(0);
    let mut protector = Protector::new(suite.encr, suite.integ, keys.initiator).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let kind = PayloadType::KE;
    if whole {
        protector.seal_chain(&header, kind, chain, &mut rng)
    } else {
        protector.seal_fragment(&header, kind, (1, 2), &chain[..9], &mut rng)
    }
    .unwrap()
}

#[test]
fn intermediate_exchanges() {
    for case in &all() {
        let setup = Setup::new(case);
        let rounds = setup.rounds();
        for whole in [true, false] {
            let mut int_auth = IntAuth::new(setup.suite.prf);
            for round in 0..2u32 {
                let covered = |side: &str| {
                    let chain = case.octets(&format!("chain_{side}{round}"));
                    let message = intermediate(&setup, &chain, 1 + round, side == "r", whole);
                    Covered::new(&parse(&message).unwrap(), &chain).unwrap()
                };
                let keys = &rounds[round as usize];
                int_auth.add_request(&keys.sk_pi, &covered("i"));
                assert_eq!(int_auth.finish(3).is_some(), round > 0);
                int_auth.add_response(&keys.sk_pr, &covered("r"));
            }
            let octets = int_auth.finish(3).unwrap();
            assert_eq!(hex::encode(octets), case.text("int_auth"), "whole {whole}");
        }
    }
}

#[test]
fn what_is_no_intermediate_message() {
    let case = all().remove(0);
    let setup = Setup::new(&case);
    let chain = case.octets("chain_i0");
    let mut message = intermediate(&setup, &chain, 1, false, false);
    // Fragment number, behind the two headers.
    message[33] = 2;
    assert!(Covered::new(&parse(&message).unwrap(), &chain).is_none());
    let header = parse(&message).unwrap().header;
    let clear = encode(&header, &[]).unwrap();
    assert!(Covered::new(&parse(&clear).unwrap(), &[]).is_none());
    let long = vec![0; 65_532];
    let whole = intermediate(&setup, &chain, 1, false, true);
    assert!(Covered::new(&parse(&whole).unwrap(), &long).is_none());
}

#[test]
fn names_of_preshared_keys() {
    let uuid: KeyId = "bc490419-7d60-487f-adc1-4ddcc177c139".parse().unwrap();
    let id = PpkId::from_key_id(uuid);
    assert_eq!(id.key_id(), Some(uuid));
    assert_eq!(id.to_string(), uuid.to_string());
    let notify = id.to_notify();
    let mut data = vec![2];
    data.extend_from_slice(uuid.to_string().as_bytes());
    assert_eq!(notify, Notify::status(NotifyType::PPK_IDENTITY, data));
    assert_eq!(PpkId::from_data(&notify.data), Ok(id.clone()));

    let offer = PpkOffer {
        id,
        confirmation: *b"12345678",
    };
    let notify = offer.to_notify();
    assert_eq!(notify.kind, NotifyType::PPK_IDENTITY_KEY);
    assert!(notify.data.ends_with(b"12345678"));
    assert_eq!(PpkOffer::from_data(&notify.data), Ok(offer));

    let opaque = PpkId::from_data(&[1, 0xff, 0x00]).unwrap();
    assert_eq!(opaque, PpkId::Opaque(vec![0xff, 0]));
    assert_eq!(opaque.to_string(), "ff00");
    assert_eq!(opaque.key_id(), None);
    assert_eq!(PpkId::Fixed(b"carol".to_vec()).key_id(), None);

    let truncated = |what| Err(WireError::Truncated(what));
    assert_eq!(PpkId::from_data(&[]), truncated("PPK_ID"));
    for bad in [&[1][..], &[2], &[0, 1], &[3, 1], &[2; 514]] {
        let read = PpkId::from_data(bad);
        assert!(matches!(read, Err(WireError::InvalidSyntax(_))), "{bad:?}");
    }
    assert!(PpkId::from_data(&[2; 513]).is_ok());
    for len in 0..10 {
        assert!(PpkOffer::from_data(&vec![2; len]).is_err(), "{len}");
    }
    assert!(PpkOffer::from_data(&[2; 10]).is_ok());
}
