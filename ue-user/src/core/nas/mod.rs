//! 5GMM and 5GSM of a UE over non-3GPP access (TS 24.501), sans-IO.
//!
//! [`Nas`] takes downlink NAS PDUs, commands and the time, and gives [`Output`]s. It does not know
//! what carries a PDU: EAP-5G inside IKE_AUTH at first, TCP inside the signalling Child SA later.
//! Time is the `Duration` since any origin the caller keeps to.
//!
//! | procedure | clause of TS 24.501 |
//! |---|---|
//! | 5G AKA, identification, security mode control | 5.4.1.3, 5.4.3, 5.4.2 |
//! | registration, deregistration, configuration update | 5.5.1, 5.5.2, 5.4.4 |
//! | NAS transport of 5GSM messages | 5.4.5 |
//! | PDU session establishment and release | 6.4.1, 6.4.3, 6.3.3 |

mod authentication;
mod failure;
mod mobility;
mod qos;
mod security;
mod session;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::VecDeque, time::Duration};

use keys::Secret;
use nwu::SNssai;
use oxirush_nas::{
    NasError,
    nas_5gs::{
        CipheringAlgorithm, Direction, Guti, IntegrityAlgorithm, Nas5gmmMessage, Nas5gsMessage,
        Nas5gsSecurityHeaderType as Sht, NasUeSecurityCapability, is_security_protected,
    },
};
use oxirush_security::{NasCount, Plmn};

pub use failure::{Failure, MmCause, SessionFailure, SmCause};
pub use qos::QosRules;
pub use session::{SessionAccept, SessionKind, SessionRequest};

use self::{
    mobility::Procedure,
    security::{Context, Partial},
    session::Sessions,
};
use super::{
    suci::Concealer,
    usim::{SqnState, Usim},
};

/// What a UE says about itself.
#[derive(Debug, Clone)]
pub struct NasConfig {
    /// The PLMN that is registered with.
    pub plmn: Plmn,
    /// The subscriber's name on the air.
    pub concealer: Concealer,
    /// 16 digits, given to a network that asks for it under integrity protection.
    pub imeisv: Option<String>,
    /// Ciphering algorithms offered.
    pub ciphering: Vec<CipheringAlgorithm>,
    /// Integrity algorithms offered; NIA0 is never taken.
    pub integrity: Vec<IntegrityAlgorithm>,
    /// Requested NSSAI of the complete REGISTRATION REQUEST; empty for none.
    pub requested_nssai: Vec<SNssai>,
    /// First octet of the 5GMM capability (9.11.3.1).
    pub gmm_capability: u8,
    /// Timers of 10.2 and 10.3.
    pub timers: Timers,
}

/// Procedure timers (TS 24.501, tables 10.2.1 and 10.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Registration.
    pub t3510: Duration,
    /// Deregistration.
    pub t3521: Duration,
    /// PDU session establishment.
    pub t3580: Duration,
    /// PDU session release.
    pub t3582: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            t3510: Duration::from_secs(15),
            t3521: Duration::from_secs(15),
            t3580: Duration::from_secs(16),
            t3582: Duration::from_secs(16),
        }
    }
}

/// What the caller has to do, in order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Make this state durable, then call [`Nas::sqn_stored`]: no answer leaves before.
    StoreSqn(SqnState),
    /// Carry a NAS PDU to the network.
    Send(Vec<u8>),
    /// Something the rest of the UE acts on.
    Event(Event),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The network proved who it is and the answer is on its way.
    Authenticated,
    /// A security context is in use.
    Secured {
        /// As `128-NEA2`.
        ciphering: &'static str,
        /// As `128-NIA2`.
        integrity: &'static str,
    },
    /// REGISTRATION ACCEPT.
    Registered {
        /// The 5G-GUTI, when one was given.
        guti: Option<String>,
        /// The allowed NSSAI.
        allowed_nssai: Vec<SNssai>,
    },
    /// The registration ended, or never began.
    Failed(Failure),
    /// CONFIGURATION UPDATE COMMAND.
    ConfigurationUpdated {
        /// Full name of the network, when it has one.
        network_name: Option<String>,
        /// Whether the network wants a new registration.
        register_again: bool,
    },
    /// PDU SESSION ESTABLISHMENT ACCEPT.
    SessionAccepted(SessionAccept),
    /// PDU SESSION MODIFICATION COMMAND, which is completed: what is `None` stays.
    SessionModified {
        /// PDU session identity.
        id: u8,
        /// The authorized QoS rules.
        rules: Option<QosRules>,
        /// As [`SessionAccept::rq_timer`].
        rq_timer: Option<Duration>,
        /// Session AMBR in kbit/s, downlink and uplink.
        ambr_kbps: Option<(u64, u64)>,
    },
    /// The session was not established.
    SessionFailed {
        /// PDU session identity.
        id: u8,
        /// Why.
        failure: SessionFailure,
    },
    /// The session is gone.
    SessionReleased {
        /// PDU session identity.
        id: u8,
        /// Whether the network began.
        by_network: bool,
        /// The cause of the release command.
        cause: Option<SmCause>,
    },
    /// The deregistration this UE began is done.
    Deregistered,
    /// 5GMM STATUS or 5GSM STATUS, for the log.
    Status(String),
}

