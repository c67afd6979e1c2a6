//! Key material of an IKE SA, and the small rules of modes and profiles.

use keys::{KeyId, QkdKey, Secret};

use super::{Cx, Sa, ledger};
use crate::{
    config::{Mode, Profile},
    crypto::{
        AesBits, ChildSuite, Encr, EspSuite, IkeKeys, IkeSuite, Integ, KeMethod, KeyError,
        KeyExchange, Prf, Protector, keymat, nat::detection_hash, qkd as schedule,
        signature::HashAlgorithm,
    },
    event::{ChildFailure, Path, QkdFailure},
    wire::{Notify, NotifyType, Payload, find_notify, notifies, qkd::QkdUnavailable},
};

/// Keys of an IKE SA in use.
pub(super) struct Crypt {
    pub(super) inbound: Protector,
    pub(super) outbound: Protector,
    /// Wiped once both ends are authenticated.
    pub(super) auth: Option<AuthKeys>,
    /// What keys of Child SAs and of the next IKE SA are derived from; never in mode `qkd`.
    pub(super) sk_d: Option<Secret>,
}

impl Crypt {
    /// The keys as seen by the SA's initiator or responder; `k_auth` in mode `qkd` and only there.
    pub(super) fn new(
        suite: &IkeSuite,
        is_initiator: bool,
        keys: IkeKeys,
        k_auth: Option<Secret>,
    ) -> Result<Self, KeyError> {
        let initiator = Protector::new(suite.encr, suite.integ, keys.initiator)?;
        let responder = Protector::new(suite.encr, suite.integ, keys.responder)?;
        let (inbound, outbound) = match is_initiator {
            true => (responder, initiator),
            false => (initiator, responder),
        };
        Ok(Self {
            inbound,
            outbound,
            sk_d: k_auth.is_none().then_some(keys.sk_d),
            auth: Some(AuthKeys {
                prf: suite.prf,
                sk_pi: keys.sk_pi,
                sk_pr: keys.sk_pr,
                k_auth,
            }),
        })
    }
}

/// What AUTH is made with.
pub(super) struct AuthKeys {
    pub(super) prf: Prf,
    pub(super) sk_pi: Secret,
    pub(super) sk_pr: Secret,
    /// Mode `qkd`.
    pub(super) k_auth: Option<Secret>,
}

/// The one suite of the `paper` profile.
const PAPER_IKE: IkeSuite = IkeSuite {
    encr: Encr::AesCbc(AesBits::B256),
    integ: Some(Integ::HmacSha1_96),
    prf: Prf::HmacSha1,
    ke: None,
};
const PAPER_ESP: EspSuite = EspSuite {
    encr: Encr::AesCbc(AesBits::B256),
    integ: Some(Integ::HmacSha1_96),
    esn: false,
};

/// IKE suites to offer or accept: with a key exchange method exactly outside mode `qkd`.
pub(super) fn ike_suites(mode: Mode, configured: &[IkeSuite]) -> Vec<IkeSuite> {
    match mode {
        Mode::Qkd(Profile::Paper) => vec![PAPER_IKE],
        mode => configured
            .iter()
            .copied()
            .filter(|suite| match &suite.ke {
                None => mode.is_qkd(),
                Some(_) => !mode.is_qkd(),
            })
            .collect(),
    }
}

/// Whether a suite has exchanges that only IKE_INTERMEDIATE can carry.
pub(super) fn has_additional(suite: &IkeSuite) -> bool {
    suite
        .ke
        .as_ref()
        .is_some_and(|ke| ke.additional().next().is_some())
}

/// INTERMEDIATE_EXCHANGE_SUPPORTED (RFC 9242 3.1).
pub(super) fn intermediate_supported() -> Payload {
    Notify::status(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED, Vec::new()).into()
}

/// The method of the KE payload that goes with a suite.
pub(super) fn key_method(suite: &IkeSuite) -> Option<KeMethod> {
    suite.ke.as_ref().map(KeyExchange::first)
}

/// The KE payload of a message.
pub(super) fn key_exchange(payloads: &[Payload]) -> Option<(u16, &[u8])> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Ke { method, data } => Some((*method, data.as_slice())),
        _ => None,
    })
}

