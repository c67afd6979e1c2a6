//! tshark as an oracle: decrypts IKE with the daemon's debug key log and names what it sees.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::table_ii::Frame;

/// Exchange type (RFC 9242).
const IKE_INTERMEDIATE: u8 = 43;

/// One IKE message of a capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IkeFrame {
    /// Frame number in the capture.
    pub number: u32,
    /// Octets of the Ethernet frame.
    pub length: usize,
    /// Exchange type (RFC 7296 section 3.1).
    pub exchange: u8,
    /// Message ID.
    pub message_id: u32,
    /// The R flag.
    pub response: bool,
    /// The I flag: sent by the original initiator.
    pub from_initiator: bool,
    /// UDP port 4500 with its non-ESP marker.
    pub encapsulated: bool,
    /// The payload chain; with the right keys it goes on inside SK.
    pub payloads: Vec<PayloadSize>,
}

impl Frame for IkeFrame {
    fn length(&self) -> usize {
        self.length
    }

    fn exchange(&self) -> u8 {
        self.exchange
    }

    fn message_id(&self) -> u32 {
        self.message_id
    }

    fn is_response(&self) -> bool {
        self.response
    }
}

/// One payload and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadSize {
    /// Payload type (RFC 7296 section 3.2).
    pub kind: u8,
    /// Octets with the generic header.
    pub length: usize,
    /// Notify message type.
    pub notify: Option<u16>,
}

impl PayloadSize {
    /// The notation of RFC 7296 section 1.2, with the names of the notifies that matter here.
    pub fn name(&self) -> String {
        let name = match self.kind {
            33 => "SA",
            34 => "KE",
            35 => "IDi",
            36 => "IDr",
            37 => "CERT",
            38 => "CERTREQ",
            39 => "AUTH",
            40 => "Nonce",
            41 => return format!("N({})", notify_name(self.notify.unwrap_or(0))),
            42 => "D",
            43 => "V",
            44 => "TSi",
            45 => "TSr",
            46 => "SK",
            47 => "CP",
            48 => "EAP",
            53 => "SKF",
            other => return format!("payload {other}"),
        };
        name.to_owned()
    }
}

fn notify_name(kind: u16) -> String {
    let name = match kind {
        12288 => "QKD_UNAVAILABLE",
        16384 => "INITIAL_CONTACT",
        16388 => "NAT_DETECTION_SOURCE_IP",
        16389 => "NAT_DETECTION_DESTINATION_IP",
        16390 => "COOKIE",
        16430 => "IKEV2_FRAGMENTATION_SUPPORTED",
        16431 => "SIGNATURE_HASH_ALGORITHMS",
        16435 => "USE_PPK",
        16436 => "PPK_IDENTITY",
        16438 => "INTERMEDIATE_EXCHANGE_SUPPORTED",
        55501 => "5G_QOS_INFO",
        55502 => "NAS_IP4_ADDRESS",
        55504 => "UP_IP4_ADDRESS",
        55506 => "NAS_TCP_PORT",
        61440 => "QKD_SUPPORTED",
        61441 => "QKD_KEY_IDS",
        61442 => "QKD_ADMISSION",
        other => return other.to_string(),
    };
    name.to_owned()
}

/// A capture file with the key tables that open it.
#[derive(Clone, Debug)]
pub struct Capture {
    file: PathBuf,
    options: Vec<String>,
}

impl Capture {
    /// `keys` is the directory of the debug key log: `ikev2_decryption_table` and `esp_sa` in
    /// Wireshark's own format. Without it, only clear messages are read.
    pub fn open(file: &Path, keys: Option<&Path>) -> Result<Self> {
        Self::open_at(file, keys, usize::MAX)
    }

    /// With the keys an IKE SA has after `intermediate` exchanges of IKE_INTERMEDIATE: each of them replaces all keys,
    /// and tshark knows one set for a pair of SPIs.
    pub fn open_at(file: &Path, keys: Option<&Path>, intermediate: usize) -> Result<Self> {
        ensure!(file.is_file(), "{} is no file", file.display());
        // NAS with NEA0 is in clear behind its security header; tshark has to be told to look.
        let mut options = vec!["nas-5gs.null_decipher:TRUE".to_owned()];
        if let Some(keys) = keys {
            for row in one_each(&rows(&keys.join("ikev2_decryption_table"))?, intermediate) {
                options.push(format!("uat:ikev2_decryption_table:{row}"));
            }
            let esp = rows(&keys.join("esp_sa"))?;
            if !esp.is_empty() {
                options.push("esp.enable_encryption_decode:TRUE".to_owned());
            }
            for row in esp {
                options.push(format!("uat:esp_sa:{row}"));
            }
        }
        Ok(Self {
            file: file.to_owned(),
            options,
        })
    }

