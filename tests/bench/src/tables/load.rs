//! Load: setups per second, latency as load grows, memory and time by the number of UEs.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Table;
use crate::figures::Line;
use crate::records::{Rate, Record, Scale};
use crate::stats::{Summary, real};

fn rates(records: &[Record]) -> Vec<&Rate> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Rate(rate) => Some(rate),
            _ => None,
        })
        .collect()
}

/// Done per second of processor time of the responder.
fn per_core(rate: &Rate) -> f64 {
    real(rate.done) / rate.responder_cpu.max(1e-9)
}

/// Responders side by side, then how latency and goodput go with load.
#[must_use]
pub fn rate(records: &[Record]) -> String {
    let all = rates(records);
    let mut text = String::new();
    let mut closed: BTreeMap<(&str, &str, &str, usize), Vec<&Rate>> = BTreeMap::new();
    for rate in all.iter().filter(|rate| rate.offered.is_none()) {
        let key = (
            rate.work.as_str(),
            rate.suite.as_str(),
            rate.responder.as_str(),
            rate.at_once,
        );
        closed.entry(key).or_default().push(rate);
    }
    if !closed.is_empty() {
        text.push_str("A fixed number under way at the same time; medians over the runs, in brackets the least and the most. *Per core* is done per second of the responder's processor time.\n\n");
        let mut table = Table::new(&[
            "work, responder, suite",
            "at once",
            "runs",
            "done",
            "failed",
            "per second",
            "responder's CPU ms each",
            "per core",
            "median ms",
            "p99 ms",
        ]);
        for ((work, suite, responder, at_once), runs) in &closed {
            let of = |part: &dyn Fn(&Rate) -> f64| Summary::of(runs.iter().map(|rate| part(rate)));
            let speed = of(&|r| real(r.done) / r.seconds.max(1e-9));
            let core = of(&per_core);
            table.row(&[
                format!("{work}, `{responder}`, {suite}"),
                at_once.to_string(),
                runs.len().to_string(),
                runs.iter().map(|r| r.done).sum::<usize>().to_string(),
                runs.iter().map(|r| r.failed).sum::<usize>().to_string(),
                format!(
                    "{:.0} ({:.0} to {:.0})",
                    speed.median, speed.least, speed.most
                ),
                format!("{:.3}", 1000.0 / core.median.max(1e-9)),
                format!("{:.0} ({:.0} to {:.0})", core.median, core.least, core.most),
                format!("{:.2}", of(&|r| r.latency_ms[0]).median),
                format!("{:.2}", of(&|r| r.latency_ms[2]).median),
            ]);
        }
        text.push_str(&table.end());
        text.push_str(&against_charon(&all));
    }
    let open: Vec<&&Rate> = all.iter().filter(|rate| rate.offered.is_some()).collect();
    if !open.is_empty() {
        text.push_str("Load that does not wait for answers: so many begun per second, whatever becomes of them.\n\n");
        let mut table = Table::new(&[
            "work, responder",
            "offered per second",
            "begun",
            "done",
            "failed",
            "done per second",
            "median ms",
            "p95 ms",
            "p99 ms",
        ]);
        for rate in open {
            let [median, p95, p99] = rate.latency_ms;
            table.row(&[
                format!("{}, `{}`", rate.work, rate.responder),
                format!("{:.0}", rate.offered.unwrap_or(0.0)),
                rate.begun.to_string(),
                rate.done.to_string(),
                rate.failed.to_string(),
                format!("{:.0}", real(rate.done) / rate.seconds.max(1e-9)),
                format!("{median:.2}"),
                format!("{p95:.2}"),
                format!("{p99:.2}"),
            ]);
        }
        text.push_str(&table.end());
    }
    text
}

