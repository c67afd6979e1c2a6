//! The process: no core dumps, no tracing by others, an orderly end.

use std::io;

use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
};
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Keeps key material out of core dumps and away from other processes of the same user:
/// `PR_SET_DUMPABLE` 0 and `RLIMIT_CORE` 0.
///
/// # Errors
///
/// When the kernel refuses either; a daemon that holds keys should then not go on.
pub fn harden() -> Result<(), HardenError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|errno| HardenError {
        what: "RLIMIT_CORE",
        source: errno.into(),
    })?;
    prctl::set_dumpable(false).map_err(|errno| HardenError {
        what: "PR_SET_DUMPABLE",
        source: errno.into(),
    })
}

/// The kernel refused a hardening step.
#[derive(Debug, Error)]
#[error("{what}: {source}")]
pub struct HardenError {
    what: &'static str,
    source: io::Error,
}

/// SIGTERM or SIGINT, caught from the moment this exists.
pub struct Shutdown {
    term: Signal,
    interrupt: Signal,
}

impl Shutdown {
    /// Starts catching; call it before anything that must be undone is done.
    ///
    /// # Errors
    ///
    /// When the signal handlers cannot be installed.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for either signal and names it. Cancel-safe; a second call waits for a second one.
    pub async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::{resource::getrlimit, signal::raise};

    use super::*;

    #[test]
    fn hardened_processes_leave_no_core() {
        harden().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        assert!(!prctl::get_dumpable().unwrap());
    }

    #[tokio::test]
    async fn both_signals_end_the_wait() {
        let mut shutdown = Shutdown::catch().unwrap();
        raise(nix::sys::signal::SIGTERM).unwrap();
        assert_eq!(shutdown.recv().await, "SIGTERM");
        raise(nix::sys::signal::SIGINT).unwrap();
        assert_eq!(shutdown.recv().await, "SIGINT");
    }
}