/// Why a downlink PDU had no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Discard {
    /// It has no integrity protection and is none of the messages that need none.
    #[error("a {0} without integrity protection")]
    Unprotected(String),
    /// The message authentication code is wrong: forged, replayed, or of another context.
    #[error("a message whose message authentication code is wrong")]
    Integrity,
    /// It cannot be read, and TS 24.501 clause 7 has it ignored.
    #[error("an unreadable message: {0}")]
    Unreadable(String),
    /// It does not belong to any procedure of this UE.
    #[error("an unexpected {0}")]
    Unexpected(String),
}

/// The NAS of one UE.
pub struct Nas {
    config: NasConfig,
    usim: Usim,
    procedure: Procedure,
    guti: Option<Guti>,
    /// K_AMF of an accepted challenge that no SECURITY MODE COMMAND has taken into use.
    partial: Option<Partial>,
    context: Option<Context>,
    /// Secure exchange is established on this NAS signalling connection (4.4.2.5).
    secured: bool,
    /// Uplink NAS COUNT of the message that access security starts with.
    access_count: Option<NasCount>,
    /// The complete REGISTRATION REQUEST of the running registration.
    request: Option<Nas5gsMessage>,
    authentication: authentication::State,
    sessions: Sessions,
    outputs: VecDeque<Output>,
}

impl Nas {
    /// A UE that is not registered.
    pub fn new(config: NasConfig, usim: Usim) -> Self {
        Self {
            config,
            usim,
            procedure: Procedure::Deregistered,
            guti: None,
            partial: None,
            context: None,
            secured: false,
            access_count: None,
            request: None,
            authentication: authentication::State::default(),
            sessions: Sessions::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let procedure = self.procedure.deadline();
        procedure.into_iter().chain(self.sessions.deadline()).min()
    }

    /// Lets the timers that are due expire.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.mobility_timeout(now);
        self.session_timeout(now);
    }

    /// A NAS PDU of the network.
    pub fn downlink(&mut self, now: Duration, pdu: &[u8]) -> Result<(), Discard> {
        if !is_security_protected(pdu) {
            return self.downlink_in_clear(now, pdu);
        }
        // A SECURITY MODE COMMAND is verified by the context it takes into use.
        if let Some(command) = security::security_mode_command(pdu) {
            self.security_mode_command(pdu, &command);
            return Ok(());
        }
        let Some(context) = self.context.as_mut() else {
            return Err(Discard::Integrity);
        };
        match context.unprotect(pdu) {
            Ok(verified) => {
                self.secured = true;
                self.dispatch(now, verified.message)
            }
            Err(NasError::AuthenticMessageRefused { error, plain }) => {
                self.secured = true;
                let refused = NasError::AuthenticMessageRefused { error, plain };
                self.answer_refused(pdu, &refused)
            }
            Err(_) => Err(Discard::Integrity),
        }
    }

    /// Whether the UE is registered.
    pub fn is_registered(&self) -> bool {
        matches!(self.procedure, Procedure::Registered)
    }

    /// Whether the UE has asked the network to deregister it, and waits.
    pub fn is_deregistering(&self) -> bool {
        matches!(self.procedure, Procedure::Deregistering { .. })
    }

    /// K_N3IWF of the security context in use (32 octets): the MSK of EAP-5G.
    pub fn k_n3iwf(&self) -> Option<Secret> {
        let context = self.context.as_ref()?;
        Some(context.k_n3iwf(self.access_count?))
    }

    /// The 5G-GUTI, if the network gave one.
    pub fn guti(&self) -> Option<&Guti> {
        self.guti.as_ref()
    }

    /// The algorithms in use, as `128-NEA2` and `128-NIA2`.
    pub fn algorithms(&self) -> Option<(&'static str, &'static str)> {
        let (nea, nia) = self.context.as_ref()?.algorithms();
        Some((ciphering_name(nea), integrity_name(nia)))
    }

    /// The digits of the IMSI, for the operator's own eyes.
    pub fn imsi(&self) -> &str {
        self.usim.imsi()
    }

