//! Network namespaces: made, entered and taken away.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::exec;

/// A named network namespace; deleted with everything in it when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    keep: bool,
}

impl Netns {
    /// Makes the namespace, with `lo` up.
    ///
    /// # Errors
    /// When `ip netns add` fails: no root, or the name is taken.
    pub fn create(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        exec::output(Command::new(exec::IP).args(["netns", "add", &name]))?;
        let netns = Self { name, keep: false };
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// Name as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same namespace for a second user, who does not end it.
    #[must_use]
    pub fn handle(&self) -> Self {
        Self {
            name: self.name.clone(),
            keep: true,
        }
    }

    /// Leaves the namespace in place when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Runs a closure on a thread of its own inside the namespace. Processes it starts and sockets
    /// it opens belong to the namespace; the calling thread stays where it is.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the closure's own error.
    pub fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send,
        F: FnOnce() -> Result<T> + Send,
    {
        let file = File::open(self.path())
            .with_context(|| format!("namespace {} is not there", self.name))?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
                work()
            });
            inside
                .join()
                .map_err(|_| anyhow!("panic inside namespace {}", self.name))?
        })
    }

    /// Runs iproute2's `ip` inside, without output.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        exec::output(
            Command::new(exec::IP)
                .args(["-n", &self.name])
                .args(arguments),
        )
    }

    /// Runs several `ip` commands in one process.
    ///
    /// # Errors
    /// With what `ip` said about the first that failed.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        let mut child = Command::new(exec::IP)
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start ip")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(lines.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("ip -n {} -batch: {}\n{lines}", self.name, text.trim());
        }
        Ok(())
    }

    /// A program's standard output, run inside.
    ///
    /// # Errors
    /// When it cannot be started, takes too long or fails.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.run(|| exec::output(Command::new(program).args(arguments)))
    }

    /// Names of the interfaces inside.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Link {
            ifname: String,
        }
        let text = self.ip(&["-json", "link", "show"])?;
        let links: Vec<Link> = serde_json::from_str(&text).context("ip -json link")?;
        let mut names: Vec<String> = links.into_iter().map(|link| link.ifname).collect();
        names.sort();
        Ok(names)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Ends every process inside and deletes the namespace of this name, if there is one.
    pub(crate) fn destroy(name: &str) {
        let pids = exec::output(Command::new(exec::IP).args(["netns", "pids", name]));
        for pid in pids
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.trim().parse().ok())
        {
            // It may be gone by now.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // Nothing more can be done about one that does not go.
        let _ = exec::output(Command::new(exec::IP).args(["netns", "delete", name]));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.keep {
            Self::destroy(&self.name);
        }
    }
}
