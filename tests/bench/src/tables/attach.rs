//! The paper's experiment: Table I, and where the time goes.

use std::fmt::Write;

use super::{Table, count, ms, real};
use crate::records::{Attach, Mode, Phase, Record};
use crate::stats::Summary;

/// Phases as the UE's timeline names them, and as the paper does.
const PHASES: [(&str, &str); 3] = [("INIT", "INIT"), ("AUTH", "AUTH"), ("CHILD", "Child SA")];

/// Table I of arXiv 2603.24426: mean and SD in ms of INIT, AUTH and Child SA, and the total.
struct Paper {
    phases: [(f64, f64); 3],
    total: f64,
}

const fn paper(mode: Mode) -> Option<Paper> {
    match mode {
        Mode::Psk | Mode::PskX25519 => Some(Paper {
            phases: [(69.09, 7.98), (475.81, 78.49), (712.89, 43.36)],
            total: 1257.79,
        }),
        Mode::Cert => Some(Paper {
            phases: [(70.34, 6.39), (477.51, 74.30), (717.15, 45.15)],
            total: 1265.0,
        }),
        // Both profiles are what the paper calls QKD; the one after its messages is the one to set
        // beside it.
        Mode::QkdPaper | Mode::Qkd | Mode::QkdAhead => Some(Paper {
            phases: [(29.61, 2.53), (467.02, 58.32), (703.03, 36.18)],
            total: 1199.66,
        }),
        Mode::Hybrid => None,
    }
}

/// Attaches of one mode that count: those that worked, without the first.
pub(super) fn good(records: &[Record], mode: Mode) -> Vec<&Attach> {
    runs(records, mode)
        .filter(|run| run.error.is_none())
        .collect()
}

fn runs(records: &[Record], mode: Mode) -> impl Iterator<Item = &Attach> {
    records.iter().filter_map(move |record| match record {
        Record::Attach(run) if run.mode == mode && run.round > 0 => Some(run),
        _ => None,
    })
}

fn modes(records: &[Record]) -> Vec<Mode> {
    Mode::ALL
        .into_iter()
        .filter(|mode| runs(records, *mode).next().is_some())
        .collect()
}

/// One figure of one phase, or of all of them, in each attach, µs.
pub(super) fn values(
    runs: &[&Attach],
    phase: Option<&str>,
    of: impl Fn(&Phase) -> u64,
) -> Vec<f64> {
    runs.iter()
        .map(|run| {
            let phases = run.phases.iter();
            let matching = phases.filter(|p| phase.is_none_or(|name| p.phase == name));
            real(matching.map(&of).sum())
        })
        .collect()
}

/// Wall time of a phase or of the whole in ms, for box plots; `None` is the whole.
#[must_use]
pub fn boxes(records: &[Record], phase: Option<&str>) -> Vec<(String, Vec<f64>)> {
    modes(records)
        .into_iter()
        .map(|mode| {
            let walls = values(&good(records, mode), phase, |p| p.wall);
            let ms = walls.into_iter().map(|us| us / 1000.0).collect();
            (mode.name().to_owned(), ms)
        })
        .collect()
}

/// Everything of a file of attaches.
#[must_use]
pub fn attach(records: &[Record]) -> String {
    let mut text = runs_line(records);
    text.push_str(&times(records));
    text.push_str("Where the time goes, means in ms. *Own* is processor time in the handlers of the daemon; *rest* is what no party accounts for: network, kernel, scheduling.\n\n");
    text.push_str(&split(records));
    text.push_str("Processor time of whole processes from the request to attach until the UE is attached (HTTP, TLS, system calls and logging included), ms:\n\n");
    text.push_str(&processes(records));
    text.push_str(&ratios(records));
    text
}

