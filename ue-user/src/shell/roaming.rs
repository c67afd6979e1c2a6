//! Notices that this host has another address or another route to the N3IWF, and goes there.

use std::{
    future::pending,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use dataplane::{AddressNews, is_ours, source_towards};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::{Daemon, RunError, Sockets};
use crate::config::Config;

/// News come in swarms: an address goes, its routes go, others come.
const SETTLE: Duration = Duration::from_millis(100);

/// What the daemon knows of its place in the network.
pub(super) struct Whereabouts {
    news: Option<AddressNews>,
    n3iwf: SocketAddr,
    /// The address the route to the N3IWF had when last looked at.
    preferred: Option<IpAddr>,
    /// When to look, after news.
    look_at: Option<Instant>,
}

impl Whereabouts {
    /// Without `ike.mobike` nothing is watched: an attach that cannot go on is noticed by liveness checks.
    pub(super) fn new(config: &Config) -> Result<Self, RunError> {
        let n3iwf = config.path().remote;
        Ok(Self {
            news: match config.ike.mobike {
                true => Some(AddressNews::open()?),
                false => None,
            },
            n3iwf,
            preferred: source_towards(n3iwf),
            look_at: None,
        })
    }

    /// Returns some time after news, when they have settled. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        loop {
            let Some(news) = &self.news else {
                return pending().await;
            };
            let Some(at) = self.look_at else {
                if let Err(error) = news.next().await {
                    warn!(%error, "changes of addresses are not noticed any more");
                    self.news = None;
                } else {
                    self.look_at = Some(Instant::now() + SETTLE);
                }
                continue;
            };
            sleep_until(at).await;
            self.look_at = None;
            return;
        }
    }

    /// Where to go from `current`, if anywhere: when that address is gone, or the route to the N3IWF has another one
    /// than before. An address that was configured against the route's choice is kept.
    fn look(&mut self, current: IpAddr) -> Option<IpAddr> {
        let now = source_towards(self.n3iwf)?;
        let before = self.preferred.replace(now);
        next(current, is_ours(current), before, now)
    }
}

fn next(current: IpAddr, is_ours: bool, before: Option<IpAddr>, now: IpAddr) -> Option<IpAddr> {
    let elsewhere = before.is_some_and(|before| before != now);
    (now != current && (!is_ours || elsewhere)).then_some(now)
}

impl Daemon {
    /// Something changed in the network.
    pub(super) fn look_around(&mut self) {
        if let Some(to) = self.whereabouts.look(self.sockets.address())
            && let Err(why) = self.go_to(to)
        {
            warn!(%to, why, "cannot go there");
        }
    }

    /// `uectl roam`: to this address, or to the route's; to the present one again, too.
    pub(super) fn roam(&mut self, address: Option<IpAddr>) -> Result<(), String> {
        let to = match address {
            Some(address) => address,
            None => {
                source_towards(self.whereabouts.n3iwf).ok_or("there is no route to the N3IWF")?
            }
        };
        if to.is_ipv4() != self.whereabouts.n3iwf.is_ipv4() {
            return Err("not of the IP version of the N3IWF's address".to_owned());
        }
        self.go_to(to)
    }

    fn go_to(&mut self, to: IpAddr) -> Result<(), String> {
        if to != self.sockets.address() {
            let bound = Sockets::bind(to, self.plane.is_kernel());
            self.sockets = bound.map_err(|error| error.to_string())?;
            info!(%to, "NWu sockets");
        }
        self.timed(|ue, now| ue.roam(now, to));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_goes_where_its_route_goes_and_stays_where_it_was_put() {
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
        // Its address is gone.
        assert_eq!(next(a, false, Some(a), b), Some(b));
        assert_eq!(next(a, false, None, b), Some(b));
        // Wi-Fi to mobile: the old address is still there for a while.
        assert_eq!(next(a, true, Some(a), b), Some(b));
        // Configured otherwise than the route: no reason to leave,
        assert_eq!(next(c, true, Some(a), a), None);
        // until the route changes.
        assert_eq!(next(c, true, Some(a), b), Some(b));
        assert_eq!(next(b, true, Some(a), b), None);
    }
}
