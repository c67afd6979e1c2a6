//! Processor time of other processes, in nanoseconds and with that of threads that have ended.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Processor time that the process `id` has had.
///
/// # Errors
/// When it has ended.
pub fn spent(id: u32) -> Result<Duration> {
    let pid = Pid::from_raw(i32::try_from(id)?);
    let clock = clock_getcpuclockid(pid).with_context(|| format!("no process {id}"))?;
    Ok(clock_gettime(clock)?.into())
}

/// Microseconds, as results have them.
#[must_use]
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_a_process_is_seen() {
        let me = std::process::id();
        let before = spent(me).unwrap();
        let mut sum = 0_u64;
        while spent(me).unwrap() < before + Duration::from_millis(2) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(sum > 0);
        assert!(spent(u32::MAX).is_err());
    }
}