/// How many attaches there were, and each that failed.
fn runs_line(records: &[Record]) -> String {
    let mut text = String::new();
    let parts: Vec<String> = modes(records)
        .into_iter()
        .map(|mode| {
            let all = runs(records, mode).count();
            let good = good(records, mode).len();
            format!("{mode} {good} of {all}")
        })
        .collect();
    let _ = writeln!(
        text,
        "Attaches that worked: {}. One more of each mode opened the connections to the KMEs and is not counted.\n",
        parts.join(", ")
    );
    let failures: Vec<&Attach> = modes(records)
        .into_iter()
        .flat_map(|mode| runs(records, mode))
        .filter(|run| run.error.is_some())
        .collect();
    for run in &failures {
        let why = run.error.as_deref().unwrap_or_default();
        let _ = writeln!(text, "- failed: {}, round {}: {why}", run.mode, run.round);
    }
    if !failures.is_empty() {
        text.push('\n');
    }
    text
}

/// Table I.
fn times(records: &[Record]) -> String {
    let mut table = Table::new(&[
        "phase, mode",
        "mean ms",
        "SD",
        "median",
        "p95",
        "paper: mean",
        "SD",
    ]);
    for (index, (name, shown)) in PHASES.iter().enumerate() {
        for mode in modes(records) {
            let s = Summary::of(values(&good(records, mode), Some(name), |p| p.wall));
            let paper = paper(mode).and_then(|paper| paper.phases.get(index).copied());
            row(&mut table, &format!("{shown}, {mode}"), s, paper);
        }
    }
    for mode in modes(records) {
        let s = Summary::of(values(&good(records, mode), None, |p| p.wall));
        let paper = paper(mode).map(|paper| (paper.total, f64::NAN));
        row(&mut table, &format!("**total**, {mode}"), s, paper);
    }
    table.end()
}

fn row(table: &mut Table, name: &str, s: Summary, paper: Option<(f64, f64)>) {
    let number = |value: f64| {
        if value.is_nan() {
            String::new()
        } else {
            format!("{value:.2}")
        }
    };
    table.row(&[
        name.to_owned(),
        ms(s.mean),
        ms(s.deviation),
        ms(s.median),
        ms(s.p95),
        paper.map_or_else(String::new, |(mean, _)| number(mean)),
        paper.map_or_else(String::new, |(_, sd)| number(sd)),
    ]);
}

/// Who spends the time of each phase.
fn split(records: &[Record]) -> String {
    let mut table = Table::new(&[
        "phase, mode",
        "wall",
        "own, UE",
        "own, N3IWF",
        "KMS, UE",
        "KMS, N3IWF",
        "core",
        "rest",
    ]);
    let parts: [fn(&Phase) -> u64; 7] = [
        |p| p.wall,
        |p| p.ue_own,
        |p| p.n3iwf_own,
        |p| p.ue_kms,
        |p| p.n3iwf_kms,
        |p| p.n3iwf_core,
        Phase::rest,
    ];
    let phases = PHASES.iter().map(|(name, shown)| (Some(*name), *shown));
    for (phase, shown) in phases.chain([(None, "**total**")]) {
        for mode in modes(records) {
            let runs = good(records, mode);
            let mut cells = vec![format!("{shown}, {mode}")];
            for part in parts {
                cells.push(ms(Summary::of(values(&runs, phase, part)).mean));
            }
            table.row(&cells);
        }
    }
    table.end()
}

/// Processor time of processes.
fn processes(records: &[Record]) -> String {
    let mut table = Table::new(&[
        "mode",
        "UE",
        "N3IWF",
        "both: mean",
        "SD",
        "median",
        "core stand-in",
        "KME stand-ins",
    ]);
    for mode in modes(records) {
        let runs = good(records, mode);
        let of = |part: fn(&Attach) -> u64| Summary::of(runs.iter().map(|run| real(part(run))));
        let both = of(|run| run.cpu.ue + run.cpu.n3iwf);
        table.row(&[
            mode.name().to_owned(),
            ms(of(|run| run.cpu.ue).mean),
            ms(of(|run| run.cpu.n3iwf).mean),
            ms(both.mean),
            ms(both.deviation),
            ms(both.median),
            ms(of(|run| run.cpu.core).mean),
            ms(of(|run| run.cpu.kmes).mean),
        ]);
    }
    table.end()
}

