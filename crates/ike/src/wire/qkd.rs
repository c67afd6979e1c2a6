//! Bodies of this project's notifications: what QKD needs to say in IKEv2.
//!
//! Every reader is strict: a body that is not exactly right is [`WireError::InvalidSyntax`] or
//! [`WireError::Truncated`], both of which are answered with INVALID_SYNTAX.

use keys::{KeyId, SaeId};
use serde::Deserialize;

use super::{
    error::WireError,
    notify::{Notify, NotifyType},
    reader::Reader,
};

/// Most key IDs in one notification.
pub const MAX_KEY_IDS: usize = 255;

/// QKD_SUPPORTED (61440), in IKE_SA_INIT both ways: this end can use QKD keys, and who it is.
///
/// ```text
/// 0 version (1)   1 flags: bit 0 qkd, bit 1 hybrid, bit 2 paper   2.. SAE ID, 1 to 255 octets of UTF-8
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QkdSupported {
    /// Keys straight from the QKD system, native profile.
    pub qkd: bool,
    /// A QKD key mixed into a key exchange.
    pub hybrid: bool,
    /// Keys straight from the QKD system, profile of the paper.
    pub paper: bool,
    /// The sender's SAE ID: slave in the request, master in the response.
    pub sae: SaeId,
}

impl QkdSupported {
    const VERSION: u8 = 1;
    const QKD: u8 = 0x01;
    const HYBRID: u8 = 0x02;
    const PAPER: u8 = 0x04;

    /// Writes the notification.
    pub fn to_notify(&self) -> Notify {
        let mut flags = 0;
        for (set, bit) in [
            (self.qkd, Self::QKD),
            (self.hybrid, Self::HYBRID),
            (self.paper, Self::PAPER),
        ] {
            if set {
                flags |= bit;
            }
        }
        let mut data = vec![Self::VERSION, flags];
        data.extend_from_slice(self.sae.as_str().as_bytes());
        Notify::status(NotifyType::QKD_SUPPORTED, data)
    }

    /// Reads the notification data. Flags that mean nothing yet are ignored.
    pub fn from_data(data: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(data, "QKD_SUPPORTED");
        if reader.u8()? != Self::VERSION {
            return Err(WireError::InvalidSyntax("version of QKD_SUPPORTED"));
        }
        let flags = reader.u8()?;
        let sae = SaeId::from_octets(reader.rest())
            .map_err(|_| WireError::InvalidSyntax("SAE ID of QKD_SUPPORTED"))?;
        Ok(Self {
            qkd: flags & Self::QKD != 0,
            hybrid: flags & Self::HYBRID != 0,
            paper: flags & Self::PAPER != 0,
            sae,
        })
    }
}

/// The two spellings of QKD_KEY_IDS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyIdFormat {
    /// Format octet 0x01, then 16 octets per key.
    Binary,
    /// The `key_IDs` object of ETSI GS QKD 014 without spaces: 49 octets and a comma per key.
    Json,
}

