//! Child SAs between the engine and the data plane.

use dataplane::{ChildSaSpec, EspKeys, Plane, Suite};
use ike::{
    ChildId, ChildSa, SaId,
    crypto::{DirectionKeys, Integ},
};
use tracing::warn;

use super::{
    N3iwf,
    types::{Action, Child, ChildState, Command, IkeState},
};

/// IP protocol of the signalling Child SA: NAS over TCP.
const TCP: u8 = 6;
/// IP protocol of user-plane Child SAs.
const GRE: u8 = 47;

impl N3iwf {
    /// The engine has keys and SPIs for a Child SA.
    pub(super) fn install_child(&mut self, sa: SaId, child: ChildSa) {
        self.touched = Some(sa);
        let (id, token) = (child.id, child.token);
        // Who answers a rekey sends through the old one until the peer has the new one.
        let inbound = child.replaces.is_some() && !child.role_initiator;
        let spec = self
            .by_sa
            .get(&sa)
            .copied()
            .and_then(|number| self.spec(number, child));
        let Some((number, spec)) = spec else {
            warn!(%sa, child = %id, token, "Child SA without a purpose");
            self.commands.push_back(Command::ChildInstalled {
                sa,
                child: id,
                ok: false,
            });
            return;
        };
        self.by_child.insert(id, number);
        self.actions.push_back(Action::InstallSa {
            sa,
            child: id,
            spec: Box::new(spec),
            inbound,
        });
    }

    fn spec(&mut self, number: u32, child: ChildSa) -> Option<(u32, ChildSaSpec)> {
        let Suite { encr, integ } =
            Suite::from_transforms(child.suite.encr.id(), child.suite.integ.map(Integ::id))?;
        let ue = self.ues.get_mut(&number)?;
        let inner_remote = ue.inner?;
        let replaced = match child.replaces {
            Some(old) => Some(ue.children.get(&old)?.reqid),
            None => None,
        };
        let (plane, pdu_session, slot) = if child.signalling {
            if replaced.is_none() {
                ue.signalling = Some(child.id);
            }
            (Plane::Control, None, 0)
        } else {
            let (id, session) = ue
                .sessions
                .iter_mut()
                .find(|(_, session)| session.has_token(child.token))?;
            let (place, slot) = session.by_token(child.token)?;
            if replaced.is_none() {
                *place = Some(child.id);
            }
            (Plane::User, Some(*id), slot)
        };
        // The policies name states by it: the newer one takes over from the older.
        let reqid = match replaced {
            Some(reqid) => reqid,
            None => self.reqids.take()?,
        };
        ue.children.insert(
            child.id,
            Child {
                state: ChildState::Installing,
                reqid,
                replaces: child.replaces,
                inbound: replaced.is_some() && !child.role_initiator,
                superseded: false,
                expired: false,
                rekey_at: None,
                key_ids: child.key_ids,
            },
        );
        let spec = ChildSaSpec {
            id: child.id.number(),
            plane,
            ue: number,
            pdu_session,
            spi_in: child.spi_in,
            spi_out: child.spi_out,
            encr,
            integ,
            keys_in: esp_keys(child.keys_in),
            keys_out: esp_keys(child.keys_out),
            esn: child.suite.esn,
            replay_window: self.config.replay_window,
            local: child.path.local,
            remote: child.path.remote,
            udp_encap: child.udp_encap,
            inner_local: self.config.inner_address,
            inner_remote,
            protocol: Some(if child.signalling { TCP } else { GRE }),
            slot,
            reqid,
        };
        Some((number, spec))
    }

    /// The data plane's answer to [`Action::InstallSa`].
    pub fn child_installed(&mut self, sa: SaId, child: ChildId, result: Result<(), String>) {
        self.touched = Some(sa);
        let Some(number) = self.by_child.get(&child).copied() else {
            return;
        };
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        let carries = |child: ChildId| {
            ue.signalling == Some(child) || ue.sessions.values().any(|s| s.has_child(child))
        };
        let replaces = ue.children.get(&child).and_then(|entry| entry.replaces);
        let wanted = !matches!(ue.ike, IkeState::Closed)
            && (carries(child) || replaces.is_some_and(carries));
        match result {
            Ok(()) if wanted => {
                if let Some(entry) = ue.children.get_mut(&child) {
                    entry.state = ChildState::Installed;
                }
                self.commands.push_back(Command::ChildInstalled {
                    sa,
                    child,
                    ok: true,
                });
            }
            Ok(()) => {
                // Its IKE SA or its session ended meanwhile: nobody else would take it away.
                self.commands.push_back(Command::ChildInstalled {
                    sa,
                    child,
                    ok: false,
                });
                self.remove_child(number, child);
            }
            Err(error) => {
                warn!(ue = number, %child, error, "the data plane refused a Child SA");
                if let Some(entry) = ue.children.get_mut(&child) {
                    // Never used, and booked as such.
                    entry.key_ids.clear();
                }
                self.commands.push_back(Command::ChildInstalled {
                    sa,
                    child,
                    ok: false,
                });
                self.child_removed(child);
            }
        }
    }

    /// The data plane's answer to [`Action::RemoveSa`].
    pub fn child_removed(&mut self, child: ChildId) {
        let Some(number) = self.by_child.remove(&child) else {
            return;
        };
        if let Some(ue) = self.ues.get_mut(&number)
            && let Some(entry) = ue.children.remove(&child)
        {
            if ue.children.values().all(|other| other.reqid != entry.reqid) {
                self.reqids.give_back(entry.reqid);
            }
            if ue.ike != IkeState::Closed && !entry.key_ids.is_empty() {
                let ids = entry.key_ids;
                self.actions.push_back(Action::ReleaseKeys { ids });
            }
        }
        self.reap(number);
    }

    pub(super) fn remove_child(&mut self, number: u32, child: ChildId) {
        if let Some(entry) = self
            .ues
            .get_mut(&number)
            .and_then(|ue| ue.children.get_mut(&child))
            && entry.state != ChildState::Removing
        {
            entry.state = ChildState::Removing;
            self.actions.push_back(Action::RemoveSa { child });
        }
    }
}

fn esp_keys(keys: DirectionKeys) -> EspKeys {
    EspKeys {
        encr: keys.encr,
        salt: keys.salt,
        integ: keys.integ,
    }
}
