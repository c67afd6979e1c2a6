//! Retries, back-off and failover.

use serde::Serialize;

/// How one endpoint fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointHealth {
    /// Its URL as configured.
    pub url: String,
    /// Whether its last request ended well (or none was sent yet).
    pub healthy: bool,
    /// Failures since the last success.
    pub failures: u32,
    /// The last failure in words, while unhealthy.
    pub error: Option<String>,
}
