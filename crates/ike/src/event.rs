//! What an endpoint tells its daemon, and the answers it takes.

use std::{fmt, net::SocketAddr};

use keys::{KeyId, SaeId, Secret};

use crate::{
    config::Mode,
    crypto::{DirectionKeys, EspSuite},
    wire::{CfgAttribute, Identification, Notify, NotifyType, TrafficSelector},
};

/// An IKE SA, from its first datagram to [`Event::Closed`]. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SaId(pub(crate) u64);

/// A Child SA. Never reused, unique over all IKE SAs of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId(pub(crate) u64);

/// One [`Event::KeysNeeded`]. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyRequestId(pub(crate) u64);

macro_rules! number {
    ($($name:ident),*) => {$(
        impl $name {
            /// The number behind the identifier, for tables and file names.
            pub const fn number(self) -> u64 {
                self.0
            }

            /// The identifier of this number, as a data plane that knows numbers alone gives it back.
            pub const fn from_number(number: u64) -> Self {
                Self(number)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
number!(SaId, ChildId, KeyRequestId);

/// The two ends of a datagram. With local port 4500 the engine adds and strips the non-ESP marker (RFC 3948 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// Our address and port: also says which socket to send from.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.local, self.remote)
    }
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// From where to where.
    pub path: Path,
    /// The UDP payload, marker included.
    pub data: Vec<u8>,
}

/// What to ask of the KMS (ETSI GS QKD 014).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysWanted {
    /// Master SAE (N3IWF): `enc_keys`.
    Allocate {
        /// The UE's SAE ID, as it said itself: not authenticated.
        slave: SaeId,
        /// Number of keys.
        number: usize,
        /// Size of each key in bits.
        size_bits: u32,
    },
    /// Slave SAE (UE): `dec_keys`.
    Collect {
        /// The N3IWF's SAE ID.
        master: SaeId,
        /// The keys, in the order they are needed.
        ids: Vec<KeyId>,
    },
}

/// Why the KMS gave no keys. Becomes the reason octet of QKD_UNAVAILABLE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QkdFailure {
    /// 1: the KMS has no keys for this pair now.
    NoKeys,
    /// 2: no KMS could be reached.
    Unreachable,
    /// 3: a quota is used up.
    Quota,
    /// 4: the KMS does not know the SAE.
    UnknownSae,
    /// 5: a key asked for by ID is not there, or is not usable (slave side; never sent on the wire).
    UnknownKey,
}

impl fmt::Display for QkdFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoKeys => "the KMS has no keys",
            Self::Unreachable => "no KMS reachable",
            Self::Quota => "key quota used up",
            Self::UnknownSae => "the KMS does not know the SAE",
            Self::UnknownKey => "the KMS does not have the key",
        })
    }
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It protects, or protected, something.
    Used {
        /// What.
        purpose: KeyPurpose,
        /// Of which Child SA, if of one.
        child: Option<ChildId>,
    },
    /// It was fetched and will never be used; it has been wiped.
    Lost,
}

/// What a QKD key is for. Directions are those of the UE (initiator of the first IKE SA) and the N3IWF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyPurpose {
    /// `SK_ei`.
    IkeEncryptionUp,
    /// `SK_er`.
    IkeEncryptionDown,
    /// `SK_ai`.
    IkeIntegrityUp,
    /// `SK_ar`.
    IkeIntegrityDown,
    /// ESP encryption, UE to N3IWF.
    EspEncryptionUp,
    /// ESP encryption, N3IWF to UE.
    EspEncryptionDown,
    /// ESP integrity, UE to N3IWF.
    EspIntegrityUp,
    /// ESP integrity, N3IWF to UE.
    EspIntegrityDown,
    /// `K_auth`.
    Authentication,
    /// Preshared key beside a key exchange: mode `hybrid`.
    Ppk,
}

