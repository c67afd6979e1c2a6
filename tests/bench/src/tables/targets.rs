//! What the measurements have to reach, and what they do: ratios of medians of one stored run.

use super::{
    Table,
    attach::{good, values},
    ms,
};
use crate::records::{Attach, ECHO, Mode, Rate, Record, Scale};
use crate::stats::Summary;

/// Octets on NWu of the paper's attach with QKD keys (Table II).
const PAPER: usize = 4991;

/// One target.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Of what.
    pub what: String,
    /// What it has to be.
    pub wanted: String,
    /// What it is, with what it was worked out from.
    pub is: String,
    /// Whether that is enough.
    pub held: bool,
    /// Where it is not: what stands in the way, in figures of the same run.
    pub because: String,
}

impl Target {
    fn new(what: &str, wanted: &str, is: String, held: bool) -> Self {
        Self {
            what: what.to_owned(),
            wanted: wanted.to_owned(),
            is,
            held,
            because: String::new(),
        }
    }

    fn because(mut self, why: String) -> Self {
        if !self.held {
            self.because = why;
        }
        self
    }
}

/// The stored results that targets are about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stored<'a> {
    /// `attach-native`.
    pub attach: &'a [Record],
    /// `frames`.
    pub frames: &'a [Record],
    /// `ike`.
    pub ike: &'a [Record],
    /// `scale`.
    pub scale: &'a [Record],
    /// `qkd`.
    pub qkd: &'a [Record],
}

/// All targets that the results are enough for.
#[must_use]
pub fn targets(stored: &Stored<'_>) -> Vec<Target> {
    let mut all = init(stored.attach, stored.qkd);
    all.extend(totals(stored.attach));
    all.extend(own(stored.attach));
    all.extend(octets(stored.frames));
    all.extend(setups(stored.ike));
    all.extend(scale(stored.scale));
    all
}

/// They as a table, and what stands in the way of those that are missed.
#[must_use]
pub fn targets_table(targets: &[Target]) -> String {
    let mut table = Table::new(&["what", "at least", "is", ""]);
    for target in targets {
        let held = if target.held { "held" } else { "**missed**" };
        table.row(&[
            target.what.clone(),
            target.wanted.clone(),
            target.is.clone(),
            held.to_owned(),
        ]);
    }
    let mut text = table.end();
    for target in targets.iter().filter(|target| !target.because.is_empty()) {
        text.push_str(&format!("{}: {}\n\n", target.what, target.because));
    }
    text
}

fn of(records: &[Record], mode: Mode, phase: Option<&str>) -> Option<Summary> {
    let runs = good(records, mode);
    let summary = || Summary::of(values(&runs, phase, |p| p.wall));
    (!runs.is_empty()).then(summary)
}

/// What the calls of IKE_SA_INIT take at the least, µs: those of a client that is a socket with TLS and nothing else,
/// after a pause as before an attach.
fn floor(records: &[Record], calls: &[&str]) -> Option<f64> {
    let of = |call: &&str| {
        records.iter().find_map(|record| match record {
            Record::Keys(keys) if keys.bare && keys.call == **call => Some(keys.latency_us[0]),
            _ => None,
        })
    };
    calls.iter().map(of).sum()
}

/// INIT of a mode with QKD keys, and what of it cannot go.
struct Init {
    median: f64,
    kms: f64,
    /// [`floor`], and that of as many echoes.
    floor: Option<f64>,
    echoes: Option<f64>,
}

impl Init {
    fn of(records: &[Record], qkd: &[Record], mode: Mode, calls: &[&str]) -> Option<Self> {
        let runs = good(records, mode);
        let kms = values(&runs, Some("INIT"), |p| p.ue_kms + p.n3iwf_kms);
        Some(Self {
            median: of(records, mode, Some("INIT"))?.median,
            kms: Summary::of(kms).median,
            floor: floor(qkd, calls),
            echoes: floor(qkd, &vec![ECHO; calls.len()]),
        })
    }