/// Ratios of medians against the other modes, and the targets that are about attaches.
fn ratios(records: &[Record]) -> String {
    let qkd = good(records, Mode::Qkd);
    if qkd.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["median of `qkd`", "ms", "against", "ms", "ratio", "spread"]);
    let mut rows = 0;
    for mode in Mode::ALL.into_iter().skip(1) {
        let other = good(records, mode);
        if other.is_empty() {
            continue;
        }
        for (phase, shown) in [(Some("INIT"), "INIT"), (None, "total")] {
            let a = Summary::of(values(&qkd, phase, |p| p.wall));
            let b = Summary::of(values(&other, phase, |p| p.wall));
            // Boxes that do not touch: quartile against quartile.
            let spread = if a.q3 < b.q1 {
                "faster, quartiles apart"
            } else if b.q3 < a.q1 {
                "slower, quartiles apart"
            } else {
                "quartiles overlap"
            };
            table.row(&[
                shown.to_owned(),
                ms(a.median),
                mode.name().to_owned(),
                ms(b.median),
                format!("{:.2}", a.median / b.median.max(1.0)),
                spread.to_owned(),
            ]);
            rows += 1;
        }
    }
    let own = Summary::of(values(&qkd, None, Phase::own));
    let init = Summary::of(values(&qkd, Some("INIT"), Phase::own));
    let cpu = Summary::of(qkd.iter().map(|run| real(run.cpu.ue + run.cpu.n3iwf)));
    let mut text = if rows > 0 { table.end() } else { String::new() };
    let _ = writeln!(
        text,
        "Own time of a `qkd` attach, median of {}: {} ms in the handlers of both daemons, of which IKE_SA_INIT {} ms; {} ms of processor time of both processes altogether.\n",
        count(qkd.len(), "attach").replace("attachs", "attaches"),
        ms(own.median),
        ms(init.median),
        ms(cpu.median),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Cpu;

    fn run(mode: Mode, round: usize, wall: u64) -> Record {
        let phase = |name: &str| Phase {
            phase: name.to_owned(),
            wall,
            ue_own: 100,
            n3iwf_own: 200,
            n3iwf_kms: 300,
            ..Phase::default()
        };
        Record::Attach(Attach {
            mode,
            round,
            error: None,
            phases: vec![phase("INIT"), phase("AUTH"), phase("CHILD")],
            cpu: Cpu {
                ue: 1000,
                n3iwf: 2000,
                core: 0,
                kmes: 0,
            },
        })
    }

    #[test]
    fn every_run_is_reported_and_the_first_is_not_counted() {
        let mut records = vec![run(Mode::Qkd, 0, 900_000)];
        records.extend((1..=4).map(|round| run(Mode::Qkd, round, 1000)));
        let mut failed = run(Mode::Qkd, 5, 0);
        if let Record::Attach(attach) = &mut failed {
            attach.error = Some("the KME is gone".to_owned());
            attach.phases.clear();
        }
        records.push(failed);
        records.extend((1..=4).map(|round| run(Mode::Psk, round, 4000)));
        let text = attach(&records);
        assert!(text.contains("qkd 4 of 5, psk 4 of 4"), "{text}");
        assert!(text.contains("round 5: the KME is gone"), "{text}");
        assert!(text.contains("| INIT, qkd | 1.00 | 0.00 | 1.00 | 1.00 | 29.61 | 2.53 |"));
        assert!(text.contains("| INIT, psk | 4.00 | 0.00 | 4.00 | 4.00 | 69.09 | 7.98 |"));
        assert!(text.contains("| INIT | 1.00 | psk | 4.00 | 0.25 | faster, quartiles apart |"));
        // 1000 - 100 - 200 - 300, three times.
        assert!(
            text.contains("| **total**, qkd | 3.00 | 0.30 | 0.60 | 0.00 | 0.90 | 0.00 | 1.20 |"),
            "{text}"
        );
        assert!(text.contains("0.90 ms in the handlers"), "{text}");
        let boxes = boxes(&records, None);
        assert_eq!(boxes[0], ("qkd".to_owned(), vec![3.0; 4]));
    }
}
