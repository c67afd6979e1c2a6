//! What Prometheus is told of the KMEs of a process. The label `kme` is the KME ID: one or two.

use std::{future::ready, sync::Arc};

use metrics::{Exporter, Kind, Page, Server, ServerError, families};

use Kind::{Counter, Gauge};

use crate::{config::MetricsConfig, node::NodeStatus, pair::Kme};

/// The KME's port on loopback (`metrics.listen` names another).
pub const PORT: u16 = 9734;

families! {
    /// All families of a KME but those of the process.
    pub ALL;
    LINK_UP: Gauge, "kme_link_up", ["kme" = "KME ID"],
        "Whether keys reach the other end of the QKD link.";
    BUFFER: Gauge, "kme_buffer_bytes", ["kme" = "KME ID"],
        "Key material in the buffer.";
    WAITING: Gauge, "kme_waiting_keys", ["kme" = "KME ID"],
        "Keys that wait for slave SAEs of this KME.";
    DELIVERED: Counter, "kme_keys_delivered_total", ["kme" = "KME ID", "operation" = "`enc_keys`, `dec_keys`"],
        "Keys delivered; a key for several slaves counts for each.";
    LOST: Counter, "kme_keys_lost_total", ["kme" = "KME ID"],
        "Keys that the fault `loss` kept from the other KME.";
    CONNECTIONS: Counter, "kme_connections_total", ["kme" = "KME ID"],
        "TLS connections with an accepted client certificate.";
    REQUESTS: Counter, "kme_requests_total", ["kme" = "KME ID"],
        "Requests of ETSI GS QKD 014.";
    REFUSALS: Counter, "kme_refusals_total", ["kme" = "KME ID", "status" = "`400`, `401`, `503`"],
        "Requests answered with an error.";
    FAULTS: Gauge, "kme_faults", ["kme" = "KME ID"],
        "Faults in force.";
}

/// Listens where the configuration says.
///
/// # Errors
/// When the system refuses the address.
pub async fn bind(config: MetricsConfig) -> Result<Server, ServerError> {
    let address = config.listen.unwrap_or(([127, 0, 0, 1], PORT).into());
    Server::bind(address).await
}

/// Serves the page of these KMEs until dropped.
pub async fn serve(server: Server, kmes: Arc<[Kme]>) {
    let exporter = Exporter::new();
    let collect = move || {
        let all: Vec<NodeStatus> = kmes.iter().map(Kme::status).collect();
        ready(Ok(exporter.write(page(&all))))
    };
    server.serve(collect).await;
}

fn page(kmes: &[NodeStatus]) -> Page {
    let mut page = Page::new();
    for kme in kmes {
        let id = kme.id.as_str();
        let count = &kme.counters;
        page.put(&LINK_UP, [id], kme.link_up);
        page.put(&BUFFER, [id], kme.buffer_bits / 8);
        page.put(&WAITING, [id], count.stored);
        page.put(&DELIVERED, [id, "enc_keys"], count.delivered_enc);
        page.put(&DELIVERED, [id, "dec_keys"], count.delivered_dec);
        page.put(&LOST, [id], count.lost);
        page.put(&CONNECTIONS, [id], count.connections);
        page.put(&REQUESTS, [id], count.requests);
        page.put(&REFUSALS, [id, "400"], count.bad_request);
        page.put(&REFUSALS, [id, "401"], count.unauthorized);
        page.put(&REFUSALS, [id, "503"], count.unavailable);
        page.put(&FAULTS, [id], kme.faults.len());
    }
    page
}
