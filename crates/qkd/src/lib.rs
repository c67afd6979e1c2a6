//! ETSI GS QKD 014 client and QKD key accounting.
//!
//! [`Kms`] fetches keys from the key management system of this site over HTTPS with mutual TLS
//! (ETSI GS QKD 014 V1.1.1): [`Kms::enc_keys`] as master SAE, [`Kms::dec_keys`] as slave SAE.
//! Sizes are bits everywhere, as in the standard.
//!
//! Beneath it are parts that need no socket: [`codec`] reads and writes the JSON bodies,
//! [`policy`] decides on retries, back-off and failover in virtual time, and [`account`] says
//! where every fetched key went: `fetched = used + lost + held`.
//!
//! ```no_run
//! # async fn example(config: qkd::KmsConfig) -> Result<(), Box<dyn std::error::Error>> {
//! let kms = qkd::Kms::new(&config)?;
//! let slave = "sae-ue-1".parse()?;
//! for key in kms.enc_keys(&slave, 7, 256).await? {
//!     kms.account().used(&key.id, "IKE SA, initiator to responder", "1")?;
//! }
//! # Ok(())
//! # }
//! ```

pub mod account;
pub mod codec;
mod config;
pub mod duration;
mod error;
mod http;
mod kms;
pub mod policy;
mod tls;

pub use account::Account;
pub use codec::Status;
pub use config::{KmsConfig, Method, RetryConfig};
pub use error::{Malformed, QkdError, Reason, SetupError};
pub use keys::{KeyId, QkdKey, SaeId, Secret};
pub use kms::{Kms, Observation, Stock};
pub use tls::client_config as tls_config;
