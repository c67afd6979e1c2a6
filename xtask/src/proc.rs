//! Running programs, with progress for those that take their time.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A command as a shell user would write it, for messages.
pub(crate) fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quote(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Quotes one word for a POSIX shell.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs with the terminal attached; an exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start: {}", show(command)))?;
    if !status.success() {
        bail!("failed ({status}): {}", show(command));
    }
    Ok(())
}

/// Runs silently and returns standard output; an exit code other than 0 is an
/// error that carries standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start: {}", show(command)))?;
    if !out.status.success() {
        bail!(
            "failed ({}): {}\n{}",
            out.status,
            show(command),
            String::from_utf8_lossy(&out.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs with output going to a log file and a progress line on the terminal;
/// the end of the log is part of the error.
pub(crate) fn run_logged(what: &str, log: &Path, command: &mut Command) -> Result<()> {
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start: {}", show(command)))?;
    let mut progress = Progress::new(what);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        progress.tick();
        std::thread::sleep(Duration::from_millis(100));
    };
    if !status.success() {
        progress.end("failed");
        bail!("failed ({status}): {}\n{}", show(command), tail(log, 30));
    }
    progress.end("done");
    Ok(())
}

/// The last lines of a file, for error messages; empty when it cannot be read.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    let mut bytes = Vec::new();
    if File::open(file)
        .and_then(|mut f| f.read_to_end(&mut bytes))
        .is_err()
    {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..)
        .unwrap_or_default()
        .join("\n")
}

/// One line that says what is going on and for how long: rewritten in place on
/// a terminal, repeated every 20 s elsewhere.
pub(crate) struct Progress {
    what: String,
    begun: Instant,
    said: Option<Instant>,
    terminal: bool,
}

impl Progress {
    pub(crate) fn new(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            begun: Instant::now(),
            said: None,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// To be called several times a second.
    pub(crate) fn tick(&mut self) {
        let every = Duration::from_millis(if self.terminal { 200 } else { 20_000 });
        let last = self.said.unwrap_or(self.begun);
        if last.elapsed() < every {
            return;
        }
        self.said = Some(Instant::now());
        let seconds = self.begun.elapsed().as_secs_f32();
        if self.terminal {
            eprint!("\r\x1b[2K  {} … {seconds:.0} s", self.what);
            // A progress line that cannot be shown is no reason to fail.
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("  {} … {seconds:.0} s", self.what);
        }
    }

    /// Ends the line; nothing is shown for what took no time.
    pub(crate) fn end(self, how: &str) {
        let seconds = self.begun.elapsed().as_secs_f32();
        if self.terminal {
            eprint!("\r\x1b[2K");
        }
        if seconds >= 1.0 || how != "done" {
            eprintln!("  {}: {how} ({seconds:.1} s)", self.what);
        }
    }

    /// Takes the line away without a word.
    pub(crate) fn clear(self) {
        if self.terminal && self.said.is_some() {
            eprint!("\r\x1b[2K");
            let _ = std::io::stderr().flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for word in [
            "plain",
            "two words",
            "it's",
            "$HOME",
            "",
            "a;b",
            "ümlaut",
            "--x=1,2",
        ] {
            let out = output(
                Command::new("sh")
                    .arg("-c")
                    .arg(format!("printf %s {}", quote(word))),
            )
            .unwrap();
            assert_eq!(out, word);
        }
    }

    #[test]
    fn a_failing_command_tells_why() {
        let error =
            output(Command::new("sh").args(["-c", "echo the reason >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("the reason") && text.contains("exit status: 3"),
            "{text}"
        );
    }
}
