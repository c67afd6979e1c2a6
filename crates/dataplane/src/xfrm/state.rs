//! Messages about states (`struct xfrm_usersa_info` and its attributes).

use netlink_packet_xfrm::{
    Address, Alg, AlgAead, AlgAuth, EncapTmpl, Id, LifetimeConfig, ReplayEsn, UserSaId, UserSaInfo,
    XfrmAttrs, XfrmMessage,
    constants::{
        IPPROTO_ESP, UDP_ENCAP_ESPINUDP, XFRM_INF, XFRM_MODE_TUNNEL, XFRM_STATE_AF_UNSPEC,
        XFRM_STATE_ESN,
    },
    state::{DelGetMessage, GetDumpMessage, ModifyMessage},
};
use subtle::ConstantTimeEq;

use super::{Direction, Place, StateCounters, StateId, address, is_esp};
use crate::{ChildSaSpec, EncrAlg, Error, EspKeys, IntegAlg, Limits, Refused, SpecError, Traffic};

/// Length of an AES-GCM salt (RFC 4106 section 8.1).
const SALT: usize = 4;

/// The kernel's name of an integrity algorithm.
const fn hmac_name(alg: IntegAlg) -> &'static str {
    match alg {
        IntegAlg::HmacSha1_96 => "hmac(sha1)",
        IntegAlg::HmacSha2_256_128 => "hmac(sha256)",
        IntegAlg::HmacSha2_384_192 => "hmac(sha384)",
        IntegAlg::HmacSha2_512_256 => "hmac(sha512)",
    }
}

/// A name in the fixed field of an algorithm attribute, NUL-padded.
fn alg_name<const N: usize>(name: &str) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(name.as_bytes()) {
        *to = *from;
    }
    field
}

/// The request that adds a state. It holds keys: wipe it after use.
pub(super) fn message(
    sa: &ChildSaSpec,
    place: Place,
    direction: Direction,
    limits: &Limits,
) -> Result<ModifyMessage, Error> {
    let outbound = direction == Direction::Out;
    let (source, destination, spi, keys) = if outbound {
        (sa.local, sa.remote, sa.spi_out, &sa.keys_out)
    } else {
        (sa.remote, sa.local, sa.spi_in, &sa.keys_in)
    };
    let mut info = UserSaInfo {
        id: Id {
            spi,
            proto: IPPROTO_ESP,
            ..Id::default()
        },
        reqid: place.reqid,
        mode: XFRM_MODE_TUNNEL,
        // The selector stays empty: policies say which inner packets belong here, whatever their
        // IP version.
        flags: XFRM_STATE_AF_UNSPEC,
        lifetime_cfg: LifetimeConfig {
            soft_byte_limit: limits
                .soft(limits.soft_bytes, sa.spi_in)
                .unwrap_or(XFRM_INF),
            hard_byte_limit: limits.hard_bytes.unwrap_or(XFRM_INF),
            soft_packet_limit: limits
                .soft(limits.soft_packets, sa.spi_in)
                .unwrap_or(XFRM_INF),
            hard_packet_limit: limits.hard_packets.unwrap_or(XFRM_INF),
            ..LifetimeConfig::default()
        },
        ..UserSaInfo::default()
    };
    info.source(&source.ip());
    info.destination(&destination.ip());
    if sa.esn {
        info.flags |= XFRM_STATE_ESN;
    }
    let mut nlas = algorithms(sa, keys)?;
    let words = sa.replay_window.div_ceil(32);
    nlas.push(XfrmAttrs::ReplayStateEsn(ReplayEsn {
        bmp_len: words,
        replay_window: sa.replay_window,
        bmp: vec![0; usize::try_from(words).unwrap_or_default()],
        ..ReplayEsn::default()
    }));
    nlas.push(XfrmAttrs::IfId(place.if_id));
    if sa.udp_encap {
        nlas.push(XfrmAttrs::EncapsulationTemplate(EncapTmpl {
            encap_type: UDP_ENCAP_ESPINUDP,
            encap_sport: source.port(),
            encap_dport: destination.port(),
            encap_oa: Address::default(),
        }));
    }
    Ok(ModifyMessage {
        user_sa_info: info,
        nlas,
    })
}

