//! Replies as text, in the shape of `swanctl --list-sas` with QKD and 5G columns.

use std::io::{self, Write};

use serde_json::Value;

/// A member as text; empty when it is not there.
pub(crate) fn text(value: &Value, key: &str) -> String {
    match value.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            let words: Vec<String> = items.iter().map(word).collect();
            words.join(" ")
        }
        Some(other) => other.to_string(),
    }
}

pub(crate) fn status(out: &mut impl Write, reply: &Value) -> io::Result<()> {
    let mut line = |name: &str, text: String| match text.is_empty() {
        true => Ok(()),
        false => writeln!(out, "{name:<16} {text}"),
    };
    line("state", text(reply, "state"))?;
    line("supi", text(reply, "supi"))?;
    line("5g-guti", text(reply, "guti"))?;
    let modes = text(reply, "modes");
    if !modes.is_empty() {
        line("key modes", format!("{modes}, {}", text(reply, "policy")))?;
    }
    line("nas security", text(reply, "nasSecurity"))?;
    line("inner address", text(reply, "innerAddress"))?;
    line("last failure", text(reply, "lastFailure"))?;
    line("next attempt ms", text(reply, "retryInMs"))?;
    timeline(out, reply)?;
    ike(out, reply, false)?;
    session_lines(out, reply)
}

pub(crate) fn sas(out: &mut impl Write, reply: &Value) -> io::Result<()> {
    ike(out, reply, true)
}

pub(crate) fn sessions(out: &mut impl Write, reply: &Value) -> io::Result<()> {
    session_lines(out, reply)?;
    for traffic in array(reply, "traffic") {
        writeln!(
            out,
            "  session {}: up {}, down {}",
            text(traffic, "id"),
            packets(traffic.get("uplink")),
            packets(traffic.get("downlink")),
        )?;
    }
    Ok(())
}

pub(crate) fn keys(out: &mut impl Write, reply: &Value) -> io::Result<()> {
    let total = reply.get("total").unwrap_or(&Value::Null);
    writeln!(
        out,
        "fetched {} = used {} + lost {} + held {}",
        text(total, "fetched"),
        text(total, "used"),
        text(total, "lost"),
        text(total, "held"),
    )?;
    for key in array(reply, "keys") {
        writeln!(
            out,
            "  {}  {:<5}  {:<10}  {}",
            text(key, "id"),
            text(key, "state"),
            text(key, "sa"),
            text(key, "purpose"),
        )?;
    }
    for endpoint in array(reply, "kms") {
        let state = match endpoint.get("healthy").and_then(Value::as_bool) {
            Some(true) => "ok".to_owned(),
            _ => text(endpoint, "error"),
        };
        writeln!(out, "KMS {}  {state}", text(endpoint, "url"))?;
    }
    Ok(())
}

fn timeline(out: &mut impl Write, reply: &Value) -> io::Result<()> {
    let rows = array(reply, "timeline");
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{:<8} {:>10} {:>10} {:>10}",
        "phase", "wall ms", "own ms", "kms ms"
    )?;
    let ms = |row: &Value, key: &str| row.get(key).and_then(Value::as_f64).unwrap_or(0.0) / 1000.0;
    let mut sum = [0.0; 3];
    for row in rows {
        let times = [ms(row, "wall_us"), ms(row, "own_us"), ms(row, "kms_us")];
        for (sum, time) in sum.iter_mut().zip(times) {
            *sum += time;
        }
        let [wall, own, kms] = times;
        writeln!(
            out,
            "{:<8} {wall:>10.2} {own:>10.2} {kms:>10.2}",
            text(row, "phase")
        )?;
    }
    let [wall, own, kms] = sum;
    writeln!(out, "{:<8} {wall:>10.2} {own:>10.2} {kms:>10.2}", "total")
}

