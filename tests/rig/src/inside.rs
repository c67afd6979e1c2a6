//! A running process from outside: what its threads may do, and what is in its memory.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// What one thread may do (proc_pid_status(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// Effective and permitted capabilities, all bits of both.
    pub capabilities: u64,
    /// What programs it starts could have.
    pub bounding: u64,
    /// Whether it can gain anything by starting a program.
    pub no_new_privs: bool,
    /// Whether its system calls are filtered.
    pub filtered: bool,
}

impl Thread {
    /// All threads of a process.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn all(pid: u32) -> Result<Vec<Self>> {
        let mut threads = Vec::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = match fs::read_to_string(task?.path().join("status")) {
                Ok(status) => status,
                // The thread has ended meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            threads.push(Self::parse(&status).context("a status without the usual lines")?);
        }
        if threads.is_empty() {
            bail!("process {pid} has no threads");
        }
        Ok(threads)
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        let mask = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
        Some(Self {
            name: field("Name")?.to_owned(),
            capabilities: mask("CapEff")? | mask("CapPrm")?,
            bounding: mask("CapBnd")?,
            no_new_privs: field("NoNewPrivs")? == "1",
            filtered: field("Seccomp")? == "2",
        })
    }
}

/// Octets of its memory that a process has locked (`VmLck`), in KiB.
///
/// # Errors
/// When the process is gone.
pub fn locked(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let word = line.and_then(|line| line.split_whitespace().next());
    Ok(word.context("no VmLck")?.parse()?)
}

/// Whether this host lets a daemon that this process starts lock its memory: without limit, or with
/// the right to raise it (`CAP_SYS_RESOURCE`, which some containers withhold from root).
///
/// # Errors
/// When the system does not say.
pub fn may_lock() -> Result<bool> {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = u64::from_str_radix(line.context("no CapEff")?.trim(), 16)?;
    Ok(soft == RLIM_INFINITY || mask & CAP_SYS_RESOURCE != 0)
}

/// Keys a KME has written down, in the order of delivery.
///
/// # Errors
/// When the journal is not there or no journal.
pub fn journal(path: &Path) -> Result<Vec<Key>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines()
        .map(|line| {
            let (id, base64) = line.split_once(' ').context("not a line of a journal")?;
            Ok(Key {
                id: id.to_owned(),
                octets: STANDARD.decode(base64)?,
                base64: base64.to_owned(),
            })
        })
        .collect()
}

/// A key as it was delivered.
#[derive(Clone)]
pub struct Key {
    /// Its key ID.
    pub id: String,
    octets: Vec<u8>,
    base64: String,
}

impl Key {
    /// The key itself.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// What it may look like in memory: itself; as in the answer of the KME, of which the first 40
    /// characters are enough; in hexadecimal.
    fn shapes(&self) -> [(&'static str, Vec<u8>); 3] {
        let hex: String = self.octets.iter().map(|o| format!("{o:02x}")).collect();
        let base64 = self.base64.as_bytes();
        [
            ("octets", self.octets.clone()),
            ("base64", base64.get(..40).unwrap_or(base64).to_vec()),
            ("hexadecimal", hex.into_bytes()),
        ]
    }
}

/// Where a key was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which key, by its place in what was looked for.
    pub key: usize,
    /// As what.
    pub shape: &'static str,
    /// The mapping: `[heap]`, `[stack]`, a file, or `anonymous`.
    pub mapping: String,
}

