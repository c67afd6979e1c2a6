//! What preflight says of certificates: dates, and who can read the key.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use daemon::preflight::Check;
use ike::crypto::certificate::Description;

/// Days before its end when a certificate is warned of.
const SOON: i64 = 30;
const DAY: i64 = 86_400;

/// The certificates of these files, each with its dates, and the private key's permissions.
pub fn checks<'a>(
    certificates: impl IntoIterator<Item = &'a Path>,
    private_key: Option<&Path>,
) -> Vec<Check> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX);
    let mut checks = Vec::new();
    for file in certificates {
        let name = format!("certificate: {}", file.display());
        match super::describe_all("file", file) {
            Ok(found) => checks.extend(found.iter().map(|said| dates(&name, said, now))),
            Err(complaint) => checks.push(Check::fail(
                name,
                complaint.to_string(),
                "correct the file named",
            )),
        }
    }
    checks.extend(private_key.map(readable));
    checks
}

fn dates(name: &str, said: &Description, now: i64) -> Check {
    let left = said.not_after.saturating_sub(now) / DAY;
    let subject = &said.subject;
    if now < said.not_before {
        let detail = format!("{subject}: not valid yet");
        return Check::fail(name, detail, "set the clock, or wait");
    }
    if now > said.not_after {
        let detail = format!("{subject}: expired {} days ago", -left);
        return Check::fail(name, detail, "a new certificate");
    }
    let detail = format!("{subject}: valid for {left} more days");
    match left < SOON {
        true => Check::warn(name, detail, "a new certificate, soon"),
        false => Check::ok(name, detail),
    }
}

fn readable(file: &Path) -> Check {
    let name = format!("private key: {}", file.display());
    match fs::metadata(file) {
        Ok(found) if found.permissions().mode() & 0o077 == 0 => {
            Check::ok(name, "its owner alone can read it")
        }
        Ok(found) => {
            let mode = found.permissions().mode() & 0o777;
            let detail = format!("mode {mode:03o}: others can read or write it");
            Check::warn(name, detail, format!("chmod 600 {}", file.display()))
        }
        Err(error) => Check::fail(name, error.to_string(), "correct the path"),
    }
}

#[cfg(test)]
mod tests {
    use daemon::preflight::Outcome;

    use super::*;

    #[test]
    fn dates_are_judged() {
        let said = Description {
            subject: "CN=n3iwf".to_owned(),
            names: Vec::new(),
            not_before: 100 * DAY,
            not_after: 200 * DAY,
            authority: false,
        };
        for (day, outcome, words) in [
            (99, Outcome::Fail, "not valid yet"),
            (100, Outcome::Ok, "100 more days"),
            (171, Outcome::Warn, "29 more days"),
            (205, Outcome::Fail, "expired 5 days ago"),
        ] {
            let check = dates("certificate", &said, day * DAY);
            assert_eq!(check.outcome, outcome, "{}", check.detail);
            assert!(check.detail.contains(words), "{}", check.detail);
        }
    }

    #[test]
    fn a_key_others_can_read_is_warned_of() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        fs::write(&key, "").unwrap();
        for (mode, outcome) in [(0o600, Outcome::Ok), (0o640, Outcome::Warn)] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(readable(&key).outcome, outcome);
        }
        let missing = directory.path().join("none");
        let both = checks([missing.as_path()], Some(&missing));
        assert!(both.iter().all(|check| check.outcome == Outcome::Fail));
        assert_eq!(both.len(), 2);
    }
}
