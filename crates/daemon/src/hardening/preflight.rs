//! What hardening finds on this host.

use std::fs;

use caps::{CapSet, Capability};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::{Needs, Options, Seccomp, capabilities::names};
use crate::preflight::Check;

/// What the kernel's filters can answer (seccomp(2)).
const ACTIONS: &str = "/proc/sys/kernel/seccomp/actions_avail";

pub(super) fn checks(options: Options, needs: &Needs) -> Vec<Check> {
    vec![
        rights(options.capabilities, needs),
        filter(options.seccomp),
        memory(options.lock_memory),
    ]
}

fn rights(given_up: bool, needs: &Needs) -> Check {
    let name = "hardening: capabilities";
    let held = match caps::read(None, CapSet::Permitted) {
        Ok(held) => held,
        Err(error) => return Check::fail(name, error.to_string(), "a kernel with capabilities"),
    };
    // Without those of the start a daemon may start all the same: bpffs is mounted, files are
    // readable, ports are high.
    let lacking = |of: &[Capability]| -> Vec<Capability> {
        let missing = of.iter().filter(|capability| !held.contains(capability));
        missing.copied().collect()
    };
    let missing = lacking(&needs.serve);
    if !missing.is_empty() {
        return Check::fail(
            name,
            format!("{} missing", names(&missing)),
            "run it by its systemd unit, or as root",
        );
    }
    if !given_up {
        return Check::warn(
            name,
            "kept as they are",
            "hardening.capabilities: true in the configuration",
        );
    }
    Check::ok(name, format!("{} while it serves", names(&needs.serve)))
}

fn filter(seccomp: Seccomp) -> Check {
    let name = "hardening: seccomp";
    let actions = fs::read_to_string(ACTIONS).unwrap_or_default();
    let known = |action: &str| actions.split_whitespace().any(|one| one == action);
    match seccomp {
        Seccomp::Enforce if known("errno") && known("kill_process") => {
            Check::ok(name, "other system calls fail")
        }
        Seccomp::Log if known("log") => Check::warn(
            name,
            "other system calls are done, and logged",
            "hardening.seccomp: enforce in the configuration",
        ),
        Seccomp::Off => Check::warn(
            name,
            "off",
            "hardening.seccomp: enforce in the configuration",
        ),
        Seccomp::Enforce | Seccomp::Log => Check::fail(
            name,
            format!("this kernel has no filters ({ACTIONS})"),
            "a kernel with CONFIG_SECCOMP_FILTER, or hardening.seccomp: off",
        ),
    }
}

fn memory(asked: bool) -> Check {
    let name = "hardening: memory";
    if !asked {
        return Check::warn(
            name,
            "may be swapped out",
            "hardening.lockMemory: true in the configuration",
        );
    }
    let unlimited =
        getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
    let resource = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE);
    if unlimited || resource.unwrap_or(false) {
        Check::ok(name, "is never swapped out")
    } else {
        Check::warn(
            name,
            "cannot be locked: RLIMIT_MEMLOCK",
            "LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited`",
        )
    }
}