/// Looks for keys in everything that a process has mapped and written.
///
/// # Errors
/// When its memory cannot be read, which takes root.
pub fn search(pid: u32, keys: &[Key]) -> Result<Vec<Found>> {
    let mut needles = Vec::new();
    for (key, one) in keys.iter().enumerate() {
        for (shape, octets) in one.shapes() {
            if octets.len() < 16 {
                bail!("key {} is too short to look for", one.id);
            }
            needles.push((key, shape, octets));
        }
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let (mut found, mut read) = (Vec::new(), 0);
    for line in maps.lines() {
        let Some((from, to, mapping)) = writable(line) else {
            continue;
        };
        let mut octets = vec![0; usize::try_from(to - from)?];
        read += fill(&memory, from, &mut octets);
        for (key, shape, needle) in &needles {
            for _ in occurrences(&octets, needle) {
                found.push(Found {
                    key: *key,
                    shape,
                    mapping: mapping.to_owned(),
                });
            }
        }
    }
    // The smallest daemon has more than this.
    if read < 1 << 20 {
        bail!("of process {pid} only {read} octets could be read");
    }
    Ok(found)
}

/// Reads what is there of a mapping that starts at `from`; the process goes on meanwhile, and a page
/// that cannot be read is skipped. Returns how much was read.
fn fill(memory: &File, from: u64, octets: &mut [u8]) -> usize {
    const PAGE: usize = 4096;
    let (mut at, mut read) = (0, 0);
    while let Some(rest) = octets.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match memory.read_at(rest, from + at as u64) {
            Ok(length) if length > 0 => {
                at += length;
                read += length;
            }
            _ => at = (at + 1).next_multiple_of(PAGE),
        }
    }
    read
}

/// A private mapping that can be written: what a process computes is in one of these.
fn writable(line: &str) -> Option<(u64, u64, &str)> {
    let mut words = line.split_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    if !words.next()?.starts_with("rw") {
        return None;
    }
    let name = words.nth(3).unwrap_or("anonymous");
    Some((
        u64::from_str_radix(from, 16).ok()?,
        u64::from_str_radix(to, 16).ok()?,
        name,
    ))
}

fn occurrences<'a>(octets: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let first = needle.first().copied();
    let starts = octets.iter().enumerate();
    starts
        .filter(move |(_, octet)| Some(**octet) == first)
        .map(|(at, _)| at)
        .filter(move |at| octets.get(*at..at + needle.len()) == Some(needle))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(octets: &[u8]) -> Key {
        Key {
            id: "test".to_owned(),
            octets: octets.to_vec(),
            base64: STANDARD.encode(octets),
        }
    }

    /// Octets that nothing else in this process has, made of a number by a fixed rule.
    fn unusual(seed: u64) -> Vec<u8> {
        let mut state = seed ^ (u64::from(std::process::id()) << 20);
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(32).collect()
    }

    #[test]
    fn a_key_in_this_process_is_found_in_each_shape() {
        let wanted = key(&unusual(1));
        let pid = std::process::id();
        // The shapes that are searched for are in this process themselves.
        for shape in ["octets", "base64", "hexadecimal"] {
            let found = search(pid, std::slice::from_ref(&wanted)).unwrap();
            assert!(found.iter().any(|one| one.shape == shape), "{shape}");
        }
    }

    #[test]
    fn occurrences_overlap_the_end_and_each_other() {
        let all = |octets: &[u8], needle: &[u8]| occurrences(octets, needle).collect::<Vec<_>>();
        assert_eq!(all(b"aXaXa", b"aXa"), [0, 2]);
        assert_eq!(all(b"xxab", b"abc"), [0; 0]);
        assert_eq!(all(b"", b"a"), [0; 0]);
    }

    #[test]
    fn mappings_are_told_apart() {
        let line = "7f00-7f10 rw-p 00000000 00:00 0                          [heap]";
        assert_eq!(writable(line), Some((0x7f00, 0x7f10, "[heap]")));
        let line = "7f00-7f10 rw-p 00000000 00:00 0 ";
        assert_eq!(writable(line), Some((0x7f00, 0x7f10, "anonymous")));
        assert_eq!(writable("7f00-7f10 r-xp 00000000 08:01 5 /usr/lib/x"), None);
        assert_eq!(writable("nonsense"), None);
    }

    #[test]
    fn a_thread_of_this_process_is_read() {
        let threads = Thread::all(std::process::id()).unwrap();
        assert!(threads.iter().all(|thread| !thread.filtered));
        assert_eq!(Thread::parse("Name:\tx\n"), None);
    }
}
