//! Protected messages no engine would send, made with the right keys: what a broken or hostile peer gets for them.

use std::time::Duration;

use ike::{
    CloseReason,
    crypto::{IkeSuite, Prf, Protector, qkd},
    wire::{
        AuthMethod, Body, ExchangeType, Flags, Header, Identification, Notify, NotifyType, Payload,
        find_notify, parse,
    },
};
use keys::Secret;
use rand_core::SeedableRng;

use crate::{
    rng::TestRng,
    setup,
    world::{
        Side::{N3iwf, Ue},
        World,
    },
};

/// A UE under the test's control, on the first IKE SA of a world.
pub(crate) struct Forger {
    pub(crate) header: Header,
    pub(crate) outbound: Protector,
    pub(crate) inbound: Protector,
}

impl Forger {
    pub(crate) fn new(world: &mut World) -> Self {
        let nonce = |data: &[u8]| {
            let parsed = parse(data).unwrap();
            let Body::Clear(payloads) = parsed.body else {
                panic!("IKE_SA_INIT is in clear");
            };
            let nonce = payloads.into_iter().find_map(|payload| match payload {
                Payload::Nonce(nonce) => Some(nonce),
                _ => None,
            });
            (parsed.header, nonce.unwrap())
        };
        let (_, ni) = nonce(&world.sent[0].data);
        let (header, nr) = nonce(&world.sent[1].data);
        let ids = world.sas(N3iwf)[0].key_ids.clone();
        let key = |n: usize| Secret::from_slice(&world.kme.made[&ids[n]]);
        let keys = qkd::ike_keys(
            &setup::GCM_IKE,
            vec![key(0), key(1)],
            &key(2),
            &ni,
            &nr,
            header.spi_i,
            header.spi_r,
        )
        .unwrap();
        let protector = |keys| Protector::new(setup::GCM_IKE.encr, None, keys).unwrap();
        Self {
            header,
            outbound: protector(keys.initiator),
            inbound: protector(keys.responder),
        }
    }

    /// Sends a request, and gives what the N3IWF answers.
    fn ask(
        &mut self,
        world: &mut World,
        exchange: ExchangeType,
        message_id: u32,
        payloads: &[Payload],
    ) -> Option<Vec<Payload>> {
        let header = Header {
            exchange,
            flags: Flags {
                initiator: true,
                response: false,
            },
            message_id,
            ..self.header
        };
        let mut rng = TestRng::seed_from_u64(9);
        let request = self.outbound.seal(&header, payloads, &mut rng).unwrap();
        let before = world.sent.len();
        world.inject(N3iwf, request);
        world.run(Duration::from_millis(1));
        let answer = world.sent[before..]
            .iter()
            .find(|sent| sent.from == N3iwf)?;
        let parsed = parse(&answer.data).unwrap();
        assert!(parsed.header.flags.response);
        assert_eq!(parsed.header.message_id, message_id);
        Some(self.inbound.open(&parsed).unwrap())
    }
}

/// After an ordinary attach: IKE_SA_INIT 0, IKE_AUTH 1 to 5.
const NEXT: u32 = 6;

fn attached(seed: u64) -> (World, Forger) {
    let mut world = World::native(seed);
    world.attach(setup::native());
    let forger = Forger::new(&mut world);
    (world, forger)
}

#[test]
fn a_rekey_of_a_child_sa_that_is_not_there_is_told() {
    let (mut world, mut forger) = attached(410);
    let rekey = Notify::about_esp(NotifyType::REKEY_SA, 0x0101_0101, vec![]);
    let request = [
        rekey.clone().into(),
        Payload::Sa(ike::crypto::EspSuite::offer(&[setup::GCM_ESP], 0x0202_0202)),
        Payload::Nonce(vec![3; 32]),
        Payload::TsI(vec![setup::UE_INNER]),
        Payload::TsR(vec![setup::N3IWF_INNER]),
    ];
    let answer = forger
        .ask(&mut world, ExchangeType::CreateChildSa, NEXT, &request)
        .unwrap();
    let notify = find_notify(&answer, NotifyType::CHILD_SA_NOT_FOUND).unwrap();
    assert_eq!(notify.esp_spi(), rekey.esp_spi());
    assert_eq!(world.established(N3iwf)[0].children.len(), 1);
}

#[test]
fn bad_syntax_under_protection_is_told_and_ends_the_sa() {
    let (mut world, mut forger) = attached(400);
    let lying = Payload::Unknown {
        payload_type: 42,
        data: vec![3, 4, 0, 9],
    };
    let answer = forger
        .ask(&mut world, ExchangeType::Informational, NEXT, &[lying])
        .unwrap();
    assert!(find_notify(&answer, NotifyType::INVALID_SYNTAX).is_some());
    assert!(matches!(
        world.n3iwf.record.closed[0].1,
        CloseReason::Syntax(_)
    ));
    assert!(world.n3iwf.record.installed.is_empty());
}

