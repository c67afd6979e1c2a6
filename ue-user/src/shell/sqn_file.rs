//! The sequence numbers of the USIM on disk.
//!
//! A state is written to a file of its own beside the old one, brought to the disk, and renamed
//! over it; then the directory is brought to the disk as well. Whenever the power goes, the old
//! state or the new one is there, whole. The configuration file is never written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::core::usim::SqnState;

/// Larger files than this are none of ours.
const MAX_FILE: u64 = 64 * 1024;

/// Why there is no state, or why it is not stored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SqnFileError {
    /// What the system said.
    #[error("{}: {doing}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The content is not a state. Nothing is guessed: a state that is too low would let a
    /// challenge be used again.
    #[error("{}: not a sequence number file: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The file is another subscriber's.
    #[error("{}: belongs to {holder}, not to this subscriber", path.display())]
    Subscriber {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        holder: String,
    },
}

/// The file of one subscriber.
#[derive(Debug, Clone)]
pub struct SqnFile {
    path: PathBuf,
    supi: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u8,
    supi: String,
    /// Highest accepted SEQ for each IND (TS 33.102 Annex C).
    seq: SqnState,
}

impl SqnFile {
    /// The file at `path` of the subscriber `supi`.
    pub fn new(path: impl Into<PathBuf>, supi: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            supi: supi.into(),
        }
    }

    /// The stored state; `None` when there is no file yet.
    pub fn load(&self) -> Result<Option<SqnState>, SqnFileError> {
        let failed = |source| self.io("read", source);
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
            Ok(metadata) if metadata.len() > MAX_FILE => {
                return Err(self.content("too long".to_owned()));
            }
            Ok(_) => {}
        }
        let octets = fs::read(&self.path).map_err(failed)?;
        let content: Content =
            serde_json::from_slice(&octets).map_err(|error| self.content(error.to_string()))?;
        if content.version != 1 {
            return Err(self.content(format!("version {}", content.version)));
        }
        if content.supi != self.supi {
            return Err(SqnFileError::Subscriber {
                path: self.path.clone(),
                holder: content.supi,
            });
        }
        Ok(Some(content.seq))
    }

    /// Makes `state` durable, or leaves the old state untouched.
    pub fn store(&self, state: &SqnState) -> Result<(), SqnFileError> {
        let content = Content {
            version: 1,
            supi: self.supi.clone(),
            seq: state.clone(),
        };
        let octets =
            serde_json::to_vec(&content).map_err(|error| self.content(error.to_string()))?;
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(directory).map_err(|source| self.io("make its directory", source))?;
        let staged = self.staged();
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&staged)?;
            file.write_all(&octets)?;
            file.sync_all()
        };
        write().map_err(|source| self.io("write", source))?;
        fs::rename(&staged, &self.path).map_err(|source| self.io("replace", source))?;
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| self.io("sync its directory", source))
    }

    /// Where a state is written before it takes the place of the old one.
    fn staged(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        name.into()
    }

    fn io(&self, doing: &'static str, source: io::Error) -> SqnFileError {
        let path = self.path.clone();
        SqnFileError::Io {
            path,
            doing,
            source,
        }
    }

    fn content(&self, what: String) -> SqnFileError {
        let path = self.path.clone();
        SqnFileError::Content { path, what }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SUPI: &str = "imsi-208930000000001";

    fn state(sqn: u64) -> SqnState {
        SqnState::starting_at(sqn).unwrap()
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let file = SqnFile::new(directory.path().join("deep/sqn.json"), SUPI);
        assert!(file.load().unwrap().is_none());
        for sqn in [0x1234, 0x5678_9abc_def0] {
            file.store(&state(sqn)).unwrap();
            assert_eq!(file.load().unwrap(), Some(state(sqn)));
        }
        let mode = fs::metadata(&file.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!file.staged().exists());
    }

    /// The power went while the new state was written: any prefix of it may be there.
    #[test]
    fn a_half_written_state_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let file = SqnFile::new(directory.path().join("sqn.json"), SUPI);
        file.store(&state(0x100)).unwrap();
        let whole = fs::read(&file.path).unwrap();
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(file.staged(), &whole[..cut]).unwrap();
            assert_eq!(file.load().unwrap(), Some(state(0x100)));
            file.store(&state(0x200)).unwrap();
            assert_eq!(file.load().unwrap(), Some(state(0x200)));
            file.store(&state(0x100)).unwrap();
        }
    }

    #[test]
    fn a_damaged_file_is_refused_and_not_started_over() {
        let directory = tempfile::tempdir().unwrap();
        let file = SqnFile::new(directory.path().join("sqn.json"), SUPI);
        file.store(&state(0x100)).unwrap();
        let whole = fs::read(&file.path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&file.path, &whole[..cut]).unwrap();
            assert!(
                matches!(file.load(), Err(SqnFileError::Content { .. })),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn another_subscribers_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sqn.json");
        SqnFile::new(&path, "imsi-1").store(&state(1)).unwrap();
        assert!(matches!(
            SqnFile::new(&path, SUPI).load(),
            Err(SqnFileError::Subscriber { .. })
        ));
    }

    #[test]
    fn a_failed_store_leaves_the_old_state() {
        let directory = tempfile::tempdir().unwrap();
        let file = SqnFile::new(directory.path().join("sqn.json"), SUPI);
        file.store(&state(0x100)).unwrap();
        // Nothing can be written where a directory has the name.
        fs::create_dir(file.staged()).unwrap();
        assert!(matches!(
            file.store(&state(0x200)),
            Err(SqnFileError::Io { .. })
        ));
        assert_eq!(file.load().unwrap(), Some(state(0x100)));
    }

    /// `/dev/full` takes no octet: what a full disk says, the kernel says here.
    #[test]
    fn a_full_disk_leaves_the_old_state_and_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = SqnFile::new(directory.path().join("sqn.json"), SUPI);
        file.store(&state(0x100)).unwrap();
        std::os::unix::fs::symlink("/dev/full", file.staged()).unwrap();
        let Err(SqnFileError::Io { doing, source, .. }) = file.store(&state(0x200)) else {
            panic!("stored on a full disk");
        };
        assert_eq!(
            (doing, source.kind()),
            ("write", io::ErrorKind::StorageFull)
        );
        assert_eq!(file.load().unwrap(), Some(state(0x100)));
        // There is room again.
        fs::remove_file(file.staged()).unwrap();
        file.store(&state(0x200)).unwrap();
        assert_eq!(file.load().unwrap(), Some(state(0x200)));
    }
}
