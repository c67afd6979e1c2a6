//! The small daemons of both sides: they answer events as told by their [`Behaviour`](crate::world::Behaviour).

use std::time::Duration;

use ike::{
    ChildAnswer, ChildSa, EapSuccess, Event, Grant, KeyRequestId, KeysWanted, QkdFailure, SaId,
};
use keys::Secret;

use crate::{
    record::Installed,
    setup,
    world::{
        Action,
        Side::{self, N3iwf, Ue},
        World,
    },
};

impl World {
    /// Notes what is final at once, and hands the rest to the daemon after its reaction time.
    pub(crate) fn note(&mut self, side: Side, event: Event) {
        let record = &mut self.node(side).record;
        match &event {
            Event::KeyFate { id, fate, .. } => {
                let before = record.fates.insert(*id, *fate);
                assert_eq!(before, None, "{side:?}: {id} has two fates");
            }
            Event::Established {
                sa,
                configuration,
                notifies,
            } => {
                assert!(!record.established.contains(sa), "established twice");
                record.established.push(*sa);
                record.configuration.clone_from(configuration);
                record.notifies.clone_from(notifies);
            }
            Event::Closed { sa, reason } => {
                assert!(
                    record.closed.iter().all(|(closed, _)| closed != sa),
                    "closed twice"
                );
                record.closed.push((*sa, reason.clone()));
            }
            Event::ChildUp { child, token, .. } => {
                assert!(record.installed.contains_key(child), "up before installed");
                assert!(record.up.insert(*child), "up twice");
                record.tokens_up.push(*token);
            }
            Event::ChildFailed { child, reason, .. } => {
                assert!(!record.up.contains(child), "failed after it was up");
                assert!(
                    !record.established.is_empty(),
                    "{side:?}: failed before there was anything"
                );
                record.failed.push((*child, *reason));
            }
            Event::ChildDown {
                child,
                spi_in,
                by_peer,
                ..
            } => {
                if let Some(installed) = record.installed.remove(child) {
                    assert_eq!(installed.spi_in, *spi_in);
                }
                record.up.remove(child);
                record.down.push((*child, *by_peer));
            }
            Event::KeysNeeded { request, .. } => {
                assert!(record.requests.insert(*request), "asked twice");
                record.keys_needed += 1;
            }
            Event::ChildSwitched { from, to, .. } => {
                assert!(record.installed.contains_key(to), "switched to nothing");
                record.switched.push((*from, *to));
            }
            Event::IkeRekeyed { .. } => record.ike_rekeys += 1,
            Event::IkeRekeyFailed { reason, .. } => record.ike_rekeys_failed.push(*reason),
            Event::ChildRekeyFailed { child, reason, .. } => {
                record.rekeys_failed.push((*child, *reason));
            }
            Event::ModeFallback {
                from, to, reason, ..
            } => {
                let step = (from.clone(), to.clone(), reason.clone());
                record.fallbacks.push(step);
            }
            Event::PathChanged {
                path, udp_encap, ..
            } => {
                record.paths.push(*path);
                record.encaps.push(*udp_encap);
            }
            Event::MoveRefused { notify, .. } => record.refusals.push(*notify),
            Event::Told { notifies, .. } => record.told.push(notifies.clone()),
            Event::Informed { token, refusal, .. } => record.informed.push((*token, *refusal)),
            Event::KeysMissing { sae, id } => record.keys_missing.push((sae.clone(), *id)),
            Event::EapBegin { .. } => record.eap_begins += 1,
            Event::EapFailure { .. } => record.eap_failures += 1,
            _ => {}
        }
        let slowness = self.behaviour.slowness;
        let after = self.up_to(slowness);
        // A data plane works in the order it is told to: only questions may take their time.
        match event {
            Event::KeysNeeded {
                sa,
                request,
                wanted,
            } => self.schedule(after, Action::Keys(side, sa, request, wanted, 0)),
            Event::InstallChild { .. } => self.schedule(after, Action::React(side, event)),
            Event::EapBegin { .. }
            | Event::PeerAuthenticated { .. }
            | Event::Eap { .. }
            | Event::EapSuccess { .. }
            | Event::ChildRequested { .. } => self.schedule(after, Action::React(side, event)),
            _ => {}
        }
    }

