//! A machine left up by `--keep`: how to get a shell in it and how to end it.

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{paths, proc};

/// Leaves the shell, never reaches the guest: Ctrl-].
const ESCAPE: u8 = 0x1d;

fn memo() -> PathBuf {
    paths::vm().join("kept")
}

/// Notes the directory of a machine that stays up.
pub(crate) fn remember(dir: PathBuf) -> Result<()> {
    fs::write(memo(), dir.into_os_string().as_encoded_bytes())?;
    Ok(())
}

/// The directory of the machine that stays up, if there is one.
pub(super) fn directory() -> Result<PathBuf> {
    let text = fs::read_to_string(memo()).context("no machine was left up by --keep")?;
    Ok(PathBuf::from(text.trim_end()))
}

/// A shell in the machine, on this terminal.
pub(crate) fn attach() -> Result<()> {
    let dir = directory()?;
    let socket = dir.join("shell.sock");
    let stream = UnixStream::connect(&socket)
        .with_context(|| format!("the machine of {} is not up any more", dir.display()))?;
    eprintln!(
        "a root shell in the virtual machine; leave with Ctrl-], end it with `cargo xtask vm --stop`"
    );
    let raw = RawTerminal::enter()?;
    let mut from_guest = stream.try_clone()?;
    // Ends when the socket does; the process does not wait for it.
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n) = from_guest.read(&mut buffer) {
            let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else {
                break;
            };
            let mut out = std::io::stdout().lock();
            if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
                break;
            }
        }
    });
    let mut to_guest = stream;
    to_guest.write_all(b"\n")?;
    let mut byte = [0; 1];
    while std::io::stdin().read(&mut byte)? == 1 && byte != [ESCAPE] {
        to_guest.write_all(&byte)?;
    }
    drop(raw);
    Ok(())
}

/// Switches the machine off.
pub(crate) fn stop() -> Result<()> {
    let dir = directory()?;
    let Some(pid) = owner(&dir)? else {
        eprintln!("the machine is not up any more");
        return forget(&dir);
    };
    proc::run(Command::new("kill").arg(pid.to_string()))?;
    forget(&dir)
}

fn forget(dir: &Path) -> Result<()> {
    fs::remove_dir_all(dir).ok();
    fs::remove_file(memo()).context("cannot forget the machine")
}

/// The QEMU process that has its socket in `dir`.
fn owner(dir: &Path) -> Result<Option<u32>> {
    let socket = dir.join("shell.sock").display().to_string();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&line);
        if text.contains("qemu-system") && text.contains(&socket) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// The terminal without line editing and signals, until dropped.
struct RawTerminal {
    before: String,
}

impl RawTerminal {
    fn enter() -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            bail!("a shell needs a terminal");
        }
        let before = stty(&["-g"])?;
        stty(&["raw", "-echo"])?;
        Ok(Self {
            before: before.trim().to_owned(),
        })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing to be done when the terminal has gone away.
        let _ = stty(&[&self.before]);
    }
}

fn stty(args: &[&str]) -> Result<String> {
    let out = Command::new("stty")
        .args(args)
        .stdin(Stdio::inherit())
        .output()?;
    if !out.status.success() {
        bail!("stty {} failed", args.join(" "));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
