//! What a scenario did: one record per step, for people and as JSON.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// One step of a scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// What was to hold.
    pub name: String,
    /// Whether it did.
    pub ok: bool,
    /// One line: what was seen, or why it failed.
    pub detail: String,
    /// Tables and listings worth showing in full.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exhibit: String,
    /// How long it took.
    pub milliseconds: u64,
}

/// What a step found out.
#[derive(Clone, Debug, Default)]
pub struct Finding {
    /// One line.
    pub detail: String,
    /// A table or listing.
    pub exhibit: String,
}

impl Finding {
    /// One line and nothing to show.
    pub fn new(detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            exhibit: String::new(),
        }
    }

    /// With something to show.
    #[must_use]
    pub fn with_exhibit(mut self, exhibit: impl Into<String>) -> Self {
        self.exhibit = exhibit.into();
        self
    }
}

/// The records of one scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// Its steps, in order.
    pub steps: Vec<Record>,
    #[serde(skip)]
    quiet: bool,
}

impl Report {
    /// An empty report; a quiet one prints nothing while it grows.
    #[must_use]
    pub fn new(scenario: &str, quiet: bool) -> Self {
        Self {
            scenario: scenario.to_owned(),
            steps: Vec::new(),
            quiet,
        }
    }

    /// Runs a step and records how it went. `None` when it failed: the scenario decides whether
    /// to go on.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Finding>) -> Option<()> {
        self.step_with(name, || work().map(|finding| (finding, ())))
    }

    /// [`Report::step`] with a result for the steps that follow.
    pub fn step_with<T>(
        &mut self,
        name: &str,
        work: impl FnOnce() -> Result<(Finding, T)>,
    ) -> Option<T> {
        let begun = Instant::now();
        let outcome = work();
        let spent = begun.elapsed();
        let (ok, finding, value) = match outcome {
            Ok((finding, value)) => (true, finding, Some(value)),
            Err(error) => (false, Finding::new(format!("{error:#}")), None),
        };
        self.add(Record {
            name: name.to_owned(),
            ok,
            detail: finding.detail,
            exhibit: finding.exhibit,
            milliseconds: u64::try_from(spent.as_millis()).unwrap_or(u64::MAX),
        });
        value
    }

    fn add(&mut self, record: Record) {
        if !self.quiet {
            let mut out = std::io::stdout().lock();
            // A closed standard output does not change what holds.
            let _ = out
                .write_all(line(&record).as_bytes())
                .and_then(|()| out.flush());
        }
        self.steps.push(record);
    }

    /// Whether every step held, and there was one.
    #[must_use]
    pub fn ok(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|record| record.ok)
    }

    /// Steps that held and steps that did not.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let held = self.steps.iter().filter(|record| record.ok).count();
        (held, self.steps.len() - held)
    }

    /// Time of all steps together.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.steps
            .iter()
            .map(|record| Duration::from_millis(record.milliseconds))
            .sum()
    }
}

/// A record as a line of text, with its exhibit below.
#[must_use]
pub fn line(record: &Record) -> String {
    let mark = if record.ok { "ok  " } else { "FAIL" };
    let seconds = Duration::from_millis(record.milliseconds).as_secs_f32();
    let mut detail = record.detail.lines();
    let first = detail.next().unwrap_or_default();
    let mut text = format!("{mark} {:<34} {first}  ({seconds:.1} s)\n", record.name);
    for more in detail.chain(record.exhibit.lines()) {
        text.push_str("       ");
        text.push_str(more);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn one_failed_step_fails_the_scenario() {
        let mut report = Report::new("x", true);
        assert!(!report.ok(), "nothing was checked yet");
        assert!(report.step("a", || Ok(Finding::new("fine"))).is_some());
        assert!(report.ok());
        assert!(report.step("b", || bail!("broken")).is_none());
        assert!(!report.ok());
        assert_eq!(report.counts(), (1, 1));
        assert_eq!(report.steps.last().unwrap().detail, "broken");
    }

    #[test]
    fn a_report_survives_json() {
        let mut report = Report::new("x", true);
        report.step("a", || Ok(Finding::new("fine").with_exhibit("table\nrow")));
        let text = serde_json::to_string(&report).unwrap();
        let back: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(back.steps.len(), 1);
        assert!(line(back.steps.first().unwrap()).contains("       row\n"));
    }
}
