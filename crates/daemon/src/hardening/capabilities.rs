//! Capabilities of threads (capabilities(7)).

use std::{fs, io};

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

use super::{Failure, Needs, Seccomp};

/// Nothing outside `needs` can be had again, by no program either. Takes `CAP_SETPCAP`; a daemon
/// that has it not was given few rights by whoever started it.
pub(super) fn bound(needs: &Needs) -> Result<(), CapsError> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        return Ok(());
    }
    for capability in caps::read(None, CapSet::Bounding)? {
        if !needs.start.contains(&capability) && !needs.serve.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    Ok(())
}

/// The calling thread has of these what it has already, and no others.
pub(super) fn limit<'a>(to: impl IntoIterator<Item = &'a Capability>) -> Result<(), CapsError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = to
        .into_iter()
        .copied()
        .filter(|c| held.contains(c))
        .collect();
    // Effective first: it is never more than permitted. Ambient follows inheritable by itself.
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::clear(None, CapSet::Inheritable)
}

/// What one thread has, of `/proc/PID/task/TID/status` (proc_pid_status(5)).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Thread {
    pub(super) name: String,
    pub(super) effective: u64,
    pub(super) permitted: u64,
    pub(super) no_new_privs: bool,
    pub(super) filtered: bool,
}

impl Thread {
    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        let mask = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
        Some(Self {
            name: format!("{} ({})", field("Name")?, field("Pid")?),
            effective: mask("CapEff")?,
            permitted: mask("CapPrm")?,
            no_new_privs: field("NoNewPrivs")? == "1",
            // 2: SECCOMP_MODE_FILTER. The line is missing on a kernel without seccomp.
            filtered: field("Seccomp") == Some("2"),
        })
    }

    /// What it has and should not have, or has not and should have.
    fn fault(&self, allowed: Option<&[Capability]>, seccomp: Seccomp) -> Option<String> {
        if let Some(allowed) = allowed {
            let mask = allowed.iter().fold(0, |mask, one| mask | one.bitmask());
            let more = (self.effective | self.permitted) & !mask;
            if more != 0 {
                return Some(format!("capabilities {more:#x} were not given up"));
            }
            if !self.no_new_privs {
                return Some("no_new_privs is not set".to_owned());
            }
        }
        (seccomp != Seccomp::Off && !self.filtered)
            .then(|| "its system calls are not filtered".to_owned())
    }
}

/// Looks at every thread of this process; how many there are, and what this one has.
pub(super) fn look(
    allowed: Option<&[Capability]>,
    seccomp: Seccomp,
) -> Result<(usize, Vec<Capability>), Failure> {
    const TASKS: &str = "/proc/self/task";
    let at = |path: &str| {
        let path = path.to_owned();
        move |source| Failure::Look { path, source }
    };
    let mut threads = 0;
    for entry in fs::read_dir(TASKS).map_err(at(TASKS))? {
        let path = entry.map_err(at(TASKS))?.path().join("status");
        let status = match fs::read_to_string(&path) {
            Ok(status) => status,
            // It has ended meanwhile.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                continue;
            }
            Err(error) => return Err(at(&path.display().to_string())(error)),
        };
        let thread = Thread::parse(&status).ok_or_else(|| {
            let unknown = io::Error::new(io::ErrorKind::InvalidData, "not as expected");
            at(&path.display().to_string())(unknown)
        })?;
        if let Some(what) = thread.fault(allowed, seccomp) {
            return Err(Failure::Thread {
                thread: thread.name,
                what,
            });
        }
        threads += 1;
    }
    let mut held: Vec<Capability> = caps::read(None, CapSet::Effective)?.into_iter().collect();
    held.sort_by_key(Capability::index);
    Ok((threads, held))
}

/// `CAP_NET_ADMIN, CAP_NET_RAW`.
pub(super) fn names(capabilities: &[Capability]) -> String {
    let names: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\ttokio-rt-worker\nPid:\t42\nCapPrm:\t0000000000003000\n\
                          CapEff:\t0000000000003000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
    const SERVE: &[Capability] = &[Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];

    #[test]
    fn a_thread_within_its_rights_has_no_fault() {
        let thread = Thread::parse(STATUS).unwrap();
        assert_eq!(thread.name, "tokio-rt-worker (42)");
        assert_eq!(thread.fault(Some(SERVE), Seccomp::Enforce), None);
        assert_eq!(thread.fault(Some(SERVE), Seccomp::Off), None);
    }

    #[test]
    fn every_right_too_many_is_a_fault() {
        let fault = |from: &str, to: &str| {
            let status = STATUS.replace(from, to);
            assert_ne!(status, STATUS);
            let thread = Thread::parse(&status).unwrap();
            thread.fault(Some(SERVE), Seccomp::Enforce)
        };
        for set in ["CapPrm", "CapEff"] {
            let (from, to) = (
                format!("{set}:\t0000000000003000"),
                format!("{set}:\t0000000000203000"),
            );
            let fault = fault(&from, &to).unwrap();
            assert!(fault.contains("0x200000"), "{fault}");
        }
        assert!(fault("NoNewPrivs:\t1", "NoNewPrivs:\t0").is_some());
        assert!(fault("Seccomp:\t2", "Seccomp:\t0").is_some());
        assert!(fault("Seccomp:\t2\n", "").is_some());
    }

    #[test]
    fn what_is_no_status_is_not_taken_for_one() {
        for line in STATUS.lines().filter(|line| !line.starts_with("Seccomp")) {
            assert_eq!(Thread::parse(&STATUS.replace(line, "")), None, "{line}");
        }
    }
}
