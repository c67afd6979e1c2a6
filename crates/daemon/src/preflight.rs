//! What a host lacks before a daemon can run, and how to get it.

use std::{io, process::ExitCode};

use serde::{Deserialize, Serialize};

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Outcome {
    /// As needed.
    Ok,
    /// The daemon runs, with less.
    Warn,
    /// The daemon cannot do its work.
    Fail,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at: `kernel: ESP`.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub detail: String,
    /// What to do about it, when there is something to do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fix: Option<String>,
}

impl Check {
    /// A check that found what it wanted.
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            outcome: Outcome::Ok,
            detail: detail.into(),
            fix: None,
        }
    }

    /// A check that found less than it wanted.
    pub fn warn(
        name: impl Into<String>,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            outcome: Outcome::Warn,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }

    /// A check that found what makes the daemon's work impossible.
    pub fn fail(
        name: impl Into<String>,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            outcome: Outcome::Fail,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }
}

/// All checks of a preflight, in the order they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    /// An empty report, which passes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check.
    pub fn push(&mut self, check: Check) {
        self.checks.push(check);
    }

    /// Whether nothing failed; warnings pass.
    pub fn passed(&self) -> bool {
        self.checks
            .iter()
            .all(|check| check.outcome != Outcome::Fail)
    }

    /// 0 when the report passed, 1 otherwise.
    pub fn exit_code(&self) -> ExitCode {
        if self.passed() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// Writes the report as aligned text, or as one JSON object `{"passed":…,"checks":[…]}`.
    ///
    /// # Errors
    ///
    /// What `out` says.
    pub fn print(&self, out: &mut impl io::Write, json: bool) -> io::Result<()> {
        if json {
            let value = serde_json::json!({ "passed": self.passed(), "checks": self.checks });
            return writeln!(out, "{value:#}");
        }
        let width = self
            .checks
            .iter()
            .map(|check| check.name.chars().count())
            .max()
            .unwrap_or(0);
        for check in &self.checks {
            let mark = match check.outcome {
                Outcome::Ok => "ok  ",
                Outcome::Warn => "warn",
                Outcome::Fail => "FAIL",
            };
            writeln!(out, "{mark}  {:width$}  {}", check.name, check.detail)?;
            if let Some(fix) = &check.fix {
                writeln!(out, "      {:width$}  -> {fix}", "")?;
            }
        }
        Ok(())
    }
}

impl Extend<Check> for Report {
    fn extend<I: IntoIterator<Item = Check>>(&mut self, checks: I) {
        self.checks.extend(checks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new();
        report.push(Check::ok("kernel: XFRM", "present"));
        report.push(Check::warn("tcx", "absent", "a kernel from 6.6 on"));
        report
    }

    #[test]
    fn warnings_pass_and_failures_do_not() {
        let mut report = report();
        assert!(report.passed());
        assert_eq!(report.exit_code(), ExitCode::SUCCESS);
        report.push(Check::fail("kernel: ESP", "absent", "modprobe esp4"));
        assert!(!report.passed());
        assert_eq!(report.exit_code(), ExitCode::FAILURE);
    }

    #[test]
    fn text_is_aligned_and_says_what_to_do() {
        let mut out = Vec::new();
        report().print(&mut out, false).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ok    kernel: XFRM  present\n\
             warn  tcx           absent\n                    -> a kernel from 6.6 on\n"
        );
    }

    #[test]
    fn json_reads_back() {
        let mut out = Vec::new();
        report().print(&mut out, true).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["passed"], true);
        let read: Report = serde_json::from_value(value).unwrap();
        assert_eq!(read, report());
    }
}