#[test]
fn rekeys_are_declined_and_the_sa_stays() {
    let (mut world, mut forger) = attached(401);
    let rekey = Notify::about_esp(NotifyType::REKEY_SA, 0x1000, vec![]);
    let answer = forger
        .ask(
            &mut world,
            ExchangeType::CreateChildSa,
            NEXT,
            &[rekey.into()],
        )
        .unwrap();
    assert!(find_notify(&answer, NotifyType::NO_ADDITIONAL_SAS).is_some());
    assert_eq!(world.established(N3iwf).len(), 1);
}

/// RFC 7296 2.18 is read in two ways where the PRF changes, so it does not.
#[test]
fn a_rekey_of_the_ike_sa_keeps_its_suite() {
    let (mut world, mut forger) = attached(407);
    let mut ask = |world: &mut World, id, suite: IkeSuite| {
        let request = [
            Payload::Sa(IkeSuite::offer(&[suite], &[7; 8])),
            Payload::Nonce(vec![5; 32]),
        ];
        forger
            .ask(world, ExchangeType::CreateChildSa, id, &request)
            .unwrap()
    };
    let own = setup::GCM_IKE;
    let prf = IkeSuite {
        prf: Prf::HmacSha2_512,
        ..own
    };
    for (id, other) in [(NEXT, prf), (NEXT + 1, setup::CBC_IKE)] {
        let answer = ask(&mut world, id, other);
        let refused = find_notify(&answer, NotifyType::NO_PROPOSAL_CHOSEN);
        assert!(refused.is_some(), "{other}: {answer:?}");
    }
    let answer = ask(&mut world, NEXT + 2, own);
    assert!(
        answer
            .iter()
            .any(|payload| matches!(payload, Payload::Sa(_))),
        "{answer:?}"
    );
    assert_eq!(world.established(N3iwf).len(), 1);
}

#[test]
fn requests_out_of_the_window_get_no_answer() {
    let (mut world, mut forger) = attached(402);
    for id in [0, 1, NEXT - 1, NEXT + 1, NEXT + 2, u32::MAX] {
        let answer = forger.ask(&mut world, ExchangeType::Informational, id, &[]);
        assert_eq!(answer, None, "Message ID {id}");
    }
    let answer = forger.ask(&mut world, ExchangeType::Informational, NEXT, &[]);
    assert_eq!(answer, Some(vec![]));
}

#[test]
fn an_error_of_the_peer_after_its_last_message_ends_the_sa() {
    let (mut world, mut forger) = attached(403);
    let failed = Notify::status(NotifyType::AUTHENTICATION_FAILED, vec![]);
    let answer = forger.ask(
        &mut world,
        ExchangeType::Informational,
        NEXT,
        &[failed.into()],
    );
    assert_eq!(answer, Some(vec![]));
    assert_eq!(
        world.n3iwf.record.closed[0].1,
        CloseReason::AuthenticationRefused
    );
}

/// A world in which IKE_SA_INIT is over and the UE says no more of its own.
fn keyed(seed: u64) -> (World, Forger) {
    let mut world = World::native(seed);
    world.behaviour.silent_keys = Some(Ue);
    world.initiate(setup::native());
    world.run(Duration::from_millis(50));
    let forger = Forger::new(&mut world);
    (world, forger)
}

#[test]
fn a_first_request_that_brings_auth_instead_of_wanting_eap_is_refused() {
    let (mut world, mut forger) = keyed(404);
    let payloads = [
        Payload::IdI(Identification::key_id(vec![1])),
        Payload::Auth {
            method: AuthMethod::SHARED_KEY,
            data: vec![0; 32],
        },
    ];
    let answer = forger
        .ask(&mut world, ExchangeType::IkeAuth, 1, &payloads)
        .unwrap();
    assert!(find_notify(&answer, NotifyType::AUTHENTICATION_FAILED).is_some());
    assert_eq!(
        world.n3iwf.record.closed[0].1,
        CloseReason::AuthenticationFailed
    );
    assert_eq!(world.n3iwf.record.fates.len(), 7, "all keys lost");
}

#[test]
fn a_first_request_without_its_payloads_is_bad_syntax() {
    let (mut world, mut forger) = keyed(405);
    let payloads = [Payload::IdI(Identification::key_id(vec![1]))];
    let answer = forger
        .ask(&mut world, ExchangeType::IkeAuth, 1, &payloads)
        .unwrap();
    assert!(find_notify(&answer, NotifyType::INVALID_SYNTAX).is_some());
    assert_eq!(world.sas(N3iwf).len(), 0);
}

#[test]
fn no_child_is_made_before_authentication() {
    let (mut world, mut forger) = keyed(406);
    let answer = forger.ask(&mut world, ExchangeType::CreateChildSa, 1, &[]);
    assert_eq!(answer, None);
    assert_eq!(world.sas(N3iwf).len(), 1);
}
