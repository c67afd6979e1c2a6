//! Memory that is never written to a swap device: it holds keys.

use std::fmt;

use nix::sys::{
    mman::{MlockAllFlags, mlockall},
    resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
};

/// `MCL_ONFAULT` (mlockall(2), Linux 4.4): pages are locked once they are used, not before. Stacks
/// of threads and a relay's buffers are large and mostly untouched.
const ONFAULT: MlockAllFlags = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);

/// What keeps memory from being swapped out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory {
    /// All of it, now and later.
    Locked,
    /// Not asked for.
    NotAsked,
    /// The system does not allow it, and why.
    Refused(String),
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => f.write_str("memory locked"),
            Self::NotAsked => f.write_str("memory not locked"),
            Self::Refused(why) => write!(f, "memory NOT locked: {why}"),
        }
    }
}

/// Whether locking is possible without a limit that a later allocation could hit: locked memory
/// counts against RLIMIT_MEMLOCK, and beyond it an allocation fails.
pub(super) fn unlimited() -> Result<(), String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|error| error.to_string())?;
    if soft == RLIM_INFINITY {
        return Ok(());
    }
    // Takes CAP_SYS_RESOURCE where the hard limit is less.
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)
        .map_err(|error| format!("RLIMIT_MEMLOCK is {hard} octets: {error}"))
}

pub(super) fn lock(asked: bool) -> Memory {
    if !asked {
        return Memory::NotAsked;
    }
    let locked = unlimited().and_then(|()| {
        mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | ONFAULT)
            .map_err(|error| format!("mlockall: {error}"))
    });
    match locked {
        Ok(()) => Memory::Locked,
        Err(why) => Memory::Refused(why),
    }
}