    /// Why it takes as long as it does, and how far it would be from `other` with the fastest client.
    fn why(&self, calls: &str, other: f64, slower: bool) -> String {
        let rest = (self.median - self.kms).max(0.0);
        let text = format!(
            "{calls} {} of its {} ms, each a request between two processes that were asleep; without it would be {} ms.",
            ms(self.kms),
            ms(self.median),
            ms(rest),
        );
        let Some(floor) = self.floor else { return text };
        let far = |least: f64| match slower {
            true => format!("{:.2} × slower", least / other.max(1.0)),
            false => format!("{:.2} × faster", other / least.max(1.0)),
        };
        let least = rest + floor;
        let ratio = far(least);
        let text = format!(
            "{text} The same requests by a client that is a blocking socket with TLS and nothing else take {} ms after a pause (`bench qkd`, *bare client*): the limit on this machine is {} ms, {ratio}.",
            ms(floor),
            ms(least),
        );
        let Some(echoes) = self.echoes else {
            return text;
        };
        let least = rest + echoes;
        format!(
            "{text} Of that, {} ms are no more than waking who sleeps (*echo*, an octet and back): if a KMS took nothing at all beyond it, {} ms, {}.",
            ms(echoes),
            ms(least),
            far(least),
        )
    }
}

fn init(records: &[Record], qkd: &[Record]) -> Vec<Target> {
    let median = |mode| of(records, mode, Some("INIT")).map(|summary| summary.median);
    let mut all = Vec::new();
    let both = Init::of(records, qkd, Mode::Qkd, &["enc_keys", "dec_keys"]);
    let (Some(both), Some(modp), Some(curve)) = (both, median(Mode::Psk), median(Mode::PskX25519))
    else {
        return all;
    };
    let pair = |ratio: f64, own: f64, other: f64| {
        format!("{ratio:.2} × ({} against {} ms)", ms(own), ms(other))
    };
    let calls = "the calls of both KMSs take";
    let faster = modp / both.median.max(1.0);
    all.push(
        Target::new(
            "INIT, `qkd` against `psk` with MODP-2048",
            "3 × faster",
            pair(faster, both.median, modp),
            faster >= 3.0,
        )
        .because(both.why(calls, modp, false)),
    );
    let slower = both.median / curve.max(1.0);
    all.push(
        Target::new(
            "INIT, `qkd` against `psk` with X25519",
            "not slower than 2 ×",
            pair(slower, both.median, curve),
            slower <= 2.0,
        )
        .because(both.why(calls, curve, true)),
    );
    if let Some(ahead) = Init::of(records, qkd, Mode::QkdAhead, &["dec_keys"]) {
        let slower = ahead.median / curve.max(1.0);
        let calls =
            "the UE learns the key IDs from the response and asks its KMS then, which takes";
        all.push(
            Target::new(
                "INIT, `qkd-ahead` against `psk` with X25519",
                "not slower than 1.2 ×",
                pair(slower, ahead.median, curve),
                slower <= 1.2,
            )
            .because(ahead.why(calls, curve, true)),
        );
    }
    all
}

fn totals(records: &[Record]) -> Vec<Target> {
    let Some(qkd) = of(records, Mode::Qkd, None) else {
        return Vec::new();
    };
    let against = |(mode, name): (Mode, &str)| {
        let other = of(records, mode, None)?;
        let is = format!(
            "{} against {} ms; quartiles {} to {} against {} to {}",
            ms(qkd.median),
            ms(other.median),
            ms(qkd.q1),
            ms(qkd.q3),
            ms(other.q1),
            ms(other.q3)
        );
        let what = format!("whole attach, `qkd` against `{name}`");
        let wanted = "faster, the difference outside the spread";
        Some(Target::new(&what, wanted, is, qkd.q3 < other.q1))
    };
    [(Mode::Psk, "psk"), (Mode::Cert, "cert")]
        .into_iter()
        .filter_map(against)
        .collect()
}

fn own(records: &[Record]) -> Vec<Target> {
    let runs: Vec<&Attach> = good(records, Mode::Qkd);
    if runs.is_empty() {
        return Vec::new();
    }
    let cpu = runs
        .iter()
        .map(|run| super::real(run.cpu.ue + run.cpu.n3iwf));
    let cpu = Summary::of(cpu).median;
    let init = Summary::of(values(&runs, Some("INIT"), |p| p.ue_own + p.n3iwf_own)).median;
    vec![
        Target::new(
            "processor time of both daemons, a `qkd` attach",
            "5 ms at most",
            format!("{} ms", ms(cpu)),
            cpu <= 5000.0,
        ),
        Target::new(
            "of which handling IKE_SA_INIT",
            "1 ms at most",
            format!("{} ms", ms(init)),
            init <= 1000.0,
        ),
    ]
}

