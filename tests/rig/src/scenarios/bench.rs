//! Many attaches in a row, and where their time went.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Setting;
use crate::control::{self, text};
use crate::files::Profile;
use crate::report::{Finding, Report};
use crate::steps;
use crate::world::{Role, World};

/// What is measured, in milliseconds: name, and where the UE's timeline has it.
const MEASURES: &[(&str, &str)] = &[
    ("INIT", "wall_us"),
    ("AUTH", "wall_us"),
    ("CHILD", "wall_us"),
    ("INIT own code", "own_us"),
    ("AUTH own code", "own_us"),
    ("CHILD own code", "own_us"),
];

/// Mean and spread of one measure.
#[derive(Clone, Debug)]
struct Summary {
    /// What was measured.
    name: String,
    /// Arithmetic mean, ms.
    mean: f64,
    /// Sample standard deviation, ms.
    deviation: f64,
    /// Smallest, ms.
    least: f64,
    /// Median, ms.
    median: f64,
    /// Largest, ms.
    most: f64,
}

/// Attaches and deregisters `count` times; the report shows the spread of each phase.
#[must_use]
pub fn bench(setting: &Setting, profile: Profile, count: usize) -> Report {
    let mut report = setting.report("bench");
    let world = report.step_with("the network is built", || {
        Ok((
            Finding::new(profile.name()),
            setting.world("bench", profile)?,
        ))
    });
    if let Some(mut world) = world {
        measure(&mut report, &mut world, count);
    }
    report
}

fn measure(report: &mut Report, world: &mut World, count: usize) -> Option<()> {
    steps::bring_up(report, world)?;
    report.step(&format!("{count} attaches"), || {
        let mut samples: Vec<Vec<f64>> = vec![Vec::new(); MEASURES.len()];
        for number in 0..count {
            if number > 0 {
                control::ue(world, "attach")?;
            }
            steps::attach(world).with_context(|| format!("attach {}", number + 1))?;
            let status = control::ue(world, "status")?;
            for (sample, (name, field)) in samples.iter_mut().zip(MEASURES) {
                sample.push(time(&status, name, field)?);
            }
            steps::deregister(world).with_context(|| format!("deregistration {}", number + 1))?;
        }
        let summaries: Vec<Summary> = MEASURES
            .iter()
            .zip(samples)
            .map(|((name, _), sample)| summarise(name, sample))
            .collect();
        let mut table = format!(
            "{:<16}{:>9}{:>9}{:>9}{:>9}{:>9}\n",
            "ms, at the UE", "mean", "SD", "min", "median", "max"
        );
        for s in &summaries {
            table.push_str(&format!(
                "{:<16}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>9.2}\n",
                s.name, s.mean, s.deviation, s.least, s.median, s.most
            ));
        }
        Ok(Finding::new("all worked").with_exhibit(table))
    });
    report.step("the daemons end", || {
        for role in Role::ALL.iter().rev() {
            world.stop(*role)?;
        }
        Ok(Finding::default())
    })
}

fn time(status: &Value, name: &str, field: &str) -> Result<f64> {
    let phase = name.split(' ').next().unwrap_or(name);
    status
        .get("timeline")
        .and_then(Value::as_array)
        .and_then(|rows| rows.iter().find(|row| text(row, "/phase") == phase))
        .and_then(|row| row.get(field)?.as_f64())
        .map(|us| us / 1000.0)
        .with_context(|| format!("no {name} in the timeline"))
}

/// Mean, sample standard deviation, least, median and most of what was measured.
fn summarise(name: &str, mut sample: Vec<f64>) -> Summary {
    sample.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "a count of measurements")]
    let count = sample.len() as f64;
    let mean = sample.iter().sum::<f64>() / count.max(1.0);
    let squares: f64 = sample.iter().map(|value| (value - mean).powi(2)).sum();
    let middle = sample.len() / 2;
    let at = |index: usize| sample.get(index).copied().unwrap_or(0.0);
    let median = if sample.len().is_multiple_of(2) {
        f64::midpoint(at(middle.saturating_sub(1)), at(middle))
    } else {
        at(middle)
    };
    Summary {
        name: name.to_owned(),
        mean,
        deviation: (squares / (count - 1.0).max(1.0)).sqrt(),
        least: at(0),
        median,
        most: at(sample.len().saturating_sub(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_those_of_a_textbook() {
        let s = summarise("x", vec![2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert!((s.mean - 5.0).abs() < 1e-9);
        assert!((s.deviation - (32.0f64 / 7.0).sqrt()).abs() < 1e-9);
        assert_eq!((s.least, s.median, s.most), (2.0, 4.5, 9.0));
        assert_eq!(summarise("x", vec![3.0]).median, 3.0);
        assert_eq!(summarise("x", Vec::new()).mean, 0.0);
    }
}
