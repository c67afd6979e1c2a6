//! The 5G NAS security context of the UE on non-3GPP access (TS 24.501, 4.4).

use keys::Secret;
use oxirush_nas::{
    NasError,
    nas_5gs::{
        CipheringAlgorithm, Direction, IntegrityAlgorithm, Nas5gmmMessage, Nas5gsMessage,
        Nas5gsSecurityHeaderType as Sht, NasConnection, NasSecurityContext, NasSecurityModeCommand,
        Verified,
    },
};
use oxirush_security::{
    NasCount,
    nas_5gs::{KAmf, derive_kn3iwf},
};

/// NAS connection identifier of every message here: 2, non-3GPP access (TS 33.501, 6.4.2.2).
const ACCESS: NasConnection = NasConnection::Non3Gpp;

/// A security context that may protect messages.
pub(super) struct Context {
    nas: NasSecurityContext,
    k_amf: KAmf,
    ngksi: u8,
}

/// K_AMF after an accepted challenge, until a SECURITY MODE COMMAND takes it into use.
pub(super) struct Partial {
    pub(super) k_amf: KAmf,
    pub(super) ngksi: u8,
}

/// Why a SECURITY MODE COMMAND is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 5GMM cause 23: the replayed capabilities are not ours, or the choice is none of ours.
    Mismatch(&'static str),
    /// 5GMM cause 24.
    Unspecified(&'static str),
}

/// What the UE announced, to compare a SECURITY MODE COMMAND with.
pub(super) struct Announced<'a> {
    /// The value of the UE security capability IE as sent.
    pub(super) capability: &'a [u8],
    pub(super) ciphering: &'a [CipheringAlgorithm],
    pub(super) integrity: &'a [IntegrityAlgorithm],
}

impl Context {
    /// Takes a SECURITY MODE COMMAND (TS 24.501, 5.4.2.3; TS 33.501, 6.7.2).
    ///
    /// `pdu` is the whole protected message. Its own algorithms and the K_AMF its ngKSI names make
    /// the context that has to verify it; then the replayed capabilities must be the announced ones
    /// octet by octet, so that nobody on the way can have weakened the choice (bidding down).
    pub(super) fn from_command(
        pdu: &[u8],
        command: &NasSecurityModeCommand,
        partial: Option<&Partial>,
        current: Option<&Context>,
        announced: &Announced<'_>,
    ) -> Result<Self, Refusal> {
        let algorithms = &command.selected_nas_security_algorithms;
        let nea = algorithms
            .ciphering()
            .filter(|a| announced.ciphering.contains(a));
        let nia = algorithms
            .integrity()
            .filter(|a| announced.integrity.contains(a));
        let (Some(nea), Some(nia)) = (nea, nia) else {
            return Err(Refusal::Mismatch(
                "it selects an algorithm this UE did not offer",
            ));
        };
        if nia == IntegrityAlgorithm::NIA0 {
            return Err(Refusal::Mismatch("it selects no integrity protection"));
        }
        let ngksi = command.ngksi.ksi();
        if command.ngksi.tsc() {
            return Err(Refusal::Unspecified("it names a mapped security context"));
        }
        let (mut nas, k_amf) = match (partial, current) {
            (Some(partial), _) if partial.ngksi == ngksi => (
                NasSecurityContext::from_fresh_kamf(&partial.k_amf, nia, nea),
                partial.k_amf.clone(),
            ),
            // New algorithms under the K_AMF in use: the COUNTs go on (TS 33.501, 6.4.5).
            (_, Some(current)) if current.ngksi == ngksi => {
                let counts = (
                    current.nas.nas_count(Direction::Uplink, ACCESS),
                    current.nas.nas_count(Direction::Downlink, ACCESS),
                );
                let three_gpp = (Some(NasCount::ZERO), Some(NasCount::ZERO));
                let k_amf = &current.k_amf;
                (
                    NasSecurityContext::restore_from_kamf(k_amf, nia, nea, three_gpp, counts),
                    k_amf.clone(),
                )
            }
            _ => {
                return Err(Refusal::Unspecified(
                    "it names a key set this UE does not have",
                ));
            }
        };
        let nas_context = match &mut nas {
            Ok(nas) => nas,
            Err(_) => {
                return Err(Refusal::Mismatch(
                    "it selects algorithms that do not go together",
                ));
            }
        };
        nas_context
            .unprotect_for_access(pdu, Direction::Downlink, ACCESS)
            .map_err(|_| Refusal::Unspecified("its message authentication code is wrong"))?;
        if command.replayed_ue_security_capabilities.value != announced.capability {
            return Err(Refusal::Mismatch(
                "the replayed UE security capabilities are not those this UE sent",
            ));
        }
        match nas {
            Ok(nas) => Ok(Self { nas, k_amf, ngksi }),
            Err(_) => Err(Refusal::Unspecified("no context")),
        }
    }