/// The ratio of setups per core, run by run, for each suite.
fn against_charon(all: &[&Rate]) -> String {
    let mut suites: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for charon in all
        .iter()
        .filter(|rate| rate.responder.starts_with("charon"))
    {
        let ours = all.iter().find(|rate| {
            rate.responder == "ike"
                && (rate.run, rate.at_once, &rate.work, &rate.suite)
                    == (charon.run, charon.at_once, &charon.work, &charon.suite)
        });
        if let Some(ours) = ours {
            let ratio = per_core(ours) / per_core(charon).max(1e-9);
            let key = (charon.suite.as_str(), charon.responder.as_str());
            suites.entry(key).or_default().push(ratio);
        }
    }
    let mut text = String::new();
    for ((suite, charon), ratios) in suites {
        let s = Summary::of(ratios);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "Setups per core, `ike` against `{charon}` in the same run, {suite}: {:.2} (median of {}; {:.2} to {:.2}).\n",
            s.median, s.count, s.least, s.most
        );
    }
    text
}

/// Goodput over offered load.
#[must_use]
pub fn rate_lines(records: &[Record]) -> Vec<Line> {
    let mut lines: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut right: f64 = 0.0;
    for rate in rates(records) {
        if let Some(offered) = rate.offered {
            right = right.max(offered);
            let name = format!("{}, {}", rate.work, rate.responder);
            let done = real(rate.done) / rate.seconds.max(1e-9);
            lines.entry(name).or_default().push((offered, done));
        }
    }
    let mut lines: Vec<Line> = lines
        .into_iter()
        .map(|(name, points)| Line {
            name,
            points,
            theory: false,
        })
        .collect();
    if !lines.is_empty() {
        lines.push(Line {
            name: "all that is offered".to_owned(),
            points: vec![(0.0, 0.0), (right, right)],
            theory: true,
        });
    }
    lines
}

/// Latency over offered load: median, 95th and 99th percentile.
#[must_use]
pub fn latency_lines(records: &[Record]) -> Vec<Line> {
    let open: Vec<(f64, [f64; 3])> = rates(records)
        .iter()
        .filter_map(|rate| Some((rate.offered?, rate.latency_ms)))
        .collect();
    if open.is_empty() {
        return Vec::new();
    }
    let line = |(index, name): (usize, &str)| Line {
        name: name.to_owned(),
        points: open
            .iter()
            .filter_map(|(offered, of)| Some((*offered, *of.get(index)?)))
            .collect(),
        theory: false,
    };
    ["median", "95 %", "99 %"]
        .into_iter()
        .enumerate()
        .map(line)
        .collect()
}

/// Memory and time by the number of UEs attached.
#[must_use]
pub fn scale(records: &[Record]) -> String {
    let mut by_number: BTreeMap<usize, Vec<&Scale>> = BTreeMap::new();
    for record in records {
        if let Record::Scale(scale) = record {
            by_number.entry(scale.ues).or_default().push(scale);
        }
    }
    if by_number.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        "UEs attached",
        "windows",
        "attaches",
        "failed",
        "memory of the N3IWF, MiB",
        "KiB per UE",
        "attach, median ms",
        "quartiles of the windows",
        "N3IWF's CPU per attach, ms",
    ]);
    let mut times = BTreeMap::new();
    for (ues, runs) in &by_number {
        let of = |part: fn(&Scale) -> f64| Summary::of(runs.iter().map(|run| part(run)));
        let each = |run: &Scale| {
            octets(run.memory.saturating_sub(run.memory_before)) / real(run.ues.max(1)) / 1024.0
        };
        let attach = of(|run| run.attach_ms);
        let cpu = of(|run| run.n3iwf_cpu_ms);
        times.insert(*ues, (attach.median, cpu.median));
        table.row(&[
            ues.to_string(),
            runs.len().to_string(),
            runs.iter()
                .map(|run| run.attaches)
                .sum::<usize>()
                .to_string(),
            runs.iter().map(|run| run.failed).sum::<usize>().to_string(),
            format!(
                "{:.1}",
                of(|run| octets(run.memory)).median / f64::from(1 << 20)
            ),
            format!("{:.1}", of(each).median),
            format!("{:.2}", attach.median),
            format!("{:.2} to {:.2}", attach.q1, attach.q3),
            format!("{:.3}", cpu.median),
        ]);
    }
    let mut text = table.end();
    if let (Some(few), Some((most, many))) = (times.get(&100), times.iter().next_back())
        && *most > 100
    {
        let _ = writeln!(
            text,
            "At {most} UEs against at 100: time per attach {:.2} times, the N3IWF's processor time {:.2} times.\n",
            many.0 / few.0.max(1e-9),
            many.1 / few.1.max(1e-9)
        );
    }
    text
}