/// What SIGNATURE_HASH_ALGORITHMS of a message says.
pub(super) fn announced_hashes(payloads: &[Payload]) -> Option<Vec<HashAlgorithm>> {
    let notify = find_notify(payloads, NotifyType::SIGNATURE_HASH_ALGORITHMS)?;
    HashAlgorithm::from_data(&notify.data).ok()
}

/// ESP suites to offer or accept under an IKE suite: in mode `qkd` of its kind, since that fixed the number of keys, and
/// without a key exchange, since every Child SA has fresh keys.
pub(super) fn esp_suites(mode: Mode, ike: &IkeSuite, configured: &[ChildSuite]) -> Vec<ChildSuite> {
    match mode {
        Mode::Qkd(Profile::Paper) => vec![PAPER_ESP.into()],
        Mode::Qkd(Profile::Native) => without_exchange(configured)
            .into_iter()
            .filter(|suite| suite.encr.is_aead() == ike.encr.is_aead())
            .map(ChildSuite::from)
            .collect(),
        _ => configured.to_vec(),
    }
}

/// The suites as IKE_AUTH knows them (RFC 7296 1.2), none twice.
pub(super) fn without_exchange(suites: &[ChildSuite]) -> Vec<EspSuite> {
    let mut plain = Vec::new();
    for suite in suites {
        if !plain.contains(&suite.esp) {
            plain.push(suite.esp);
        }
    }
    plain
}

/// Octets of the nonces of IKE_SA_INIT.
pub(super) const fn init_nonce_len(profile: Profile) -> usize {
    match profile {
        Profile::Native => 32,
        Profile::Paper => 256,
    }
}

/// Octets of the nonces of CREATE_CHILD_SA; the `paper` profile has none there.
pub(super) const fn child_nonce_len(profile: Profile) -> Option<usize> {
    match profile {
        Profile::Native => Some(32),
        Profile::Paper => None,
    }
}

/// Size in bits to ask keys of: the longest any of the suites takes.
pub(super) fn size_bits(ike: &IkeSuite, esp: &[ChildSuite]) -> u32 {
    let octets = esp
        .iter()
        .map(|suite| schedule::key_len(ike, &suite.esp))
        .max()
        .unwrap_or_else(|| ike.encr.key_len());
    u32::try_from(octets * 8).unwrap_or(u32::MAX)
}

/// NAT_DETECTION_SOURCE_IP and NAT_DETECTION_DESTINATION_IP (RFC 7296 2.23).
pub(super) fn nat_detection(spi_i: u64, spi_r: u64, path: Path) -> [Payload; 2] {
    let notify = |kind, address| {
        let hash = detection_hash(spi_i, spi_r, address);
        Payload::Notify(Notify::status(kind, hash.to_vec()))
    };
    [
        notify(NotifyType::NAT_DETECTION_SOURCE_IP, path.local),
        notify(NotifyType::NAT_DETECTION_DESTINATION_IP, path.remote),
    ]
}

/// Whether this host and whether the peer is behind a NAT. A peer that sends no notifies knows none.
pub(super) fn detect_nat(spi_i: u64, spi_r: u64, path: Path, payloads: &[Payload]) -> (bool, bool) {
    // Several source notifies are allowed, of which one has to match.
    let mismatch = |kind, address| {
        let hash = detection_hash(spi_i, spi_r, address);
        let mut any = false;
        for notify in notifies(payloads).filter(|notify| notify.kind == kind) {
            if notify.data == hash {
                return false;
            }
            any = true;
        }
        any
    };
    (
        mismatch(NotifyType::NAT_DETECTION_DESTINATION_IP, path.local),
        mismatch(NotifyType::NAT_DETECTION_SOURCE_IP, path.remote),
    )
}

/// Puts keys into the order they were asked for. All of them come back when they are not the ones.
pub(super) fn in_order(ids: &[KeyId], keys: Vec<QkdKey>) -> Result<Vec<QkdKey>, Vec<QkdKey>> {
    let all = keys.len() == ids.len() && ids.iter().all(|id| keys.iter().any(|key| key.id == *id));
    if !all {
        return Err(keys);
    }
    let place = |key: &QkdKey| ids.iter().position(|id| *id == key.id);
    let mut keys = keys;
    keys.sort_by_key(place);
    Ok(keys)
}

