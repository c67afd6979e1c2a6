//! UE daemons for measurements: one per mode, all in the UE's namespace, so that each keeps its
//! connection to the KME while the others have their turn.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench::records::Mode;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::cpu;
use crate::control::{self, Asked, text};
use crate::exec;
use crate::process::{Process, Spec};
use crate::steps;
use crate::topology::{self, Place};
use crate::world::{Role, World};

/// How long an attach may take.
const ATTACH: Duration = Duration::from_secs(60);
/// How often it is looked whether an attach is over: about as long as it takes, so that whoever looks does not take
/// the processor from those who attach.
const LOOK: Duration = Duration::from_millis(6);

/// A UE daemon of one mode.
#[derive(Debug)]
pub(super) struct Ue {
    pub(super) mode: Mode,
    process: Process,
    socket: PathBuf,
    /// Where the log of an earlier daemon of this name ended.
    begun: u64,
    /// Its sequence numbers.
    numbers: PathBuf,
}

impl Ue {
    /// Starts the daemon, which attaches at once.
    pub(super) fn start(world: &World, mode: Mode, number: usize) -> Result<Self> {
        let socket = world.directory().join(format!("ue-{mode}.sock"));
        let config = world.directory().join(format!("ue-{mode}.yaml"));
        // One host, many UEs: the port of the page for Prometheus is one.
        let text = fs::read_to_string(world.config(Role::Ue))?.replace("metrics: {}\n", "");
        let numbers =
            in_memory(world).join(format!("{}-{mode}.sqn.json", world.topology().prefix()));
        let text = configuration(&text, mode, number, &socket, world.directory())?;
        fs::write(&config, with_numbers(&text, &numbers)?)?;
        let netns = world.netns(Place::Ue)?;
        if number > 0 {
            let address = format!("{}/24", address(number));
            netns.ip(&["address", "add", &address, "dev", "nwu"])?;
        }
        let spec = Spec {
            name: format!("ue-{mode}"),
            program: world.options().bin_dir.join("ue-user"),
            arguments: vec!["--config".to_owned(), config.display().to_string()],
            environment: Vec::new(),
            logs: world.options().logs.clone(),
        };
        let log = spec.logs.join(format!("{}.log", spec.name));
        let begun = fs::metadata(log).map_or(0, |metadata| metadata.len());
        let mut process = Process::start(netns, spec)?;
        process.wait_ready(Duration::from_secs(45), || {
            UnixStream::connect(&socket).is_ok()
        })?;
        Ok(Self {
            mode,
            process,
            socket,
            begun,
            numbers,
        })
    }

    /// Its answer to a simple request.
    pub(super) fn ask(&self, request: &str) -> Result<Value> {
        control::ask_at(
            &self.socket,
            self.process.name(),
            &json!({ "request": request }),
        )
    }

    /// Has it attach. Its answer is for later: one process less that is woken during IKE_SA_INIT.
    pub(super) fn attach(&self) -> Result<Asked> {
        let request = json!({ "request": "attach" });
        Asked::begin(&self.socket, self.process.name(), &request)
    }

    /// Where its log began.
    pub(super) const fn begun(&self) -> u64 {
        self.begun
    }

    /// Where its log ends now.
    pub(super) fn position(&self) -> u64 {
        self.process.log_position()
    }

    /// Waits for the end of an attach that began after `position` of the log. The log is looked at
    /// and the daemon is not asked: what it would spend on answers is no part of an attach.
    pub(super) fn wait_attached(&mut self, position: u64) -> Result<()> {
        let begun = Instant::now();
        loop {
            std::thread::sleep(LOOK);
            let log = self.process.log_since(position)?;
            if let Some(line) = log.lines().find(|line| line.contains("not attached")) {
                bail!("{line}");
            }
            if log
                .lines()
                .any(|line| line.trim_end().ends_with(" attached"))
            {
                break;
            }
            if let Some(status) = self.process.ended()? {
                bail!(
                    "the daemon ended with {status}: {}",
                    self.process.log_tail(5)
                );
            }
            if begun.elapsed() > ATTACH {
                bail!("not attached after {} s", ATTACH.as_secs());
            }
            exec::check_interrupt()?;
        }
        Ok(())
    }

    /// Processor time so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        cpu::spent(self.process.id())
    }

    /// Detaches and waits until nobody knows the UE any more.
    pub(super) fn detach(&self, world: &World) -> Result<()> {
        self.ask("deregister")?;
        exec::wait_for("deregistration", Duration::from_secs(20), || {
            let status = self.ask("status")?;
            Ok((text(&status, "/state") == "detached").then_some(()))
        })?;
        steps::forgotten(world, Duration::from_secs(20))
    }

    /// Ends the daemon.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        exec::wait_for("the UE's end", Duration::from_secs(15), || {
            Ok(self.process.ended()?.map(drop))
        })
    }
}

