//! What the stand-in refuses or spoils on purpose.

use serde::{Deserialize, Serialize};

/// Refusals. All off by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Answer every NG SETUP REQUEST with a failure.
    pub ng_setup_failure: bool,
    /// Answer every REGISTRATION REQUEST with REGISTRATION REJECT and this
    /// 5GMM cause (TS 24.501 9.11.3.2).
    pub registration_reject: Option<u8>,
    /// Take no RES*: every AUTHENTICATION RESPONSE gets AUTHENTICATION REJECT.
    pub authentication_reject: bool,
    /// Spoil the MAC of every AUTN, so that the UE refuses the network.
    pub corrupt_autn: bool,
    /// Answer every PDU SESSION ESTABLISHMENT REQUEST with a reject and this
    /// 5GSM cause (TS 24.501 9.11.4.2).
    pub pdu_session_reject: Option<u8>,
    /// 5GMM cause for a SUPI that nobody subscribed, or a SUCI that no key
    /// deconceals. Default 3, illegal UE.
    pub unknown_subscriber_cause: Option<u8>,
    /// Answer nothing at all, on any association.
    pub silent: bool,
}

/// One thing that goes wrong when the core is about to send a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The NAS message (`AuthenticationRequest`, `PduSessionEstablishmentAccept`)
    /// or the NGAP message (`NGSetupResponse`, `InitialContextSetupRequest`).
    pub on: String,
    /// What happens instead of sending it.
    #[serde(rename = "do")]
    pub effect: Effect,
    /// Only for this subscriber.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supi: Option<String>,
    /// How often; without end when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// For `delay`: how long, milliseconds.
    #[serde(default)]
    pub ms: u64,
}

/// What a [`Fault`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The message is sent later.
    Delay,
    /// It is never sent.
    Silence,
    /// It is sent twice.
    Duplicate,
    /// Only its first half is sent.
    Truncate,
    /// Random octets are sent instead.
    Garbage,
    /// The association is broken off instead.
    Drop,
}

/// Takes the effect of the first fault that concerns the message, and uses it
/// up when it was the last time.
pub fn apply(faults: &mut Vec<Fault>, names: &[&str], supi: Option<&str>) -> Option<(Effect, u64)> {
    let index = faults.iter().position(|fault| {
        names.contains(&fault.on.as_str())
            && (fault.supi.is_none() || fault.supi.as_deref() == supi)
    })?;
    let fault = faults.get_mut(index)?;
    let result = (fault.effect, fault.ms);
    if let Some(times) = &mut fault.times {
        *times = times.saturating_sub(1);
        if *times == 0 {
            faults.remove(index);
        }
    }
    Some(result)
}
