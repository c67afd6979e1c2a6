//! The user plane.

use super::Table;
use crate::records::{Counting, Esp, Profile, Record, Relay, Single, Spread, Stream, Warm};

/// Symbols of a profile that are shown.
const SYMBOLS: usize = 12;

/// All tables that there are records for, each with what it says.
#[must_use]
pub fn relay(records: &[Record]) -> String {
    let all: Vec<&Relay> = records.iter().filter_map(of).collect();
    let mut text = String::new();
    let mut section = |about: &str, table: Option<Table>| {
        if let Some(table) = table {
            text += &format!("{about}\n\n{}", table.end());
        }
    };
    section(
        "One packet a run (`BPF_PROG_TEST_RUN`), since a program changes its packet: as cold as a packet can be. Without \
         what a run takes that ends at once. Medians of 20 000 runs; in brackets the least and the most of five rounds. \
         Wanted: 300 ns at most, and 1.3 times at most for many sessions.",
        table(
            &all,
            &[
                "program",
                "octets",
                "ns, 1 session",
                "ns, many",
                "many",
                "ratio",
            ],
            |relay| match relay {
                Relay::Single(single) => Some(single_row(single)),
                _ => None,
            },
        ),
    );
    section(
        "What the kernel accounts for each run in a flood (`BPF_ENABLE_STATS`), medians and quartiles of short rounds. The clock is read before and after \
         a run; a run that ends at once, which is mostly that, has its own column.",
        table(
            &all,
            &[
                "program",
                "PDU octets",
                "sessions",
                "ns a run",
                "ns of a run that ends at once",
                "without it",
                "packets/s",
            ],
            |relay| match relay {
                Relay::Warm(warm) => Some(warm_row(warm)),
                _ => None,
            },
        ),
    );
    section(
        "Counting on NWu: ESP packets forwarded by the kernel, all on one processor, so that the time of a packet is what is \
         done to it. Medians (and quartiles) of short rounds, each with the programs between two without. *A program that does nothing* \
         is measured in the same way in the same run: what no program can be below. *Of forwarding*: what counting adds to a packet, without what of it is sending. Wanted: 5 % at most.",
        table(
            &all,
            &[
                "program",
                "octets",
                "ns a packet, not counted",
                "counted",
                "added, round by round",
                "by a program that does nothing",
                "of which sending",
                "of the packet",
                "of forwarding",
                "the program's run, as the kernel accounts it",
            ],
            |relay| match relay {
                Relay::Counting(counting) => Some(counting_row(counting)),
                _ => None,
            },
        ),
    );
    section(
        "Packets/s through the relay. *Best*: of six rates offered. *Flood*: the sender sends what it can. *Forwarding*: the \
         kernel forwards packets of the same length by its routing table, without any relay. *One*: all of the relay on one \
         processor. Wanted: kernel/user 5.",
        table(
            &all,
            &[
                "direction, PDU octets, processors",
                "user, best",
                "user, flood",
                "kernel, flood",
                "forwarding, flood",
                "kernel/user, best",
                "kernel/user, flood",
                "kernel/forwarding",
                "forwarding/user, best",
            ],
            |relay| match relay {
                Relay::Stream(stream) => Some(stream_row(stream)),
                _ => None,
            },
        ),
    );
    for relay in &all {
        if let Relay::Profile(profile) = relay {
            let about = format!(
                "{}, {}: {:.0} packets/s",
                profile.way, profile.direction, profile.rate
            );
            section(&about, Some(profile_table(profile)));
        }
    }
    section(
        "Packets/s of each round, and against plain ESP forwarding of the same packets (medians; wanted: 0.85). What a run of the \
         program that counts on NWu takes, as the kernel accounts it (the clock in it), against the time of a packet: wanted 5 % \
         at most.",
        table(
            &all,
            &[
                "way",
                "PDU octets",
                "rounds",
                "median",
                "against plain forwarding",
                "`nwu_ingress`, ns a run",
                "of the packet",
            ],
            |relay| match relay {
                Relay::Esp(esp) => Some(esp_row(esp, &all)),
                _ => None,
            },
        ),
    );
    text
}

fn of(record: &Record) -> Option<&Relay> {
    match record {
        Record::Relay(relay) => Some(relay),
        _ => None,
    }
}

/// A table of those records that have a row; `None` without one.
fn table(
    all: &[&Relay],
    heads: &[&str],
    row: impl Fn(&Relay) -> Option<Vec<String>>,
) -> Option<Table> {
    let rows: Vec<Vec<String>> = all.iter().filter_map(|relay| row(relay)).collect();
    let mut table = Table::new(heads);
    rows.iter().for_each(|row| table.row(row));
    (!rows.is_empty()).then_some(table)
}

fn between([middle, low, high]: Spread, places: usize) -> String {
    format!("{middle:.places$} ({low:.places$}..{high:.places$})")
}

fn single_row(single: &Single) -> Vec<String> {
    vec![
        format!("`{}`", single.program),
        single.octets.to_string(),
        between(single.one_ns, 0),
        between(single.many_ns, 0),
        single.sessions.to_string(),
        between(single.ratio, 2),
    ]
}

fn warm_row(warm: &Warm) -> Vec<String> {
    vec![
        format!("`{}`", warm.program),
        warm.octets.to_string(),
        warm.sessions.to_string(),
        between(warm.ns, 0),
        format!("{:.0}", warm.clock_ns),
        format!("{:.0}", warm.ns[0] - warm.clock_ns),
        format!("{:.0}", warm.rate),
    ]
}

