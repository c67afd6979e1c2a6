//! IKE alone, against strongSwan's charon: the same initiator, suite and machine, one responder
//! after the other in each run.
//!
//! charon gets its threads, no log, no cookies below the number of setups under way, no uniqueness
//! check and no routes to install; neither responder programs a kernel that has no ESP (charon's
//! `kernel-libipsec` keeps SAs in its process).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use bench::records::{self, Machine, Record, Writer};

use crate::exec;
use crate::netns::Netns;
use crate::process::{Process, Spec};
use crate::report::{Finding, Report};
use crate::scenarios::Setting;

const OURS: &str = "192.0.2.10";
const THEIRS: &str = "192.0.2.1";
const OUR_ID: &str = "initiator.example.net";
const THEIR_ID: &str = "responder.example.net";
const KEY: &str = "a shared key of no secrecy at all";

/// Lays unpacked packages over `/usr/lib`, where charon looks for its plugins, then becomes the
/// program.
const OVERLAY: &str = "mount -t overlay overlay -o lowerdir=\"$1/usr/lib:/usr/lib\" /usr/lib && \
     program=\"$1$2\" && shift 2 && exec \"$program\" \"$@\"";

/// What to compare.
#[derive(Clone, Debug)]
pub struct IkeOptions {
    /// Root of unpacked strongSwan packages; installed ones without it.
    pub strongswan: Option<PathBuf>,
    /// Suites in swanctl's words: IKE SA and Child SA.
    pub suites: Vec<(String, String)>,
    /// Setups under way.
    pub at_once: Vec<usize>,
    /// How long each is measured, seconds.
    pub seconds: f64,
    /// Repetitions.
    pub runs: usize,
    /// The head of the result file.
    pub machine: Machine,
}

struct Lab<'a> {
    setting: &'a Setting,
    options: &'a IkeOptions,
    ours: Netns,
    theirs: Netns,
    directory: PathBuf,
}

/// Setups per second and per processor second; the result is `ike.jsonl`.
#[must_use]
pub fn ike(setting: &Setting, options: &IkeOptions) -> Report {
    let mut report = setting.report("ike");
    let lab = report.step_with("two namespaces", || {
        Ok((Finding::default(), Lab::new(setting, options)?))
    });
    let Some(lab) = lab else { return report };
    report.step("measured", || {
        let mut writer = Writer::create(&setting.results.join("ike.jsonl"))?;
        writer.write(&Record::Machine(options.machine.clone()))?;
        let mut count = 0;
        for run in 0..options.runs {
            for (ike, esp) in &options.suites {
                for number in &options.at_once {
                    for responder in responders(ike) {
                        exec::check_interrupt()?;
                        let process = lab.responder(responder, ike, esp)?;
                        let measured = lab.drive(responder, ike, esp, *number, run, process.id());
                        for record in measured.with_context(|| {
                            format!("{responder} says:\n{}", process.log_tail(10))
                        })? {
                            writer.write(&record)?;
                            count += 1;
                        }
                        drop(process);
                    }
                }
            }
        }
        Ok(Finding::new(format!("{count} records")))
    });
    report
}

impl<'a> Lab<'a> {
    fn new(setting: &'a Setting, options: &'a IkeOptions) -> Result<Self> {
        let id = std::process::id();
        let directory = setting.results.join("ike");
        fs::create_dir_all(&directory)?;
        let lab = Self {
            setting,
            options,
            ours: Netns::create(format!("bench{id}-ours"))?,
            theirs: Netns::create(format!("bench{id}-theirs"))?,
            directory,
        };
        exec::output(Command::new(exec::IP).args([
            "-n",
            lab.ours.name(),
            "link",
            "add",
            "direct",
            "type",
            "veth",
            "peer",
            "name",
            "direct",
            "netns",
            lab.theirs.name(),
        ]))?;
        for (netns, address) in [(&lab.ours, OURS), (&lab.theirs, THEIRS)] {
            netns.ip(&["address", "add", &format!("{address}/24"), "dev", "direct"])?;
            netns.ip(&["link", "set", "direct", "up"])?;
            netns.ip(&["link", "set", "lo", "up"])?;
        }
        lab.theirs
            .ip(&["address", "add", "10.2.0.1/32", "dev", "lo"])?;
        Ok(lab)
    }

