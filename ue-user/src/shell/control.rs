//! What `uectl` asks and what it is told.

use serde_json::{Value, json};

use super::{Daemon, Request};
use crate::core::ue::Command;

impl Daemon {
    /// Answers one request.
    pub(super) async fn answer(&mut self, request: Request) -> Result<Value, String> {
        let now = self.now();
        let command = match request {
            Request::Status => return self.picture(false).await,
            Request::Sas => return self.picture(true).await,
            Request::Sessions => return Ok(self.sessions()),
            Request::Keys => return Ok(self.keys()),
            Request::Attach => Command::Attach,
            Request::Establish { session } => Command::Establish(session),
            Request::Release { session } => Command::Release(session),
            Request::Deregister => Command::Deregister,
        };
        self.ue.command(now, command)?;
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
                })
            })
            .collect();
        json!({ "sessions": status.sessions, "traffic": traffic })
    }

    fn keys(&self) -> Value {
        let account = self.kms.account();
        let total = account.total();
        json!({
            "total": total,
            "balanced": total.balanced(),
            "keys": account.entries(),
            "kms": self.kms.health(),
        })
    }
}