    /// Protects an uplink message; the NAS COUNT it was protected with goes with it.
    pub(super) fn protect(
        &mut self,
        message: &Nas5gsMessage,
        header: Sht,
    ) -> Result<(Vec<u8>, NasCount), NasError> {
        let count = self.next_uplink()?;
        let pdu = self
            .nas
            .protect_for_access(message, header, Direction::Uplink, ACCESS)?;
        Ok((pdu, count))
    }

    /// Protects an initial NAS message: cleartext IEs in clear, the complete message ciphered in
    /// its container (TS 24.501, 4.4.6).
    pub(super) fn protect_initial(
        &mut self,
        message: &Nas5gsMessage,
    ) -> Result<(Vec<u8>, NasCount), NasError> {
        let count = self.next_uplink()?;
        let pdu = self.nas.protect_initial_for_access(message, ACCESS)?;
        Ok((pdu, count))
    }

    /// Verifies and deciphers a downlink message. A NAS COUNT is accepted once, so a message
    /// replayed on the way fails its MAC.
    pub(super) fn unprotect(&mut self, pdu: &[u8]) -> Result<Verified<Nas5gsMessage>, NasError> {
        self.nas
            .unprotect_for_access(pdu, Direction::Downlink, ACCESS)
    }

    /// K_N3IWF for the uplink NAS COUNT of the message that started access security
    /// (TS 33.501 A.9: FC 0x6E, access type 0x02; 32 octets).
    pub(super) fn k_n3iwf(&self, count: NasCount) -> Secret {
        Secret::from_slice(derive_kn3iwf(&self.k_amf, count).as_octets())
    }

    pub(super) fn ngksi(&self) -> u8 {
        self.ngksi
    }

    pub(super) fn algorithms(&self) -> (CipheringAlgorithm, IntegrityAlgorithm) {
        (
            self.nas.ciphering_algorithm(),
            self.nas.integrity_algorithm(),
        )
    }

    fn next_uplink(&self) -> Result<NasCount, NasError> {
        self.nas
            .nas_count(Direction::Uplink, ACCESS)
            .ok_or(NasError::NasCountExhausted)
    }
}

/// The SECURITY MODE COMMAND in a protected PDU, read before it can be verified: the algorithms
/// that verify it are in it. It is never ciphered (TS 24.501, 4.4.5).
pub(super) fn security_mode_command(pdu: &[u8]) -> Option<Box<NasSecurityModeCommand>> {
    match Nas5gsMessage::decode(pdu).ok()? {
        Nas5gsMessage::SecurityProtected(header, inner)
            if header.security_header_type
                == Sht::IntegrityProtectedWithNewFiveGNasSecurityContext =>
        {
            match *inner {
                Nas5gsMessage::Gmm(_, Nas5gmmMessage::SecurityModeCommand(command)) => {
                    Some(command)
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether a message may be processed without integrity protection before secure exchange is
/// established (TS 24.501, 4.4.4.2).
pub(super) fn is_admissible_in_clear(message: &Nas5gmmMessage) -> bool {
    use oxirush_nas::nas_5gs::MobileIdentityType;
    match message {
        Nas5gmmMessage::IdentityRequest(request) => {
            request.identity_type.identity_type() == Some(MobileIdentityType::Suci)
        }
        // Causes 76 and 78 would bar the UE from a PLMN and need integrity.
        Nas5gmmMessage::RegistrationReject(reject) => {
            !matches!(reject.fgmm_cause.cause_raw(), 76 | 78)
        }
        Nas5gmmMessage::AuthenticationRequest(_)
        | Nas5gmmMessage::AuthenticationResult(_)
        | Nas5gmmMessage::AuthenticationReject(_)
        | Nas5gmmMessage::DeregistrationAcceptUeOriginating(_)
        | Nas5gmmMessage::ServiceReject(_) => true,
        _ => false,
    }
}