/// QKD_KEY_IDS (61441): the keys of this exchange in order of use, 1 to [`MAX_KEY_IDS`].
///
/// Repeated IDs are invalid: no key serves two purposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QkdKeyIds {
    /// How the IDs are written.
    pub format: KeyIdFormat,
    /// The IDs.
    pub ids: Vec<KeyId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonKeyIds {
    #[serde(rename = "key_IDs")]
    key_ids: Vec<JsonKeyId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonKeyId {
    #[serde(rename = "key_ID")]
    key_id: KeyId,
}

impl QkdKeyIds {
    const BINARY: u8 = 0x01;

    /// Writes the notification.
    pub fn to_notify(&self) -> Notify {
        let data = match self.format {
            KeyIdFormat::Binary => {
                let mut data = Vec::with_capacity(1 + 16 * self.ids.len());
                data.push(Self::BINARY);
                for id in &self.ids {
                    data.extend_from_slice(id.octets());
                }
                data
            }
            KeyIdFormat::Json => {
                let mut text = String::from("{\"key_IDs\":[");
                for (index, id) in self.ids.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    text.push_str(&format!("{{\"key_ID\":\"{id}\"}}"));
                }
                text.push_str("]}");
                text.into_bytes()
            }
        };
        Notify::status(NotifyType::QKD_KEY_IDS, data)
    }

    /// Reads the notification data.
    pub fn from_data(data: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(data, "QKD_KEY_IDS");
        let (format, ids) = match reader.u8()? {
            Self::BINARY => (KeyIdFormat::Binary, Self::read_binary(reader.rest())?),
            b'{' => (KeyIdFormat::Json, Self::read_json(data)?),
            _ => return Err(WireError::InvalidSyntax("format of QKD_KEY_IDS")),
        };
        if ids.is_empty() || ids.len() > MAX_KEY_IDS {
            return Err(WireError::InvalidSyntax("number of QKD_KEY_IDS"));
        }
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != ids.len() {
            return Err(WireError::InvalidSyntax("repeated key ID in QKD_KEY_IDS"));
        }
        Ok(Self { format, ids })
    }

    fn read_binary(octets: &[u8]) -> Result<Vec<KeyId>, WireError> {
        let (ids, rest) = octets.as_chunks::<16>();
        if !rest.is_empty() {
            return Err(WireError::InvalidSyntax("length of QKD_KEY_IDS"));
        }
        Ok(ids.iter().map(|id| KeyId::from_octets(*id)).collect())
    }

    fn read_json(octets: &[u8]) -> Result<Vec<KeyId>, WireError> {
        const TOO_MANY: usize = 14 + 50 * (MAX_KEY_IDS + 1);
        if octets.len() > TOO_MANY {
            return Err(WireError::InvalidSyntax("number of QKD_KEY_IDS"));
        }
        // One spelling only: neither spaces nor escapes have a place in it.
        if octets
            .iter()
            .any(|octet| octet.is_ascii_whitespace() || *octet == b'\\')
        {
            return Err(WireError::InvalidSyntax("JSON of QKD_KEY_IDS"));
        }
        let object: JsonKeyIds = serde_json::from_slice(octets)
            .map_err(|_| WireError::InvalidSyntax("JSON of QKD_KEY_IDS"))?;
        Ok(object.key_ids.into_iter().map(|key| key.key_id).collect())
    }
}

/// QKD_UNAVAILABLE (error 12288): one octet of reason. Unauthenticated in IKE_SA_INIT, so a hint only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QkdUnavailable {
    /// 1: the KMS has no keys for this pair.
    NoKeys,
    /// 2: the KMS cannot be reached.
    KmsUnreachable,
    /// 3: the peer's quota is used up.
    Quota,
    /// 4: the KMS does not know the peer's SAE ID.
    UnknownSae,
}

impl QkdUnavailable {
    /// The reason octet.
    pub const fn reason(self) -> u8 {
        match self {
            Self::NoKeys => 1,
            Self::KmsUnreachable => 2,
            Self::Quota => 3,
            Self::UnknownSae => 4,
        }
    }

    /// Writes the notification.
    pub fn to_notify(self) -> Notify {
        Notify::status(NotifyType::QKD_UNAVAILABLE, vec![self.reason()])
    }

    /// Reads the notification data.
    pub fn from_data(data: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(data, "QKD_UNAVAILABLE");
        let reason = match reader.u8()? {
            1 => Self::NoKeys,
            2 => Self::KmsUnreachable,
            3 => Self::Quota,
            4 => Self::UnknownSae,
            _ => return Err(WireError::InvalidSyntax("reason of QKD_UNAVAILABLE")),
        };
        reader.finish()?;
        Ok(reason)
    }
}

/// QKD_KEYS_MISSING (61443), in the IKE_SA_INIT request of a known UE: the first key ID of an attach that failed since
/// the UE's KMS does not have its keys. Counts only under a good tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QkdKeysMissing(pub KeyId);

impl QkdKeysMissing {
    /// Writes the notification.
    pub fn to_notify(self) -> Notify {
        Notify::status(NotifyType::QKD_KEYS_MISSING, self.0.octets().to_vec())
    }

    /// Reads the notification data.
    pub fn from_data(data: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(data, "QKD_KEYS_MISSING");
        let id = reader.array()?;
        reader.finish()?;
        Ok(Self(KeyId::from_octets(id)))
    }
}

/// QKD_ADMISSION (61442), in the IKE_SA_INIT request of a known UE: tag id (8), tag (16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QkdAdmission {
    /// Names the admission key.
    pub tag_id: [u8; 8],
    /// Proves its possession.
    pub tag: [u8; 16],
}

impl QkdAdmission {
    /// Writes the notification.
    pub fn to_notify(&self) -> Notify {
        let mut data = self.tag_id.to_vec();
        data.extend_from_slice(&self.tag);
        Notify::status(NotifyType::QKD_ADMISSION, data)
    }

    /// Reads the notification data.
    pub fn from_data(data: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(data, "QKD_ADMISSION");
        let tag_id = reader.array()?;
        let tag = reader.array()?;
        reader.finish()?;
        Ok(Self { tag_id, tag })
    }
}
