//! `n3iwfctl top` and `n3iwfctl watch`: the overview again and again, with rates and changes.

mod live;

use std::{fmt::Write as _, time::Duration};

use dataplane::Traffic;
use serde::Serialize;
use serde_json::{Value, json};

pub use self::live::{Top, Watch, top, watch};
use crate::report::{Overview, UeTraffic};

/// What happened per second between two overviews.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Seconds between them.
    pub interval: f64,
    /// Attaches established.
    pub attaches: f64,
    /// Keys fetched.
    pub keys_fetched: f64,
    /// Keys used.
    pub keys_used: f64,
    /// User packets from UEs.
    pub up_packets: f64,
    /// Octets of those per second.
    pub up_bytes: f64,
    /// User packets to UEs.
    pub down_packets: f64,
    /// Octets of those per second.
    pub down_bytes: f64,
    /// Packets the relay did not pass on.
    pub drops: f64,
}

impl Rates {
    /// The rates between two overviews of one daemon; zero when it was restarted in between.
    pub fn between(before: &Overview, now: &Overview) -> Self {
        let Some(ms) = now
            .uptime_ms
            .checked_sub(before.uptime_ms)
            .filter(|ms| *ms > 0)
        else {
            return Self::default();
        };
        let interval = Duration::from_millis(ms).as_secs_f64();
        let rate = |pick: &dyn Fn(&Overview) -> u64| {
            pick(now).saturating_sub(pick(before)) as f64 / interval
        };
        Self {
            interval,
            attaches: rate(&established),
            keys_fetched: rate(&|o| o.keys.fetched),
            keys_used: rate(&|o| o.keys.used),
            up_packets: rate(&|o| o.traffic.user_in.packets),
            up_bytes: rate(&|o| o.traffic.user_in.bytes),
            down_packets: rate(&|o| o.traffic.user_out.packets),
            down_bytes: rate(&|o| o.traffic.user_out.bytes),
            drops: rate(&dropped),
        }
    }
}

fn established(overview: &Overview) -> u64 {
    let attaches = &overview.counts.attaches;
    attaches.get("established").copied().unwrap_or_default()
}

fn dropped(overview: &Overview) -> u64 {
    overview
        .traffic
        .drops
        .named()
        .iter()
        .map(|(_, count)| count)
        .sum()
}

/// One line of `watch --json` per interval.
pub fn record(now: &Overview, rates: Option<&Rates>) -> Value {
    json!({ "event": "interval", "rates": rates, "overview": now })
}

/// What changed between two overviews, one object each: UEs that came, went or changed their
/// state, AMFs, and KMS endpoints.
pub fn events(before: &Overview, now: &Overview) -> Vec<Value> {
    let mut events = Vec::new();
    if now.uptime_ms < before.uptime_ms {
        events.push(json!({ "event": "restarted" }));
    }
    for ue in &now.rows {
        let known = before.rows.iter().find(|row| row.ue == ue.ue);
        if known.is_none_or(|row| row.state != ue.state || row.sessions != ue.sessions) {
            events.push(json!({
                "event": "ue", "ue": ue.ue, "state": ue.state, "sessions": ue.sessions,
            }));
        }
    }
    // Rows are the lowest numbers: one above the last may only have moved out of sight.
    let seen = match now.rows.last() {
        Some(last) if now.status.ues > now.rows.len() => last.ue,
        _ => u32::MAX,
    };
    for row in &before.rows {
        if row.ue <= seen && !now.rows.iter().any(|ue| ue.ue == row.ue) {
            events.push(json!({ "event": "ue", "ue": row.ue, "state": "gone" }));
        }
    }
    for (amf, old) in now.status.amfs.iter().zip(&before.status.amfs) {
        if amf.state != old.state {
            events.push(json!({ "event": "amf", "amf": amf.address, "state": amf.state }));
        }
    }
    for (kms, old) in now.status.kms.iter().zip(&before.status.kms) {
        if kms["healthy"] != old["healthy"] {
            events.push(json!({
                "event": "kms", "url": kms["url"], "healthy": kms["healthy"], "error": kms["error"],
            }));
        }
    }
    events
}

/// The view of `top`, as many lines as fit.
pub fn view(now: &Overview, before: Option<&Overview>, width: usize, height: usize) -> Vec<String> {
    let rates = before
        .map(|before| Rates::between(before, now))
        .unwrap_or_default();
    let mut lines = head(now, &rates);
    lines.push(String::new());
    lines.push(format!(
        "{:>8} {:<14} {:<15} {:<21} {:>4} {:>9} {:>10} {:>9} {:>10}",
        "UE", "STATE", "INNER", "REMOTE", "SESS", "UP pkt/s", "UP", "DOWN pkt/s", "DOWN"
    ));
    let mut rows: Vec<_> = now
        .rows
        .iter()
        .map(|ue| (ue, flow(ue, before, rates.interval)))
        .collect();
    // Whoever sends or gets most comes first; a sum of octets is far from 2^53.
    rows.sort_by(|(a, x), (b, y)| {
        let busy = |flow: &Flow| flow.up.1 + flow.down.1;
        busy(y).total_cmp(&busy(x)).then(a.ue.cmp(&b.ue))
    });
    for (ue, flow) in rows {
        let inner = ue
            .inner
            .map_or_else(|| "-".to_owned(), |inner| inner.to_string());
        lines.push(format!(
            "{:>8} {:<14} {inner:<15} {:<21} {:>4} {:>9.0} {:>10} {:>10.0} {:>10}",
            ue.ue,
            ue.state,
            ue.remote.to_string(),
            ue.sessions,
            flow.up.0,
            bits(flow.up.1),
            flow.down.0,
            bits(flow.down.1),
        ));
    }
    let named = now.rows.len();
    if now.status.ues > named {
        lines.push(format!("and {} UEs more", now.status.ues - named));
    }
    lines.truncate(height);
    for line in &mut lines {
        // What a peer can influence is printed as text and nothing else.
        *line = line
            .chars()
            .filter(|c| !c.is_control())
            .take(width)
            .collect();
    }
    lines
}

