//! What a daemon gives up once it runs: rights, system calls, and having its memory swapped out.
//!
//! Capabilities belong to threads, and a runtime has many of them. So a daemon gives up what it
//! never needs while it is one thread ([`Hardening::begin`]); the threads of its runtime begin
//! without what only the start needs ([`Hardening::enter_thread`]); and the thread that starts
//! everything gives that up last ([`Hardening::settle`]), which also installs the filter of system
//! calls in all threads and looks at every one of them.

mod capabilities;
mod memory;
mod preflight;
mod stack;
mod syscalls;
mod wiping;

use std::{
    fmt, io,
    time::{Duration, Instant},
};

pub use caps::Capability;
use serde::Deserialize;
use thiserror::Error;

pub use self::{
    memory::Memory,
    stack::{sheltered, sheltered_steps, wipe_when_idle},
    wiping::Wiping,
};
use crate::process::{HardenError, harden};

/// `hardening:` of either daemon's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Options {
    /// Give up the capabilities that are not needed, and `no_new_privs`.
    pub capabilities: bool,
    /// The filter of system calls.
    pub seccomp: Seccomp,
    /// Keep memory from being swapped out, where the system allows it.
    pub lock_memory: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            capabilities: true,
            seccomp: Seccomp::Enforce,
            lock_memory: true,
        }
    }
}

/// What becomes of a system call that a daemon has no use for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// It fails with EPERM; the tools of an intruder end the process (SIGSYS).
    #[default]
    Enforce,
    /// It is done, and the kernel's audit log tells of it.
    Log,
    /// It is done.
    Off,
}

impl fmt::Display for Seccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforce => "enforce",
            Self::Log => "log",
            Self::Off => "off",
        })
    }
}

/// The capabilities of a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Until it serves.
    pub start: Vec<Capability>,
    /// As long as it runs.
    pub serve: Vec<Capability>,
}

impl Needs {
    /// The capabilities of a daemon that makes IPsec SAs, interfaces and routes, with eBPF programs
    /// or without.
    ///
    /// While it serves:
    /// - `CAP_NET_ADMIN`: XFRM states and policies, interfaces, addresses, routes, the UE's TUN
    ///   devices, attaching programs to the interfaces of sessions;
    /// - `CAP_NET_RAW`: a raw GRE socket for each XFRM interface that comes.
    ///
    /// Until then:
    /// - `CAP_NET_BIND_SERVICE`: UDP port 500;
    /// - `CAP_DAC_READ_SEARCH`: certificates and keys that another user owns;
    /// - with eBPF `CAP_BPF` and `CAP_PERFMON`, to load programs, and `CAP_SYS_ADMIN`, to mount a
    ///   BPF file system where there is none. Maps are read and written through file descriptors
    ///   afterwards, which takes no right from Linux 5.19 on.
    #[must_use]
    pub fn of_a_daemon(ebpf: bool) -> Self {
        let mut start = vec![
            Capability::CAP_NET_BIND_SERVICE,
            Capability::CAP_DAC_READ_SEARCH,
        ];
        if ebpf {
            start.extend([
                Capability::CAP_BPF,
                Capability::CAP_PERFMON,
                Capability::CAP_SYS_ADMIN,
            ]);
        }
        Self {
            start,
            serve: vec![Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW],
        }
    }
}

/// A daemon was not as it should be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Failure {
    /// Core dumps could not be switched off.
    #[error(transparent)]
    Process(#[from] HardenError),
    /// Capabilities could not be given up.
    #[error("capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// `no_new_privs` could not be set.
    #[error("no_new_privs: {0}")]
    NoNewPrivs(nix::Error),
    /// The filter cannot be made for this machine.
    #[error("seccomp: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel does not take the filter.
    #[error("seccomp: {0}")]
    Install(#[from] seccompiler::Error),
    /// The threads cannot be looked at.
    #[error("{path}: {source}")]
    Look {
        /// What was read.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A thread has kept what it should not have.
    #[error("thread {thread}: {what}")]
    Thread {
        /// Its name and number.
        thread: String,
        /// What it has.
        what: String,
    },
}

/// What a daemon has given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The capabilities it has; `None` where none were given up.
    pub capabilities: Option<Vec<Capability>>,
    /// What happens to other system calls.
    pub seccomp: Seccomp,
    /// What keeps its memory from being swapped out.
    pub memory: Memory,
    /// How many threads were looked at.
    pub threads: usize,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.capabilities.as_deref() {
            None => f.write_str("capabilities as they were")?,
            Some([]) => f.write_str("no capabilities")?,
            Some(some) => f.write_str(&capabilities::names(some))?,
        }
        write!(f, "; seccomp {}; {}", self.seccomp, self.memory)
    }
}

/// What a daemon gives up, and when.
#[derive(Clone, Debug)]
pub struct Hardening {
    options: Options,
    needs: Needs,
    memory: Memory,
}

impl Hardening {
    /// Before there is a second thread: no core dumps, no tracing, memory locked where the system
    /// allows it, no capability but those needed, and no way to others.
    ///
    /// # Errors
    ///
    /// When the kernel refuses what it always can do. A daemon that holds keys should not go on.
    pub fn begin(options: Options, needs: Needs) -> Result<Self, Failure> {
        harden()?;
        // Raising the limit takes a right that is given up next.
        let memory = memory::lock(options.lock_memory);
        if options.capabilities {
            nix::sys::prctl::set_no_new_privs().map_err(Failure::NoNewPrivs)?;
            capabilities::bound(&needs)?;
            capabilities::limit(needs.start.iter().chain(&needs.serve))?;
        }
        Ok(Self {
            options,
            needs,
            memory,
        })
    }

    /// What each thread of the runtime does first.
    pub fn enter_thread(&self) {
        if !self.options.capabilities {
            return;
        }
        if let Err(error) = capabilities::limit(&self.needs.serve) {
            // Found again by `settle`, which does not let the daemon go on.
            tracing::error!(%error, "a thread keeps its capabilities");
        }
    }

    /// Once everything is open and loaded, in the thread that did it: gives up what only the start
    /// needed, filters system calls in all threads, and looks at each of them.
    ///
    /// # Errors
    ///
    /// When a thread has kept what it should not have, or the kernel takes no filter.
    pub fn settle(&self) -> Result<Standing, Failure> {
        if self.options.capabilities {
            capabilities::limit(&self.needs.serve)?;
        }
        syscalls::filter(self.options.seccomp)?;
        let (threads, held) = self.look()?;
        Ok(Standing {
            capabilities: self.options.capabilities.then_some(held),
            seccomp: self.options.seccomp,
            memory: self.memory.clone(),
            threads,
        })
    }

    /// Looks at every thread. One that the runtime has made just now begins as its maker was; it is
    /// waited for, until it has done [`Self::enter_thread`].
    fn look(&self) -> Result<(usize, Vec<Capability>), Failure> {
        const PAUSE: Duration = Duration::from_millis(5);
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            match capabilities::look(self.allowed(), self.options.seccomp) {
                Err(Failure::Thread { .. }) if Instant::now() < end => std::thread::sleep(PAUSE),
                outcome => return outcome,
            }
        }
    }

    /// What threads may have; `None`: anything.
    fn allowed(&self) -> Option<&[Capability]> {
        self.options
            .capabilities
            .then_some(self.needs.serve.as_slice())
    }

    /// What a daemon of these options and needs lacks, or would run without. Changes nothing.
    pub fn preflight(options: Options, needs: &Needs) -> Vec<crate::preflight::Check> {
        preflight::checks(options, needs)
    }
}