fn algorithms(sa: &ChildSaSpec, keys: &EspKeys) -> Result<Vec<XfrmAttrs>, Error> {
    let bits = |octets: usize| u32::try_from(octets * 8).unwrap_or(u32::MAX);
    let spec = |source| Error::Spec { id: sa.id, source };
    // Room for all attributes, so that growing never leaves a copy behind.
    let mut nlas = Vec::with_capacity(8);
    match sa.encr {
        EncrAlg::AesGcm16 | EncrAlg::ChaCha20Poly1305 => {
            let name = match sa.encr {
                EncrAlg::ChaCha20Poly1305 => "rfc7539esp(chacha20,poly1305)",
                _ => "rfc4106(gcm(aes))",
            };
            let mut key = Vec::with_capacity(keys.encr.len() + SALT);
            key.extend_from_slice(keys.encr.expose());
            key.extend_from_slice(&keys.salt);
            nlas.push(XfrmAttrs::EncryptionAlgAead(AlgAead {
                alg_name: alg_name(name),
                alg_key_len: bits(key.len()),
                alg_icv_len: 128,
                alg_key: key,
            }));
        }
        EncrAlg::AesCbc => {
            let (Some(alg), Some(integ)) = (sa.integ, &keys.integ) else {
                return Err(spec(SpecError::Integrity));
            };
            nlas.push(XfrmAttrs::EncryptionAlg(Alg {
                alg_name: alg_name("cbc(aes)"),
                alg_key_len: bits(keys.encr.len()),
                alg_key: keys.encr.expose().to_vec(),
            }));
            nlas.push(XfrmAttrs::AuthenticationAlgTrunc(AlgAuth {
                alg_name: alg_name(hmac_name(alg)),
                alg_key_len: bits(integ.len()),
                alg_trunc_len: bits(alg.icv_len()),
                alg_key: integ.expose().to_vec(),
            }));
        }
    }
    Ok(nlas)
}

fn sa_id(id: StateId) -> UserSaId {
    let mut sa_id = UserSaId {
        spi: id.spi,
        proto: IPPROTO_ESP,
        ..UserSaId::default()
    };
    sa_id.destination(&id.destination);
    sa_id
}

pub(super) fn get(id: StateId) -> XfrmMessage {
    XfrmMessage::GetSa(DelGetMessage {
        user_sa_id: sa_id(id),
        nlas: Vec::new(),
    })
}

pub(super) fn delete(id: StateId) -> XfrmMessage {
    XfrmMessage::DeleteSa(DelGetMessage {
        user_sa_id: sa_id(id),
        nlas: Vec::new(),
    })
}

pub(super) fn dump() -> XfrmMessage {
    XfrmMessage::GetDumpSa(GetDumpMessage::default())
}

pub(super) fn counters(held: &ModifyMessage) -> StateCounters {
    let info = &held.user_sa_info;
    StateCounters {
        id: is_esp(info.id.proto)
            .then(|| address(info.family, &info.id.daddr))
            .flatten()
            .map(|destination| StateId {
                destination,
                spi: info.id.spi,
            }),
        place: Some(Place {
            if_id: if_id(&held.nlas),
            reqid: info.reqid,
        }),
        traffic: Traffic {
            packets: info.lifetime_cur.packets,
            bytes: info.lifetime_cur.bytes,
        },
        refused: Refused {
            replay_window: info.stats.replay_window,
            replay: info.stats.replay,
            integrity: info.stats.integrity_failed,
        },
    }
}

pub(super) fn if_id(attributes: &[XfrmAttrs]) -> u32 {
    attributes
        .iter()
        .find_map(|attribute| match attribute {
            XfrmAttrs::IfId(id) => Some(*id),
            _ => None,
        })
        .unwrap_or(0)
}

