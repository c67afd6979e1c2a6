//! Table II: octets of each message, and how many of them are nonces, key IDs and certificates.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use e2e::dissect::{self, IkeFrame, PayloadSize};
use e2e::octets;
use e2e::table_ii::{Attach, ROWS, Row};

use super::Table;
use crate::records::{Frames, Message, Mode, Record};

/// Payload types (RFC 7296, 3.2).
const KE: u8 = 34;
const CERT: u8 = 37;
const AUTH: u8 = 39;
const NONCE: u8 = 40;
const NOTIFY: u8 = 41;
/// Notify messages that carry QKD key IDs.
const QKD_KEY_IDS: u16 = 61_441;
/// An AUTH payload larger than this is a signature with a certificate beside it.
const LARGEST_MAC: usize = 8 + 64;

/// The messages of an attach, from its capture and the keys to open it, through tshark.
///
/// # Errors
/// When a message is missing or could not be decrypted.
pub fn captured(mode: Mode, capture: &Path, keys: &Path) -> Result<Frames> {
    let opened = dissect::opened(capture, keys)?;
    measured(mode, &opened.frames).with_context(|| format!("{mode}"))
}

/// The messages of an attach out of those of its capture.
fn measured(mode: Mode, frames: &[IkeFrame]) -> Result<Frames> {
    let attach = match mode {
        Mode::Hybrid => Attach::find_hybrid(frames)?,
        _ => Attach::find(frames)?,
    };
    let messages = octets::explain(&attach)?;
    Ok(Frames {
        mode,
        messages: messages
            .iter()
            .map(|message| {
                let sum = |which: fn(&PayloadSize) -> bool| -> usize {
                    let payloads = message.payloads.iter();
                    payloads.filter(|p| which(p)).map(|p| p.length).sum()
                };
                Message {
                    name: message.row.name.to_owned(),
                    octets: message.total(),
                    nonce: sum(|p| p.kind == NONCE),
                    key_ids: sum(|p| p.kind == NOTIFY && p.notify == Some(QKD_KEY_IDS)),
                    certificate: sum(|p| {
                        p.kind == CERT || (p.kind == AUTH && p.length > LARGEST_MAC)
                    }),
                    key_exchange: sum(|p| p.kind == KE),
                }
            })
            .collect(),
    })
}

