//! The KMS client's side of the key desk, and the account.

use std::sync::Arc;

use daemon::hardening::sheltered_steps;
use ike::{Fate, KeyPurpose, KeyRequestId, QkdFailure, SaId};
use keys::{KeyId, QkdKey, SaeId};
use qkd::{Account, Kms, QkdError, Reason};
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, error, info, warn};

use super::Input;

/// Requests to the KMS at one time that somebody waits for.
const AT_ONCE: usize = 64;
/// Requests to the KMS at one time that nobody waits for yet.
const AHEAD_AT_ONCE: usize = 16;

/// Asks for keys in tasks, which answer through the one channel, and books what becomes of them.
pub(super) struct Keys {
    kms: Option<Kms>,
    slots: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    inputs: mpsc::Sender<Input>,
}

impl Keys {
    pub(super) fn new(kms: Option<Kms>, inputs: mpsc::Sender<Input>) -> Self {
        Self {
            kms,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            ahead: Arc::new(Semaphore::new(AHEAD_AT_ONCE)),
            inputs,
        }
    }

    /// Keys for an exchange that waits for them.
    pub(super) fn fetch(
        &self,
        sa: SaId,
        request: KeyRequestId,
        slave: SaeId,
        number: usize,
        size_bits: u32,
    ) {
        let (kms, slots, inputs) = self.parts(&self.slots);
        tokio::spawn(async move {
            let keys = enc_keys(kms.as_ref(), &slots, &slave, number, size_bits).await;
            deliver(kms, inputs, Input::Keys { sa, request, keys }).await;
        });
    }

    /// Keys for later.
    pub(super) fn fetch_ahead(&self, slave: SaeId, number: usize, size_bits: u32) {
        let (kms, slots, inputs) = self.parts(&self.ahead);
        tokio::spawn(async move {
            let keys = enc_keys(kms.as_ref(), &slots, &slave, number, size_bits).await;
            deliver(kms, inputs, Input::Ahead { slave, keys }).await;
        });
    }

    pub(super) fn ask_stock(&self, slave: SaeId) {
        let (kms, slots, inputs) = self.parts(&self.slots);
        tokio::spawn(async move {
            let _slot = slots.acquire().await;
            let stored = match kms {
                Some(kms) => match kms.status(&slave).await {
                    Ok(status) => Some(status.stored_key_count),
                    Err(error) => {
                        debug!(%slave, %error, "no status from the KMS");
                        None
                    }
                },
                None => None,
            };
            drop(inputs.send(Input::Stock { slave, stored }).await);
        });
    }

    pub(super) fn book(&self, sa: SaId, id: KeyId, fate: Fate) {
        let Some(kms) = &self.kms else {
            return;
        };
        match fate {
            Fate::Used { purpose, child } => {
                let text = match child {
                    Some(child) => format!("Child SA {child}: {}", words(purpose)),
                    None => format!("IKE SA: {}", words(purpose)),
                };
                if let Err(error) = kms.account().used(&id, text, sa.to_string()) {
                    error!(%error, "key account");
                }
            }
            Fate::Lost => lose(kms.account(), &id),
        }
    }

    pub(super) fn lose(&self, ids: &[KeyId]) {
        if let Some(kms) = &self.kms {
            for id in ids {
                lose(kms.account(), id);
            }
        }
    }

    pub(super) fn forget(&self, sa: SaId) {
        if let Some(kms) = &self.kms {
            kms.account().release(&sa.to_string());
        }
    }

    pub(super) fn release(&self, ids: &[KeyId]) {
        if let Some(kms) = &self.kms {
            kms.account().release_keys(ids);
        }
    }

    /// The account, at the end.
    pub(super) fn report(&self) {
        if let Some(kms) = &self.kms {
            let total = kms.account().total();
            info!(
                fetched = total.fetched,
                used = total.used,
                lost = total.lost,
                held = total.held,
                "key account at the end"
            );
        }
    }

    fn parts(&self, slots: &Arc<Semaphore>) -> (Option<Kms>, Arc<Semaphore>, mpsc::Sender<Input>) {
        (self.kms.clone(), Arc::clone(slots), self.inputs.clone())
    }
}

async fn enc_keys(
    kms: Option<&Kms>,
    slots: &Semaphore,
    slave: &SaeId,
    number: usize,
    size_bits: u32,
) -> Result<Vec<QkdKey>, QkdFailure> {
    // Not asked for without a mode that takes keys.
    let kms = kms.ok_or(QkdFailure::Unreachable)?;
    let _slot = slots.acquire().await;
    let keys = sheltered_steps(kms.enc_keys(slave, number, size_bits)).await;
    keys.map_err(|error| {
        warn!(%slave, %error, "KMS");
        failure(&error)
    })
}

async fn deliver(kms: Option<Kms>, inputs: mpsc::Sender<Input>, input: Input) {
    let Err(undelivered) = inputs.send(input).await else {
        return;
    };
    // The daemon ends: the keys die unused, and the account says so.
    if let (Some(kms), Input::Keys { keys: Ok(keys), .. } | Input::Ahead { keys: Ok(keys), .. }) =
        (kms, undelivered.0)
    {
        for key in keys {
            lose(kms.account(), &key.id);
        }
    }
}

fn lose(account: &Account, id: &KeyId) {
    if let Err(error) = account.lost(id) {
        error!(%error, "key account");
    }
}

fn failure(error: &QkdError) -> QkdFailure {
    match error.reason() {
        Reason::NoKeys => QkdFailure::NoKeys,
        Reason::Unreachable => QkdFailure::Unreachable,
        Reason::UnknownSae => QkdFailure::UnknownSae,
    }
}

fn words(purpose: KeyPurpose) -> &'static str {
    match purpose {
        KeyPurpose::IkeEncryptionUp => "SK_ei, UE to N3IWF",
        KeyPurpose::IkeEncryptionDown => "SK_er, N3IWF to UE",
        KeyPurpose::IkeIntegrityUp => "SK_ai, UE to N3IWF",
        KeyPurpose::IkeIntegrityDown => "SK_ar, N3IWF to UE",
        KeyPurpose::EspEncryptionUp => "encryption, UE to N3IWF",
        KeyPurpose::EspEncryptionDown => "encryption, N3IWF to UE",
        KeyPurpose::EspIntegrityUp => "integrity, UE to N3IWF",
        KeyPurpose::EspIntegrityDown => "integrity, N3IWF to UE",
        KeyPurpose::Authentication => "K_auth",
        KeyPurpose::Ppk => "PPK",
    }
}
