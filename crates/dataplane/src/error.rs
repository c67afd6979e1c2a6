//! Errors of the data plane.

use std::io;

use thiserror::Error;

use crate::SpecError;

/// Why the data plane could not do something. No text contains a key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The request contradicts itself.
    #[error("Child SA {id}: {source}")]
    Spec {
        /// The Child SA.
        id: u64,
        /// What is wrong.
        source: SpecError,
    },
    /// A Child SA of this number is installed already.
    #[error("Child SA {0} is installed already")]
    Exists(u64),
    /// The configuration contradicts itself.
    #[error("data plane configuration: {0}")]
    Config(String),
    /// The kernel refused.
    #[error("{doing}: {source}{}", detail(.text))]
    Kernel {
        /// What was asked.
        doing: String,
        /// The kernel's error number.
        source: io::Error,
        /// The kernel's own explanation, when it gave one.
        text: Option<String>,
    },
    /// The kernel lacks something.
    #[error("this kernel has no {what}: {hint}")]
    Unsupported {
        /// What is missing.
        what: &'static str,
        /// How to get it.
        hint: &'static str,
    },
    /// The kernel holds something else than was asked.
    #[error("{what}: asked for {asked}, the kernel holds {held}")]
    ReadBack {
        /// Which object and which property.
        what: String,
        /// What was asked.
        asked: String,
        /// What is there.
        held: String,
    },
    /// Something of another program is in the way; it is left alone.
    #[error("{0} belongs to someone else")]
    Foreign(String),
    /// The eBPF object could not be loaded, attached or read.
    #[error("eBPF: {doing}: {source}")]
    Bpf {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file could not be read or written.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

fn detail(text: &Option<String>) -> String {
    text.as_ref()
        .map(|text| format!(" ({text})"))
        .unwrap_or_default()
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            doing: doing.into(),
            source,
        }
    }

    /// Whether the kernel may have done what was asked although no answer says so: answers were
    /// lost for want of memory, or late. What was being made has to be removed then. A refusal
    /// proper (EEXIST, ENOMEM, ...) is none of these, and what is there is not ours.
    pub(crate) fn is_in_doubt(&self) -> bool {
        let Self::Kernel { source, .. } = self else {
            return false;
        };
        matches!(
            source.raw_os_error(),
            Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR)
        )
    }

    /// Whether what was to be taken away was not there.
    pub(crate) fn is_gone(&self) -> bool {
        let Self::Kernel { source, .. } = self else {
            return false;
        };
        matches!(
            source.raw_os_error(),
            Some(libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL | libc::ENODEV)
        )
    }

    /// Whether the same request may do better a moment later.
    pub(crate) fn may_pass(&self) -> bool {
        let Self::Kernel { source, .. } = self else {
            return false;
        };
        self.is_in_doubt() || source.raw_os_error() == Some(libc::ENOMEM)
    }

    pub(crate) fn bpf(
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Bpf {
            doing: doing.into(),
            source: source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(errno: i32) -> Error {
        Error::Kernel {
            doing: "add a state".to_owned(),
            source: io::Error::from_raw_os_error(errno),
            text: None,
        }
    }

    #[test]
    fn lost_answers_leave_a_doubt_and_refusals_do_not() {
        for errno in [libc::ENOBUFS, libc::EAGAIN, libc::EINTR] {
            assert!(kernel(errno).is_in_doubt(), "{errno}");
        }
        for errno in [libc::EEXIST, libc::ENOMEM, libc::EINVAL, libc::EPERM] {
            assert!(!kernel(errno).is_in_doubt(), "{errno}");
        }
        assert!(!Error::Exists(1).is_in_doubt());
        assert!(kernel(libc::ENOMEM).may_pass() && kernel(libc::ENOBUFS).may_pass());
        assert!(!kernel(libc::EEXIST).may_pass() && !Error::Exists(1).may_pass());
        assert!(kernel(libc::ESRCH).is_gone() && !kernel(libc::ENOMEM).is_gone());
    }
}
