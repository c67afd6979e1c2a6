//! A wall clock that jumps moves no timer: the daemons and their cores do not read it, but where a calendar is meant.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Who may: validity of certificates, and the time in a line of a recorded journal.
const CALENDAR: [&str; 3] = [
    "crates/dataplane/src/recording.rs",
    "crates/ike-config/src/pem.rs",
    "crates/ike-config/src/preflight.rs",
];
/// Ways to read it.
const READS: [&str; 4] = ["SystemTime", "UNIX_EPOCH", "CLOCK_REALTIME", "now_utc"];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_timer_hangs_on_the_wall_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut rooms = vec![root.join("n3iwf-user/src"), root.join("ue-user/src")];
    for entry in fs::read_dir(root.join("crates")).unwrap() {
        rooms.push(entry.unwrap().path().join("src"));
    }
    let mut files = Vec::new();
    for room in rooms.iter().filter(|room| room.exists()) {
        sources(room, &mut files);
    }
    assert!(files.len() > 100, "{} files", files.len());
    let reading: BTreeSet<String> = files
        .iter()
        .filter(|path| {
            let text = fs::read_to_string(path).unwrap();
            READS.iter().any(|read| text.contains(read))
        })
        .map(|path| path.strip_prefix(&root).unwrap().display().to_string())
        .collect();
    let reading: Vec<&str> = reading.iter().map(String::as_str).collect();
    assert_eq!(reading, CALENDAR);
}
