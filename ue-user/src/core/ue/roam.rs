//! This host changes its address (RFC 4555): the attach goes on where the N3IWF lets it, or begins anew.

use std::net::{IpAddr, SocketAddr};

use ike::{CommandError, Instant, Path, wire::NotifyType};
use tracing::{debug, info, warn};

use super::{Action, Ue};

impl Ue {
    /// Where IKE goes from and to, as long as nothing changes.
    pub fn path(&self) -> Path {
        self.config.path
    }

    /// This host has another address, or another route to the N3IWF. The NWu sockets are there already.
    pub fn roam(&mut self, now: Instant, local: IpAddr) {
        let from = self.config.path.local;
        self.config.path.local = SocketAddr::new(local, from.port());
        info!(from = %from.ip(), to = %local, "this host moved");
        if let Some(link) = self.link.as_ref() {
            let outcome = match link.established {
                true => self.endpoint.roam(now, link.sa, local),
                // IKE_AUTH cannot be carried along.
                false => Err(CommandError::NotEstablished),
            };
            if let Err(error) = outcome {
                info!(%error, "attaching anew from the new address");
                self.end(now, None, true);
            }
        }
        self.drive(now);
    }

    /// The N3IWF stays where it thinks this host is.
    pub(super) fn move_refused(&mut self, now: Instant, notify: NotifyType) {
        warn!(%notify, "the N3IWF does not take the new address, attaching anew");
        self.end(now, None, true);
    }

    /// Child SAs in use follow; those that drain receive only. ESP stays in UDP until a rekey, so one follows when the
    /// NAT is gone.
    pub(super) fn moved(&mut self, now: Instant, path: Path, udp_encap: bool) {
        info!(%path, udp_encap, "path of the IKE SA");
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let plain_again = std::mem::replace(&mut link.udp_encap, udp_encap) && !udp_encap;
        let children = link.children.iter();
        let in_use = children.filter(|(_, child)| !child.superseded);
        let moves = in_use.map(|(id, _)| Action::Move {
            child: *id,
            path,
            udp_encap,
        });
        self.actions.extend(moves);
        if plain_again && let Err(why) = self.rekey_children(now, None) {
            debug!(why, "ESP stays in UDP");
        }
    }
}
