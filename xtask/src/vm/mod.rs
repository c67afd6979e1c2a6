//! A virtual machine for one job: boots a Debian cloud kernel into an
//! initramfs, runs one command as root, brings back its output, its exit code
//! and the files it left in `/results`, and is gone.
//!
//! The job goes in as a second archive behind the cached base image; output
//! and results come back through virtio-serial ports that QEMU writes to
//! files, which never block and survive whatever happens to the guest.

pub(crate) mod accel;
mod cpio;
mod image;
pub(crate) mod kept;
pub(crate) mod kernel;
mod payload;
pub(crate) mod tests;

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{paths, proc};
use accel::Accel;
pub(crate) use payload::Payload;

/// How the machine is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Run the command, come back.
    Command,
    /// A shell on this terminal.
    Interactive,
    /// Run the command and, when it succeeds, stay up with a shell on a socket.
    Keep,
}

/// What to do with the command's output while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    /// Show it as it comes.
    Show,
    /// Show that time passes; the output is in the [`Outcome`].
    Quiet,
}

/// What to run in the machine.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) kernel: kernel::Line,
    pub(crate) mode: Mode,
    /// The command's words; ignored for [`Mode::Interactive`].
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// Files of the host that the command needs.
    pub(crate) payload: Payload,
    /// The machine is killed after this time, whatever it does.
    pub(crate) timeout: Duration,
    pub(crate) echo: Echo,
    /// Where files left in `/results` go; dropped when `None`.
    pub(crate) results: Option<PathBuf>,
}

impl Job {
    /// A command with the usual limits.
    pub(crate) fn command(kernel: kernel::Line, command: Vec<String>) -> Self {
        Self {
            kernel,
            mode: Mode::Command,
            command,
            env: Vec::new(),
            payload: Payload::default(),
            timeout: Duration::from_secs(900),
            echo: Echo::Show,
            results: None,
        }
    }
}

/// How the job ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Exit code of the command.
    pub(crate) code: u8,
    /// Everything it wrote to standard output.
    pub(crate) stdout: String,
    /// Everything it wrote to standard error.
    pub(crate) stderr: String,
    /// Whether the machine is still up ([`Mode::Keep`]).
    pub(crate) kept: bool,
}

static PREPARING: Mutex<()> = Mutex::new(());

/// Boots, runs, comes back. An error means that the machine failed; a command
/// that failed is an [`Outcome`] with its code.
pub(crate) fn run(job: &Job) -> Result<Outcome> {
    // Machines may run beside each other; what all of them need is made once.
    let preparing = PREPARING.lock().unwrap_or_else(PoisonError::into_inner);
    let kernel = kernel::fetch(job.kernel)?;
    let base = image::base(&kernel)?;
    let accel = accel::choose(&kernel, &base)?;
    remove_stale_runs()?;
    drop(preparing);
    let dir = tempfile::Builder::new()
        .prefix("run-")
        .tempdir_in(paths::vm())?;
    let initrd = dir.path().join("initrd");
    write_initrd(job, &base, &initrd)?;
    let machine = Machine::start(job, &kernel, accel, dir.path(), &initrd)?;
    let label = format!("Linux {} ({accel})", kernel.release);
    let outcome = machine.follow(job, &label);
    match outcome {
        Ok(outcome) if outcome.kept => {
            kept::remember(dir.keep())?;
            Ok(outcome)
        }
        Ok(outcome) => Ok(outcome),
        Err(error) => {
            // Never the console of an earlier run.
            let kept = paths::vm().join("console.log");
            fs::remove_file(&kept).ok();
            fs::copy(dir.path().join("console"), &kept).ok();
            let console = proc::tail(&kept, 25);
            Err(error.context(format!(
                "the virtual machine failed; its console is in {}, the end of it:\n{console}\n",
                kept.display()
            )))
        }
    }
}

