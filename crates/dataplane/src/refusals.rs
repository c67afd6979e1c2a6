//! ESP that the kernel refuses: replays, forgeries, SPIs that are nobody's.
//!
//! The programs on NWu see a packet before IPsec does, and IPsec tells nobody; but it counts, for the network
//! namespace as a whole (`/proc/net/xfrm_stat`, linux/Documentation/networking/xfrm/xfrm_proc.rst).

use std::{
    fs::File,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use tracing::{debug, warn};

/// How often the counts are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// The file has some thirty lines of about thirty octets.
const ROOM: usize = 8192;

/// The kernel's names, and those of this project.
const KINDS: [(&str, &str); 3] = [
    ("XfrmInNoStates", "unknown_spi"),
    ("XfrmInStateSeqError", "replay"),
    ("XfrmInStateProtoError", "integrity"),
];

/// What was refused since the start.
pub(crate) struct Refusals {
    file: File,
    due: Instant,
    kinds: [Count; KINDS.len()],
}

/// Tells of the first packet, the second, the fourth and so on: a flood makes as many lines as its number has bits.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    at_start: u64,
    told: u64,
}

impl Count {
    /// What is to be told now that the kernel has counted `now`.
    fn news(&mut self, now: u64) -> Option<u64> {
        let since = now.saturating_sub(self.at_start);
        let due = match self.told {
            0 => 1,
            told => (told + 1).next_power_of_two(),
        };
        (since >= due).then(|| {
            self.told = since;
            since
        })
    }
}

impl Refusals {
    /// `None`: this kernel does not count them.
    pub(crate) fn open() -> Option<Self> {
        // That of the calling thread's namespace.
        let file = File::open("/proc/thread-self/net/xfrm_stat").ok()?;
        let mut refusals = Self {
            file,
            due: Instant::now() + EVERY,
            kinds: [Count::default(); KINDS.len()],
        };
        let counts = refusals.counts();
        for (kind, count) in refusals.kinds.iter_mut().zip(counts) {
            kind.at_start = count.unwrap_or(0);
        }
        Some(refusals)
    }

    /// When to [`look`](Self::look) next.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// A line in the log for what there is to tell.
    pub(crate) fn look(&mut self) {
        self.due = Instant::now() + EVERY;
        let counts = self.counts();
        for ((kind, count), (_, reason)) in self.kinds.iter_mut().zip(counts).zip(KINDS) {
            if let Some(count) = count.and_then(|count| kind.news(count)) {
                warn!(reason, count, "ESP refused by the kernel");
            }
        }
    }

    fn counts(&self) -> [Option<u64>; KINDS.len()] {
        let mut room = [0; ROOM];
        match self.file.read_at(&mut room, 0) {
            Ok(length) => counts(room.get(..length).unwrap_or_default()),
            Err(error) => {
                debug!(%error, "xfrm_stat");
                [None; KINDS.len()]
            }
        }
    }
}

/// The counts of [`KINDS`] in the file: a name and a number per line.
fn counts(file: &[u8]) -> [Option<u64>; KINDS.len()] {
    KINDS.map(|(wanted, _)| {
        file.split(|octet| *octet == b'\n').find_map(|line| {
            let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
            (words.next() == Some(wanted)).then(|| words.next()?.parse().ok())?
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_by_name() {
        let file = b"XfrmInError             \t0\nXfrmInNoStates          \t7\n\
            XfrmInStateProtoError   \t12\nXfrmInStateSeqError     \tmany\n";
        assert_eq!(counts(file), [Some(7), None, Some(12)]);
        assert_eq!(counts(b""), [None; 3]);
        assert_eq!(counts(&[0xff, b'\n']), [None; 3]);
    }

    #[test]
    fn a_flood_is_told_by_powers_of_two() {
        let mut count = Count {
            at_start: 10,
            told: 0,
        };
        let told: Vec<u64> = (10..=1010).filter_map(|now| count.news(now)).collect();
        assert_eq!(told, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        // At one look as many as there were.
        assert_eq!(count.news(10 + 5000), Some(5000));
        assert_eq!(count.news(10 + 8191), None);
        assert_eq!(count.news(10 + 8192), Some(8192));
        // A count that begins anew tells nothing.
        assert_eq!(count.news(3), None);
    }
}
