//! The control socket: what `kme status` and `kme fault` say to a running KME.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{fault::Fault, node::NodeStatus, pair::Kme};

/// A request; each is answered with the status of all KMEs of the process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Just the status.
    Status,
    /// Puts a fault in force.
    Fault {
        /// KME ID; may be left out when the process has one KME.
        #[serde(default)]
        kme: Option<String>,
        /// The fault.
        fault: Fault,
    },
    /// Ends all faults.
    Clear {
        /// KME ID; all KMEs of the process when absent.
        #[serde(default)]
        kme: Option<String>,
    },
}

/// Does what a request says.
///
/// # Errors
/// When it names no KME of this process.
pub fn answer(kmes: &[Kme], request: Request) -> Result<Vec<NodeStatus>> {
    let one = |id: &str| {
        kmes.iter()
            .find(|kme| kme.id() == id)
            .with_context(|| format!("no KME {id} in this process"))
    };
    match request {
        Request::Status => {}
        Request::Fault { kme, fault } => match (kme, kmes) {
            (Some(id), _) => one(&id)?.fault(fault),
            (None, [kme]) => kme.fault(fault),
            (None, _) => bail!("this process has several KMEs: name one"),
        },
        Request::Clear { kme: Some(id) } => one(&id)?.clear_faults(),
        Request::Clear { kme: None } => kmes.iter().for_each(Kme::clear_faults),
    }
    Ok(kmes.iter().map(Kme::status).collect())
}

/// Sends one request to the KME at `socket`.
///
/// # Errors
/// When nobody answers there, or the KME declines.
pub async fn call(socket: &Path, request: &Request) -> Result<Vec<NodeStatus>> {
    let mut client = daemon::control::Client::connect(socket).await?;
    Ok(client.call(request).await?)
}