    /// Ends whatever runs because the NAS signalling connection is gone. The identity and the
    /// security context stay for the next registration.
    pub fn connection_lost(&mut self) {
        self.procedure = Procedure::Deregistered;
        self.reset_connection();
        self.sessions.clear();
        self.outputs.clear();
    }

    fn downlink_in_clear(&mut self, now: Duration, pdu: &[u8]) -> Result<(), Discard> {
        match Nas5gsMessage::decode(pdu) {
            Ok(Nas5gsMessage::Gmm(_, message))
                if !self.secured && security::is_admissible_in_clear(&message) =>
            {
                self.mobility(now, message)
            }
            Ok(message) => Err(Discard::Unprotected(message.to_string())),
            // Nothing is answered to what may come from anyone.
            Err(error) => Err(Discard::Unreadable(error.to_string())),
        }
    }

    /// A verified message.
    fn dispatch(&mut self, now: Duration, message: Nas5gsMessage) -> Result<(), Discard> {
        match message {
            Nas5gsMessage::Gmm(_, message) => self.mobility(now, message),
            other => Err(Discard::Unexpected(other.to_string())),
        }
    }

    /// Answers an authentic message that cannot be read as TS 24.501 clause 7 asks for.
    fn answer_refused(&mut self, pdu: &[u8], error: &NasError) -> Result<(), Discard> {
        let discard = Discard::Unreadable(error.to_string());
        match Nas5gsMessage::answer_to_refused(pdu, error, Direction::Downlink) {
            Some(answer @ Nas5gsMessage::Gmm(..)) => {
                self.send(&answer);
                Err(discard)
            }
            _ => Err(discard),
        }
    }

    /// Sends a 5GMM message: protected once secure exchange is established, in clear before.
    /// Whether it went out; if not, the registration has failed.
    fn send(&mut self, message: &Nas5gsMessage) -> bool {
        let pdu = match (self.secured, self.context.as_mut()) {
            (true, Some(context)) => context
                .protect(message, Sht::IntegrityProtectedAndCiphered)
                .map(|(pdu, _)| pdu),
            // Nothing leaves in clear any more (4.4.2.5), whatever has become of the keys.
            (true, None) => {
                self.fail(Failure::Protocol("the keys of NAS are gone".into()));
                return false;
            }
            (false, _) => message.encode(),
        };
        match pdu {
            Ok(pdu) => {
                self.outputs.push_back(Output::Send(pdu));
                true
            }
            Err(error) => {
                self.fail(Failure::Encode(error.to_string()));
                false
            }
        }
    }

    fn send_gmm(&mut self, message: impl Into<Nas5gmmMessage>) -> bool {
        self.send(&Nas5gsMessage::new_5gmm(message))
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// The registration is over.
    fn fail(&mut self, failure: Failure) {
        self.procedure = Procedure::Deregistered;
        self.reset_connection();
        self.sessions.clear();
        self.event(Event::Failed(failure));
    }

    fn reset_connection(&mut self) {
        self.secured = false;
        self.partial = None;
        self.access_count = None;
        self.request = None;
        self.authentication = authentication::State::default();
    }

    /// The UE security capability IE (9.11.3.54) of what is offered.
    fn security_capability(&self) -> NasUeSecurityCapability {
        let bit = |algorithm: u8| 0x80_u8.checked_shr(algorithm.into()).unwrap_or(0);
        let ea = self.config.ciphering.iter().map(|&a| bit(a as u8));
        let ia = self.config.integrity.iter().map(|&a| bit(a as u8));
        NasUeSecurityCapability::from_capabilities(
            ea.fold(0, |octet, bit| octet | bit),
            ia.fold(0, |octet, bit| octet | bit),
        )
    }

    /// The serving network name (TS 24.501, 9.12.1): a two-digit MNC gets a leading 0.
    fn serving_network_name(&self) -> String {
        let plmn = &self.config.plmn;
        format!("5G:mnc{:0>3}.mcc{}.3gppnetwork.org", plmn.mnc(), plmn.mcc())
    }
}

/// Shows the state and no key.
impl std::fmt::Debug for Nas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nas")
            .field("procedure", &self.procedure)
            .field("secured", &self.secured)
            .finish_non_exhaustive()
    }
}

fn ciphering_name(algorithm: CipheringAlgorithm) -> &'static str {
    oxirush_security::CipheringAlgorithm::try_from(algorithm)
        .map_or("reserved", oxirush_security::CipheringAlgorithm::name_5gs)
}

fn integrity_name(algorithm: IntegrityAlgorithm) -> &'static str {
    oxirush_security::IntegrityAlgorithm::try_from(algorithm)
        .map_or("reserved", oxirush_security::IntegrityAlgorithm::name_5gs)
}
