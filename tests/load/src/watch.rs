//! What another process costs: processor time and memory.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// A process that is looked at from outside.
#[derive(Clone, Copy, Debug)]
pub struct Watch(u32);

impl Watch {
    /// The process of this ID.
    #[must_use]
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// This process.
    #[must_use]
    pub fn own() -> Self {
        Self(std::process::id())
    }

    /// Processor time so far, of threads that have ended too.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu(self) -> Result<Duration> {
        let pid = Pid::from_raw(i32::try_from(self.0)?);
        let clock = clock_getcpuclockid(pid).with_context(|| format!("no process {}", self.0))?;
        Ok(clock_gettime(clock)?.into())
    }

    /// Resident anonymous memory, octets: what the process has allocated and touched.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(self) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.0);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let kib: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix("Anonymous:"))
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
            .with_context(|| format!("no anonymous memory in {path}"))?;
        Ok(kib * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_used_is_seen() {
        let before = Watch::own().memory().unwrap();
        let memory = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = Watch::own().memory().unwrap();
        assert!(after >= before + (32 << 20), "{before} {after}");
        assert!(memory.iter().all(|octet| *octet == 1));
        assert!(Watch::own().cpu().unwrap() > Duration::ZERO);
        assert!(Watch::new(u32::MAX).memory().is_err());
    }
}
