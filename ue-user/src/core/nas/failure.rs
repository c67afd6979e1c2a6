//! Why a procedure did not come to its end, in words an operator can act on.

use std::time::Duration;

use oxirush_nas::nas_5gs::{GmmCause, GsmCause};
use thiserror::Error;

/// A 5GMM cause (TS 24.501, 9.11.3.2) as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MmCause(pub u8);

/// A 5GSM cause (TS 24.501, 9.11.4.2) as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmCause(pub u8);

/// Why the UE is not, or no longer, registered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Failure {
    /// REGISTRATION REJECT or SERVICE REJECT.
    #[error("registration rejected by the network: {cause}")]
    Rejected {
        /// The 5GMM cause.
        cause: MmCause,
        /// T3346, when the network asks for a pause.
        retry_after: Option<Duration>,
    },
    /// AUTHENTICATION REJECT: the home network did not accept RES*, or does not know the SUPI.
    #[error("authentication rejected by the network: check supi, k and opc")]
    AuthenticationRejected,
    /// Challenges that are not authentic, three times in a row (TS 24.501, 5.4.1.3.7).
    #[error("the network did not prove that it knows this subscriber ({0}): check k and opc")]
    NetworkNotAuthentic(&'static str),
    /// The SECURITY MODE COMMAND was refused.
    #[error("security mode command refused: {0}")]
    SecurityMode(&'static str),
    /// The sequence numbers could not be stored, so no challenge may be answered.
    #[error("the sequence number could not be stored: {0}")]
    SqnStore(String),
    /// A timer of TS 24.501, 10.2 expired.
    #[error("no answer of the network ({0} expired)")]
    NoAnswer(&'static str),
    /// The network deregistered the UE.
    #[error("deregistered by the network{}", .cause.map(|cause| format!(": {cause}")).unwrap_or_default())]
    Deregistered {
        /// The 5GMM cause, when it gave one.
        cause: Option<MmCause>,
        /// Whether it asks the UE to register again.
        register_again: bool,
    },
    /// Something the protocol has no answer for.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// A message could not be made: the configuration holds what NAS cannot carry.
    #[error("a NAS message could not be made: {0}")]
    Encode(String),
}

/// Why a PDU session is not there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SessionFailure {
    /// PDU SESSION ESTABLISHMENT REJECT.
    #[error("rejected by the network: {cause}")]
    Rejected {
        /// The 5GSM cause.
        cause: SmCause,
        /// The back-off timer, when there is one.
        retry_after: Option<Duration>,
    },
    /// The AMF did not forward the request to an SMF.
    #[error("not forwarded by the AMF: {0}")]
    NotForwarded(MmCause),
    /// An accept that this UE cannot use.
    #[error("the accept is unusable: {0}")]
    Unusable(&'static str),
    /// A timer of TS 24.501, 10.3 expired four times.
    #[error("no answer of the network ({0} expired)")]
    NoAnswer(&'static str),
    /// The UE lost its registration.
    #[error("the UE is not registered")]
    NotRegistered,
}

impl Failure {
    /// Whether trying again with the same configuration is of no use (TS 24.501, 5.5.1.2.5: the
    /// causes that put the USIM or the PLMN out of service until an operator acts).
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Rejected { cause, .. } => {
                matches!(
                    cause.0,
                    3 | 5 | 6 | 7 | 11 | 12 | 13 | 15 | 27 | 62 | 72..=78
                )
            }
            Self::Deregistered {
                cause,
                register_again,
            } => !register_again && cause.is_some_and(|cause| matches!(cause.0, 3 | 6 | 7 | 72)),
            Self::AuthenticationRejected | Self::NetworkNotAuthentic(_) | Self::Encode(_) => true,
            _ => false,
        }
    }

    /// The pause the network asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the identity the UE used is unknown to the network, so that it should try again
    /// with its SUCI (cause 9, 5.5.1.2.5).
    pub fn is_unknown_identity(&self) -> bool {
        matches!(self, Self::Rejected { cause, .. } if matches!(cause.0, 9 | 10))
    }
}

impl std::fmt::Display for MmCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match GmmCause::from_u8(self.0) {
            Some(cause) => write!(f, "5GMM cause {} ({})", self.0, cause.description()),
            None => write!(f, "5GMM cause {}", self.0),
        }
    }
}

impl std::fmt::Display for SmCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match GsmCause::from_u8(self.0) {
            Some(cause) => write!(f, "5GSM cause {} ({})", self.0, cause.description()),
            None => write!(f, "5GSM cause {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_read_well() {
        let rejected = Failure::Rejected {
            cause: MmCause(62),
            retry_after: None,
        };
        assert_eq!(
            rejected.to_string(),
            "registration rejected by the network: 5GMM cause 62 (No network slices available)"
        );
        assert!(rejected.is_permanent());
        assert_eq!(MmCause(200).to_string(), "5GMM cause 200");
        let congestion = Failure::Rejected {
            cause: MmCause(22),
            retry_after: Some(Duration::from_secs(600)),
        };
        assert!(!congestion.is_permanent());
        assert_eq!(congestion.retry_after(), Some(Duration::from_secs(600)));
        assert!(
            SmCause(27)
                .to_string()
                .starts_with("5GSM cause 27 (Missing or unknown DNN")
        );
    }
}
