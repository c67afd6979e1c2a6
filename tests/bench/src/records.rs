//! The lines of a result file. Whoever measures writes them, `bench-report` reads them; nothing in
//! between is typed in by hand.

mod relay;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub use self::relay::{Counting, Esp, Profile, Relay, Single, Spread, Stream, Warm};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// Where and of what the lines that follow are.
    Machine(Machine),
    /// One attach.
    Attach(Attach),
    /// What an attach of one mode puts on NWu.
    Frames(Frames),
    /// IKE setups or attaches under load.
    Rate(Rate),
    /// UEs attached at the same time.
    Scale(Scale),
    /// UEs that rekey at once.
    Storm(Storm),
    /// The maps of the eBPF programs, filled.
    Maps(Maps),
    /// The user plane.
    Relay(Relay),
    /// Keys from a KME.
    Keys(Keys),
    /// Attaches while the QKD link gives only so many keys.
    KeyRate(KeyRate),
}

/// A machine and a state of the sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Which measurement: `attach`, `rate`, `scale`, `qkd`.
    pub bench: String,
    /// Day and time, UTC, RFC 3339.
    pub time: String,
    /// Commit of the sources, with `-dirty` where they were changed.
    pub commit: String,
    /// `native` or `vm`.
    pub place: String,
    /// Kernel release.
    pub kernel: String,
    /// Processor.
    pub processor: String,
    /// How many of them.
    pub processors: usize,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// The data plane: `kernel` or `recording`.
    pub dataplane: String,
    /// The command that measures the same again.
    pub command: String,
}

/// Keys of an attach: where they come from and how the ends know each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// QKD keys, profile `native`.
    Qkd,
    /// The same; the N3IWF has fetched its keys ahead.
    QkdAhead,
    /// QKD keys, the paper's messages.
    QkdPaper,
    /// QKD keys beside a key exchange.
    Hybrid,
    /// Diffie-Hellman (MODP-2048, as in the paper), authenticated by the 5G key.
    Psk,
    /// The same with X25519.
    #[serde(rename = "psk-x25519")]
    PskX25519,
    /// Diffie-Hellman (MODP-2048), authenticated by certificates.
    Cert,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Qkd,
        Self::QkdAhead,
        Self::QkdPaper,
        Self::Hybrid,
        Self::Psk,
        Self::PskX25519,
        Self::Cert,
    ];

    /// As the command line spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qkd => "qkd",
            Self::QkdAhead => "qkd-ahead",
            Self::QkdPaper => "qkd-paper",
            Self::Hybrid => "hybrid",
            Self::Psk => "psk",
            Self::PskX25519 => "psk-x25519",
            Self::Cert => "cert",
        }
    }

    /// The mode of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One attach, whether it worked or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Its mode.
    pub mode: Mode,
    /// Number of the round, each with one attach of every mode; 0 opens connections to the KMEs
    /// and is not in the statistics.
    pub round: usize,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The phases, in order; empty for one that failed.
    pub phases: Vec<Phase>,
    /// Processor time of whole processes from the request to attach until the UE is attached, µs.
    pub cpu: Cpu,
}

/// One phase of an attach: the UE's clock, and where the time went, µs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// `INIT`, `AUTH`, `CHILD`.
    pub phase: String,
    /// The UE's wall clock.
    pub wall: u64,
    /// Processor time of the UE's handlers.
    pub ue_own: u64,
    /// The UE waits for its KME.
    pub ue_kms: u64,
    /// Processor time of the N3IWF's handlers.
    pub n3iwf_own: u64,
    /// The N3IWF waits for its KME.
    pub n3iwf_kms: u64,
    /// The N3IWF waits for the core.
    pub n3iwf_core: u64,
}

impl Phase {
    /// Handlers of both daemons.
    #[must_use]
    pub const fn own(&self) -> u64 {
        self.ue_own + self.n3iwf_own
    }

    /// Both ends' waiting for a KME.
    #[must_use]
    pub const fn kms(&self) -> u64 {
        self.ue_kms + self.n3iwf_kms
    }