/// Everything a data plane needs for a Child SA.
pub struct ChildSa {
    /// Its identifier.
    pub id: ChildId,
    /// Whether this side began the exchange that made it.
    pub role_initiator: bool,
    /// Our SPI: packets that arrive carry it.
    pub spi_in: u32,
    /// The peer's SPI: packets we send carry it.
    pub spi_out: u32,
    /// Algorithms.
    pub suite: EspSuite,
    /// Keys of packets that arrive.
    pub keys_in: DirectionKeys,
    /// Keys of packets we send.
    pub keys_out: DirectionKeys,
    /// Our side of the traffic.
    pub ts_local: Vec<TrafficSelector>,
    /// The peer's side of the traffic.
    pub ts_remote: Vec<TrafficSelector>,
    /// Outer addresses (and, with `udp_encap`, ports).
    pub path: Path,
    /// Whether ESP travels in UDP, because there is a NAT on the way.
    pub udp_encap: bool,
    /// Whether this is the Child SA of IKE_AUTH, which carries NAS.
    pub signalling: bool,
    /// The caller's token of [`NewChild`], 0 for others.
    pub token: u64,
    /// The peer's notifies that came with it and that the engine has no meaning for (5G_QOS_INFO, UP_IP4_ADDRESS, ...).
    pub notifies: Vec<Notify>,
    /// The QKD keys in it.
    pub key_ids: Vec<KeyId>,
    /// The Child SA it takes over from, in a rekey: the same token, the same traffic. Both carry packets until
    /// the old one's [`Event::ChildDown`].
    pub replaces: Option<ChildId>,
}

impl fmt::Debug for ChildSa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildSa")
            .field("id", &self.id)
            .field("spi_in", &format_args!("{:08x}", self.spi_in))
            .field("spi_out", &format_args!("{:08x}", self.spi_out))
            .field("suite", &self.suite)
            .field("signalling", &self.signalling)
            .finish_non_exhaustive()
    }
}

/// Why an IKE SA ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// [`Endpoint::close`](crate::Endpoint::close).
    Local,
    /// The peer deleted it.
    PeerDeleted,
    /// A request stayed without an answer through all retransmissions.
    PeerDead,
    /// The responder's half-open lifetime passed.
    HalfOpenExpired,
    /// The daemon did not answer in time.
    LocalTimeout,
    /// The KMS gave no keys.
    Qkd(QkdFailure),
    /// The peer refused with QKD_UNAVAILABLE and this reason octet. In IKE_SA_INIT this is not authenticated.
    PeerQkdUnavailable(u8),
    /// The peer refused with this error notify. In IKE_SA_INIT this is not authenticated.
    Refused(NotifyType),
    /// The peer's AUTH (or certificate, or identity) was wrong.
    AuthenticationFailed,
    /// The peer found our AUTH wrong.
    AuthenticationRefused,
    /// EAP ended in failure.
    EapFailure,
    /// The peer's message made no sense.
    Syntax(&'static str),
    /// No suite in common, or an answer that was not among the offers.
    NoProposalChosen,
    /// The data plane could not install the signalling Child SA.
    InstallFailed,
    /// A message could not be written: a part of it, given by this side, is too long, or the Message IDs are used up.
    Unsendable,
    /// Too many cookie requests or EAP rounds.
    TooManyRounds,
    /// The peer, authenticated on a newer IKE SA, says that it has no other (INITIAL_CONTACT).
    InitialContact,
    /// Responder: the initiator allows no NAT (RFC 4555 3.9), and there is one.
    UnexpectedNat,
}

impl CloseReason {
    /// One word for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::PeerDeleted => "peer_deleted",
            Self::PeerDead => "peer_dead",
            Self::HalfOpenExpired => "half_open_expired",
            Self::LocalTimeout => "local_timeout",
            Self::Qkd(_) => "no_keys",
            Self::PeerQkdUnavailable(_) => "peer_no_keys",
            Self::Refused(_) => "refused",
            Self::AuthenticationFailed => "authentication_failed",
            Self::AuthenticationRefused => "authentication_refused",
            Self::EapFailure => "eap_failure",
            Self::Syntax(_) => "syntax",
            Self::NoProposalChosen => "no_proposal_chosen",
            Self::InstallFailed => "install_failed",
            Self::Unsendable => "unsendable",
            Self::TooManyRounds => "too_many_rounds",
            Self::InitialContact => "initial_contact",
            Self::UnexpectedNat => "unexpected_nat",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("closed here"),
            Self::PeerDeleted => f.write_str("deleted by the peer"),
            Self::PeerDead => f.write_str("the peer does not answer"),
            Self::HalfOpenExpired => f.write_str("not completed in time"),
            Self::LocalTimeout => f.write_str("no answer from this host's daemon in time"),
            Self::Qkd(failure) => write!(f, "{failure}"),
            Self::PeerQkdUnavailable(reason) => {
                let what = match reason {
                    1 => "its KMS has no keys now",
                    2 => "it reaches no KMS",
                    3 => "it takes no attach now: a quota, or no AMF",
                    4 => "its KMS does not know our SAE ID",
                    _ => "no reason known",
                };
                write!(f, "QKD_UNAVAILABLE from the peer: {what} ({reason})")
            }
            Self::Refused(kind) => write!(f, "refused by the peer: {kind}"),
            Self::AuthenticationFailed => f.write_str("the peer's authentication failed"),
            Self::AuthenticationRefused => f.write_str("the peer refused our authentication"),
            Self::EapFailure => f.write_str("EAP failure"),
            Self::Syntax(what) => write!(f, "invalid message: {what}"),
            Self::NoProposalChosen => f.write_str("no proposal in common"),
            Self::InstallFailed => f.write_str("the data plane refused the signalling SA"),
            Self::Unsendable => f.write_str("a message could not be written"),
            Self::TooManyRounds => f.write_str("too many rounds"),
            Self::InitialContact => f.write_str("replaced by the peer's initial contact"),
            Self::UnexpectedNat => f.write_str("there is a NAT, which the peer does not allow"),
        }
    }
}