fn ike(out: &mut impl Write, reply: &Value, counters: bool) -> io::Result<()> {
    for sa in array(reply, "ike") {
        writeln!(
            out,
            "\nike-{}: {}, {}, {}_i* {}_r",
            text(sa, "id"),
            text(sa, "state"),
            text(sa, "mode"),
            text(sa, "spiI"),
            text(sa, "spiR"),
        )?;
        writeln!(out, "  local  {}", text(sa, "local"))?;
        writeln!(
            out,
            "  remote {}  SAE {}",
            text(sa, "remote"),
            text(sa, "peerSae")
        )?;
        let age = text(sa, "establishedS");
        if !age.is_empty() {
            writeln!(out, "  {}  established {age} s ago", text(sa, "suite"))?;
        }
        let method = text(sa, "keyExchange");
        if method.is_empty() {
            writeln!(
                out,
                "  {} retransmissions, {} keys held, keys {}",
                text(sa, "retransmits"),
                text(sa, "heldKeys"),
                short(sa),
            )?;
        } else {
            let again = text(sa, "retransmits");
            writeln!(out, "  {again} retransmissions, key exchange {method}")?;
        }
        let fallback = text(sa, "fallback");
        if !fallback.is_empty() {
            writeln!(out, "  FALLBACK {fallback}")?;
        }
        for child in array(sa, "children") {
            writeln!(
                out,
                "  child-{}: {}, {}, ESP:{}, installed {} s ago",
                text(child, "id"),
                text(child, "carries"),
                if child.get("up").and_then(Value::as_bool) == Some(true) {
                    "UP"
                } else {
                    "DOWN"
                },
                text(child, "suite"),
                text(child, "upS"),
            )?;
            writeln!(
                out,
                "    in  {}  out {}  if slot {}  keys {}",
                text(child, "spiIn"),
                text(child, "spiOut"),
                text(child, "slot"),
                short(child),
            )?;
            let reading = array(reply, "readings")
                .iter()
                .find(|reading| reading.get("id") == child.get("id"));
            if let Some(reading) = reading.filter(|_| counters) {
                writeln!(
                    out,
                    "    kernel in {}, out {}; eBPF in {}, out {}",
                    packets(reading.get("kernel_in")),
                    packets(reading.get("kernel_out")),
                    packets(reading.get("ebpf_in")),
                    packets(reading.get("ebpf_out")),
                )?;
            }
        }
    }
    Ok(())
}

fn session_lines(out: &mut impl Write, reply: &Value) -> io::Result<()> {
    for session in array(reply, "sessions") {
        let id = text(session, "id");
        if session.get("up").and_then(Value::as_bool) != Some(true) {
            writeln!(
                out,
                "\npdu-session-{id}: DOWN  {}",
                text(session, "failure")
            )?;
            continue;
        }
        writeln!(
            out,
            "\npdu-session-{id}: UP  {}  MTU {}  DNN {}  S-NSSAI {}  QFI {} (default {})",
            text(session, "address"),
            text(session, "mtu"),
            text(session, "dnn"),
            text(session, "sNssai"),
            text(session, "qfis"),
            text(session, "defaultQfi"),
        )?;
    }
    Ok(())
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The first eight digits of each key ID.
fn short(value: &Value) -> String {
    let ids = array(value, "keyIds").iter().map(word);
    let short: Vec<String> = ids.map(|id| id.chars().take(8).collect()).collect();
    short.join(" ")
}

fn packets(traffic: Option<&Value>) -> String {
    match traffic {
        Some(traffic) if !traffic.is_null() => {
            format!(
                "{} packets {} octets",
                text(traffic, "packets"),
                text(traffic, "bytes")
            )
        }
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(print: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_key_account_reads_as_an_equation() {
        let reply = json!({
            "total": {"fetched": 7, "used": 5, "lost": 0, "held": 2},
            "keys": [{"id": "0b2e9c4e-5a77-4a4d-8f0e-0123456789ab", "state": "used", "sa": "IKE SA 1", "purpose": "SK_ei"}],
            "kms": [{"url": "https://kme", "healthy": false, "error": "gone"}],
        });
        let text = printed(|out| keys(out, &reply));
        assert!(text.starts_with("fetched 7 = used 5 + lost 0 + held 2\n"));
        assert!(text.contains("SK_ei") && text.contains("KMS https://kme  gone"));
    }

    #[test]
    fn a_fallback_stands_out() {
        let reply = json!({
            "modes": ["qkd-native", "psk"], "policy": "prefer-qkd",
            "ike": [{"mode": "psk", "keyExchange": "ECP_384", "fallback": "qkd-native psk -> psk: no KMS"}],
        });
        let text = printed(|out| status(out, &reply));
        assert!(
            text.contains("key modes        qkd-native psk, prefer-qkd\n"),
            "{text}"
        );
        assert!(
            text.contains("\n  FALLBACK qkd-native psk -> psk: no KMS\n"),
            "{text}"
        );
        assert!(text.contains("key exchange ECP_384"), "{text}");
    }

    #[test]
    fn anything_is_printed_without_a_panic() {
        for reply in [
            json!(null),
            json!({}),
            json!({"ike": [{}], "sessions": [null], "timeline": [{}]}),
        ] {
            printed(|out| status(out, &reply));
            printed(|out| sas(out, &reply));
            printed(|out| sessions(out, &reply));
            printed(|out| keys(out, &reply));
        }
    }

    #[test]
    fn the_timeline_has_a_total() {
        let reply = json!({"timeline": [
            {"phase": "INIT", "wall_us": 1500, "own_us": 500, "kms_us": 700},
            {"phase": "AUTH", "wall_us": 2500, "own_us": 500, "kms_us": 0},
        ]});
        let text = printed(|out| status(out, &reply));
        let total = text.lines().last().unwrap();
        assert_eq!(
            total.split_whitespace().collect::<Vec<_>>(),
            ["total", "4.00", "1.00", "0.70"]
        );
    }
}