struct Flow {
    up: (f64, f64),
    down: (f64, f64),
}

fn flow(ue: &UeTraffic, before: Option<&Overview>, interval: f64) -> Flow {
    let old = before.and_then(|before| before.rows.iter().find(|row| row.ue == ue.ue));
    let rate = |now: Traffic, old: Option<Traffic>| match old {
        Some(old) if interval > 0.0 => (
            now.packets.saturating_sub(old.packets) as f64 / interval,
            now.bytes.saturating_sub(old.bytes) as f64 / interval,
        ),
        _ => (0.0, 0.0),
    };
    Flow {
        up: rate(ue.up, old.map(|old| old.up)),
        down: rate(ue.down, old.map(|old| old.down)),
    }
}

fn head(now: &Overview, rates: &Rates) -> Vec<String> {
    let status = &now.status;
    let of = |name: &str, good: usize, all: usize| format!("{name} {good}/{all}");
    let amfs = status
        .amfs
        .iter()
        .filter(|amf| amf.state == "ready")
        .count();
    let kms = status
        .kms
        .iter()
        .filter(|kms| kms["healthy"] == true)
        .count();
    let mut ike: Vec<String> = now
        .ike_sas
        .iter()
        .map(|(state, mode, count)| format!("{count} {state} {mode}"))
        .collect();
    if ike.is_empty() {
        ike.push("none".to_owned());
    }
    let failed: Vec<String> = now
        .counts
        .attaches
        .iter()
        .filter(|(outcome, _)| *outcome != "established")
        .map(|(outcome, count)| format!("{outcome} {count}"))
        .collect();
    let keys = &now.keys;
    vec![
        format!(
            "n3iwf-user {}  up {}  {}  {}  {}",
            status.version,
            age(now.uptime_ms / 1000),
            if status.ready { "ready" } else { "NOT READY" },
            of("AMF", amfs, status.amfs.len()),
            of("KMS", kms, status.kms.len()),
        ),
        format!(
            "UEs      {}; PDU sessions {}",
            states(&now.ues),
            states(&now.sessions)
        ),
        format!(
            "IKE SAs  {}; {} half-open; Child SAs {} control, {} user",
            ike.join(", "),
            status.half_open,
            now.child_sas_control,
            now.child_sas_user
        ),
        format!(
            "attaches {} established, {:.1}/s; failed: {}; {} retransmissions, {} cookies",
            established(now),
            rates.attaches,
            if failed.is_empty() {
                "none".to_owned()
            } else {
                failed.join(", ")
            },
            now.retransmissions,
            now.cookies_sent,
        ),
        format!(
            "keys     fetched {} = used {} + lost {} + held {}{}; {:.1}/s",
            keys.fetched,
            keys.used,
            keys.lost,
            keys.held,
            if keys.balanced {
                ""
            } else {
                "  DOES NOT ADD UP"
            },
            rates.keys_fetched,
        ),
        stock(now, rates),
        format!(
            "user     up {:.0} pkt/s {}, down {:.0} pkt/s {}; dropped {} ({:.0}/s)",
            rates.up_packets,
            bits(rates.up_bytes),
            rates.down_packets,
            bits(rates.down_bytes),
            dropped(now),
            rates.drops,
        ),
    ]
}

/// The stock at the KMS as a bar, and how long it lasts when nothing comes in.
fn stock(now: &Overview, rates: &Rates) -> String {
    const WIDTH: u64 = 20;
    let Some(stock) = now.stock else {
        return "stock    unknown: the KMS was not asked yet, or does not tell".to_owned();
    };
    let full = stock
        .stored
        .min(stock.capacity)
        .saturating_mul(WIDTH)
        .checked_div(stock.capacity)
        .unwrap_or(0);
    let mut line = "stock    [".to_owned();
    for cell in 0..WIDTH {
        line.push(if cell < full { '#' } else { '-' });
    }
    // Writing to a string does not fail.
    let _ = write!(
        line,
        "] {} of {} keys, {}s ago",
        stock.stored, stock.capacity, stock.age
    );
    if rates.keys_fetched > 0.0 {
        let left = stock.stored as f64 / rates.keys_fetched;
        let _ = write!(
            line,
            "; lasts {} at this rate without any new",
            age(whole(left))
        );
    }
    line
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of a float saturates"
)]
const fn whole(seconds: f64) -> u64 {
    seconds as u64
}

fn states(counts: &std::collections::BTreeMap<String, usize>) -> String {
    let some: Vec<String> = counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    if some.is_empty() {
        "none".to_owned()
    } else {
        some.join(", ")
    }
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Octets per second as bits per second.
fn bits(bytes: f64) -> String {
    let mut value = bytes * 8.0;
    for unit in ["bit/s", "kbit/s", "Mbit/s"] {
        if value < 1000.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} Gbit/s")
}

#[cfg(test)]
mod tests;