/// IKEV2_FRAGMENTATION_SUPPORTED, if this side takes fragments (RFC 7383 2.3).
pub(super) fn fragmentation_supported(cx: &Cx<'_>) -> Option<Payload> {
    let kind = NotifyType::IKEV2_FRAGMENTATION_SUPPORTED;
    cx.config
        .fragmentation
        .datagram
        .map(|_| Notify::status(kind, Vec::new()).into())
}

/// Whether this side takes fragments and the peer says that it does.
pub(super) fn fragmentation_agreed(cx: &Cx<'_>, payloads: &[Payload]) -> bool {
    cx.config.fragmentation.datagram.is_some()
        && find_notify(payloads, NotifyType::IKEV2_FRAGMENTATION_SUPPORTED).is_some()
}

/// QKD_UNAVAILABLE for a failure of the KMS.
pub(super) fn unavailable(failure: QkdFailure) -> Notify {
    match failure {
        QkdFailure::NoKeys | QkdFailure::UnknownKey => QkdUnavailable::NoKeys,
        QkdFailure::Unreachable => QkdUnavailable::KmsUnreachable,
        QkdFailure::Quota => QkdUnavailable::Quota,
        QkdFailure::UnknownSae => QkdUnavailable::UnknownSae,
    }
    .to_notify()
}

/// What a refusal of a Child SA means.
pub(super) fn child_refusal(error: &Notify) -> ChildFailure {
    match error.kind {
        NotifyType::QKD_UNAVAILABLE => ChildFailure::Qkd(match error.data.as_slice() {
            [2] => QkdFailure::Unreachable,
            [3] => QkdFailure::Quota,
            [4] => QkdFailure::UnknownSae,
            _ => QkdFailure::NoKeys,
        }),
        kind => ChildFailure::Refused(kind),
    }
}

/// The notifies that are the daemon's business: neither errors nor the engine's own.
pub(super) fn foreign_notifies(payloads: &[Payload]) -> Vec<Notify> {
    notifies(payloads)
        .filter(|notify| {
            !notify.kind.is_error()
                && !matches!(
                    notify.kind,
                    NotifyType::QKD_KEY_IDS
                        | NotifyType::QKD_SUPPORTED
                        | NotifyType::NAT_DETECTION_SOURCE_IP
                        | NotifyType::NAT_DETECTION_DESTINATION_IP
                        | NotifyType::COOKIE
                        | NotifyType::MOBIKE_SUPPORTED
                        | NotifyType::ADDITIONAL_IP4_ADDRESS
                        | NotifyType::ADDITIONAL_IP6_ADDRESS
                        | NotifyType::NO_ADDITIONAL_ADDRESSES
                        | NotifyType::NO_NATS_ALLOWED
                        | NotifyType::UPDATE_SA_ADDRESSES
                        | NotifyType::COOKIE2
                        | NotifyType::REKEY_SA
                        | NotifyType::PPK_IDENTITY
                        | NotifyType::PPK_IDENTITY_KEY
                        | NotifyType::NO_PPK_AUTH
                        | NotifyType::ADDITIONAL_KEY_EXCHANGE
                        | NotifyType::INITIAL_CONTACT
                )
        })
        .cloned()
        .collect()
}