    /// What is left of the wall clock: network, kernel, scheduling.
    #[must_use]
    pub const fn rest(&self) -> u64 {
        self.wall
            .saturating_sub(self.own() + self.kms() + self.n3iwf_core)
    }
}

/// Processor time of processes, µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// The UE daemon.
    pub ue: u64,
    /// The N3IWF daemon.
    pub n3iwf: u64,
    /// The core stand-in.
    pub core: u64,
    /// Both KMEs.
    pub kmes: u64,
}

/// The messages of an attach on NWu.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// The mode.
    pub mode: Mode,
    /// In order.
    pub messages: Vec<Message>,
}

/// One Ethernet frame with an IKE message, octets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// As in the paper's Table II.
    pub name: String,
    /// The frame.
    pub octets: usize,
    /// Nonce payloads.
    pub nonce: usize,
    /// Payloads that name QKD keys.
    pub key_ids: usize,
    /// CERT payloads, and AUTH by signature beside them.
    pub certificate: usize,
    /// KE payloads.
    pub key_exchange: usize,
}

/// Load on a responder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// What was done: `ike` is IKE_SA_INIT, IKE_AUTH and one Child SA; `attach` is the whole of
    /// TS 24.502 with registration and PDU session.
    pub work: String,
    /// The responder: `ike` for this project's, `charon`, `n3iwf-user`.
    pub responder: String,
    /// Key mode and suite.
    pub suite: String,
    /// Number of the repetition.
    pub run: usize,
    /// Begun per second; none where a fixed number was kept under way.
    pub offered: Option<f64>,
    /// Under way at the same time, at most.
    pub at_once: usize,
    /// How long was measured, seconds.
    pub seconds: f64,
    /// Begun, done, failed.
    pub begun: usize,
    /// Done.
    pub done: usize,
    /// Failed or given up.
    pub failed: usize,
    /// Median, 95th and 99th percentile of those done, ms.
    pub latency_ms: [f64; 3],
    /// Processor time of the responder's process, seconds.
    pub responder_cpu: f64,
    /// Processor time of the load driver, seconds.
    pub driver_cpu: f64,
}

/// UEs attached at the same time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Number of the repetition.
    pub run: usize,
    /// UEs attached when this was read.
    pub ues: usize,
    /// Attaches that failed on the way there.
    pub failed: usize,
    /// Resident anonymous memory of the N3IWF, octets.
    pub memory: u64,
    /// The same before the first UE.
    pub memory_before: u64,
    /// Median time of the last attaches, one at a time, ms.
    pub attach_ms: f64,
    /// Processor time of the N3IWF per attach of those, ms.
    pub n3iwf_cpu_ms: f64,
    /// How many those were.
    pub attaches: usize,
}

/// All UEs rekey at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Storm {
    /// UEs attached, all of which rekey.
    pub ues: usize,
    /// How often all of them had rekeyed before.
    #[serde(default)]
    pub round: usize,
    /// `Child SA` or `IKE SA`.
    pub what: String,
    /// SAs that have a successor.
    pub rekeys: usize,
    /// UEs that have none for one of theirs, or are gone.
    pub failed: usize,
    /// Within how many seconds all of them began.
    pub begun_within: f64,
    /// From the first to begin to the last to be done, seconds.
    pub seconds: f64,
    /// Processor time of the N3IWF per rekey, ms.
    pub n3iwf_cpu_ms: f64,
    /// Resident anonymous memory of the N3IWF, octets, at its largest meanwhile.
    pub memory: u64,
    /// The same before the storm.
    pub memory_before: u64,
    /// The same once nothing of what was replaced is kept any more.
    #[serde(default)]
    pub memory_after: Option<u64>,
    /// Keys that the UEs fetched.
    pub keys_fetched: u64,
    /// Keys in the new SAs.
    pub keys_in_sas: u64,
}

/// The maps of an eBPF program, filled, and what a packet takes with them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Maps {
    /// Program, and the kind of packet.
    pub program: String,
    /// UEs in the maps, each with a signalling and a user-plane Child SA and one PDU session.
    pub ues: usize,
    /// Octets that the kernel has for the maps, as it says itself.
    pub memory: u64,
    /// Time to enter one UE, µs.
    pub insert_us: f64,
    /// Median of single runs of the program on a packet of any of the UEs, ns.
    pub packet_ns: f64,
}