    pub(crate) fn react(&mut self, side: Side, event: Event) {
        let now = self.now;
        let behaviour = self.behaviour.clone();
        match event {
            Event::EapBegin { sa, .. } => {
                self.n3iwf.endpoint.send_eap(now, sa, setup::eap(1, 14));
            }
            Event::PeerAuthenticated { sa, .. } => {
                let grant = Grant {
                    configuration: setup::cfg_reply(),
                    ts_local: vec![setup::N3IWF_INNER],
                    ts_remote: behaviour.ts_ue.clone(),
                    notifies: Vec::new(),
                };
                self.n3iwf.endpoint.grant(now, sa, grant);
            }
            Event::Eap { sa, packet } => {
                let round = *self.node(side).rounds.entry(sa).or_default();
                *self.node(side).rounds.entry(sa).or_default() += 1;
                match side {
                    Ue => {
                        assert_eq!(packet[0], 1, "the UE gets EAP requests");
                        let len = behaviour.eap.get(round).map_or(20, |(len, _)| *len);
                        self.ue.endpoint.send_eap(now, sa, setup::eap(2, len));
                    }
                    N3iwf => {
                        assert_eq!(packet[0], 2, "the N3IWF gets EAP responses");
                        self.authenticator(sa, round);
                    }
                }
            }
            Event::EapSuccess { sa } => {
                let msk = if behaviour.wrong_msk { 8 } else { 7 };
                self.ue
                    .endpoint
                    .set_msk(now, sa, Secret::from_slice(&[msk; 32]));
            }
            Event::InstallChild { sa, child } => self.install(side, sa, &child),
            Event::ChildRequested { sa, child, .. } => {
                let answer = match behaviour.refuses_children {
                    Some(kind) => Err(kind),
                    None => Ok(ChildAnswer::default()),
                };
                self.node(side)
                    .endpoint
                    .answer_child(now, sa, child, answer);
            }
            _ => {}
        }
        self.drain(side);
    }

    fn authenticator(&mut self, sa: SaId, round: usize) {
        let now = self.now;
        let behaviour = &self.behaviour;
        let last = round + 1 >= behaviour.eap.len();
        if last && behaviour.eap_fails {
            self.n3iwf.endpoint.eap_failure(now, sa, setup::eap(4, 4));
        } else if last {
            let success = EapSuccess {
                packet: setup::eap(3, 4),
                msk: Secret::from_slice(&[7; 32]),
                configuration: setup::cfg_reply(),
                ts_local: vec![setup::N3IWF_INNER],
                ts_remote: behaviour.ts_ue.clone(),
                notifies: setup::nas_notifies(),
            };
            self.n3iwf.endpoint.eap_success(now, sa, success);
        } else {
            let len = behaviour.eap[round].1;
            self.n3iwf.endpoint.send_eap(now, sa, setup::eap(1, len));
        }
    }

    fn install(&mut self, side: Side, sa: SaId, child: &ChildSa) {
        if self.behaviour.silent_install == Some(side) {
            return;
        }
        let fails = self.behaviour.install_fails;
        let now = self.now;
        let node = self.node(side);
        let ordinal = node.record.installs;
        node.record.installs += 1;
        let id = child.id;
        if fails == Some((side, ordinal)) {
            node.endpoint.child_installed(now, sa, id, Err(()));
            return;
        }
        let octets = |secret: &Secret| secret.expose().to_vec();
        // When the SA is gone by now, ChildDown has been reported already and nothing may stay behind.
        let gone = node.record.down.iter().any(|(down, _)| *down == id);
        if !gone {
            node.record.installed.insert(
                id,
                Installed {
                    id,
                    sa,
                    spi_in: child.spi_in,
                    spi_out: child.spi_out,
                    key_in: octets(&child.keys_in.encr),
                    key_out: octets(&child.keys_out.encr),
                    salt_in: child.keys_in.salt,
                    salt_out: child.keys_out.salt,
                    integ_in: child.keys_in.integ.as_ref().map(octets),
                    integ_out: child.keys_out.integ.as_ref().map(octets),
                    signalling: child.signalling,
                    udp_encap: child.udp_encap,
                    key_ids: child.key_ids.clone(),
                    ts_local: child.ts_local.clone(),
                    ts_remote: child.ts_remote.clone(),
                    notifies: child.notifies.clone(),
                },
            );
        }
        node.endpoint.child_installed(now, sa, id, Ok(()));
    }

    pub(crate) fn keys(
        &mut self,
        side: Side,
        sa: SaId,
        request: KeyRequestId,
        wanted: KeysWanted,
        tries: u32,
    ) {
        if self.behaviour.silent_keys == Some(side) {
            return;
        }
        let answer = match self.kme.answer(self.now, &wanted) {
            Ok(keys) => Ok(keys),
            Err(None) if tries < 20 => {
                let again = Action::Keys(side, sa, request, wanted, tries + 1);
                return self.schedule(Duration::from_millis(200), again);
            }
            Err(failure) => Err(failure.unwrap_or(QkdFailure::UnknownKey)),
        };
        let now = self.now;
        let node = self.node(side);
        node.record.provided += answer.as_ref().map_or(0, Vec::len);
        node.endpoint.provide_keys(now, sa, request, answer);
        self.drain(side);
    }
}