fn octets(records: &[Record]) -> Option<Target> {
    let frames = records.iter().find_map(|record| match record {
        Record::Frames(frames) if frames.mode == Mode::Qkd => Some(frames),
        _ => None,
    })?;
    let sum: usize = frames.messages.iter().map(|message| message.octets).sum();
    let percent = super::count_real(sum) * 100.0 / super::count_real(PAPER);
    let held = sum * 100 <= PAPER * 55;
    let is = format!("{percent:.1} % ({sum} octets)");
    Some(Target::new(
        "octets on NWu, `native`, of the paper's 4991",
        "55 % at most",
        is,
        held,
    ))
}

fn setups(records: &[Record]) -> Vec<Target> {
    let rates: Vec<&Rate> = records
        .iter()
        .filter_map(|record| match record {
            Record::Rate(rate) => Some(rate),
            _ => None,
        })
        .collect();
    let busiest = rates.iter().map(|rate| rate.at_once).max().unwrap_or(0);
    let mut suites: Vec<&str> = rates.iter().map(|rate| rate.suite.as_str()).collect();
    suites.sort_unstable();
    suites.dedup();
    let per_core = |responder: &str, suite: &str| {
        let of = rates.iter().filter(|rate| {
            rate.responder == responder && rate.suite == suite && rate.at_once == busiest
        });
        let rates = of.map(|rate| super::count_real(rate.done) / rate.responder_cpu.max(1e-9));
        let summary = Summary::of(rates);
        (summary.count > 0).then_some(summary.median)
    };
    let target = |suite: &str| {
        let (ours, theirs) = (per_core("ike", suite)?, per_core("charon", suite)?);
        let ratio = ours / theirs;
        // As charon is configured by default; with short exponents of MODP groups it is shown beside that.
        let short = per_core("charon-short-exponents", suite).map_or_else(String::new, |short| {
            let ratio = ours / short;
            format!("; with short exponents charon has {short:.0}: {ratio:.1} ×")
        });
        let is = format!("{ratio:.2} × ({ours:.0} against {theirs:.0}{short})");
        let what = format!("IKE setups per second and core against charon, `{suite}`");
        Some(
            Target::new(&what, "2 ×", is, ratio >= 2.0).because(
                "nearly all of both is the two exponentiations of the key exchange: charon's are OpenSSL's, in assembler, ours `crypto-bigint`'s, in Rust and in constant time.".to_owned(),
            ),
        )
    };
    suites.into_iter().filter_map(target).collect()
}

