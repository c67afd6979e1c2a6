//! Which accelerator QEMU may use. `/dev/kvm` being there says little: on some
//! hosts (nested, para-virtual) a stock kernel hangs under it. So KVM is used
//! only when the very kernel boots to the very `/init` within three seconds;
//! the answer is kept until the host's kernel or QEMU changes.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::kernel::Kernel;
use crate::{paths, proc};

const PROBE: Duration = Duration::from_secs(3);

/// What executes the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accel {
    /// The host's processor, through `/dev/kvm`.
    Kvm,
    /// QEMU's translator: works everywhere, 5 to 20 times slower.
    Tcg,
}

impl Accel {
    /// The translator runs both processors in one thread. In a thread each, a
    /// processor can execute the breakpoint of a kernel text patch after the
    /// patch is done (`Oops: int3`): with QEMU 7.2, two threads that send
    /// datagrams on loopback while a third opens and closes a socket with
    /// `SO_TIMESTAMP` end a 6.12 kernel within seconds.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => &["-accel", "tcg,thread=single", "-cpu", "max"],
        }
    }
}

impl std::fmt::Display for Accel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// Decides by the earlier answer, or by a probe.
pub(crate) fn choose(kernel: &Kernel, base: &Path) -> Result<Accel> {
    if fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(Accel::Tcg);
    }
    let memo = paths::vm().join("kvm-probe");
    let host = proc::output(Command::new("uname").args(["-r", "-v"]))?;
    let qemu = proc::output(Command::new("qemu-system-x86_64").arg("--version"))?;
    let key = format!(
        "{}\n{}",
        host.trim(),
        qemu.lines().next().unwrap_or_default()
    );
    if let Some(answer) = fs::read_to_string(&memo)
        .ok()
        .and_then(|text| text.strip_prefix(&key).map(str::to_owned))
    {
        return Ok(if answer.trim() == "works" {
            Accel::Kvm
        } else {
            Accel::Tcg
        });
    }
    let works = probe(kernel, base)?;
    fs::write(
        &memo,
        format!("{key}\n{}\n", if works { "works" } else { "hangs" }),
    )?;
    if !works {
        eprintln!(
            "  KVM is present but boots no kernel within {} s: using TCG from now on",
            PROBE.as_secs()
        );
    }
    Ok(if works { Accel::Kvm } else { Accel::Tcg })
}

/// Boots the base image, whose job is empty: it announces itself on the status
/// port as soon as `/init` runs.
fn probe(kernel: &Kernel, base: &Path) -> Result<bool> {
    let dir = tempfile::tempdir_in(paths::vm())?;
    let status = dir.path().join("status");
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .args(super::hardware(kernel, Accel::Kvm, base))
        .args([
            "-append",
            "quiet panic=-1 reboot=t",
            "-device",
            "virtio-serial-pci",
        ])
        .args([
            "-chardev",
            &format!("file,id=status,path={}", status.display()),
        ])
        .args(["-device", "virtserialport,chardev=status,name=status"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let begun = Instant::now();
    let works = loop {
        if fs::read_to_string(&status).is_ok_and(|text| text.contains("booted")) {
            break true;
        }
        if child.try_wait()?.is_some() || begun.elapsed() > PROBE {
            break false;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    // It may have ended by itself.
    let _ = child.kill();
    child.wait()?;
    Ok(works)
}
