//! What `uectl` asks and what it is told.

use std::sync::Arc;

use dataplane::{Dataplane, Sums, relay::Drops};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{Daemon, Happened, Request};
use crate::{
    core::ue::Command,
    metrics::{Metrics, Observed},
};

/// The page for Prometheus.
pub(super) async fn page(
    metrics: Arc<Metrics>,
    events: mpsc::UnboundedSender<Happened>,
    dataplane: Arc<dyn Dataplane>,
    sums: Arc<Sums>,
) -> Result<String, String> {
    let (reply, scraped) = oneshot::channel();
    drop(events.send(Happened::Scraped(reply)));
    let wrong = |error: dataplane::Error| format!("data plane: {error}");
    let classes = dataplane.classes().await.map_err(wrong)?;
    let sas = dataplane.readings().await.map_err(wrong)?;
    let scraped = scraped.await.map_err(|_| "the daemon is ending")?;
    Ok(metrics.page(&Observed {
        census: scraped.census,
        counts: scraped.counts,
        classes,
        totals: sums.total(&sas, &scraped.sessions, &Drops::default()),
    }))
}

impl Daemon {
    /// Answers one request.
    pub(super) async fn answer(&mut self, request: Request) -> Result<Value, String> {
        let command = match request {
            Request::Status => return self.picture(false).await,
            Request::Sas => return self.picture(true).await,
            Request::Sessions => return Ok(self.sessions()),
            Request::Keys => return Ok(self.keys()),
            Request::Attach => Command::Attach,
            Request::Establish { session } => Command::Establish(session),
            Request::Release { session } => Command::Release(session),
            Request::Rekey {
                ike: true,
                child: None,
            } => Command::RekeyIke,
            Request::Rekey { ike: true, .. } => {
                return Err("either the IKE SA or a Child SA".to_owned());
            }
            Request::Rekey { child, .. } => Command::RekeyChild(child),
            Request::Roam { address } => {
                self.roam(address)?;
                return Ok(json!({ "state": self.ue.state(), "local": self.sockets.address() }));
            }
            Request::Deregister => Command::Deregister,
        };
        self.timed(|ue, now| ue.command(now, command))?;
        Ok(json!({ "state": self.ue.state() }))
    }

    async fn picture(&self, counters: bool) -> Result<Value, String> {
        let status = self.ue.status(self.now());
        let mut value = serde_json::to_value(&status).map_err(|error| error.to_string())?;
        if counters {
            let readings = self.plane.dataplane().readings().await;
            let classes = self.plane.dataplane().classes().await;
            let readings = readings.map_err(|error| error.to_string())?;
            let classes = classes.map_err(|error| error.to_string())?;
            if let Some(object) = value.as_object_mut() {
                object.insert("readings".to_owned(), json!(readings));
                object.insert("classes".to_owned(), json!(classes));
            }
        }
        Ok(value)
    }

    fn sessions(&self) -> Value {
        let status = self.ue.status(self.now());
        let traffic: Vec<_> = self
            .plane
            .relay_readings()
            .into_iter()
            .map(|reading| {
                json!({
                    "id": reading.pdu_session,
                    "uplink": reading.uplink,
                    "downlink": reading.downlink,
                    "path": reading.path,
                })
            })
            .collect();
        json!({ "sessions": status.sessions, "traffic": traffic })
    }

    fn keys(&self) -> Value {
        let Some(kms) = &self.kms else {
            let total = qkd::account::Totals::default();
            return json!({ "total": total, "balanced": true, "keys": [], "kms": [] });
        };
        let account = kms.account();
        let total = account.total();
        json!({
            "total": total,
            "balanced": total.balanced(),
            "keys": account.entries(),
            "kms": kms.health(),
        })
    }
}
