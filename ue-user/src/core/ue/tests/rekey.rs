//! Rekeyed SAs: NAS connection and PDU session do not notice.

use std::time::Duration;

use super::world::{Faults, World};
use crate::core::ue::{Command, State};

const SECOND: Duration = Duration::from_secs(1);

/// SPIs and carriers of the Child SAs in use.
fn children(world: &World) -> Vec<(String, String)> {
    let status = world.ue.status(world.now);
    let mut rows: Vec<_> = status.ike[0]
        .children
        .iter()
        .map(|child| (child.carries.clone(), child.spi_in.clone()))
        .collect();
    rows.sort();
    rows
}

fn in_service(world: &World) {
    assert_eq!(world.ue.state(), State::Registered);
    assert_eq!((world.interfaces.len(), world.token()), (1, 1));
    assert!(world.ue.status(world.now).sessions[0].up);
    assert!(world.detached.is_empty());
    let carriers: Vec<_> = children(world).into_iter().map(|(name, _)| name).collect();
    assert_eq!(carriers, ["PDU session 1", "signalling"]);
}

#[test]
fn child_sas_are_rekeyed_by_command_and_by_the_n3iwf() {
    let mut world = World::attached();
    for by_ue in [true, false] {
        let (before, made) = (children(&world), world.keys_made);
        if by_ue {
            world.command(Command::RekeyChild(None));
        } else {
            world.n3iwf_rekeys(false);
        }
        in_service(&world);
        assert_eq!(world.keys_made, made + 4);
        assert!(
            world.inbound.is_empty(),
            "packets leave through the new ones"
        );
        assert_eq!(world.installed.len(), 4, "the old ones drain");
        let after = children(&world);
        assert!(before.iter().zip(&after).all(|(old, new)| old.1 != new.1));
        world.run_for(6 * SECOND);
        assert_eq!(world.installed.len(), 2);
        assert_eq!(world.reqids.len(), 2, "policies stay");
        in_service(&world);
    }
    assert_eq!(world.released.len(), 8);
    let refused = world.ue.command(world.now, Command::RekeyChild(Some(77)));
    assert!(refused.unwrap_err().contains("77"));
    // One alone, and what it replaced goes with the session.
    let number = *world.installed.last().unwrap();
    world.command(Command::RekeyChild(Some(number)));
    assert_eq!(world.installed.len(), 3);
    world.command(Command::Release(1));
    world.run_for(SECOND);
    assert!(world.interfaces.is_empty());
    world.command(Command::Establish(1));
    world.run_for(SECOND);
    in_service(&world);
}

#[test]
fn the_ike_sa_is_rekeyed_by_command_and_by_the_n3iwf() {
    let mut world = World::attached();
    let ends = |world: &World| {
        let ike = world.ue.status(world.now).ike.remove(0);
        (ike.spi_i, ike.spi_r)
    };
    let mut seen = vec![ends(&world)];
    for by_ue in [false, true, false] {
        let before = children(&world);
        if by_ue {
            world.command(Command::RekeyIke);
        } else {
            world.n3iwf_rekeys(true);
        }
        world.run_for(SECOND);
        in_service(&world);
        assert_eq!(children(&world), before, "Child SAs stay");
        assert!(!seen.contains(&ends(&world)));
        seen.push(ends(&world));
    }
    assert_eq!(world.keys_made, 7 + 3 * 3);
    assert_eq!(world.released.len(), 9);
    world.command(Command::RekeyChild(None));
    world.command(Command::Deregister);
    world.run_for(5 * SECOND);
    assert_eq!(world.ue.state(), State::Detached);
    world.assert_clean();
    assert_eq!(world.n3iwf_sas(), 0);
    assert_eq!(world.fates.len(), usize::from(world.keys_made));
}

#[test]
fn limits_of_the_kernel_rekey_and_in_the_end_delete() {
    let mut world = World::attached();
    let user = |world: &World| world.ue.status(world.now).ike[0].children[1].id;
    let first = user(&world);
    world.faults.n3iwf_kms = 1;
    world.ue.child_expired(world.now, first, false);
    world.ue.child_expired(world.now, 999, true);
    world.settle();
    assert_eq!(user(&world), first, "no key, no rekey");
    world.run_for(9 * SECOND);
    assert_eq!(user(&world), first);
    world.run_for(2 * SECOND);
    let second = user(&world);
    assert_ne!(second, first, "tried again");
    world.ue.child_expired(world.now, first, true);
    world.settle();
    in_service(&world);
    world.ue.child_expired(world.now, second, true);
    world.settle();
    let status = world.ue.status(world.now);
    assert!(!status.sessions[0].up);
    assert_eq!(world.installed.len(), 1, "the signalling one");
}

#[test]
fn an_authentication_is_renewed_in_time() {
    let mut world = World::new(Faults {
        auth_lifetime: Some(1000),
        ..Faults::default()
    });
    world.command(Command::Attach);
    world.run_for(799 * SECOND);
    in_service(&world);
    let ike = |world: &World| world.ue.status(world.now).ike[0].spi_i.clone();
    let first = ike(&world);
    world.run_for(110 * SECOND);
    assert_ne!(
        ike(&world),
        first,
        "another IKE SA, before the 1000 s are over"
    );
    assert_eq!(world.ue.state(), State::Registered);
    assert_eq!((world.interfaces.len(), world.attached), (1, 2));
    assert_eq!(world.detached, [(None, Some(Duration::ZERO))]);
    // An operator's word is the last one.
    world.command(Command::Deregister);
    world.run_for(2000 * SECOND);
    assert_eq!(world.ue.state(), State::Detached);
    world.assert_clean();
}