/// Where `held` differs from `asked` in a way that matters.
pub(super) fn compare(
    id: StateId,
    asked: &ModifyMessage,
    held: &ModifyMessage,
) -> Result<(), Error> {
    let differs = |what: &str, asked: String, held: String| {
        Err(Error::ReadBack {
            what: format!("{id}: {what}"),
            asked,
            held,
        })
    };
    let (a, h) = (&asked.user_sa_info, &held.user_sa_info);
    let numbers = [
        ("SPI", a.id.spi, h.id.spi),
        ("protocol", a.id.proto.into(), h.id.proto.into()),
        ("reqid", a.reqid, h.reqid),
        ("IP version", a.family.into(), h.family.into()),
        ("mode", a.mode.into(), h.mode.into()),
        ("flags", a.flags.into(), (h.flags & a.flags).into()),
        ("if_id", if_id(&asked.nlas), if_id(&held.nlas)),
        (
            "extended sequence numbers",
            (a.flags & XFRM_STATE_ESN).into(),
            (h.flags & XFRM_STATE_ESN).into(),
        ),
        (
            "replay window",
            replay_window(&asked.nlas),
            replay_window(&held.nlas),
        ),
    ];
    for (what, asked, held) in numbers {
        if asked != held {
            return differs(what, asked.to_string(), held.to_string());
        }
    }
    if a.lifetime_cfg != h.lifetime_cfg {
        let (asked, held) = (a.lifetime_cfg, h.lifetime_cfg);
        return differs("limits", format!("{asked:?}"), format!("{held:?}"));
    }
    for (what, asked, held) in [
        ("destination", &a.id.daddr, &h.id.daddr),
        ("source", &a.saddr, &h.saddr),
    ] {
        if asked != held {
            return differs(what, hex(&asked.addr), hex(&held.addr));
        }
    }
    let encap = |nlas: &[XfrmAttrs]| {
        nlas.iter().find_map(|attribute| match attribute {
            XfrmAttrs::EncapsulationTemplate(t) => {
                Some((t.encap_type, t.encap_sport, t.encap_dport))
            }
            _ => None,
        })
    };
    if encap(&asked.nlas) != encap(&held.nlas) {
        return differs(
            "encapsulation",
            format!("{:?}", encap(&asked.nlas)),
            format!("{:?}", encap(&held.nlas)),
        );
    }
    for wanted in &asked.nlas {
        let Some(want) = algorithm(wanted) else {
            continue;
        };
        let have = held
            .nlas
            .iter()
            .filter_map(algorithm)
            .find(|have| have.kind == want.kind);
        let Some(have) = have else {
            return differs("algorithm", want.describe(), "none".into());
        };
        if want.describe() != have.describe() {
            return differs("algorithm", want.describe(), have.describe());
        }
        // A locked-down kernel shows zeroes instead of keys (LOCKDOWN_XFRM_SECRET).
        let hidden = have.key.iter().all(|octet| *octet == 0);
        if !hidden && !bool::from(want.key.ct_eq(have.key)) {
            return differs("key", "the negotiated key".into(), "another one".into());
        }
    }
    Ok(())
}

fn replay_window(attributes: &[XfrmAttrs]) -> u32 {
    attributes
        .iter()
        .find_map(|attribute| match attribute {
            XfrmAttrs::ReplayStateEsn(state) => Some(state.replay_window),
            _ => None,
        })
        .unwrap_or(0)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// An algorithm attribute, whichever its structure.
struct Algorithm<'a> {
    kind: &'static str,
    name: &'a [u8],
    key_len: u32,
    icv_len: u32,
    key: &'a [u8],
}

impl Algorithm<'_> {
    /// Everything but the key.
    fn describe(&self) -> String {
        let name = self.name.split(|octet| *octet == 0).next().unwrap_or(&[]);
        format!(
            "{} {} with {} key bits, {} ICV bits",
            self.kind,
            String::from_utf8_lossy(name),
            self.key_len,
            self.icv_len
        )
    }
}

fn algorithm(attribute: &XfrmAttrs) -> Option<Algorithm<'_>> {
    Some(match attribute {
        XfrmAttrs::EncryptionAlgAead(alg) => Algorithm {
            kind: "aead",
            name: &alg.alg_name,
            key_len: alg.alg_key_len,
            icv_len: alg.alg_icv_len,
            key: key(&alg.alg_key, alg.alg_key_len),
        },
        XfrmAttrs::EncryptionAlg(alg) => Algorithm {
            kind: "enc",
            name: &alg.alg_name,
            key_len: alg.alg_key_len,
            icv_len: 0,
            key: key(&alg.alg_key, alg.alg_key_len),
        },
        XfrmAttrs::AuthenticationAlgTrunc(alg) => Algorithm {
            kind: "auth-trunc",
            name: &alg.alg_name,
            key_len: alg.alg_key_len,
            icv_len: alg.alg_trunc_len,
            key: key(&alg.alg_key, alg.alg_key_len),
        },
        _ => return None,
    })
}

/// The key without the padding behind it.
fn key(octets: &[u8], bits: u32) -> &[u8] {
    let len = usize::try_from(bits / 8).unwrap_or(usize::MAX);
    octets.get(..len).unwrap_or(octets)
}
