//! What the gateway wants done outside: KMS, data plane, relay, AMF and NAS connections in a few lines.

use ike::Fate;
use keys::{KeyId, QkdKey, Secret};
use n3iwf_user::core::Action;
use oxirush_ngap::NgapPduKind;

use super::{Held, World};
use crate::amf::Uplink;

impl World {
    pub(crate) fn act(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::ConnectAmf { amf } => {
                self.connects += 1;
                if self.amf_listens {
                    self.gateway.amf_connected(now, amf);
                } else {
                    self.gateway.amf_lost(now, amf, "refused");
                }
            }
            Action::DisconnectAmf { .. } => self.disconnects += 1,
            Action::SendNgap { amf, ue, data } => {
                self.sent_on_ue_stream += usize::from(ue.is_some());
                let uplink = Uplink::new(amf, ue, &data);
                let setup = uplink.kind() == NgapPduKind::Initiating_NGSetup;
                self.uplink.push_back(uplink);
                if setup && let Some(answer) = self.setup_answers.pop_front() {
                    self.gateway.handle_ngap(now, amf, &answer);
                }
            }
            Action::FetchKeys {
                sa,
                request,
                slave,
                number,
                size_bits,
            } => {
                assert_eq!((slave.as_str(), size_bits), ("sae-ue-1", 256));
                let keys = match self.kms_failure {
                    Some(failure) => Err(failure),
                    None => Ok((0..number).map(|_| self.new_key()).collect()),
                };
                self.gateway.keys_fetched(now, sa, request, keys);
            }
            Action::FetchAhead {
                slave,
                number,
                size_bits,
            } => {
                assert_eq!((slave.as_str(), size_bits), ("sae-ue-1", 256));
                let keys = match self.kms_failure {
                    Some(failure) => Err(failure),
                    None => Ok((0..number).map(|_| self.new_key()).collect()),
                };
                self.gateway.keys_ahead(now, &slave, keys);
            }
            Action::AskStock { slave } => {
                let stored = self.stored;
                self.gateway.stock_told(now, &slave, stored);
            }
            Action::LoseKeys { ids } => {
                for id in ids {
                    let fate = self.fates.insert(id, Fate::Lost);
                    assert_eq!(fate, None, "two fates of one key");
                }
            }
            Action::BookKey { id, fate, .. } => {
                assert_eq!(self.fates.insert(id, fate), None, "two fates of one key");
            }
            Action::ForgetKeys { .. } => {}
            Action::ReleaseKeys { ids } => {
                for id in ids {
                    assert!(matches!(self.fates.get(&id), Some(Fate::Used { .. })));
                    assert!(self.released.insert(id), "released twice");
                }
            }
            Action::SwitchSa { child } => {
                let held = self.held.get_mut(&child).expect("installed");
                assert!(std::mem::take(&mut held.inbound), "switched twice");
            }
            Action::MoveSa { child, path, .. } => {
                assert!(self.held.contains_key(&child));
                self.moved.push((child, path.remote));
            }
            Action::InstallSa {
                sa,
                child,
                spec,
                inbound,
            } => {
                spec.check(3).unwrap();
                let result = if self.refuse_install {
                    Err("as told".to_owned())
                } else {
                    let held = Held {
                        plane: spec.plane,
                        slot: spec.slot,
                        reqid: spec.reqid,
                        inner_remote: spec.inner_remote,
                        pdu_session: spec.pdu_session,
                        inbound,
                    };
                    // Policies belong to one reqid, and a reqid has the same policies.
                    let clash = self.held.values().any(|other| {
                        ((other.plane, other.slot, other.inner_remote)
                            == (held.plane, held.slot, held.inner_remote))
                            != (other.reqid == held.reqid)
                    });
                    assert!(!clash, "{held:?}");
                    assert_eq!(self.held.insert(child, held), None);
                    Ok(())
                };
                self.gateway.child_installed(now, sa, child, result);
            }
            Action::RemoveSa { child } => {
                assert!(self.held.remove(&child).is_some(), "removed twice");
                self.gateway.child_removed(now, child);
            }
            Action::AddSession(session) => {
                let (ue, teid) = (session.ue, session.dl_teid);
                let result = if self.refuse_relay {
                    Err("as told".to_owned())
                } else {
                    assert_eq!(self.relay.insert(teid, session), None);
                    Ok(())
                };
                self.gateway.session_added(now, ue, teid, result);
            }
            Action::ModifySession { session, token } => {
                let ue = session.ue;
                let result = if self.refuse_relay {
                    Err("as told".to_owned())
                } else {
                    let teid = session.dl_teid;
                    assert!(self.relay.insert(teid, session).is_some(), "modified");
                    Ok(())
                };
                self.gateway.session_modified(now, ue, token, result);
            }
            Action::SetUeAmbr { ue, ambr } => {
                for session in self.relay.values_mut().filter(|s| s.ue == ue) {
                    assert!(session.ue_ambr.is_some(), "nothing to change");
                    session.ue_ambr = Some(ambr);
                }
            }
            Action::RemoveSession { ue, dl_teid } => {
                assert!(self.relay.remove(&dl_teid).is_some(), "removed twice");
                self.gateway.session_removed(now, ue, dl_teid);
            }
            Action::SendNas { link, message } => self.nas_sent.push((link, message)),
            Action::CloseNas { link } => self.nas_closed.push(link),
        }
    }

    fn new_key(&mut self) -> QkdKey {
        self.fetched += 1;
        let id = KeyId::from_octets((self.fetched as u128).to_be_bytes());
        let octets: Vec<u8> = (0..32).map(|n| (self.fetched * 31 + n) as u8).collect();
        let secret = Secret::from_slice(&octets);
        self.keys.insert(id, octets);
        QkdKey { id, secret }
    }
}
