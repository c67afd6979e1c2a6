//! The Child SA in the kernel, or nowhere.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result};
use dataplane::{ChildSaSpec, Dataplane, EspKeys, Kind, Options, Plane as Traffic, Role, Suite};
use ike::{
    ChildId, ChildSa, Path,
    crypto::{DirectionKeys, Integ},
};

use crate::config::{Config, Esp};

/// Inner interface in kernel mode.
const INTERFACE: &str = "ikepeer";
/// Packets; ESP arrives out of order at times.
const REPLAY_WINDOW: u32 = 128;

pub(crate) struct Plane {
    kernel: Option<Arc<dyn Dataplane>>,
    inner: (IpAddr, IpAddr),
    /// A rekeyed Child SA keeps the reqid of the one it replaces.
    reqids: HashMap<ChildId, u32>,
    next_reqid: u32,
}

impl Plane {
    pub(crate) async fn new(config: &Config) -> Result<Self> {
        let kernel = match config.esp_in {
            Esp::Nothing => None,
            Esp::Kernel => {
                let plane = dataplane::open(dataplane::Config {
                    role: Role::Ue,
                    owner: INTERFACE.to_owned(),
                    interface_name: INTERFACE.to_owned(),
                    interface_id: 77,
                    inner_address: None,
                    inner_range: None,
                    options: Options {
                        kind: Kind::Kernel,
                        ..Options::default()
                    },
                })?;
                plane.start().await?;
                Some(plane)
            }
        };
        Ok(Self {
            kernel,
            inner: (config.inner_local, config.inner_remote),
            reqids: HashMap::new(),
            next_reqid: 1,
        })
    }

    pub(crate) async fn install(&mut self, child: ChildSa) -> Result<()> {
        let Some(kernel) = &self.kernel else {
            return Ok(());
        };
        let inherited = child.replaces.and_then(|old| self.reqids.get(&old));
        let reqid = inherited.copied().unwrap_or_else(|| {
            self.next_reqid += 1;
            self.next_reqid
        });
        self.reqids.insert(child.id, reqid);
        let Suite { encr, integ } =
            Suite::from_transforms(child.suite.encr.id(), child.suite.integ.map(Integ::id))
                .with_context(|| format!("the data plane has no {}", child.suite))?;
        kernel
            .install(ChildSaSpec {
                id: child.id.number(),
                plane: Traffic::Control,
                ue: 1,
                pdu_session: None,
                spi_in: child.spi_in,
                spi_out: child.spi_out,
                encr,
                integ,
                keys_in: keys(child.keys_in),
                keys_out: keys(child.keys_out),
                esn: child.suite.esn,
                replay_window: REPLAY_WINDOW,
                local: child.path.local,
                remote: child.path.remote,
                udp_encap: child.udp_encap,
                inner_local: self.inner.0,
                inner_remote: self.inner.1,
                protocol: None,
                slot: 0,
                reqid,
            })
            .await?;
        Ok(())
    }

    pub(crate) async fn relocate(&self, path: Path, udp_encap: bool) -> Result<()> {
        if let Some(kernel) = &self.kernel {
            for child in self.reqids.keys() {
                kernel
                    .relocate(child.number(), path.local, path.remote, udp_encap)
                    .await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn remove(&mut self, child: ChildId) -> Result<()> {
        self.reqids.remove(&child);
        if let Some(kernel) = &self.kernel {
            kernel.remove(child.number()).await?;
        }
        Ok(())
    }

    pub(crate) async fn stop(&self) -> Result<()> {
        if let Some(kernel) = &self.kernel {
            kernel.stop().await?;
        }
        Ok(())
    }
}

/// Keys move, they are not copied.
fn keys(keys: DirectionKeys) -> EspKeys {
    EspKeys {
        encr: keys.encr,
        salt: keys.salt,
        integ: keys.integ,
    }
}
