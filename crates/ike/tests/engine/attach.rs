//! An undisturbed attach: what happens, and what each octet is for.

use std::time::Duration;

use ike::{Fate, KeyPurpose, SaState};

use crate::{
    setup,
    world::{Side, World},
};

#[test]
fn native_attach_comes_up_on_both_sides() {
    let mut world = World::native(1);
    let (ue, n3iwf) = world.attach(setup::native());
    assert_eq!(world.established(Side::Ue).len(), 1);
    assert_eq!(world.established(Side::N3iwf).len(), 1);
    assert_eq!(world.ue.record.installed.len(), 1);
    assert_eq!(world.n3iwf.record.installed.len(), 1);
    assert_eq!(world.ue.record.configuration, setup::cfg_reply());
    assert_eq!(world.ue.record.notifies, setup::nas_notifies());
    let child = world.ue.record.installed.values().next().unwrap().clone();
    assert!(child.signalling);
    assert_eq!(child.ts_local, [setup::UE_INNER]);
    assert_eq!(child.ts_remote, [setup::N3IWF_INNER]);
    assert!(!child.udp_encap);
    world.command(Side::N3iwf, |endpoint, now| {
        endpoint
            .create_child(now, n3iwf, setup::user_child(42))
            .unwrap()
    });
    world.run(Duration::from_secs(1));
    assert_eq!(world.n3iwf.record.tokens_up, [0, 42]);
    assert_eq!(world.ue.record.installed.len(), 2);
    for side in [Side::Ue, Side::N3iwf] {
        let census = world.node(side).endpoint.census();
        assert_eq!((census.signalling, census.user), (1, 1));
        let [((state, mode), 1)] = census
            .ike_sas
            .iter()
            .map(|(k, v)| (*k, *v))
            .collect::<Vec<_>>()[..]
        else {
            panic!("{census:?}");
        };
        assert_eq!(
            (state, mode.to_string()),
            (SaState::Established, "qkd-native".to_owned())
        );
    }
    world.check_keys();
    assert_eq!(world.kme.allocations, 1, "all keys in one request");
    assert_eq!(world.kme.collections, 1);
    let used = |side: &crate::record::Record| {
        let mut used: Vec<KeyPurpose> = side
            .fates
            .values()
            .map(|fate| match fate {
                Fate::Used { purpose, .. } => *purpose,
                Fate::Lost => panic!("a key was lost"),
            })
            .collect();
        used.sort();
        used
    };
    use KeyPurpose as P;
    let expected = [
        P::IkeEncryptionUp,
        P::IkeEncryptionDown,
        P::EspEncryptionUp,
        P::EspEncryptionUp,
        P::EspEncryptionDown,
        P::EspEncryptionDown,
        P::Authentication,
    ];
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(used(&world.ue.record), expected);
    assert_eq!(used(&world.n3iwf.record), expected);
    let (ue_count, n3iwf_count) = (
        *world.ue.endpoint.counters(),
        *world.n3iwf.endpoint.counters(),
    );
    assert_eq!(ue_count.sent, n3iwf_count.received);
    assert_eq!(n3iwf_count.sent, ue_count.received);
    let sent: Vec<_> = ue_count
        .sent
        .iter()
        .filter(|(.., count)| *count > 0)
        .collect();
    assert_eq!(sent[0], ("ike_sa_init", "request", 1));
    assert_eq!(sent[2], ("create_child_sa", "response", 1));
    assert_eq!(ue_count.retransmitted + n3iwf_count.retransmitted, 0);
    world.command(Side::Ue, |endpoint, now| endpoint.close(now, ue));
    world.run(Duration::from_secs(60));
    assert_eq!(world.sas(Side::Ue).len() + world.sas(Side::N3iwf).len(), 0);
    assert!(world.ue.record.installed.is_empty() && world.n3iwf.record.installed.is_empty());
}