fn counting_row(counting: &Counting) -> Vec<String> {
    let [cost, ..] = counting.cost_ns;
    let [whole, ..] = counting.without_ns;
    let [sending, ..] = counting.sending_ns;
    vec![
        format!("`{}`", counting.program),
        counting.octets.to_string(),
        between(counting.without_ns, 0),
        between(counting.with_ns, 0),
        between(counting.cost_ns, 0),
        counting
            .nothing_ns
            .map_or_else(|| "not measured".to_owned(), |spread| between(spread, 0)),
        between(counting.sending_ns, 0),
        format!("{:.1} %", cost / whole * 100.0),
        format!("{:.1} %", cost / (whole - sending) * 100.0),
        format!("{:.0}", counting.program_ns),
    ]
}

fn stream_row(stream: &Stream) -> Vec<String> {
    let processors = if stream.one_processor { "one" } else { "any" };
    vec![
        format!("{}, {}, {processors}", stream.direction, stream.octets),
        format!("{:.0}", stream.user_best),
        format!("{:.0}", stream.user_flood),
        format!("{:.0}", stream.kernel_flood),
        format!("{:.0}", stream.forward_flood),
        format!("{:.1}", stream.kernel_flood / stream.user_best),
        format!("{:.1}", stream.kernel_flood / stream.user_flood),
        format!("{:.2}", stream.kernel_flood / stream.forward_flood),
        format!("{:.1}", stream.forward_flood / stream.user_best),
    ]
}

fn profile_table(profile: &Profile) -> Table {
    let mut table = Table::new(&["function", "%"]);
    for (name, share) in profile.symbols.iter().take(SYMBOLS) {
        table.row(&[format!("`{name}`"), format!("{share:.2}")]);
    }
    table
}

fn median(rates: &[f64]) -> f64 {
    crate::stats::Summary::of(rates.iter().copied()).median
}

fn esp_row(esp: &Esp, all: &[&Relay]) -> Vec<String> {
    let plain = all.iter().find_map(|relay| match relay {
        Relay::Esp(plain) if plain.way == "plain forwarding" && plain.octets == esp.octets => {
            Some(median(&plain.rates))
        }
        _ => None,
    });
    let rounds: Vec<String> = esp.rates.iter().map(|rate| format!("{rate:.0}")).collect();
    let own = median(&esp.rates);
    vec![
        esp.way.clone(),
        esp.octets.to_string(),
        rounds.join(", "),
        format!("{own:.0}"),
        plain.map_or_else(String::new, |plain| format!("{:.2}", own / plain)),
        esp.counting_ns
            .map_or_else(String::new, |ns| format!("{ns:.0}")),
        esp.counting_ns
            .map_or_else(String::new, |ns| format!("{:.1} %", ns * own / 1e7)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Record {
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn lines_of_the_benchmark_become_rows() {
        let records = [
            r#"{"record":"relay","of":"single","program":"relay_uplink","octets":64,"sessions":10000,"one_ns":[250,240,260],"many_ns":[300,290,310],"ratio":[1.2,1.1,1.3]}"#,
            r#"{"record":"relay","of":"warm","program":"relay_uplink","octets":64,"sessions":1,"ns":[150.4,149,151],"clock_ns":50.2,"rate":700000}"#,
            r#"{"record":"relay","of":"counting","program":"nwu_ingress","octets":84,"rounds":3,"without_ns":[1000,990,1010],"with_ns":[1040,1030,1050],"cost_ns":[40,30,50],"sending_ns":[200,190,210],"program_ns":60}"#,
            r#"{"record":"relay","of":"counting","program":"nwu_egress","octets":84,"rounds":3,"without_ns":[1000,990,1010],"with_ns":[1040,1030,1050],"cost_ns":[40,30,50],"nothing_ns":[7,3,9],"sending_ns":[200,190,210],"program_ns":60}"#,
            r#"{"record":"relay","of":"stream","direction":"uplink","octets":64,"one_processor":true,"user_best":100000,"user_flood":50000,"kernel_flood":500000,"forward_flood":1000000}"#,
            r#"{"record":"relay","of":"profile","way":"kernel","direction":"uplink","octets":64,"rate":500000,"symbols":[["relay_uplink",7.5]]}"#,
            r#"{"record":"relay","of":"esp","way":"kernel","octets":64,"rates":[90,80,100],"counting_ns":1000000}"#,
            r#"{"record":"relay","of":"esp","way":"plain forwarding","octets":64,"rates":[100,100,100]}"#,
        ]
        .map(read);
        let text = relay(&records);
        for row in [
            "| `relay_uplink` | 64 | 250 (240..260) | 300 (290..310) | 10000 | 1.20 (1.10..1.30) |",
            "| `relay_uplink` | 64 | 1 | 150 (149..151) | 50 | 100 | 700000 |",
            "| 40 (30..50) | not measured | 200 (190..210) | 4.0 % | 5.0 % | 60 |",
            "| 40 (30..50) | 7 (3..9) | 200 (190..210) | 4.0 % | 5.0 % | 60 |",
            "| uplink, 64, one | 100000 | 50000 | 500000 | 1000000 | 5.0 | 10.0 | 0.50 | 10.0 |",
            "kernel, uplink: 500000 packets/s",
            "| `relay_uplink` | 7.50 |",
            "| kernel | 64 | 90, 80, 100 | 90 | 0.90 | 1000000 | 9.0 % |",
        ] {
            assert!(text.contains(row), "no {row:?} in\n{text}");
        }
        assert_eq!(relay(&records[..0]), "");
    }
}
