//! Keys for Wireshark: `ikev2_decryption_table` and `esp_sa`, as its preferences directory has
//! them. For debugging alone: whoever reads these files reads the traffic.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use dataplane::{ChildSaSpec, EncrAlg, EspKeys, IntegAlg};
use ike::{
    EndpointConfig, KeyLog,
    crypto::{AesBits, Encr, IkeKeys, IkeSuite, Integ},
};
use keys::Secret;
use tracing::error;
use zeroize::Zeroizing;

/// The two tables, open for appending.
pub(super) struct DebugKeyLog {
    directory: PathBuf,
    ike: Mutex<File>,
    esp: Mutex<File>,
}

impl fmt::Debug for DebugKeyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DebugKeyLog").field(&self.directory).finish()
    }
}

/// Makes the endpoint tell its keys to `log`.
pub(super) fn attach(endpoint: &mut EndpointConfig, log: &Arc<DebugKeyLog>) {
    let log: Arc<dyn KeyLog> = Arc::clone(log) as Arc<dyn KeyLog>;
    endpoint.key_log = Some(log);
}

impl DebugKeyLog {
    /// Makes the directory (0700) and opens both tables (0600) for appending.
    pub(super) fn open(directory: &Path) -> io::Result<Arc<Self>> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let table = |name: &str| {
            OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(directory.join(name))
                .map(Mutex::new)
        };
        Ok(Arc::new(Self {
            directory: directory.to_path_buf(),
            ike: table("ikev2_decryption_table")?,
            esp: table("esp_sa")?,
        }))
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Both directions of a Child SA.
    pub(super) fn child_sa(&self, spec: &ChildSaSpec) {
        let (local, remote) = (spec.local, spec.remote);
        let rows = [
            esp_row(spec, remote, local, spec.spi_in, &spec.keys_in),
            esp_row(spec, local, remote, spec.spi_out, &spec.keys_out),
        ];
        for row in rows.iter().flatten() {
            append(&self.esp, row);
        }
    }
}

impl KeyLog for DebugKeyLog {
    fn ike_sa(&self, spi_i: u64, spi_r: u64, suite: &IkeSuite, keys: &IkeKeys) {
        if let Some(row) = ike_row(spi_i, spi_r, suite, keys) {
            append(&self.ike, &row);
        }
    }
}

fn append(table: &Mutex<File>, row: &str) {
    let mut file = table.lock().unwrap_or_else(PoisonError::into_inner);
    let whole = file.metadata().map(|metadata| metadata.len());
    if let Err(error) = file.write_all(row.as_bytes()) {
        error!(%error, "debugKeyLog");
        // Half a row, as a full disk leaves it, would spoil the next one. What is no file has no length.
        if let Ok(whole) = whole {
            drop(file.set_len(whole));
        }
    }
}

/// `ispi,rspi,SK_ei,SK_er,"encryption",SK_ai,SK_ar,"integrity"`; of AES-GCM the salt follows the
/// key. `None` for algorithms Wireshark has no name for.
fn ike_row(spi_i: u64, spi_r: u64, suite: &IkeSuite, keys: &IkeKeys) -> Option<Zeroizing<String>> {
    let bits = |bits: AesBits| bits.octets() * 8;
    let (encryption, salted) = match suite.encr {
        Encr::AesCbc(size) => (format!("AES-CBC-{} [RFC3602]", bits(size)), false),
        Encr::AesGcm16(size) => (
            format!("AES-GCM-{} with 16 octet ICV [RFC5282]", bits(size)),
            true,
        ),
        _ => return None,
    };
    let integrity = match suite.integ {
        None => "NONE [RFC4306]",
        Some(Integ::HmacSha1_96) => "HMAC_SHA1_96 [RFC2404]",
        Some(Integ::HmacSha2_256_128) => "HMAC_SHA2_256_128 [RFC4868]",
        Some(Integ::HmacSha2_384_192) => "HMAC_SHA2_384_192 [RFC4868]",
        Some(Integ::HmacSha2_512_256) => "HMAC_SHA2_512_256 [RFC4868]",
        Some(_) => return None,
    };
    let encr = |keys: &ike::crypto::DirectionKeys| {
        let mut text = hex(keys.encr.expose());
        if salted {
            text.push_str(&hex(&keys.salt));
        }
        text
    };
    let integ = |key: &Option<Secret>| {
        key.as_ref()
            .map(|key| hex(key.expose()))
            .unwrap_or_default()
    };
    Some(Zeroizing::new(format!(
        "{spi_i:016x},{spi_r:016x},{},{},\"{encryption}\",{},{},\"{integrity}\"\n",
        *encr(&keys.initiator),
        *encr(&keys.responder),
        *integ(&keys.initiator.integ),
        *integ(&keys.responder.integ),
    )))
}