/// [`Keys::call`] of an octet that only wakes a thread and comes back.
pub const ECHO: &str = "echo";

/// Requests to a KME, one after another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Keys {
    /// `enc_keys`, `dec_keys` or [`ECHO`].
    pub call: String,
    /// Whether the connection was there.
    pub warm: bool,
    /// How long nobody did anything before each request, ms.
    #[serde(default)]
    pub pause_ms: u64,
    /// Whether the client was a blocking socket and TLS alone.
    #[serde(default)]
    pub bare: bool,
    /// Keys per request.
    pub keys: usize,
    /// Requests that worked.
    pub requests: usize,
    /// Requests that failed.
    pub failed: usize,
    /// Median, 95th percentile and mean, µs.
    pub latency_us: [f64; 3],
    /// Keys per second, one request at a time.
    pub per_second: f64,
}

/// Attaches while the QKD link gives only so many keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyRate {
    /// Keys per second that the link gives.
    pub keys_per_second: f64,
    /// Keys that one attach takes.
    pub keys_per_attach: usize,
    /// How long was measured, seconds.
    pub seconds: f64,
    /// Attaches done.
    pub done: usize,
    /// Attaches that failed.
    pub failed: usize,
    /// Why, and how many each.
    #[serde(default)]
    pub why: BTreeMap<String, usize>,
}

/// The records of a file, in their order.
///
/// # Errors
/// When it cannot be read; names the line that is no record.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("{}:{}: no record", path.display(), index + 1))
        })
        .collect()
}

/// A result file that is being written, a line per record.
#[derive(Debug)]
pub struct Writer {
    file: File,
}

impl Writer {
    /// Begins a file anew.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file })
    }

    /// Writes a line; it is in the file when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .context("cannot write the results")
    }
}

impl Machine {
    /// This machine, now.
    #[must_use]
    pub fn here(bench: &str, place: &str, dataplane: &str, commit: &str, command: &str) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let processor = field(&cpuinfo, "model name").unwrap_or("unknown");
        let memory: u64 = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|value| value.split(' ').next()?.parse().ok())
            .unwrap_or(0);
        Self {
            bench: bench.to_owned(),
            time: now(),
            commit: commit.to_owned(),
            place: place.to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: processor.to_owned(),
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            memory_mib: memory / 1024,
            dataplane: dataplane.to_owned(),
            command: command.to_owned(),
        }
    }
}

/// The first `name: value` of a file of /proc.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// Day and time, UTC (days to date: Fliegel and Van Flandern's inverse, as in `civil_from_days`).
fn now() -> String {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    date(seconds)
}

fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_their_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.jsonl");
        let records = [
            Record::Machine(Machine::here("attach", "native", "recording", "abc", "x")),
            Record::Attach(Attach {
                mode: Mode::QkdPaper,
                round: 3,
                error: Some("no keys".to_owned()),
                phases: Vec::new(),
                cpu: Cpu::default(),
            }),
        ];
        let mut writer = Writer::create(&path).unwrap();
        for record in &records {
            writer.write(record).unwrap();
        }
        assert_eq!(read(&path).unwrap(), records);
        fs::write(&path, "{}\n").unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.contains("x.jsonl:1"), "{error}");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(1_798_761_599), "2026-12-31T23:59:59Z");
    }

    #[test]
    fn what_nothing_accounts_for_is_the_rest() {
        let phase = Phase {
            wall: 100,
            ue_own: 10,
            n3iwf_own: 20,
            ue_kms: 5,
            n3iwf_kms: 5,
            n3iwf_core: 30,
            ..Phase::default()
        };
        assert_eq!((phase.own(), phase.kms(), phase.rest()), (30, 10, 30));
        let late = Phase { wall: 50, ..phase };
        assert_eq!(late.rest(), 0);
    }

    #[test]
    fn modes_have_one_spelling() {
        for mode in Mode::ALL {
            assert_eq!(Mode::of(mode.name()), Some(mode));
            assert_eq!(
                serde_json::to_string(&mode).unwrap(),
                format!("\"{}\"", mode.name())
            );
        }
    }
}
