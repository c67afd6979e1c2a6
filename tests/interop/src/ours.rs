//! A running `ikepeer`: commands in, lines out.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use ikepeer::report::{Line, Seen};
use rig::netns::Netns;

/// Ended when dropped.
pub struct Ours {
    child: Child,
    commands: ChildStdin,
    lines: Receiver<Line>,
    /// Everything it said, for the log of a failure.
    pub said: Vec<Line>,
}

impl Ours {
    /// Starts it inside `netns` and waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(netns: &Netns, program: &Path, config: &Path, log: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(log)?);
        let mut child = netns.run(|| {
            command
                .spawn()
                .with_context(|| format!("cannot start {}", program.display()))
        })?;
        let commands = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for text in BufReader::new(output).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&text).unwrap_or(Line::Error { text });
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut ours = Self {
            child,
            commands,
            lines,
            said: Vec::new(),
        };
        ours.wait("ready", |line| *line == Line::Ready)
            .with_context(|| format!("see {}", log.display()))?;
        Ok(ours)
    }

    /// Gives a command.
    ///
    /// # Errors
    /// When it has ended.
    pub fn command(&mut self, command: &str) -> Result<()> {
        writeln!(self.commands, "{command}").context("ikepeer has ended")
    }

    /// Waits for a line; the end of the IKE SA, a failed rekey and an error end the wait, unless they are waited for.
    ///
    /// # Errors
    /// When something else happens first, or nothing for 20 s.
    pub fn wait(&mut self, what: &str, is_it: impl Fn(&Line) -> bool) -> Result<Line> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => bail!("{what}: not within 20 s"),
                Err(RecvTimeoutError::Disconnected) => bail!("{what}: ikepeer has ended"),
            };
            self.said.push(line.clone());
            if is_it(&line) {
                return Ok(line);
            }
            match line {
                Line::Closed { reason, .. } => bail!("{what}: closed, {reason}"),
                Line::ChildFailed { reason } => bail!("{what}: no Child SA, {reason}"),
                Line::RekeyFailed { reason } => bail!("{what}: {reason}"),
                Line::Error { text } => bail!("{what}: {text}"),
                _ => {}
            }
        }
    }

    /// IKE SAs, Child SAs, and what the wire showed.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&mut self) -> Result<(usize, usize, Seen)> {
        self.command("status")?;
        match self.wait("status", |line| matches!(line, Line::Status { .. }))? {
            Line::Status {
                established,
                children,
                seen,
            } => Ok((established, children, seen)),
            _ => Err(anyhow!("no status")),
        }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // It cleans up the kernel when told to end.
        let _ = self.command("quit");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