fn scale(records: &[Record]) -> Vec<Target> {
    let at = |ues: usize| -> Vec<&Scale> {
        records
            .iter()
            .filter_map(|record| match record {
                Record::Scale(scale) if scale.ues == ues => Some(scale),
                _ => None,
            })
            .collect()
    };
    let (few, many) = (at(100), at(10_000));
    if few.is_empty() || many.is_empty() {
        return Vec::new();
    }
    let each = |scale: &&Scale| {
        let grown = scale.memory.saturating_sub(scale.memory_before);
        super::real(grown) / super::count_real(scale.ues)
    };
    let memory = Summary::of(many.iter().map(each)).median;
    let time = |of: &[&Scale]| Summary::of(of.iter().map(|scale| scale.attach_ms));
    let (first, last) = (time(&few), time(&many));
    let ratio = last.median / first.median.max(1e-9);
    vec![
        Target::new(
            "memory per attached UE at 10 000 UEs, N3IWF process",
            "16 KiB at most",
            format!("{:.1} KiB", memory / 1024.0),
            memory <= 16.0 * 1024.0,
        ),
        Target::new(
            "time per attach at 10 000 UEs against at 100",
            "1.2 × at most",
            format!(
                "{ratio:.2} × ({:.2} against {:.2} ms; quartiles {:.2} to {:.2} against {:.2} to {:.2})",
                last.median, first.median, last.q1, last.q3, first.q1, first.q3
            ),
            ratio <= 1.2,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Cpu, Keys, Phase};

    fn attach(mode: Mode, wall: u64, kms: u64) -> Vec<Record> {
        let run = |round| {
            Record::Attach(Attach {
                mode,
                round,
                error: None,
                phases: vec![Phase {
                    phase: "INIT".to_owned(),
                    wall,
                    ue_kms: kms,
                    ue_own: 10,
                    ..Phase::default()
                }],
                cpu: Cpu {
                    ue: 2000,
                    n3iwf: 1500,
                    ..Cpu::default()
                },
            })
        };
        (1..=5).map(run).collect()
    }

    #[test]
    fn targets_are_worked_out_from_records() {
        let mut records = attach(Mode::Qkd, 1000, 600);
        records.extend(attach(Mode::Psk, 2500, 0));
        records.extend(attach(Mode::PskX25519, 600, 0));
        let stored = Stored {
            attach: &records,
            ..Stored::default()
        };
        let targets = targets(&stored);
        let held: Vec<bool> = targets.iter().map(|target| target.held).collect();
        assert_eq!(held, [false, true, true, true, true], "{targets:#?}");
        let table = targets_table(&targets);
        assert!(
            table.contains("| 3 × faster | 2.50 × (1.00 against 2.50 ms) | **missed** |"),
            "{table}"
        );
        assert!(table.contains("take 0.60 of its 1.00 ms"), "{table}");
        assert!(!table.contains("the limit on this machine"), "{table}");
        assert!(
            table.contains("| 5 ms at most | 3.50 ms | held |"),
            "{table}"
        );
    }

    #[test]
    fn what_is_missed_has_its_limit_beside_it() {
        let mut records = attach(Mode::Qkd, 1000, 600);
        records.extend(attach(Mode::Psk, 2500, 0));
        records.extend(attach(Mode::PskX25519, 600, 0));
        let call = |call: &str, bare, micros| {
            Record::Keys(Keys {
                call: call.to_owned(),
                warm: true,
                pause_ms: 20,
                bare,
                keys: 7,
                requests: 10,
                failed: 0,
                latency_us: [micros; 3],
                per_second: 1.0,
            })
        };
        let qkd = [
            call("enc_keys", false, 300.0),
            call("enc_keys", true, 200.0),
            call("dec_keys", true, 100.0),
            call(ECHO, true, 80.0),
        ];
        let targets = init(&records, &qkd);
        assert!(!targets[0].held && targets[1].held, "{targets:#?}");
        assert!(
            targets[0].because.contains("take 0.30 ms after a pause")
                && targets[0].because.contains("is 0.70 ms, 3.57 × faster")
                && targets[0].because.contains("Of that, 0.16 ms are")
                && targets[0]
                    .because
                    .contains("beyond it, 0.56 ms, 4.46 × faster"),
            "{}",
            targets[0].because
        );
    }

    #[test]
    fn charon_with_short_exponents_is_shown_beside_the_default() {
        let of = |responder: &str, responder_cpu| {
            Record::Rate(Rate {
                work: "ike".to_owned(),
                responder: responder.to_owned(),
                suite: "modp".to_owned(),
                run: 0,
                offered: None,
                at_once: 16,
                seconds: 3.0,
                begun: 600,
                done: 600,
                failed: 0,
                latency_ms: [1.0; 3],
                responder_cpu,
                driver_cpu: 1.0,
            })
        };
        let both = [of("ike", 1.0), of("charon", 2.0)];
        let targets = setups(&both);
        assert_eq!(targets.len(), 1);
        assert!(targets[0].held);
        assert_eq!(targets[0].is, "2.00 × (600 against 300)");
        let all = [both.as_slice(), &[of("charon-short-exponents", 0.5)]].concat();
        let is = &setups(&all)[0].is;
        assert_eq!(
            is,
            "2.00 × (600 against 300; with short exponents charon has 1200: 0.5 ×)"
        );
    }

    #[test]
    fn nothing_stored_is_no_target() {
        assert_eq!(targets(&Stored::default()), []);
    }

    #[test]
    fn scale_is_compared_at_its_ends() {
        let at = |ues, attach_ms, memory| {
            Record::Scale(Scale {
                run: 0,
                ues,
                failed: 0,
                memory,
                memory_before: 1 << 20,
                attach_ms,
                n3iwf_cpu_ms: 1.0,
                attaches: 50,
            })
        };
        let records = [
            at(100, 2.0, 3 << 20),
            at(10_000, 2.5, (1 << 20) + 170_000_000),
        ];
        let targets = scale(&records);
        let held: Vec<bool> = targets.iter().map(|target| target.held).collect();
        assert_eq!(held, [false, false], "{targets:#?}");
        let is = &targets[1].is;
        assert!(
            is.starts_with("1.25 × (2.50 against 2.00 ms; quartiles 2.50 to 2.50"),
            "{is}"
        );
    }
}