    fn pair(ike: &str, esp: &str) -> Vec<String> {
        [
            ("--initiator", format!("{OURS}:500")),
            ("--responder", format!("{THEIRS}:500")),
            ("--initiator-id", OUR_ID.to_owned()),
            ("--responder-id", THEIR_ID.to_owned()),
            ("--key", KEY.to_owned()),
            ("--ike", ike.to_owned()),
            ("--esp", esp.to_owned()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }

    /// A responder that serves.
    fn responder(&self, name: &str, ike: &str, esp: &str) -> Result<Process> {
        if name != "ike" {
            return self.charon(ike, esp, name == SHORT);
        }
        let mut arguments = vec!["ike-respond".to_owned()];
        arguments.extend(Self::pair(ike, esp));
        let mut process = Process::start(
            &self.theirs,
            Spec {
                name: name.to_owned(),
                program: self.setting.bin_dir.join("load"),
                arguments,
                environment: Vec::new(),
                logs: self.directory.clone(),
            },
        )?;
        let listening = format!("{THEIRS}:500");
        process.wait_ready(Duration::from_secs(20), || {
            let sockets = self.theirs.output("ss", &["-lun"]);
            sockets.is_ok_and(|text| text.contains(&listening))
        })?;
        Ok(process)
    }

    fn charon(&self, ike: &str, esp: &str, short: bool) -> Result<Process> {
        let socket = self.directory.join("vici.sock");
        let _ = fs::remove_file(&socket);
        fs::write(
            self.directory.join("strongswan.conf"),
            settings(&socket, short),
        )?;
        fs::write(self.directory.join("swanctl.conf"), connection(ike, esp))?;
        let (program, arguments) = self.strongswan("/usr/sbin/charon-systemd", &[]);
        let mut process = Process::start(
            &self.theirs,
            Spec {
                name: "charon".to_owned(),
                program: PathBuf::from(program),
                arguments,
                environment: self.environment(),
                logs: self.directory.clone(),
            },
        )?;
        process.wait_ready(Duration::from_secs(30), || socket.exists())?;
        let uri = format!("unix://{}", socket.display());
        let (program, arguments) =
            self.strongswan("/usr/sbin/swanctl", &["--load-all", "--uri", &uri]);
        let mut swanctl = Command::new(program);
        swanctl
            .args(arguments)
            .envs(self.environment())
            .env("SWANCTL_DIR", &self.directory);
        self.theirs.run(|| exec::output(&mut swanctl))?;
        Ok(process)
    }

    fn strongswan(&self, program: &str, words: &[&str]) -> (String, Vec<String>) {
        let Some(root) = &self.options.strongswan else {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            return (program.to_owned(), words);
        };
        let root = root.display().to_string();
        let mut all = vec!["-m", "sh", "-c", OVERLAY, "sh", &root, program];
        all.extend(words);
        let all = all.into_iter().map(str::to_owned).collect();
        ("unshare".to_owned(), all)
    }

    fn environment(&self) -> Vec<(String, String)> {
        let config = self.directory.join("strongswan.conf").display().to_string();
        vec![
            ("STRONGSWAN_CONF".to_owned(), config),
            ("LD_LIBRARY_PATH".to_owned(), "/usr/lib/ipsec".to_owned()),
        ]
    }

    fn drive(
        &self,
        responder: &str,
        ike: &str,
        esp: &str,
        at_once: usize,
        run: usize,
        watch: u32,
    ) -> Result<Vec<Record>> {
        let output = self.directory.join("part.jsonl");
        let mut command = Command::new(self.setting.bin_dir.join("load"));
        command
            .arg("ike-drive")
            .args(Self::pair(ike, esp))
            .args(["--name", responder])
            .args(["--at-once", &at_once.to_string()])
            .args(["--seconds", &self.options.seconds.to_string()])
            .args(["--run", &run.to_string()])
            .args(["--watch", &watch.to_string()])
            .arg("--output")
            .arg(&output);
        self.ours.run(|| exec::output(&mut command))?;
        records::read(&output)
    }
}

/// charon told to take short exponents of MODP groups; by default they are as long as the modulus.
const SHORT: &str = "charon-short-exponents";

/// Who answers in a suite.
fn responders(ike: &str) -> impl Iterator<Item = &'static str> {
    let short = ike.contains("modp").then_some(SHORT);
    ["ike", "charon"].into_iter().chain(short)
}

fn settings(socket: &Path, short: bool) -> String {
    let whole = if short { "no" } else { "yes" };
    format!(
        "charon-systemd {{
 load = openssl random nonce aes sha1 sha2 hmac kdf gmp curve25519 pem pkcs1 pkcs8 x509 pubkey gcm drbg kernel-libipsec kernel-netlink socket-default vici
 threads = 16
 cookie_threshold = 4096
 block_threshold = 0
 half_open_timeout = 30
 init_limit_half_open = 0
 dh_exponent_ansi_x9_42 = {whole}
 install_routes = no
 syslog {{
  daemon {{
   default = -1
  }}
  auth {{
   default = -1
  }}
 }}
 journal {{
  default = -1
 }}
 ikesa_table_size = 1024
 ikesa_table_segments = 16
 plugins {{
  vici {{
   socket = unix://{}
  }}
 }}
}}
swanctl {{
 load = pem pkcs1 pkcs8 x509 pubkey openssl random
}}
",
        socket.display()
    )
}

fn connection(ike: &str, esp: &str) -> String {
    format!(
        "connections {{
 t {{
  version = 2
  local_addrs = {THEIRS}
  remote_addrs = {OURS}
  proposals = {ike}
  unique = never
  mobike = no
  rekey_time = 0
  reauth_time = 0
  local {{
   auth = psk
   id = {THEIR_ID}
  }}
  remote {{
   auth = psk
   id = {OUR_ID}
  }}
  children {{
   c {{
    local_ts = 10.2.0.1/32
    remote_ts = 10.1.0.0/16
    esp_proposals = {esp}
    rekey_time = 0
    start_action = none
   }}
  }}
 }}
}}
secrets {{
 ike-1 {{
  id = {OUR_ID}
  secret = \"{KEY}\"
 }}
}}
"
    )
}