impl Drop for Ue {
    fn drop(&mut self) {
        // It may not have got as far as to write it.
        let _ = fs::remove_file(&self.numbers);
    }
}

/// A directory in memory. The UE brings its sequence numbers to the disk before it answers the
/// network's challenge; how long that takes is up to the disk and the same in every mode.
fn in_memory(world: &World) -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() {
        shared.to_path_buf()
    } else {
        world.directory().to_path_buf()
    }
}

fn with_numbers(text: &str, numbers: &Path) -> Result<String> {
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with("sqnFile: "))
        .context("no sqnFile in the UE's configuration")?;
    Ok(text.replace(line, &format!("  sqnFile: {}", numbers.display())))
}

fn address(number: usize) -> String {
    let (net, host) = topology::UE_NWU.rsplit_once('.').unwrap_or_default();
    let host: usize = host.parse().unwrap_or(0);
    format!("{net}.{}", host + number)
}

/// The UE's ordinary configuration, changed for a UE of this mode and number.
fn configuration(
    text: &str,
    mode: Mode,
    number: usize,
    socket: &Path,
    directory: &Path,
) -> Result<String> {
    let mut text = text.to_owned();
    let mut change = |from: &str, to: &str| -> Result<()> {
        if !text.contains(from) {
            bail!("no {from:?} in the UE's configuration");
        }
        text = text.replace(from, to);
        Ok(())
    };
    change(
        &format!("localAddress: {}", topology::UE_NWU),
        &format!("localAddress: {}", address(number)),
    )?;
    let supi = crate::files::SUPI;
    let base = supi.strip_suffix('1').context("the first SUPI ends in 1")?;
    change(supi, &format!("{base}{}", number + 1))?;
    change(
        "xfrmInterfaceID: 1\n",
        &format!("xfrmInterfaceID: {}\n", 1 + number * 64),
    )?;
    change(
        &format!("xfrmInterfaceName: {}\n", crate::files::XFRM_INTERFACE),
        &format!(
            "xfrmInterfaceName: {}{number}\n",
            crate::files::XFRM_INTERFACE
        ),
    )?;
    change(
        "interface: uepdu1",
        &format!("interface: uepdu{}", number + 1),
    )?;
    let control = text
        .lines()
        .find(|line| line.starts_with("control: "))
        .context("no control socket in the UE's configuration")?
        .to_owned();
    let text = text.replace(&control, &format!("control: {}", socket.display()));
    match mode {
        // The world has them in its UE's file.
        Mode::Qkd | Mode::QkdAhead | Mode::QkdPaper => Ok(text),
        Mode::Psk | Mode::PskX25519 => without_qkd(&text, mode, "psk", directory),
        Mode::Cert => without_qkd(&text, mode, "cert", directory),
        Mode::Hybrid => with_exchange(&text, mode, directory),
    }
}

/// Suites of the IKE SA: the same but for the key exchange.
pub(super) const PROPOSAL_QKD: &str = "aes256gcm16-prfsha256";

/// The proposal of a mode with a key exchange.
pub(super) const fn exchange(mode: Mode) -> Option<&'static str> {
    match mode {
        Mode::Psk | Mode::Cert => Some("aes256gcm16-prfsha256-modp2048"),
        Mode::PskX25519 => Some("aes256gcm16-prfsha256-x25519"),
        Mode::Hybrid => Some("aes256gcm16-prfsha256-x25519-ke1_mlkem768"),
        Mode::Qkd | Mode::QkdAhead | Mode::QkdPaper => None,
    }
}

/// Puts a key exchange beside the KMS.
fn with_exchange(text: &str, mode: Mode, directory: &Path) -> Result<String> {
    let proposal = exchange(mode).context("no key exchange in this mode")?;
    let (head, rest) = text.split_once("qkd:\n").context("no section qkd")?;
    let (kms, tail) = rest.split_once("\nike:\n").context("no section ike")?;
    Ok(format!(
        "{head}modes: [{mode}]\nqkd:\n{kms}\nike:\n  proposals: {proposal}\n  \
         trustedCertificates: [{}/pki/ike-ca.pem]\n{tail}",
        directory.display()
    ))
}

/// Takes the KMS out of the file and puts a key exchange in its place.
fn without_qkd(text: &str, mode: Mode, word: &str, directory: &Path) -> Result<String> {
    let proposal = exchange(mode).context("no key exchange in this mode")?;
    let pki = directory.join("pki").display().to_string();
    let (head, rest) = text.split_once("qkd:\n").context("no section qkd")?;
    let (_, tail) = rest.split_once("\nike:\n").context("no section ike")?;
    let own = if mode == Mode::Cert {
        format!("  certificate: {pki}/ue.pem\n  privateKey: {pki}/ue.key\n")
    } else {
        String::new()
    };
    Ok(format!(
        "{head}modes: [{word}]\nike:\n  proposals: {proposal}\n  \
         trustedCertificates: [{pki}/ike-ca.pem]\n{own}{tail}"
    ))
}
