//! INITIAL_CONTACT: an IKE SA that its peer has lost goes with the peer's next attach, and with nobody else's word.

use std::time::Duration;

use ike::{
    CloseReason, EndpointConfig, InitiatorConfig,
    Mode::{self, Cert, Hybrid, Psk, Qkd},
    Offer,
    Profile::Native,
    QkdPolicy::Prefer,
    SaId,
};

use crate::{
    certificates, setup,
    world::{
        Side::{N3iwf, Ue},
        World,
    },
};

const MODES: [Mode; 3] = [Qkd(Native), Hybrid, Cert];

fn endpoint(mode: Mode) -> EndpointConfig {
    match mode {
        Hybrid => setup::hybrid_endpoint(),
        Cert => certificates::n3iwf(&[Cert], 0),
        mode => setup::accepting(&[mode], Prefer),
    }
}

fn config(mode: Mode) -> InitiatorConfig {
    match mode {
        Hybrid => setup::hybrid_config(),
        Cert => certificates::named(),
        _ => setup::choosy(),
    }
}

fn offer(mode: Mode, initial_contact: bool) -> Offer {
    let offer = match mode {
        Cert => certificates::ue(&[Cert], 1),
        mode => setup::offering(&[mode], Prefer),
    };
    Offer {
        initial_contact,
        ..offer
    }
}

/// An N3IWF with one IKE SA, of which the UE knows nothing any more.
fn forgotten(seed: u64, mode: Mode) -> (World, SaId) {
    let mut world = World::new(seed, setup::ue_endpoint(), endpoint(mode));
    let (ue, n3iwf) = world.attach_with(config(mode), &offer(mode, true));
    world.command(Ue, |endpoint, now| endpoint.abandon(now, ue));
    assert_eq!(world.established(N3iwf).len(), 1);
    (world, n3iwf)
}

#[test]
fn the_older_ike_sa_of_an_identity_goes_at_once() {
    for (seed, mode) in (1600..).zip(MODES) {
        let (mut world, old) = forgotten(seed, mode);
        let (_, new) = world.attach_with(config(mode), &offer(mode, true));
        assert_eq!(world.reason(N3iwf, old), Some(CloseReason::InitialContact));
        let left = world.established(N3iwf);
        assert_eq!(left.len(), 1, "{mode}");
        assert_eq!(left[0].id, new);
        assert_eq!(world.n3iwf.record.installed.len(), 1, "{mode}");
        world.run(Duration::from_secs(200));
        assert_eq!(world.established(Ue).len(), 1, "the new one stays");
        assert_eq!(world.established(N3iwf).len(), 1);
    }
}

#[test]
fn who_does_not_say_it_keeps_what_there_was() {
    for (seed, mode) in (1610..).zip(MODES) {
        let (mut world, old) = forgotten(seed, mode);
        world.attach_with(config(mode), &offer(mode, false));
        assert_eq!(world.reason(N3iwf, old), None, "{mode}");
        assert_eq!(world.established(N3iwf).len(), 2);
    }
}

#[test]
fn it_says_nothing_of_another_identity() {
    for (seed, mode) in [(1620, Qkd(Native)), (1621, Hybrid)] {
        let (mut world, old) = forgotten(seed, mode);
        let other = InitiatorConfig {
            sae_id: "sae-ue-2".parse().unwrap(),
            ..config(mode)
        };
        world.attach_with(other, &offer(mode, true));
        assert_eq!(world.reason(N3iwf, old), None, "{mode}");
        assert_eq!(world.established(N3iwf).len(), 2);
    }
    // IDi of mode `psk` is whatever the UE likes to say.
    let (mut world, old) = forgotten(1622, Psk);
    world.attach_with(config(Psk), &offer(Psk, true));
    assert_eq!(world.reason(N3iwf, old), None);
    assert_eq!(world.established(N3iwf).len(), 2);
}

#[test]
fn without_authentication_it_does_nothing() {
    for (seed, mode) in (1630..).zip(MODES) {
        // The subscription is not proven.
        let (mut world, old) = forgotten(seed, mode);
        world.behaviour.wrong_msk = true;
        let begun = world.initiate_with(config(mode), &offer(mode, true));
        world.run(Duration::from_secs(20));
        assert!(world.reason(Ue, begun).is_some(), "{mode}: it failed");
        assert_eq!(world.reason(N3iwf, old), None, "{mode}");
        assert_eq!(world.established(N3iwf).len(), 1);
        assert_eq!(world.n3iwf.record.installed.len(), 1);
    }
    for (seed, mode) in [(1640, Qkd(Native)), (1641, Hybrid)] {
        // Nor that it is the QKD peer, as whoever claims its SAE ID.
        let (mut world, old) = forgotten(seed, mode);
        world.kme.faults.wrong_octets = Some(0);
        let begun = world.initiate_with(config(mode), &offer(mode, true));
        world.run(Duration::from_secs(20));
        assert!(
            world.established(Ue).iter().all(|sa| sa.id != begun),
            "{mode}"
        );
        assert_eq!(world.reason(N3iwf, old), None, "{mode}");
        assert_eq!(world.established(N3iwf).len(), 1);
    }
}