/// What it takes when everybody rekeys at once.
#[must_use]
pub fn storms(records: &[Record]) -> String {
    let mut table = Table::new(&[
        "all rekeyed",
        "UEs",
        "round",
        "rekeys",
        "failed",
        "all begun within s",
        "all done within s",
        "per second",
        "N3IWF's CPU each, ms",
        "keys fetched",
        "keys in the new SAs",
        "memory before, MiB",
        "at most, MiB",
        "afterwards, MiB",
    ]);
    let mut seen = false;
    for record in records {
        let Record::Storm(storm) = record else {
            continue;
        };
        seen = true;
        let mib = |memory| format!("{:.1}", octets(memory) / f64::from(1 << 20));
        table.row(&[
            storm.what.clone(),
            storm.ues.to_string(),
            (storm.round + 1).to_string(),
            storm.rekeys.to_string(),
            storm.failed.to_string(),
            format!("{:.2}", storm.begun_within),
            format!("{:.2}", storm.seconds),
            format!("{:.0}", real(storm.rekeys) / storm.seconds.max(1e-9)),
            format!("{:.3}", storm.n3iwf_cpu_ms),
            storm.keys_fetched.to_string(),
            storm.keys_in_sas.to_string(),
            mib(storm.memory_before),
            mib(storm.memory),
            storm.memory_after.map_or_else(String::new, mib),
        ]);
    }
    if !seen {
        return String::new();
    }
    format!(
        "Rekey storms: of all UEs that are attached, first every Child SA (signalling and user plane) is rekeyed and then every IKE SA, begun by the UEs as fast as they can. Whoever has begun waits in one queue with all others. A replaced IKE SA answers what its peer repeats for 30 s, and a replaced Child SA takes packets for 5 s; *afterwards* is memory once both are over. At the largest number all of it is done several times, to see whether memory goes on growing.\n\n{}",
        table.end()
    )
}

/// The maps of the eBPF programs, filled with so many UEs.
#[must_use]
pub fn maps(records: &[Record]) -> String {
    let mut table = Table::new(&[
        "program, packet",
        "UEs",
        "memory of its maps, KiB",
        "octets per UE",
        "entering a UE, µs",
        "a packet, ns",
    ]);
    let mut seen = false;
    for record in records {
        let Record::Maps(maps) = record else { continue };
        seen = true;
        table.row(&[
            maps.program.clone(),
            maps.ues.to_string(),
            format!("{:.0}", octets(maps.memory) / 1024.0),
            format!("{:.0}", octets(maps.memory) / real(maps.ues.max(1))),
            format!("{:.2}", maps.insert_us),
            format!("{:.0}", maps.packet_ns),
        ]);
    }
    if seen { table.end() } else { String::new() }
}

