//! Reading what libtest prints.
//!
//! A test that cannot run on this kernel prints a line `skipped: REASON` and
//! returns; with `--show-output` libtest shows it, and it counts as skipped
//! instead of passed.

use std::fmt;

/// How many tests went which way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    /// Why skipped, one line per reason.
    pub(crate) reasons: Vec<String>,
    /// What failed, one line each.
    pub(crate) failures: Vec<String>,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.reasons.extend(other.reasons);
        self.failures.extend(other.failures);
    }

    pub(crate) fn fail(&mut self, what: String) {
        self.failed += 1;
        self.failures.push(what);
    }

    /// One failure: something that had to run and could not.
    pub(crate) fn failure(what: String) -> Self {
        let mut counts = Self::default();
        counts.fail(what);
        counts
    }

    /// The same, with the stage in front of each failure.
    pub(crate) fn in_stage(mut self, title: &str) -> Self {
        for failure in &mut self.failures {
            failure.insert_str(0, &format!("{title}: "));
        }
        self
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Takes the output line by line; returns what is worth showing.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    counts: Counts,
    /// Between `successes:` and the next section: shown to nobody.
    successes: bool,
    /// The test whose output is being read.
    test: String,
    /// Tests that said that they were skipped, in this binary.
    skipped_here: Vec<String>,
}

impl Reader {
    pub(crate) fn line(&mut self, line: &str) -> Vec<String> {
        let trimmed = line.trim();
        if let Some(result) = trimmed.strip_prefix("test result: ") {
            return vec![self.result(result)];
        }
        match trimmed {
            "successes:" => self.successes = true,
            "failures:" => self.successes = false,
            _ => {}
        }
        if let Some(name) = trimmed
            .strip_prefix("---- ")
            .and_then(|t| t.strip_suffix(" ----"))
        {
            self.test = name.split(' ').next().unwrap_or_default().to_owned();
        }
        if let Some(reason) = trimmed.strip_prefix("skipped: ")
            && self.successes
            && !self.skipped_here.contains(&self.test)
        {
            self.skipped_here.push(self.test.clone());
            self.counts.reasons.push(format!("{}: {reason}", self.test));
        }
        if trimmed.starts_with("test ") && trimmed.contains(" ... ignored") {
            let (name, reason) = trimmed.split_once(" ... ").unwrap_or((trimmed, ""));
            let name = name.trim_start_matches("test ");
            self.counts.reasons.push(format!("{name}: {reason}"));
        }
        if let Some(name) = trimmed
            .strip_prefix("test ")
            .and_then(|t| t.strip_suffix(" ... FAILED"))
        {
            self.counts.failures.push(name.to_owned());
        }
        let noise = self.successes
            || trimmed.is_empty()
            || (trimmed.starts_with("running ") && trimmed.contains(" test"))
            || (trimmed.starts_with("test ") && trimmed.ends_with("... ok"));
        if noise {
            Vec::new()
        } else {
            vec![line.to_owned()]
        }
    }

    pub(crate) fn finish(self) -> Counts {
        self.counts
    }

    /// `ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`
    fn result(&mut self, text: &str) -> String {
        self.successes = false;
        let number = |what: &str| -> usize {
            text.split([';', '.'])
                .filter_map(|part| part.trim().strip_suffix(what))
                .filter_map(|count| count.trim().parse().ok())
                .next()
                .unwrap_or(0)
        };
        let skipped = self.skipped_here.len();
        self.skipped_here.clear();
        let passed = number("passed").saturating_sub(skipped);
        let failed = number("failed");
        let skipped = skipped + number("ignored");
        self.counts.passed += passed;
        self.counts.failed += failed;
        self.counts.skipped += skipped;
        format!("     {passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
     Running tests/x_kernel.rs (target/debug/deps/x-0)

running 4 tests
test a ... ok
test b ... ok
test c ... FAILED
test d ... ignored, takes an hour

successes:

---- b stdout ----
skipped: this kernel has no SCTP


successes:
    a
    b

failures:

---- c stdout ----
thread 'c' panicked at x.rs:1:1:
skipped: not a reason, it failed

failures:
    c

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s
";

    #[test]
    fn tests_are_counted_and_reasons_kept() {
        let mut reader = Reader::default();
        let shown: Vec<String> = OUTPUT.lines().flat_map(|line| reader.line(line)).collect();
        let counts = reader.finish();
        assert_eq!((counts.passed, counts.failed, counts.skipped), (1, 1, 2));
        assert_eq!(
            counts.reasons,
            ["d: ignored, takes an hour", "b: this kernel has no SCTP"]
        );
        assert_eq!(counts.failures, ["c"]);
        assert!(shown.iter().any(|line| line.contains("panicked")));
        assert!(
            !shown.iter().any(|line| line.contains("... ok")),
            "{shown:?}"
        );
        assert_eq!(
            shown.last().unwrap().trim(),
            "1 passed, 1 failed, 2 skipped"
        );
    }

    #[test]
    fn what_failed_is_told_with_its_place() {
        let mut total = Counts::default();
        total.add(Counts::failure("it did not boot".to_owned()).in_stage("Linux 6.1"));
        assert_eq!(total.to_string(), "0 passed, 1 failed, 0 skipped");
        assert_eq!(total.failures, ["Linux 6.1: it did not boot"]);
    }

    #[test]
    fn binaries_add_up() {
        let mut total = Counts::default();
        for _ in 0..2 {
            let mut reader = Reader::default();
            reader
                .line("test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
            total.add(reader.finish());
        }
        assert_eq!(total.to_string(), "14 passed, 0 failed, 0 skipped");
    }
}