/// Why a Child SA did not come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChildFailure {
    /// The peer refused with this error notify.
    Refused(NotifyType),
    /// The KMS gave no keys (this side), or the peer said QKD_UNAVAILABLE.
    Qkd(QkdFailure),
    /// The peer's answer was not one of our offers, or made no sense.
    InvalidAnswer(&'static str),
    /// The data plane could not install it.
    InstallFailed,
    /// The IKE SA is closing, or this side's daemon refused.
    Abandoned,
    /// In a rekey: the peer rekeyed at the same time, and its SA stays (RFC 7296 2.8.1).
    Superseded,
}

/// What an endpoint reports. Drain with [`Endpoint::poll_event`](crate::Endpoint::poll_event) after every call.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Keys are needed; answer with [`Endpoint::provide_keys`](crate::Endpoint::provide_keys).
    /// Once per exchange, however often the peer retransmits.
    KeysNeeded {
        /// The IKE SA.
        sa: SaId,
        /// To be given back.
        request: KeyRequestId,
        /// What.
        wanted: KeysWanted,
    },
    /// A known UE says that its KMS does not have the keys that an earlier attach of it was given. What else was fetched
    /// for it before that attach is as little use.
    KeysMissing {
        /// Whose.
        sae: SaeId,
        /// The first of them.
        id: KeyId,
    },
    /// IKE_SA_INIT is done at this end: the IKE SA has its keys. With a key exchange this is the first that a
    /// responder hears of it.
    Keyed {
        /// The IKE SA.
        sa: SaId,
        /// The mode of its keys. In a responder `psk` may yet become `cert`.
        mode: Mode,
    },
    /// Responder: the first IKE_AUTH is accepted; answer with [`Endpoint::send_eap`](crate::Endpoint::send_eap) (5G-Start).
    EapBegin {
        /// The IKE SA.
        sa: SaId,
        /// Where the peer is.
        path: Path,
        /// IDi. Not authenticated, never to be taken for a subscription.
        peer_id: Identification,
        /// The attributes of CFG_REQUEST, if it came here.
        configuration: Vec<CfgAttribute>,
        /// Whether the peer is treated as N3IWUE ([`PeerProfile`](crate::PeerProfile)).
        legacy: bool,
    },
    /// Responder in mode `plain`: the initiator has proven its identity; answer with
    /// [`Endpoint::grant`](crate::Endpoint::grant) or [`Endpoint::refuse`](crate::Endpoint::refuse).
    PeerAuthenticated {
        /// The IKE SA.
        sa: SaId,
        /// Where the peer is.
        path: Path,
        /// IDi.
        peer_id: Identification,
        /// The attributes of CFG_REQUEST.
        configuration: Vec<CfgAttribute>,
    },
    /// An EAP packet arrived. Authenticator: a response, answer with `send_eap`, `eap_success` or `eap_failure`.
    /// Peer: a request, answer with `send_eap`.
    Eap {
        /// The IKE SA.
        sa: SaId,
        /// The packet from its code octet.
        packet: Vec<u8>,
    },
    /// Initiator: EAP-Success arrived; answer with [`Endpoint::set_msk`](crate::Endpoint::set_msk).
    EapSuccess {
        /// The IKE SA.
        sa: SaId,
    },
    /// Initiator: EAP-Failure arrived; [`Event::Closed`] follows.
    EapFailure {
        /// The IKE SA.
        sa: SaId,
    },
    /// Install this Child SA, then call [`Endpoint::child_installed`](crate::Endpoint::child_installed).
    /// The responder of the exchange answers its peer only then.
    InstallChild {
        /// The IKE SA.
        sa: SaId,
        /// Both directions; boxed because of its size.
        child: Box<ChildSa>,
    },
    /// All AUTH payloads are good. Exactly once per IKE SA.
    /// The signalling Child SA's [`Event::ChildUp`] or [`Event::ChildFailed`] follows directly.
    Established {
        /// The IKE SA.
        sa: SaId,
        /// Initiator: attributes of CFG_REPLY. Responder: of CFG_REQUEST.
        configuration: Vec<CfgAttribute>,
        /// Initiator: the notifies of the last IKE_AUTH response the engine has no meaning for (NAS_IP4_ADDRESS, ...).
        notifies: Vec<Notify>,
    },
    /// The peer wants a further Child SA; answer with [`Endpoint::answer_child`](crate::Endpoint::answer_child).
    ChildRequested {
        /// The IKE SA.
        sa: SaId,
        /// The Child SA to be.
        child: ChildId,
        /// The peer's wish for our side of the traffic.
        ts_local: Vec<TrafficSelector>,
        /// The peer's wish for its own side of the traffic.
        ts_remote: Vec<TrafficSelector>,
        /// The notifies of the request the engine has no meaning for.
        notifies: Vec<Notify>,
    },
    /// The peer said this in an INFORMATIONAL request, which is answered: the notifies the engine has no meaning for.
    Told {
        /// The IKE SA.
        sa: SaId,
        /// At least one.
        notifies: Vec<Notify>,
    },
    /// The peer answered [`Endpoint::inform`](crate::Endpoint::inform).
    Informed {
        /// The IKE SA.
        sa: SaId,
        /// As given there.
        token: u64,
        /// The error notify in the answer, if there is one.
        refusal: Option<NotifyType>,
    },
    /// A Child SA is installed here and agreed with the peer.
    ChildUp {
        /// The IKE SA.
        sa: SaId,
        /// The Child SA.
        child: ChildId,
        /// The caller's token, 0 for others.
        token: u64,
    },
    /// A Child SA did not come up. The data plane holds nothing of it: either there was no [`Event::InstallChild`], or
    /// it was answered with `Err`. Of the signalling Child SA only after [`Event::Established`].
    ChildFailed {
        /// The IKE SA.
        sa: SaId,
        /// The Child SA that is not to be.
        child: ChildId,
        /// The caller's token, 0 for others.
        token: u64,
        /// Why.
        reason: ChildFailure,
    },
    /// A rekey has got so far that packets are to leave through `to` (RFC 7296 2.8): for whoever began it when both
    /// ends have it, for the other end when the old one is deleted.
    ChildSwitched {
        /// The IKE SA.
        sa: SaId,
        /// The old Child SA.
        from: ChildId,
        /// The new one.
        to: ChildId,
    },
    /// The IKE SA has new keys and new SPIs; its Child SAs and its identifier stay.
    IkeRekeyed {
        /// The IKE SA.
        sa: SaId,
        /// The new initiator's SPI: whoever began the rekey is initiator now.
        spi_i: u64,
        /// The new responder's SPI.
        spi_r: u64,
        /// QKD keys of what was replaced, which protect nothing any more.
        replaced: Vec<KeyId>,
    },
    /// A rekey of the IKE SA failed; it goes on, and the rekey is tried again if it was due by lifetime.
    IkeRekeyFailed {
        /// The IKE SA.
        sa: SaId,
        /// Why.
        reason: ChildFailure,
    },
    /// A rekey failed; `child` goes on, and the rekey is tried again if it was due by lifetime. The data plane holds
    /// nothing of what was to replace it.
    ChildRekeyFailed {
        /// The IKE SA.
        sa: SaId,
        /// The Child SA that was to be replaced.
        child: ChildId,
        /// Why.
        reason: ChildFailure,
    },
    /// An installed Child SA is gone; remove it from the data plane.
    /// One for every [`Event::InstallChild`] that was not answered with `Err`, also when the IKE SA ends: it may come
    /// before that answer is given, so a data plane carries out both in the order of the events.
    ChildDown {
        /// The IKE SA.
        sa: SaId,
        /// The Child SA.
        child: ChildId,
        /// Our SPI.
        spi_in: u32,
        /// The peer's SPI.
        spi_out: u32,
        /// Whether the peer deleted it (or the IKE SA).
        by_peer: bool,
    },
    /// What became of a key given to `provide_keys`: exactly one for each key.
    KeyFate {
        /// The IKE SA.
        sa: SaId,
        /// The key.
        id: KeyId,
        /// What became of it.
        fate: Fate,
    },
    /// One end moved: this one by [`Endpoint::roam`](crate::Endpoint::roam), the peer by MOBIKE or, without it, with its
    /// NAT's mapping. Datagrams take the new path, and so should ESP of all Child SAs. It may come twice for one move:
    /// whether there is a NAT on the new path is known with the peer's answer.
    PathChanged {
        /// The IKE SA.
        sa: SaId,
        /// The new path.
        path: Path,
        /// Whether ESP travels in UDP there.
        udp_encap: bool,
    },
    /// Initiator: the peer does not take the address of [`Endpoint::roam`](crate::Endpoint::roam), and goes on with the
    /// one before. Nothing was undone here.
    MoveRefused {
        /// The IKE SA.
        sa: SaId,
        /// The path the peer does not take.
        path: Path,
        /// UNACCEPTABLE_ADDRESSES, UNEXPECTED_NAT_DETECTED or another error.
        notify: NotifyType,
    },
    /// Initiator with [`QkdPolicy::Prefer`](crate::QkdPolicy::Prefer): the modes tried so far failed, and a fresh
    /// IKE_SA_INIT offers the others.
    ModeFallback {
        /// The IKE SA.
        sa: SaId,
        /// The modes offered before.
        from: Vec<Mode>,
        /// The modes offered now.
        to: Vec<Mode>,
        /// Why. Not authenticated, when it is the peer's word.
        reason: CloseReason,
    },
    /// Nothing of the IKE SA is left. The last event of every [`SaId`], but for [`Event::KeyFate`] of keys provided later.
    Closed {
        /// The IKE SA.
        sa: SaId,
        /// Why.
        reason: CloseReason,
    },
}

