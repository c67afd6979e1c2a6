//! Key fates into the account.

use ike::{Fate, KeyPurpose, SaId};
use keys::KeyId;
use qkd::Account;
use tracing::error;

pub(super) fn book(account: &Account, sa: SaId, id: KeyId, fate: Fate) {
    match fate {
        Fate::Used { purpose, child } => {
            let text = match child {
                Some(child) => format!("Child SA {child}: {}", words(purpose)),
                None => format!("IKE SA: {}", words(purpose)),
            };
            if let Err(error) = account.used(&id, text, sa.to_string()) {
                error!(%error, "key account");
            }
        }
        Fate::Lost => lose(account, &id),
    }
}

pub(super) fn lose(account: &Account, id: &KeyId) {
    if let Err(error) = account.lost(id) {
        error!(%error, "key account");
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
    }
}