#[expect(clippy::cast_precision_loss, reason = "memory, far below 2^52 octets")]
const fn octets(octets: u64) -> f64 {
    octets as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Maps, Storm};

    fn rate_of(responder: &str, run: usize, cpu: f64, offered: Option<f64>) -> Record {
        Record::Rate(Rate {
            work: "ike".to_owned(),
            responder: responder.to_owned(),
            suite: "psk".to_owned(),
            run,
            offered,
            at_once: 8,
            seconds: 2.0,
            begun: 1000,
            done: 1000,
            failed: 0,
            latency_ms: [1.0, 2.0, 3.0],
            responder_cpu: cpu,
            driver_cpu: 1.0,
        })
    }

    #[test]
    fn responders_are_compared_within_a_run() {
        let records = [
            rate_of("ike", 0, 0.5, None),
            rate_of("charon", 0, 1.0, None),
            rate_of("ike", 1, 0.5, None),
            rate_of("charon", 1, 1.5, None),
        ];
        let text = rate(&records);
        assert!(text.contains("2.50 (median of 2; 2.00 to 3.00)"), "{text}");
        assert!(
            text.contains("| 500 (500 to 500) | 0.500 | 2000 (2000 to 2000) |"),
            "{text}"
        );
        let lines = rate_lines(&[rate_of("ike", 0, 1.0, Some(800.0))]);
        assert_eq!(lines[0].points, vec![(800.0, 500.0)]);
        assert!(lines[1].theory);
        let lines = latency_lines(&[rate_of("ike", 0, 1.0, Some(800.0))]);
        let points: Vec<_> = lines.iter().map(|line| line.points[0]).collect();
        assert_eq!(points, [(800.0, 1.0), (800.0, 2.0), (800.0, 3.0)]);
    }

    #[test]
    fn suites_are_not_compared_with_each_other() {
        let of = |responder, suite: &str, cpu| {
            let Record::Rate(rate) = rate_of(responder, 0, cpu, None) else {
                unreachable!("made above");
            };
            let suite = suite.to_owned();
            Record::Rate(Rate { suite, ..rate })
        };
        let text = rate(&[
            of("ike", "modp", 1.0),
            of("ike", "x25519", 0.1),
            of("charon", "modp", 2.0),
            of("charon", "x25519", 0.4),
            of("charon-short-exponents", "modp", 0.5),
        ]);
        assert!(
            text.contains("`charon-short-exponents` in the same run, modp: 0.50 (median of 1;"),
            "{text}"
        );
        assert!(text.contains("modp: 2.00 (median of 1;"), "{text}");
        assert!(text.contains("x25519: 4.00 (median of 1;"), "{text}");
    }

    #[test]
    fn storms_and_maps_are_shown_as_they_are() {
        let storm = Record::Storm(Storm {
            ues: 100,
            round: 1,
            what: "Child SA".to_owned(),
            rekeys: 200,
            failed: 0,
            begun_within: 0.01,
            seconds: 0.5,
            n3iwf_cpu_ms: 0.25,
            memory: 3 << 20,
            memory_before: 2 << 20,
            memory_after: Some(5 << 19),
            keys_fetched: 400,
            keys_in_sas: 400,
        });
        let text = storms(std::slice::from_ref(&storm));
        assert!(
            text.contains(
                "| Child SA | 100 | 2 | 200 | 0 | 0.01 | 0.50 | 400 | 0.250 | 400 | 400 | 2.0 | 3.0 | 2.5 |"
            ),
            "{text}"
        );
        let full = Record::Maps(Maps {
            program: "nwu_ingress, ESP".to_owned(),
            ues: 1000,
            memory: 2_048_000,
            insert_us: 1.5,
            packet_ns: 120.0,
        });
        let text = maps(&[storm, full]);
        assert!(
            text.contains("| nwu_ingress, ESP | 1000 | 2000 | 2048 | 1.50 | 120 |"),
            "{text}"
        );
        assert_eq!((storms(&[]), maps(&[])), (String::new(), String::new()));
    }

    #[test]
    fn memory_is_what_the_ues_added() {
        let point = |ues, memory, attach_ms| {
            Record::Scale(Scale {
                run: 0,
                ues,
                failed: 0,
                memory,
                memory_before: 1 << 20,
                attach_ms,
                n3iwf_cpu_ms: 0.5,
                attaches: 10,
            })
        };
        let text = scale(&[
            point(100, (1 << 20) + 100 * 4096, 2.0),
            point(10_000, (1 << 20) + 10_000 * 8192, 3.0),
        ]);
        assert!(
            text.contains("| 100 | 1 | 10 | 0 | 1.4 | 4.0 | 2.00 | 2.00 to 2.00 |")
                && text.contains("| 8.0 | 3.00 |"),
            "{text}"
        );
        assert!(
            text.contains("At 10000 UEs against at 100: time per attach 1.50 times"),
            "{text}"
        );
    }
}
