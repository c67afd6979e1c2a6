//! N3IWUE attaches, with all that it does wrong.

use std::time::Duration;

use dataplane::{ChildSaSpec, Plane};
use free5gc::n3iwue::{Child, Edition, State};
use ike::{SaState, wire};

use crate::world::World;

/// What one end installed is what the other end installed.
fn assert_same(spec: &ChildSaSpec, child: &Child) {
    assert_eq!((spec.spi_in, spec.spi_out), (child.spi_out, child.spi_in));
    let (ours, theirs) = match child.by_n3iwf {
        true => (&child.keys.first, &child.keys.second),
        false => (&child.keys.second, &child.keys.first),
    };
    for (spec, child) in [(&spec.keys_out, ours), (&spec.keys_in, theirs)] {
        assert_eq!(spec.encr.expose(), child.encr.expose());
        let integ = |key: &Option<keys::Secret>| key.as_ref().unwrap().expose().to_vec();
        assert_eq!(integ(&spec.integ), integ(&child.integ));
    }
}

/// A UE with a PDU session.
fn in_session(edition: Edition, seed: u64) -> World {
    let mut world = World::with(seed);
    world.begin(edition, seed);
    world.pass(Duration::from_secs(2));
    let ue = world.ue.as_ref().unwrap();
    assert_eq!(ue.state, State::InSession, "{edition:?} {seed}");
    assert_eq!(ue.complaints, Vec::<&str>::new());
    world
}

fn ue_state(world: &World) -> State {
    world.ue.as_ref().unwrap().state
}

#[test]
fn both_editions_attach_and_get_their_pdu_session() {
    for edition in [Edition::Old, Edition::New] {
        let world = in_session(edition, 1);
        let children = &world.ue.as_ref().unwrap().children;
        assert_eq!((children.len(), world.specs.len()), (2, 2));
        for (child, plane) in children.iter().zip([Plane::Control, Plane::User]) {
            let spec = world.specs.iter().find(|spec| spec.plane == plane);
            assert_same(spec.unwrap(), child);
        }
        // Its signalling SPI is a reserved one, its QoS flow the one a default route goes through.
        assert_eq!(children[0].spi_in, 2);
        assert_eq!(children[1].qos_info, [4, 1, 1, 1, 2]);
        assert_eq!(world.sessions[0].qfis, [1]);
    }
}

#[test]
fn downlink_nas_goes_one_by_one_and_after_the_child_sa_with_a_pause() {
    let world = in_session(Edition::New, 2);
    // REGISTRATION ACCEPT, CONFIGURATION UPDATE COMMAND, PDU SESSION ESTABLISHMENT ACCEPT.
    assert_eq!(world.nas.len(), 3);
    let times: Vec<Duration> = world.nas.iter().map(|(at, _)| *at).collect();
    assert!(
        times[1] - times[0] >= Duration::from_millis(20),
        "{times:?}"
    );
    assert!(
        times[2] - times[1] >= Duration::from_millis(20),
        "{times:?}"
    );
    let device = times[2] - times[0];
    assert!(device >= Duration::from_millis(50), "{times:?}");
}

/// The sizes of arXiv 2603.24426, Table I, which are those of the original: all of them but what a
/// certificate, a name, and NAS of another make change.
#[test]
fn frames_have_the_sizes_of_the_original() {
    let world = in_session(Edition::Old, 3);
    let sizes = &world.sizes;
    assert_eq!(sizes[0], 698, "IKE_SA_INIT request");
    assert_eq!(sizes[2], 214, "IKE_AUTH 1 request");
    assert_eq!(sizes[9], 118, "EAP-Success");
    assert_eq!(sizes[10], 150, "AUTH and CFG_REQUEST");
    assert_eq!(
        sizes[11], 278,
        "AUTH, CFG_REPLY, SA, TS, NAS address and port"
    );
    assert_eq!(sizes[13], 470, "CREATE_CHILD_SA response");
}

/// In one of 128 attaches KEr or the shared secret would begin with a zero octet.
#[test]
fn no_attach_fails_for_a_leading_zero() {
    for seed in 0..300 {
        let mut world = World::with(1000 + seed);
        world.begin(Edition::Old, seed);
        assert_eq!(ue_state(&world), State::Registered, "{seed}");
    }
}

#[test]
fn without_the_profile_its_faults_are_its_own() {
    // One that answers with another Message ID has no PDU session.
    let mut world = World::strict(1);
    world.begin(Edition::Old, 1);
    world.pass(Duration::from_secs(2));
    assert_eq!(ue_state(&world), State::Registered);
    assert_eq!(world.specs.len(), 1);
    // And some attaches end with a leading zero.
    let attached = (0..300).filter(|seed| {
        let mut world = World::strict(1000 + seed);
        world.begin(Edition::Old, *seed);
        ue_state(&world) == State::Registered
    });
    let attached = attached.count();
    assert!((290..300).contains(&attached), "{attached} of 300");
}

#[test]
fn an_unanswered_delete_is_not_the_death_of_the_ue() {
    let mut world = in_session(Edition::Old, 4);
    world.release_session(1);
    world.pass(Duration::from_secs(10));
    let ue = world.ue.as_ref().unwrap();
    assert_eq!(ue.complaints.first(), Some(&"Unimplemented"));
    assert_eq!(world.specs.len(), 1, "the session's Child SA is gone");
    let sas = world.gateway.sas();
    assert_eq!((sas.len(), sas[0].state), (1, SaState::Established));
    assert!(
        world
            .to_core
            .iter()
            .any(|name| name == "PDUSessionResourceRelease")
    );
}

#[test]
fn deregistration_ends_everything_though_the_delete_is_not_answered() {
    for edition in [Edition::Old, Edition::New] {
        let mut world = in_session(edition, 5);
        world.ue.as_mut().unwrap().stop();
        world.pass(Duration::from_secs(10));
        assert_eq!(ue_state(&world), State::Deregistered, "{edition:?}");
        assert!(world.gateway.is_empty(), "{edition:?}");
        assert_eq!(world.gateway.sas().len(), 0, "{edition:?}");
        assert!(world.specs.is_empty());
    }
}

#[test]
fn nothing_is_ever_rekeyed() {
    let mut world = in_session(Edition::New, 6);
    let before = world.sizes.len();
    world.pass(Duration::from_secs(100_000));
    assert_eq!(world.sizes.len(), before, "not a datagram");
    assert_eq!(ue_state(&world), State::InSession);
}

/// What the old edition sends for an answer to CREATE_CHILD_SA counts once: recorded, it is no
/// answer to the next request.
#[test]
fn a_recorded_answer_is_no_answer_to_another_request() {
    let mut world = in_session(Edition::Old, 7);
    let recorded = world
        .from_ue
        .iter()
        .rfind(|data| {
            let header = wire::parse(data).unwrap().header;
            header.exchange == wire::ExchangeType::CreateChildSa
        })
        .cloned()
        .unwrap();
    world.mute_ue = true;
    world.request_session(2);
    assert_eq!(world.specs.len(), 2);
    world.inject((crate::world::UE, 500).into(), &recorded);
    assert_eq!(world.specs.len(), 2, "no Child SA comes of it");
    world.mute_ue = false;
    world.pass(Duration::from_secs(3));
    assert_eq!(world.specs.len(), 3, "one comes of the true answer");
}