/// A column of the paper's table: its name, and its octets in a row.
type Column = (&'static str, fn(&Row) -> usize);

/// The paper's column for a mode.
const fn column(mode: Mode) -> Option<Column> {
    match mode {
        Mode::Qkd | Mode::QkdAhead | Mode::QkdPaper => Some(("QKD", |row| row.qkd)),
        Mode::Psk | Mode::PskX25519 => Some(("PSK", |row| row.psk)),
        Mode::Cert => Some(("certificate", |row| row.certificate)),
        Mode::Hybrid => None,
    }
}

/// Table II, and the shares.
#[must_use]
pub fn frames(records: &[Record]) -> String {
    let all: Vec<&Frames> = records
        .iter()
        .filter_map(|record| match record {
            Record::Frames(frames) => Some(frames),
            _ => None,
        })
        .collect();
    if all.is_empty() {
        return String::new();
    }
    let mut text = table(&all);
    text.push_str("What of it are nonces, key IDs, certificates with their signatures, and key exchanges:\n\n");
    let mut shares = Table::new(&[
        "mode",
        "octets",
        "nonces",
        "key IDs",
        "certificates",
        "key exchange",
        "paper",
        "of the paper's",
        "of the paper's QKD",
    ]);
    let paper_qkd: usize = ROWS.iter().map(|row| row.qkd).sum();
    for frames in &all {
        let sum = |of: fn(&Message) -> usize| -> usize { frames.messages.iter().map(of).sum() };
        let total = sum(|m| m.octets);
        let part = |octets: usize| format!("{octets} ({})", percent(octets, total));
        let paper: Option<usize> = column(frames.mode).map(|(_, of)| ROWS.iter().map(of).sum());
        shares.row(&[
            frames.mode.name().to_owned(),
            total.to_string(),
            part(sum(|m| m.nonce)),
            part(sum(|m| m.key_ids)),
            part(sum(|m| m.certificate)),
            part(sum(|m| m.key_exchange)),
            paper.map_or_else(String::new, |paper| paper.to_string()),
            paper.map_or_else(String::new, |paper| percent(total, paper)),
            percent(total, paper_qkd),
        ]);
    }
    text.push_str(&shares.end());
    let _ = writeln!(
        text,
        "[sizes.md](sizes.md) takes each message apart to the octet.\n"
    );
    text
}

/// Messages by mode, each beside the paper's.
fn table(all: &[&Frames]) -> String {
    let mut heads = vec!["message".to_owned()];
    for frames in all {
        heads.push(frames.mode.name().to_owned());
        if let Some((name, _)) = column(frames.mode) {
            heads.push(format!("paper, {name}"));
        }
    }
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let mut table = Table::new(&heads);
    // The mode with the most messages has those of all others, and its own where they belong.
    let longest = all.iter().max_by_key(|frames| frames.messages.len());
    let mut names: Vec<&str> = longest
        .iter()
        .flat_map(|frames| &frames.messages)
        .map(|message| message.name.as_str())
        .collect();
    for row in &ROWS {
        if !names.contains(&row.name) {
            names.push(row.name);
        }
    }
    let mut sums = vec![0; heads.len()];
    for name in names {
        let mut cells = Vec::new();
        for frames in all {
            let found = frames.messages.iter().find(|message| message.name == name);
            cells.push(found.map(|message| message.octets));
            if let Some((_, of)) = column(frames.mode) {
                cells.push(ROWS.iter().find(|row| row.name == name).map(of));
            }
        }
        for (sum, cell) in sums.iter_mut().zip(&cells) {
            *sum += cell.unwrap_or(0);
        }
        let mut row = vec![name.to_owned()];
        row.extend(
            cells
                .iter()
                .map(|cell| cell.map_or_else(String::new, |n| n.to_string())),
        );
        table.row(&row);
    }
    let mut row = vec!["**total**".to_owned()];
    row.extend(
        sums.iter()
            .take(heads.len() - 1)
            .map(|sum| format!("**{sum}**")),
    );
    table.row(&row);
    table.end()
}

fn percent(part: usize, whole: usize) -> String {
    let per_mille = (part * 1000 + whole / 2) / whole.max(1);
    format!("{}.{} %", per_mille / 10, per_mille % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame on port 4500 whose SK payload has this one in it.
    fn protected(
        exchange: u8,
        message_id: u32,
        response: bool,
        kind: u8,
        length: usize,
    ) -> IkeFrame {
        let payload = |kind, length| PayloadSize {
            kind,
            length,
            notify: None,
        };
        let sk = length + 29;
        IkeFrame {
            number: 1,
            length: 14 + 20 + 8 + 4 + 28 + sk,
            exchange,
            message_id,
            response,
            from_initiator: !response,
            encapsulated: true,
            payloads: vec![payload(46, sk), payload(kind, length)],
        }
    }

    /// The messages of an attach with so many exchanges between IKE_SA_INIT and IKE_AUTH.
    fn exchanges(intermediate: u32) -> Vec<IkeFrame> {
        let both = |exchange, id, kind, length| {
            [false, true].map(|response| protected(exchange, id, response, kind, length))
        };
        let mut init = both(34, 0, NONCE, 36);
        for frame in &mut init {
            frame.payloads.remove(0);
            frame.length -= 29;
        }
        init.into_iter()
            .chain((1..=intermediate).flat_map(|id| both(43, id, KE, 1192)))
            .chain((1..=5).flat_map(|n| both(35, intermediate + n, 48, 100)))
            .chain(both(36, 0, NONCE, 36))
            .collect()
    }

    #[test]
    fn a_hybrid_attach_is_taken_apart_with_its_intermediate_exchanges() {
        let hybrid = measured(Mode::Hybrid, &exchanges(2)).unwrap();
        assert_eq!(hybrid.messages.len(), ROWS.len() + 4);
        let of = |name: &str| hybrid.messages.iter().find(|m| m.name == name).unwrap();
        assert_eq!(of("IKE_INTERMEDIATE 1 request").key_exchange, 1192);
        assert_eq!(of("IKE_AUTH 5 response").octets, 46 + 28 + 129);
        let without = measured(Mode::Hybrid, &exchanges(0)).unwrap_err();
        assert_eq!(without.to_string(), "IKE_INTERMEDIATE 1 request is missing");
        let qkd = measured(Mode::Qkd, &exchanges(0)).unwrap();
        let text = frames(&[Record::Frames(qkd), Record::Frames(hybrid)]);
        let row = |name: &str| {
            text.lines()
                .position(|line| line.starts_with(&format!("| {name} |")))
        };
        assert_eq!(
            row("IKE_INTERMEDIATE 1 request"),
            row("IKE_SA_INIT response").map(|at| at + 1),
            "{text}"
        );
        assert!(
            text.contains("| IKE_INTERMEDIATE 2 response |  |  | 1295 |"),
            "{text}"
        );
    }

    #[test]
    fn the_columns_sum_up_beside_the_papers() {
        let messages = ROWS
            .iter()
            .map(|row| Message {
                name: row.name.to_owned(),
                octets: row.qkd / 2,
                nonce: 36,
                key_ids: 0,
                certificate: 0,
                key_exchange: 0,
            })
            .collect();
        let text = frames(&[Record::Frames(Frames {
            mode: Mode::Qkd,
            messages,
        })]);
        assert!(text.contains("| message | qkd | paper, QKD |"), "{text}");
        assert!(
            text.contains("| IKE_SA_INIT request | 214 | 428 |"),
            "{text}"
        );
        assert!(
            text.contains("| **total** | **2495** | **4991** |"),
            "{text}"
        );
        assert!(
            text.contains("504 (20.2 %)") && text.contains("50.0 %"),
            "{text}"
        );
    }
}