/// `"IPv4","source","destination","0xspi","encryption","0xkey","integrity","0xkey"`. `None` for
/// algorithms Wireshark has no name for: one such row spoils the table.
fn esp_row(
    spec: &ChildSaSpec,
    source: SocketAddr,
    destination: SocketAddr,
    spi: u32,
    keys: &EspKeys,
) -> Option<Zeroizing<String>> {
    let version = match source.ip() {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    let mut encr = hex(keys.encr.expose());
    let encryption = match spec.encr {
        EncrAlg::AesGcm16 => {
            encr.push_str(&hex(&keys.salt));
            "AES-GCM with 16 octet ICV [RFC4106]"
        }
        EncrAlg::AesCbc => "AES-CBC [RFC3602]",
        EncrAlg::ChaCha20Poly1305 => return None,
    };
    let integrity = match spec.integ {
        // The ICV is the AEAD's own.
        None => "NULL",
        Some(IntegAlg::HmacSha1_96) => "HMAC-SHA-1-96 [RFC2404]",
        Some(IntegAlg::HmacSha2_256_128) => "HMAC-SHA-256-128 [RFC4868]",
        Some(IntegAlg::HmacSha2_384_192) => "HMAC-SHA-384-192 [RFC4868]",
        Some(IntegAlg::HmacSha2_512_256) => "HMAC-SHA-512-256 [RFC4868]",
    };
    let integ = keys
        .integ
        .as_ref()
        .map(|key| hex(key.expose()))
        .unwrap_or_default();
    let prefix = if integ.is_empty() { "" } else { "0x" };
    Some(Zeroizing::new(format!(
        "\"{version}\",\"{}\",\"{}\",\"0x{spi:08x}\",\"{encryption}\",\"0x{}\",\"{integrity}\",\"{prefix}{}\"\n",
        source.ip(),
        destination.ip(),
        *encr,
        *integ,
    )))
}

fn hex(octets: &[u8]) -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| {
        let digit = DIGITS.get(usize::from(value & 15)).copied();
        char::from(digit.unwrap_or(b'?'))
    };
    // Of its final size from the start: no copy is left behind by growth.
    let mut text = Zeroizing::new(String::with_capacity(octets.len() * 2 + 8));
    for octet in octets {
        text.push(digit(octet >> 4));
        text.push(digit(*octet));
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use dataplane::Plane;

    use super::*;

    pub(in super::super) fn spec(encr: EncrAlg, integ: Option<IntegAlg>) -> ChildSaSpec {
        let keys = |octet: u8| EspKeys {
            encr: Secret::filled(32, |key| key.fill(octet)),
            salt: [0xaa; 4],
            integ: integ.map(|alg| Secret::filled(alg.key_len(), |key| key.fill(0x33))),
        };
        ChildSaSpec {
            id: 1,
            plane: Plane::Control,
            ue: 1,
            pdu_session: None,
            spi_in: 0x0102_0304,
            spi_out: 0x0506_0708,
            encr,
            integ,
            keys_in: keys(0x11),
            keys_out: keys(0x22),
            esn: false,
            replay_window: 128,
            local: "192.0.2.1:500".parse().unwrap(),
            remote: "192.0.2.10:500".parse().unwrap(),
            udp_encap: false,
            inner_local: "10.0.0.1".parse().unwrap(),
            inner_remote: "10.0.0.2".parse().unwrap(),
            protocol: Some(6),
            slot: 0,
            reqid: 1,
        }
    }

    #[test]
    fn rows_are_what_wireshark_reads_and_files_are_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let log = DebugKeyLog::open(&path).unwrap();
        log.child_sa(&spec(EncrAlg::AesGcm16, None));
        log.child_sa(&spec(EncrAlg::ChaCha20Poly1305, None));
        log.child_sa(&spec(EncrAlg::AesCbc, Some(IntegAlg::HmacSha1_96)));
        let table = fs::read_to_string(path.join("esp_sa")).unwrap();
        let rows: Vec<&str> = table.lines().collect();
        assert_eq!(
            rows.len(),
            4,
            "Wireshark 4.0 has no name for ChaCha20-Poly1305"
        );
        assert_eq!(
            rows[0],
            format!(
                "\"IPv4\",\"192.0.2.10\",\"192.0.2.1\",\"0x01020304\",\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x{}aaaaaaaa\",\
                 \"NULL\",\"\"",
                "11".repeat(32)
            )
        );
        assert!(rows[1].starts_with("\"IPv4\",\"192.0.2.1\",\"192.0.2.10\",\"0x05060708\""));
        assert!(rows[2].ends_with(&format!(
            "\"HMAC-SHA-1-96 [RFC2404]\",\"0x{}\"",
            "33".repeat(20)
        )));
        for name in ["esp_sa", "ikev2_decryption_table"] {
            let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    /// `/dev/full` takes no octet: what a full disk says, the kernel says here.
    #[test]
    fn a_full_disk_costs_rows_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::os::unix::fs::symlink("/dev/full", path.join("esp_sa")).unwrap();
        let log = DebugKeyLog::open(path).unwrap();
        log.child_sa(&spec(EncrAlg::AesGcm16, None));
        append(&log.ike, "the other table\n");
        let table = fs::read_to_string(path.join("ikev2_decryption_table")).unwrap();
        assert_eq!(table, "the other table\n");
    }

    #[test]
    fn an_ike_row_has_salted_keys_with_gcm() {
        let suite: IkeSuite = "AES_GCM_16-256/PRF_HMAC_SHA2_256".parse().unwrap();
        let direction = |octet: u8| ike::crypto::DirectionKeys {
            encr: Secret::filled(32, |key| key.fill(octet)),
            salt: [octet; 4],
            integ: None,
        };
        let secret = || Secret::filled(32, |key| key.fill(9));
        let keys = IkeKeys {
            sk_d: secret(),
            sk_pi: secret(),
            sk_pr: secret(),
            initiator: direction(1),
            responder: direction(2),
        };
        let row = ike_row(1, 2, &suite, &keys).unwrap();
        assert_eq!(
            *row,
            format!(
                "0000000000000001,0000000000000002,{},{},\"AES-GCM-256 with 16 octet ICV [RFC5282]\",,,\"NONE [RFC4306]\"\n",
                "01".repeat(36),
                "02".repeat(36)
            )
        );
    }
}
