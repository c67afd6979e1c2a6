//! The matrix as text: for a terminal, as JSON, and as a section of a document.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    matrix::{Begins, Row, Situation},
    session::{Column, Mark, Outcome},
};

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The other side and its version.
    pub peer: String,
    /// The version of the rows with ML-KEM, where they were run.
    #[serde(default)]
    pub newer: Option<String>,
    /// `native`, or `vm`.
    pub place: String,
    /// Kernel release.
    pub kernel: String,
    /// What carried ESP on both sides, and what followed for the marks.
    pub esp: String,
    /// Rows.
    pub outcomes: Vec<Outcome>,
}

/// How many marks of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Seen on both sides.
    pub held: usize,
    /// Tried, and not so.
    pub failed: usize,
    /// Not tried.
    pub not_run: usize,
}

impl Report {
    /// Over all rows.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for mark in self
            .outcomes
            .iter()
            .flat_map(|outcome| outcome.marks.values())
        {
            match mark {
                Mark::Held => counts.held += 1,
                Mark::Failed { .. } => counts.failed += 1,
                Mark::NotRun { .. } => counts.not_run += 1,
            }
        }
        counts
    }

    /// What failed, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&Row, Column, &str)> {
        self.outcomes.iter().flat_map(|outcome| {
            outcome
                .marks
                .iter()
                .filter_map(|(column, mark)| match mark {
                    Mark::Failed { why } => Some((&outcome.row, *column, why.as_str())),
                    _ => None,
                })
        })
    }

    /// As a section in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let counts = self.counts();
        let newer = self
            .newer
            .as_ref()
            .map(|newer| format!(" (with ML-KEM: {newer})"));
        let mut text = format!(
            "{}{} on Linux {}: {} marks held, {} failed, {} not run. {}\n\n",
            self.peer,
            newer.unwrap_or_default(),
            self.kernel,
            counts.held,
            counts.failed,
            counts.not_run,
            self.esp
        );
        text.push_str(
            "| IKE SA | Child SA | both prove themselves by | special | begun by us | begun by them |\n\
             |---|---|---|---|---|---|\n",
        );
        let mut rows: Vec<(&Row, BTreeMap<Begins, &Outcome>)> = Vec::new();
        for outcome in &self.outcomes {
            let row = &outcome.row;
            let same = |other: &Row| {
                (&other.ike, &other.esp, other.auth, other.situation)
                    == (&row.ike, &row.esp, row.auth, row.situation)
            };
            match rows.iter_mut().find(|(other, _)| same(other)) {
                Some((_, roles)) => {
                    roles.insert(row.begins, outcome);
                }
                None => rows.push((row, BTreeMap::from([(row.begins, outcome)]))),
            }
        }
        let mut notes: Vec<&str> = Vec::new();
        for (row, roles) in &rows {
            let mut cells = Begins::ALL.map(|begins| match roles.get(&begins) {
                Some(outcome) => cell(outcome, &mut notes),
                None => String::new(),
            });
            if row.situation == Situation::Nat {
                cells[1] = "nobody begins towards an end behind a NAT".to_owned();
            }
            let [us, them] = cells;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| `{}` | `{}` | {} | {} | {us} | {them} |",
                row.ike,
                row.esp,
                row.auth.name(),
                row.situation.name()
            );
        }
        for (number, note) in notes.iter().enumerate() {
            let _ = write!(text, "\n{}. {note}\n", number + 1);
        }
        text
    }

    /// Puts the section of this place into the document, in place of the last run's.
    ///
    /// # Errors
    /// When the document cannot be read or written, or has no such section.
    pub fn write_into(&self, document: &Path) -> Result<()> {
        let text =
            fs::read_to_string(document).with_context(|| format!("{}", document.display()))?;
        let begin = format!("<!-- {}: begin -->\n", self.place);
        let end = format!("<!-- {}: end -->\n", self.place);
        let (head, rest) = text
            .split_once(&begin)
            .with_context(|| format!("{}: no {begin:?}", document.display()))?;
        let (_, tail) = rest
            .split_once(&end)
            .with_context(|| format!("{}: no {end:?}", document.display()))?;
        let new = format!("{head}{begin}\n{}\n{end}{tail}", self.markdown());
        fs::write(document, new).with_context(|| format!("{}", document.display()))
    }
}

/// One letter per column: `+` held, `-` not run, `!` failed; and the numbers of the notes.
fn cell<'a>(outcome: &'a Outcome, notes: &mut Vec<&'a str>) -> String {
    let mut signs = String::new();
    let mut numbers: Vec<usize> = Vec::new();
    for column in Column::ALL {
        let (sign, why) = match outcome.marks.get(&column) {
            Some(Mark::Held) => ('+', None),
            Some(Mark::Failed { why }) => ('!', Some(why)),
            Some(Mark::NotRun { why }) => ('-', Some(why)),
            None => ('-', None),
        };
        signs.push(sign);
        if let Some(why) = why {
            let number = match notes.iter().position(|note| note == why) {
                Some(place) => place + 1,
                None => {
                    notes.push(why);
                    notes.len()
                }
            };
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
    }
    let numbers: Vec<String> = numbers.iter().map(|number| format!("({number})")).collect();
    format!("`{signs}` {}", numbers.join(" "))
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{Extent, rows};

    fn report() -> Report {
        let rows = rows(Extent::Few, true);
        let mut outcomes: Vec<Outcome> = rows
            .iter()
            .map(|row| Outcome::not_run(row, "a reason"))
            .collect();
        for mark in outcomes[0].marks.values_mut() {
            *mark = Mark::Held;
        }
        let why = "no answer".to_owned();
        outcomes[1]
            .marks
            .insert(Column::Fresh, Mark::Failed { why });
        Report {
            peer: "strongSwan 5.9.8".to_owned(),
            newer: Some("strongSwan 6.1.0".to_owned()),
            place: "native".to_owned(),
            kernel: "6.12".to_owned(),
            esp: String::new(),
            outcomes,
        }
    }

    #[test]
    fn the_table_tells_what_held_what_failed_and_why_the_rest_is_missing() {
        let report = report();
        let text = report.markdown();
        assert!(
            text.starts_with("strongSwan 5.9.8 (with ML-KEM: strongSwan 6.1.0) on Linux 6.12"),
            "{text}"
        );
        assert!(text.contains("| `++++++` | `!-----` (1) (2) |"), "{text}");
        assert!(text.contains("\n1. no answer\n"), "{text}");
        assert!(text.contains("\n2. a reason\n"), "{text}");
        assert_eq!(report.counts().held, 6);
        assert_eq!(report.counts().failed, 1);
        assert_eq!(report.failures().count(), 1);
    }

    #[test]
    fn a_run_replaces_its_own_section_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "# A\n<!-- native: begin -->\nold\n<!-- native: end -->\n<!-- vm: begin -->\nkept\n<!-- vm: end -->\n";
        fs::write(file.path(), text).unwrap();
        report().write_into(file.path()).unwrap();
        let new = fs::read_to_string(file.path()).unwrap();
        assert!(
            new.starts_with("# A\n<!-- native: begin -->\n\nstrongSwan 5.9.8"),
            "{new}"
        );
        assert!(!new.contains("old") && new.contains("kept"), "{new}");
        let other = Report {
            place: "elsewhere".to_owned(),
            ..report()
        };
        assert!(other.write_into(file.path()).is_err());
    }
}