impl Sa {
    /// Takes the keys of a handshake: the IKE SA's go into use, the others wait for their Child SAs.
    /// On failure every key is reported lost.
    pub(super) fn take_initial_keys(
        &mut self,
        cx: &mut Cx<'_>,
        keys: Vec<QkdKey>,
    ) -> Result<(), QkdFailure> {
        let Some(suite) = self.suite else {
            ledger::lose_unclaimed(self.id, keys, cx.events);
            return Err(QkdFailure::UnknownKey);
        };
        let initial = match self.ledger.take_initial(self.aead(), keys) {
            Ok(initial) => initial,
            Err(unwanted) => {
                ledger::lose_unclaimed(self.id, unwanted, cx.events);
                return Err(QkdFailure::UnknownKey);
            }
        };
        let mut ids: Vec<KeyId> = initial.ike.iter().map(|key| key.id).collect();
        ids.push(initial.authentication.id);
        let secrets = initial.ike.into_iter().map(|key| key.secret).collect();
        let k_auth = initial.authentication.secret;
        let made = schedule::ike_keys(
            &suite,
            secrets,
            &k_auth,
            &self.transcript.nonce_i,
            &self.transcript.nonce_r,
            self.spi_i,
            self.spi_r,
        )
        .and_then(|keys| self.put_into_use(cx, &suite, keys, Some(k_auth)));
        // Only keys that are too short get here as an error.
        if made.is_err() {
            self.ledger.lose_all(self.id, cx.events);
            return Err(QkdFailure::UnknownKey);
        }
        self.ike_keys = ids;
        self.signalling_keys = Some(initial.signalling);
        self.user_keys = Some(initial.user);
        Ok(())
    }

    /// Takes the shared secret of a key exchange in IKE_SA_INIT (RFC 7296 2.14).
    pub(super) fn take_shared_secret(
        &mut self,
        cx: &mut Cx<'_>,
        shared: &Secret,
    ) -> Result<(), KeyError> {
        let suite = self.suite.ok_or(KeyError::Suite)?;
        let (ni, nr) = (&self.transcript.nonce_i, &self.transcript.nonce_r);
        let seed = keymat::skeyseed(suite.prf, ni, nr, shared);
        self.renew_keys(cx, &seed)
    }

    /// All keys of the IKE SA anew, from another SKEYSEED.
    pub(super) fn renew_keys(&mut self, cx: &mut Cx<'_>, seed: &Secret) -> Result<(), KeyError> {
        let suite = self.suite.ok_or(KeyError::Suite)?;
        let (ni, nr) = (&self.transcript.nonce_i, &self.transcript.nonce_r);
        let keys = keymat::ike_keys(&suite, seed, ni, nr, self.spi_i, self.spi_r)?;
        self.put_into_use(cx, &suite, keys, None)
    }

    fn put_into_use(
        &mut self,
        cx: &mut Cx<'_>,
        suite: &IkeSuite,
        keys: IkeKeys,
        k_auth: Option<Secret>,
    ) -> Result<(), KeyError> {
        if let Some(log) = &cx.config.key_log {
            log.ike_sa(self.spi_i, self.spi_r, suite, &keys);
        }
        self.crypt = Some(Crypt::new(suite, self.initiator, keys, k_auth)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_the_order_asked_for_or_not_at_all() {
        let id = |n| KeyId::from_octets([n; 16]);
        let key = |n| QkdKey {
            id: id(n),
            secret: Secret::from_slice(&[n; 32]),
        };
        let ids = [id(3), id(1), id(2)];
        let sorted = in_order(&ids, vec![key(1), key(2), key(3)]).unwrap();
        assert!(sorted.iter().map(|key| key.id).eq(ids));
        assert!(in_order(&ids, vec![key(1), key(2)]).is_err());
        assert!(in_order(&ids, vec![key(1), key(2), key(4)]).is_err());
        assert!(
            in_order(&ids, vec![key(1), key(1), key(2)]).is_err(),
            "a key twice is not two keys"
        );
    }

    #[test]
    fn a_nat_is_seen_by_the_side_whose_address_changed() {
        let at = |last: u8, port: u16| std::net::SocketAddr::from(([192, 0, 2, last], port));
        let sent = Path {
            local: at(10, 500),
            remote: at(1, 500),
        };
        let payloads = nat_detection(7, 0, sent);
        let seen = Path {
            local: at(1, 500),
            remote: at(10, 500),
        };
        assert_eq!(detect_nat(7, 0, seen, &payloads), (false, false));
        let translated = Path {
            remote: at(99, 1024),
            ..seen
        };
        assert_eq!(detect_nat(7, 0, translated, &payloads), (false, true));
        let moved = Path {
            local: at(2, 500),
            ..seen
        };
        assert_eq!(detect_nat(7, 0, moved, &payloads), (true, false));
        assert_eq!(detect_nat(7, 0, translated, &[]), (false, false));
    }
}
