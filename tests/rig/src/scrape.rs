//! Reading a program's metrics as Prometheus would.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::world::{Role, World};

/// One page of samples: name with labels, and value.
#[derive(Clone, Debug)]
pub struct Scrape {
    text: String,
}

impl Scrape {
    /// Asks the program of `role` on loopback in its own namespace.
    ///
    /// # Errors
    /// When there is no page, or not the format's content type.
    pub fn of(world: &World, role: Role) -> Result<Self> {
        let port = match role {
            Role::N3iwf => 9732,
            Role::Ue => 9733,
            Role::KmeA | Role::KmeB => 9734,
            Role::Core => bail!("the core has no metrics"),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let reply = world.netns(role.place())?.run(move || {
            let limit = Duration::from_secs(10);
            let mut stream = TcpStream::connect_timeout(&address, limit)?;
            stream.set_read_timeout(Some(limit))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: rig\r\n\r\n")?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply)?;
            Ok(reply)
        });
        let reply = reply.with_context(|| format!("metrics of {}", role.name()))?;
        let (head, text) = reply.split_once("\r\n\r\n").context("no HTTP response")?;
        if !head.starts_with("HTTP/1.1 200") || !head.contains("text/plain; version=0.0.4") {
            bail!("{}: {head}", role.name());
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }

    /// The sum of all series of `name` whose labels hold every one of `labels` (`key="value"`).
    ///
    /// # Errors
    /// When there is no such series.
    pub fn sum(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let mut found = None;
        for line in self.text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').context("a line without a value")?;
            let (this, rest) = series.split_once('{').unwrap_or((series, ""));
            if this == name && labels.iter().all(|label| rest.contains(label)) {
                let value: f64 = value.parse().with_context(|| line.to_owned())?;
                *found.get_or_insert(0.0) += value;
            }
        }
        found.with_context(|| format!("no series {name} with {labels:?}"))
    }

    /// Fails unless the sum is `expected`.
    ///
    /// # Errors
    /// As [`sum`](Self::sum), or with both numbers.
    pub fn expect(&self, name: &str, labels: &[&str], expected: u64) -> Result<()> {
        let value = self.sum(name, labels)?;
        // Counts of a scenario are far below what a float holds exactly.
        if value != expected as f64 {
            bail!("{name}{labels:?} is {value} instead of {expected}");
        }
        Ok(())
    }

    /// Has `promtool` check the page; `false`: there is none on this machine.
    ///
    /// # Errors
    /// With what it says.
    pub fn lint(&self) -> Result<bool> {
        let Some(promtool) = promtool() else {
            return Ok(false);
        };
        let mut child = Command::new(promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        stdin.write_all(self.text.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "promtool: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(true)
    }

    /// How many series there are.
    #[must_use]
    pub fn series(&self) -> usize {
        let samples = self.text.lines();
        samples.filter(|line| !line.starts_with('#')).count()
    }

    /// Whether the page has this text anywhere.
    #[must_use]
    pub fn mentions(&self, text: &str) -> bool {
        self.text.contains(text)
    }
}

fn promtool() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let candidates = std::env::split_paths(&path).map(|directory| directory.join("promtool"));
    candidates.into_iter().find(|candidate| candidate.is_file())
}