/// Answer of the authenticator that ends EAP well.
pub struct EapSuccess {
    /// EAP-Success.
    pub packet: Vec<u8>,
    /// The key both AUTH payloads are made with (K_N3IWF).
    pub msk: Secret,
    /// Attributes of CFG_REPLY; none: no CP payload.
    pub configuration: Vec<CfgAttribute>,
    /// Our side of the signalling Child SA's traffic, narrowed to what the peer offered.
    pub ts_local: Vec<TrafficSelector>,
    /// The peer's side (its inner address).
    pub ts_remote: Vec<TrafficSelector>,
    /// Notifies of the last IKE_AUTH response (NAS_IP4_ADDRESS, NAS_TCP_PORT, ...).
    pub notifies: Vec<Notify>,
}

impl fmt::Debug for EapSuccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EapSuccess").finish_non_exhaustive()
    }
}

/// What an authenticated peer is given: the rest of the last IKE_AUTH response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// Attributes of CFG_REPLY; none: no CP payload.
    pub configuration: Vec<CfgAttribute>,
    /// Our side of the first Child SA's traffic, narrowed to what the peer offered.
    pub ts_local: Vec<TrafficSelector>,
    /// The peer's side.
    pub ts_remote: Vec<TrafficSelector>,
    /// Notifies of the response.
    pub notifies: Vec<Notify>,
}

/// A Child SA this side wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewChild {
    /// Our side of the traffic.
    pub ts_local: Vec<TrafficSelector>,
    /// The peer's side.
    pub ts_remote: Vec<TrafficSelector>,
    /// Notifies of the request (5G_QOS_INFO, UP_IP4_ADDRESS, ...).
    pub notifies: Vec<Notify>,
    /// Handed back in the events about this child.
    pub token: u64,
}

/// Consent to [`Event::ChildRequested`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChildAnswer {
    /// Notifies of the response.
    pub notifies: Vec<Notify>,
}

/// A command that cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// There is no such IKE SA (any more).
    #[error("no such IKE SA")]
    UnknownSa,
    /// The IKE SA is not established yet, or is closing.
    #[error("the IKE SA is not established")]
    NotEstablished,
    /// Not in this mode or profile.
    #[error("not in this key mode")]
    NotInThisMode,
    /// One of both ends has no MOBIKE.
    #[error("no MOBIKE with this peer")]
    NoMobike,
    /// There is no such Child SA, or it is in another state.
    #[error("no such Child SA")]
    UnknownChild,
}