    /// Without a look at the order of TCP segments: a segment that was lost and came again is an error to tshark when
    /// it puts together what it takes for a message in them.
    #[must_use]
    pub fn each_segment_alone(mut self) -> Self {
        for off in [
            "tcp.desegment_tcp_streams:FALSE",
            "tcp.analyze_sequence_numbers:FALSE",
        ] {
            self.options.push(off.to_owned());
        }
        self
    }

    /// Runs tshark over the capture.
    pub fn tshark(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("tshark");
        command.arg("-n").arg("-r").arg(&self.file);
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        let output = command
            .args(arguments)
            .output()
            .context("running tshark (Debian package `tshark`)")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("tshark: {}: {errors}", output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The IKE messages, in order.
    pub fn ike_frames(&self) -> Result<Vec<IkeFrame>> {
        let text = self.fields(
            "isakmp",
            &[
                "frame.number",
                "frame.len",
                "isakmp.exchangetype",
                "isakmp.messageid",
                "isakmp.flags",
                "udp.srcport",
                "udp.dstport",
                "isakmp.typepayload",
                "isakmp.payloadlength",
                "isakmp.notify.msgtype",
            ],
        )?;
        text.lines().map(read_ike).collect()
    }

    /// What tshark calls malformed or an error in the frames that match a display filter: each message once, with the first frame and the
    /// number of frames that have it.
    pub fn complaints(&self, among: &str) -> Result<Vec<String>> {
        // Severity error is 0x00800000 (PI_ERROR). GRE on NWu has protocol type 0 (TS 24.502,
        // 9.3.3), which tshark takes for a protocol of another maker: what it says of such PDUs
        // says nothing.
        let filter = format!(
            "({among}) && (_ws.malformed || _ws.expert.severity == 0x00800000) && !(gre.proto == 0)"
        );
        let text = self.fields(&filter, &["frame.number", "_ws.expert.message"])?;
        let mut found = BTreeMap::<&str, (&str, usize)>::new();
        for line in text.lines() {
            let (frame, message) = line.split_once('\t').unwrap_or((line, "malformed"));
            found.entry(message).or_insert((frame, 0)).1 += 1;
        }
        Ok(found
            .into_iter()
            .map(|(message, (frame, count))| {
                format!("{message} (frame {frame}, {count} frames in all)")
            })
            .collect())
    }

    /// How many frames match a display filter.
    pub fn count(&self, filter: &str) -> Result<usize> {
        Ok(self.fields(filter, &["frame.number"])?.lines().count())
    }

    /// Chosen fields of the frames that match a display filter: a line a frame, tabs between fields,
    /// commas between occurrences.
    pub fn fields(&self, filter: &str, fields: &[&str]) -> Result<String> {
        let mut arguments = vec!["-Y", filter, "-T", "fields", "-E", "occurrence=a"];
        for field in fields {
            arguments.extend(["-e", field]);
        }
        self.tshark(&arguments)
    }
}

/// All IKE messages of a capture, and what tshark calls malformed in it.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The messages, in order, each opened with the keys that its SA had then.
    pub frames: Vec<IkeFrame>,
    /// As [`Capture::complaints`].
    pub complaints: Vec<String>,
}

/// Opens a capture with the keys of the debug key log. IKE_INTERMEDIATE replaces the keys of an SA, so each of these
/// exchanges is read with those that were there before it, and what follows with the last ones.
pub fn opened(file: &Path, keys: &Path) -> Result<Opened> {
    let whole = Capture::open(file, Some(keys))?;
    let mut frames = whole.ike_frames()?;
    let mut complaints =
        whole.complaints(&format!("!(isakmp.exchangetype == {IKE_INTERMEDIATE})"))?;
    let intermediate = |frame: &&IkeFrame| frame.exchange == IKE_INTERMEDIATE;
    let last = frames.iter().filter(intermediate).map(|one| one.message_id);
    for id in 1..=last.max().unwrap_or(0) {
        let before = Capture::open_at(file, Some(keys), usize::try_from(id - 1)?)?;
        complaints.extend(before.complaints(&format!(
            "isakmp.exchangetype == {IKE_INTERMEDIATE} && isakmp.messageid == {id}"
        ))?);
        for (frame, again) in frames.iter_mut().zip(before.ike_frames()?) {
            if (frame.exchange, frame.message_id) == (IKE_INTERMEDIATE, id) {
                *frame = again;
            }
        }
    }
    Ok(Opened { frames, complaints })
}

/// Of the rows with the same pair of SPIs, in the order of their making, the one of this number, or the last.
fn one_each(rows: &[String], number: usize) -> Vec<&str> {
    let spis = |row: &str| {
        row.splitn(3, ',')
            .take(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut sets = BTreeMap::<Vec<String>, Vec<&str>>::new();
    for row in rows {
        sets.entry(spis(row)).or_default().push(row);
    }
    sets.into_values()
        .filter_map(|set| set.get(number).or(set.last()).copied())
        .collect()
}

/// The rows of a Wireshark table; a missing file has none.
fn rows(file: &Path) -> Result<Vec<String>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    Ok(text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

fn read_ike(line: &str) -> Result<IkeFrame> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [
        number,
        length,
        exchange,
        id,
        flags,
        source,
        destination,
        kinds,
        lengths,
        notifies,
    ] = columns[..]
    else {
        bail!("tshark gave {} columns: {line}", columns.len());
    };
    let flags = number_of(flags)?;
    let kinds = list(kinds)?;
    let lengths = list(lengths)?;
    ensure!(
        kinds.len() == lengths.len(),
        "frame {number}: payloads without length"
    );
    let mut notifies = list(notifies)?.into_iter();
    let mut payloads = Vec::new();
    for (kind, length) in kinds.into_iter().zip(lengths) {
        let kind = u8::try_from(kind)?;
        // Proposals (2) and transforms (3) are substructures of SA.
        if kind > 3 {
            payloads.push(PayloadSize {
                kind,
                length: usize::try_from(length)?,
                notify: (kind == 41)
                    .then(|| notifies.next())
                    .flatten()
                    .map(u16::try_from)
                    .transpose()?,
            });
        }
    }
    Ok(IkeFrame {
        number: number.parse()?,
        length: length.parse()?,
        exchange: u8::try_from(number_of(exchange)?)?,
        message_id: number_of(id)?,
        response: flags & 0x20 != 0,
        from_initiator: flags & 0x08 != 0,
        encapsulated: source == "4500" || destination == "4500",
        payloads,
    })
}

fn list(text: &str) -> Result<Vec<u32>> {
    text.split(',')
        .filter(|item| !item.is_empty())
        .map(number_of)
        .collect()
}

/// tshark prints some integers in hexadecimal.
fn number_of(text: &str) -> Result<u32> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.with_context(|| format!("{text:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_of_spis_has_one_row() {
        let rows = ["1,2,a,x", "1,3,b,x", "1,2,c,x"].map(str::to_owned);
        assert_eq!(one_each(&rows, 0), ["1,2,a,x", "1,3,b,x"]);
        assert_eq!(one_each(&rows, 1), ["1,2,c,x", "1,3,b,x"]);
        assert_eq!(one_each(&rows, usize::MAX), ["1,2,c,x", "1,3,b,x"]);
    }

    #[test]
    fn a_line_of_tshark_becomes_a_frame() {
        let line = "7\t215\t34\t0x00000000\t0x08\t500\t500\t33,2,3,3,40,41,41\t32,28,12,8,36,28,22\t16388,61440";
        let frame = read_ike(line).unwrap();
        assert!(frame.from_initiator && !frame.response && !frame.encapsulated);
        let names: Vec<String> = frame.payloads.iter().map(PayloadSize::name).collect();
        assert_eq!(
            names,
            [
                "SA",
                "Nonce",
                "N(NAT_DETECTION_SOURCE_IP)",
                "N(QKD_SUPPORTED)"
            ]
        );
        assert!(read_ike("7\t215").is_err());
        assert!(read_ike("7\tx\t34\t0\t0\t1\t1\t\t\t").is_err());
    }
}
