//! Long-running processes in namespaces: started, watched, killed, restarted.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::exec;
use crate::netns::Netns;

/// How to start a process.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Name in messages and of the log file.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Environment on top of the rig's.
    pub environment: Vec<(String, String)>,
    /// Directory of the log file `<name>.log`.
    pub logs: PathBuf,
}

/// A process in a namespace; ended when dropped.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    child: Child,
    keep: bool,
}

impl Process {
    /// Starts it inside `netns`, with standard output and error appended to its log file.
    ///
    /// # Errors
    /// When the program is not there or the namespace is not.
    pub fn start(netns: &Netns, spec: Spec) -> Result<Self> {
        let log = spec.logs.join(format!("{}.log", spec.name));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.arguments)
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = netns.run(|| {
            command
                .spawn()
                .with_context(|| format!("cannot start {}", spec.program.display()))
        })?;
        Ok(Self {
            spec,
            child,
            keep: false,
        })
    }

    /// Its process ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// How it was started, to start it again.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The exit status when it has ended.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until the probe says that it serves.
    ///
    /// # Errors
    /// When it ends or the time passes first; the end of its log is in the error.
    pub fn wait_ready(&mut self, limit: Duration, mut probe: impl FnMut() -> bool) -> Result<()> {
        let name = self.spec.name.clone();
        let result = exec::wait_for(&format!("{name} ready"), limit, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("{name} ended with {status}");
            }
            Ok(probe().then_some(()))
        });
        result.with_context(|| format!("{name} says:\n{}", self.log_tail(15)))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        kill(Pid::from_raw(pid), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.spec.name))
    }

    /// Kills it without a chance to clean up (`kill -9`).
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill_hard(mut self) -> Result<Spec> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.spec.clone())
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it does not end within `limit`, or ends with anything but exit code 0.
    pub fn stop(mut self, limit: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if begun.elapsed() > limit {
                bail!(
                    "{} does not end {:.0} s after SIGTERM\n{}",
                    self.spec.name,
                    limit.as_secs_f32(),
                    self.log_tail(10)
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        if !status.success() {
            bail!(
                "{} ended with {status}\n{}",
                self.spec.name,
                self.log_tail(15)
            );
        }
        Ok(())
    }

    /// Leaves it running when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.spec.logs.join(format!("{}.log", self.spec.name))
    }

    /// The last lines of its output.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }

    /// How much it has written so far: the place to look from for what comes later.
    #[must_use]
    pub fn log_position(&self) -> u64 {
        fs::metadata(self.log()).map_or(0, |meta| meta.len())
    }

    /// What it has written since `position`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log_since(&self, position: u64) -> Result<String> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = File::open(self.log())?;
        file.seek(SeekFrom::Start(position))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.keep || matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // A moment to clean up after itself, then the end in any case.
        let _ = self.signal(Signal::SIGTERM);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a text file; empty when there is none.
#[must_use]
pub fn tail(file: &Path, lines: usize) -> String {
    let bytes = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..)
        .unwrap_or_default()
        .join("\n")
}