/// Removes what runs left behind whose process was killed: a day is longer
/// than any run takes.
fn remove_stale_runs() -> Result<()> {
    let kept = kept::directory().ok();
    for entry in fs::read_dir(paths::vm())? {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        let run = entry.file_name().to_string_lossy().starts_with("run-");
        if run && age > Duration::from_secs(24 * 3600) && kept.as_ref() != Some(&entry.path()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn write_initrd(job: &Job, base: &Path, initrd: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create(initrd)?);
    std::io::copy(&mut File::open(base)?, &mut out)?;
    let mut archive = cpio::Archive::new(out);
    job.payload.write(&mut archive)?;
    let command: Vec<String> = job.command.iter().map(|word| proc::quote(word)).collect();
    archive.bytes("job/run", 0o755, command.join(" ").as_bytes())?;
    let mut env = String::new();
    for (name, value) in &job.env {
        env.push_str(&format!("export {name}={}\n", proc::quote(value)));
    }
    archive.bytes("job/env", 0o644, env.as_bytes())?;
    let console = match job.mode {
        Mode::Command => "none",
        Mode::Interactive => "interactive",
        Mode::Keep => "keep",
    };
    archive.bytes("job/console", 0o644, console.as_bytes())?;
    archive.finish()?;
    Ok(())
}

/// A running QEMU and the files it writes to. Killed when dropped, unless it
/// is to be kept.
struct Machine {
    child: Child,
    dir: PathBuf,
    keep: bool,
}

impl Machine {
    fn start(
        job: &Job,
        kernel: &kernel::Kernel,
        accel: Accel,
        dir: &Path,
        initrd: &Path,
    ) -> Result<Self> {
        // A machine that outlives this process must not die with it; every
        // other one must, also when this process is killed.
        let mut qemu = if job.mode == Mode::Keep {
            Command::new("setsid")
        } else {
            let mut wrapper = Command::new("setpriv");
            wrapper.args(["--pdeathsig", "KILL"]);
            wrapper
        };
        qemu.args(hardware(kernel, accel, initrd));
        qemu.args(["-append", &command_line(job)]);
        let place = |name: &str| dir.join(name).display().to_string();
        qemu.args([
            "-chardev",
            &format!("file,id=serial,path={}", place("console")),
        ]);
        qemu.args(["-serial", "chardev:serial"]);
        qemu.args(["-device", "virtio-serial-pci,max_ports=8"]);
        for port in ["status", "stdout", "stderr", "results"] {
            qemu.args(["-chardev", &format!("file,id={port},path={}", place(port))]);
            qemu.args([
                "-device",
                &format!("virtserialport,chardev={port},name={port}"),
            ]);
        }
        match job.mode {
            Mode::Interactive => {
                qemu.args(["-chardev", "stdio,id=shell,signal=off"]);
                qemu.args(["-device", "virtconsole,chardev=shell"]);
            }
            Mode::Keep => {
                let socket = place("shell.sock");
                qemu.args([
                    "-chardev",
                    &format!("socket,id=shell,path={socket},server=on,wait=off"),
                ]);
                qemu.args(["-device", "virtconsole,chardev=shell"]);
            }
            Mode::Command => {}
        }
        if job.mode == Mode::Interactive {
            qemu.stdin(Stdio::inherit()).stdout(Stdio::inherit());
        } else {
            qemu.stdin(Stdio::null()).stdout(Stdio::null());
        }
        qemu.stderr(File::create(dir.join("qemu.err"))?);
        let child = qemu
            .spawn()
            .context("cannot start QEMU: run `cargo xtask setup`")?;
        Ok(Self {
            child,
            dir: dir.to_path_buf(),
            keep: false,
        })
    }

    /// Shows what the command prints while it runs, and waits for the end.
    fn follow(mut self, job: &Job, label: &str) -> Result<Outcome> {
        let deadline = Instant::now() + job.timeout;
        let mut booting = Some(proc::Progress::new(&format!("booting {label}")));
        let mut running = proc::Progress::new(&format!("running on {label}"));
        let mut complaints = Vec::new();
        let mut stdout = Tail::new(self.dir.join("stdout"));
        let mut stderr = Tail::new(self.dir.join("stderr"));
        let mut collected = Vec::new();
        loop {
            let ended = self.child.try_wait()?;
            let status = fs::read_to_string(self.dir.join("status")).unwrap_or_default();
            if let Some(progress) = booting.as_mut() {
                progress.tick();
                if status.contains("booted") || ended.is_some() {
                    booting
                        .take()
                        .map(proc::Progress::clear)
                        .unwrap_or_default();
                }
            }
            let (out, err) = (stdout.new_bytes(), stderr.new_bytes());
            if job.echo == Echo::Show {
                std::io::stdout().write_all(&out)?;
                std::io::stdout().flush()?;
                std::io::stderr().write_all(&err)?;
            } else {
                running.tick();
            }
            collected.extend(out);
            complaints.extend(err);
            let outcome = |code: u8, kept: bool| Outcome {
                code,
                kept,
                stdout: String::from_utf8_lossy(&collected).into_owned(),
                stderr: String::from_utf8_lossy(&complaints).into_owned(),
            };
            if let Some(code) = word_after(&status, "kept ") {
                self.keep = true;
                return Ok(outcome(code, true));
            }
            if ended.is_some() {
                let qemu = fs::read_to_string(self.dir.join("qemu.err")).unwrap_or_default();
                let Some(code) = word_after(&status, "exit ") else {
                    bail!(
                        "it stopped before the command ended\n{qemu}{}",
                        unshown(job, &collected)
                    );
                };
                let outcome = outcome(code, false);
                running.clear();
                self.results(job)?;
                return Ok(outcome);
            }
            if Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                bail!(
                    "not finished after {} s: killed\n{}",
                    job.timeout.as_secs(),
                    unshown(job, &collected)
                );
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    fn results(&self, job: &Job) -> Result<()> {
        let archive = self.dir.join("results");
        let (Some(place), true) = (&job.results, archive.metadata().is_ok_and(|m| m.len() > 0))
        else {
            return Ok(());
        };
        fs::create_dir_all(place)?;
        proc::output(
            Command::new("tar")
                .arg("-xf")
                .arg(&archive)
                .arg("-C")
                .arg(place),
        )
        .context("the result files came back damaged")?;
        Ok(())
    }
}

/// The end of what a command printed that did not end itself, where it was not shown as it came.
fn unshown(job: &Job, printed: &[u8]) -> String {
    const LINES: usize = 40;
    if job.echo == Echo::Show {
        return String::new();
    }
    let text = String::from_utf8_lossy(printed);
    let lines: Vec<&str> = text.lines().collect();
    let rest = lines.len().saturating_sub(LINES);
    lines.get(rest..).unwrap_or_default().join("\n")
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.keep {
            // It may have ended by itself, which is as good.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The part of the QEMU command line that is the same for every use.
fn hardware(kernel: &kernel::Kernel, accel: Accel, initrd: &Path) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|w| (*w).to_owned()));
    add(&[
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
    ]);
    add(&[
        "-monitor",
        "none",
        "-no-reboot",
        "-machine",
        "pc",
        "-smp",
        "2",
        "-m",
        "2G",
    ]);
    add(accel.arguments());
    add(&["-kernel", &kernel.image.display().to_string()]);
    add(&["-initrd", &initrd.display().to_string()]);
    args
}

fn command_line(job: &Job) -> String {
    // The check of the timer counts ticks against the processor's cycles. Emulated beside other work it can fail; the
    // kernel then tries other ways, and panics when none is left.
    let mut line = "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t nokaslr no_timer_check \
                    mitigations=off random.trust_cpu=on cryptomgr.notests=1"
        .to_owned();
    if job.mode == Mode::Interactive
        && let Ok(term) = std::env::var("TERM")
    {
        line.push_str(&format!(" TERM={term}"));
    }
    line
}

fn word_after(status: &str, key: &str) -> Option<u8> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

/// Reads what was appended to a file since the last look.
struct Tail {
    path: PathBuf,
    seen: u64,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self { path, seen: 0 }
    }

    fn new_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.seen))?;
            file.read_to_end(&mut bytes)
        });
        // Not there yet: nothing new.
        self.seen += read.unwrap_or(0) as u64;
        bytes
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn exit_codes_are_read_from_the_status() {
        assert_eq!(word_after("booted\nexit 3\n", "exit "), Some(3));
        assert_eq!(word_after("booted\n", "exit "), None);
        assert_eq!(word_after("booted\nexit 999\n", "exit "), None);
    }

    #[test]
    fn a_growing_file_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut tail = Tail::new(path.clone());
        assert!(tail.new_bytes().is_empty());
        fs::write(&path, "one").unwrap();
        assert_eq!(tail.new_bytes(), b"one");
        assert!(tail.new_bytes().is_empty());
        fs::write(&path, "one two").unwrap();
        assert_eq!(tail.new_bytes(), b" two");
    }
}
