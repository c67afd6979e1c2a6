//! Keys from a KME, and what a key rate allows.

use super::Table;
use crate::figures::Line;
use crate::records::{ECHO, KeyRate, Keys, Record};
use crate::stats::real;

/// Latency and speed of the client, then attaches by key rate.
#[must_use]
pub fn qkd(records: &[Record]) -> String {
    let mut text = String::new();
    let mut calls = Table::new(&[
        "call, connection",
        "keys",
        "requests",
        "failed",
        "median µs",
        "p95 µs",
        "mean µs",
        "keys per second",
    ]);
    let mut seen = false;
    for record in records {
        let Record::Keys(keys) = record else { continue };
        seen = true;
        let [median, p95, mean] = keys.latency_us;
        let connection = match keys {
            Keys { call, .. } if call == ECHO => "an octet and nothing else, rested",
            Keys { bare: true, .. } => "warm, rested, bare client",
            Keys { warm: false, .. } => "cold",
            Keys { pause_ms: 0, .. } => "warm",
            Keys { .. } => "warm, rested",
        };
        calls.row(&[
            format!("`{}`, {connection}", keys.call),
            keys.keys.to_string(),
            keys.requests.to_string(),
            keys.failed.to_string(),
            format!("{median:.0}"),
            format!("{p95:.0}"),
            format!("{mean:.0}"),
            format!("{:.0}", keys.per_second),
        ]);
    }
    if seen {
        text.push_str("One request at a time; *cold* opens TCP and TLS with mutual authentication for each. *Rested* is a request after a pause in which client and KME sleep, as before an attach, for the keys of IKE_SA_INIT; the *bare client* is a blocking socket with TLS and nothing else, so what it takes no client falls below. The *echo* is an octet to a thread of the same process that waits for it, and back: what waking two that sleep takes, whatever they have to say.\n\n");
        text.push_str(&calls.end());
    }
    let rates = key_rates(records);
    if !rates.is_empty() {
        text.push_str("Attaches that a QKD link allows, at most four under way. The limit is its key rate over the keys of an attach; the KMEs have room for the keys of a quarter of a second, and none at first.\n\n");
        let mut table = Table::new(&[
            "keys per second",
            "keys per attach",
            "seconds",
            "done",
            "failed",
            "attaches per second",
            "limit",
            "of the limit",
        ]);
        for rate in &rates {
            let done = real(rate.done) / rate.seconds.max(1e-9);
            let limit = limit(rate);
            table.row(&[
                format!("{:.0}", rate.keys_per_second),
                rate.keys_per_attach.to_string(),
                format!("{:.1}", rate.seconds),
                rate.done.to_string(),
                rate.failed.to_string(),
                format!("{done:.1}"),
                format!("{limit:.1}"),
                format!("{:.0} %", done / limit.max(1e-9) * 100.0),
            ]);
        }
        text.push_str(&table.end());
        for rate in rates {
            for (why, number) in &rate.why {
                let keys = rate.keys_per_second;
                text.push_str(&format!(
                    "Failed at {keys:.0} keys per second: {number} ({why}).\n\n"
                ));
            }
        }
    }
    text
}

fn limit(rate: &KeyRate) -> f64 {
    rate.keys_per_second / real(rate.keys_per_attach.max(1))
}

fn key_rates(records: &[Record]) -> Vec<&KeyRate> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::KeyRate(rate) => Some(rate),
            _ => None,
        })
        .collect()
}

/// Attaches per second over the key rate, and the limit.
#[must_use]
pub fn key_rate_lines(records: &[Record]) -> Vec<Line> {
    let rates = key_rates(records);
    if rates.is_empty() {
        return Vec::new();
    }
    let measured = rates.iter().map(|rate| {
        (
            rate.keys_per_second,
            real(rate.done) / rate.seconds.max(1e-9),
        )
    });
    let theory = rates.iter().map(|rate| (rate.keys_per_second, limit(rate)));
    vec![
        Line {
            name: "attaches per second".to_owned(),
            points: measured.collect(),
            theory: false,
        },
        Line {
            name: "limit of the link".to_owned(),
            points: std::iter::once((0.0, 0.0)).chain(theory).collect(),
            theory: true,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_that_of_the_link() {
        let records = [Record::KeyRate(KeyRate {
            keys_per_second: 70.0,
            keys_per_attach: 7,
            seconds: 10.0,
            done: 90,
            failed: 3,
            why: std::iter::once(("no keys".to_owned(), 3)).collect(),
        })];
        assert!(
            qkd(&records).contains("| 9.0 | 10.0 | 90 % |"),
            "{}",
            qkd(&records)
        );
        assert!(
            qkd(&records).contains("Failed at 70 keys per second: 3 (no keys)."),
            "{}",
            qkd(&records)
        );
        assert_eq!(
            key_rate_lines(&records)[1].points,
            [(0.0, 0.0), (70.0, 10.0)]
        );
    }
}
