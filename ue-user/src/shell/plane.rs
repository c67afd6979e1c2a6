//! What the core wants of the data plane, in the data plane's words.

use std::{net::IpAddr, sync::Arc};

use dataplane::{
    ChildSaSpec, Dataplane, EspKeys, Plane, Suite, Sums,
    relay::{SessionReading, TunRelay, TunRelayConfig, Tunnel, UeRelay, UeSession, UplinkRules},
};
use ike::{
    ChildId,
    crypto::{DirectionKeys, Integ},
};
use ipnet::{IpNet, Ipv4Net};
use tracing::{debug, warn};

use crate::{
    config::Config,
    core::ue::{FurtherChild, Install, SessionInterface},
};

/// The data plane's number of this UE: there is one.
const UE: u32 = 1;

/// IPsec and the relay of one UE.
pub(super) struct UserPlane {
    dataplane: Arc<dyn Dataplane>,
    relay: TunRelay,
    config: dataplane::Config,
    replay_window: u32,
    sums: Arc<Sums>,
    /// Name and routes by PDU session identity, from 1.
    sessions: Vec<(String, Vec<IpNet>)>,
}

impl UserPlane {
    pub(super) fn new(config: &Config) -> Result<Self, dataplane::Error> {
        let plane = config.dataplane();
        let sessions = config.sessions.iter().enumerate().map(|(index, session)| {
            let mut routes = session.routes.clone();
            if session.default_route {
                routes.push(Ipv4Net::default().into());
            }
            (session.interface_name(index), routes)
        });
        let relay = TunRelayConfig {
            gre_protocol: config.ike.gre_protocol,
            tunnel_mtu: u16::try_from(plane.options.mtu).unwrap_or(u16::MAX),
        };
        Ok(Self {
            dataplane: dataplane::open(plane.clone())?,
            relay: dataplane::relay::open_ue(relay, &plane.options)?,
            config: plane,
            replay_window: config.ike.replay_window,
            sums: Arc::default(),
            sessions: sessions.collect(),
        })
    }

    pub(super) fn is_kernel(&self) -> bool {
        self.config.options.kind == dataplane::Kind::Kernel
    }

    pub(super) fn dataplane(&self) -> &Arc<dyn Dataplane> {
        &self.dataplane
    }

    /// What was counted by Child SAs and sessions that are gone.
    pub(super) fn sums(&self) -> &Arc<Sums> {
        &self.sums
    }

    pub(super) fn relay_readings(&self) -> Vec<SessionReading> {
        self.relay.readings()
    }

    pub(super) async fn install(&self, install: Install) -> Result<(), String> {
        let inbound = install.inbound;
        let spec = self.spec(install)?;
        debug!(?spec, inbound, "install");
        let installed = match inbound {
            true => self.dataplane.install_inbound(spec).await,
            false => self.dataplane.install(spec).await,
        };
        installed.map_err(|error| error.to_string())
    }

    pub(super) async fn switch(&self, child: ChildId) {
        if let Err(error) = self.dataplane.switch(child.number()).await {
            let child = child.number();
            warn!(child, %error, "packets do not leave through the rekeyed Child SA");
        }
    }

    pub(super) async fn relocate(&self, child: ChildId, path: ike::Path, udp_encap: bool) {
        let (local, remote) = (path.local, path.remote);
        let moved = self
            .dataplane
            .relocate(child.number(), local, remote, udp_encap);
        if let Err(error) = moved.await {
            let child = child.number();
            warn!(child, %path, %error, "the Child SA does not follow");
        }
    }

    pub(super) async fn remove(&self, child: ChildId) {
        match self.dataplane.remove(child.number()).await {
            Ok(reading) => {
                if let Some(last) = &reading {
                    self.sums.sa_gone(last);
                }
                debug!(child = child.number(), ?reading, "removed");
            }
            Err(error) => warn!(child = child.number(), %error, "Child SA not removed"),
        }
    }

    /// Makes the interface of a PDU session.
    pub(super) fn add(&self, session: &SessionInterface) -> Result<(), String> {
        let id = session.accept.id;
        let (IpAddr::V4(inner_local), IpAddr::V4(up_address)) =
            (session.inner_local, session.up_address)
        else {
            return Err("the relay has IPv4 alone".to_owned());
        };
        let configured = usize::from(id)
            .checked_sub(1)
            .and_then(|at| self.sessions.get(at));
        let (device, routes) = configured
            .cloned()
            .unwrap_or((format!("uepdu{id}"), Vec::new()));
        let session = UeSession {
            pdu_session: id,
            device,
            address: session.accept.address,
            interface_id: session.accept.interface_id,
            mtu: session.mtu,
            routes,
            rules: session.accept.uplink(),
            inner_local,
            up_address,
            interface: self
                .is_kernel()
                .then(|| self.config.interface(session.slot)),
            dscp: session.dscp,
            further: self.tunnels(session.further.clone()),
        };
        self.relay.add(session).map_err(|error| error.to_string())
    }

    fn tunnels(&self, further: Vec<FurtherChild>) -> Vec<Tunnel> {
        let tunnel = |child: FurtherChild| Tunnel {
            slot: child.slot,
            interface: self.is_kernel().then(|| self.config.interface(child.slot)),
            qfis: child.qfis,
            dscp: child.dscp,
        };
        further.into_iter().map(tunnel).collect()
    }

    pub(super) fn set_tunnels(&self, id: u8, dscp: u8, further: Vec<FurtherChild>) {
        let tunnels = self.tunnels(further);
        if let Err(error) = self.relay.set_tunnels(id, dscp, tunnels) {
            warn!(pdu_session = id, %error, "flows stay with the default Child SA");
        }
    }

    pub(super) fn set_rules(&self, id: u8, rules: UplinkRules) {
        self.relay.set_rules(id, rules);
    }

    pub(super) fn remove_session(&self, id: u8) {
        let reading = self.relay.remove(id);
        if let Some(last) = &reading {
            self.sums.session_gone(last);
        }
        debug!(pdu_session = id, ?reading, "interface removed");
    }

    fn spec(&self, install: Install) -> Result<ChildSaSpec, String> {
        let child = install.child;
        let Suite { encr, integ } =
            Suite::from_transforms(child.suite.encr.id(), child.suite.integ.map(Integ::id))
                .ok_or_else(|| format!("the data plane has no {}", child.suite))?;
        let (plane, protocol) = match install.pdu_session {
            None => (Plane::Control, PROTOCOL_TCP),
            Some(_) => (Plane::User, PROTOCOL_GRE),
        };
        Ok(ChildSaSpec {
            id: child.id.number(),
            plane,
            ue: UE,
            pdu_session: install.pdu_session,
            spi_in: child.spi_in,
            spi_out: child.spi_out,
            encr,
            integ,
            keys_in: keys(child.keys_in),
            keys_out: keys(child.keys_out),
            esn: child.suite.esn,
            replay_window: self.replay_window,
            local: child.path.local,
            remote: child.path.remote,
            udp_encap: child.udp_encap,
            inner_local: install.inner_local,
            inner_remote: install.inner_remote,
            protocol: Some(protocol),
            slot: install.slot,
            reqid: install.reqid,
        })
    }
}

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_GRE: u8 = 47;

/// Keys move, they are not copied.
fn keys(keys: DirectionKeys) -> EspKeys {
    EspKeys {
        encr: keys.encr,
        salt: keys.salt,
        integ: keys.integ,
    }
}
