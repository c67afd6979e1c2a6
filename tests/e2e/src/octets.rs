//! What each octet of an attach is for, from a decrypted capture.

use std::fmt;

use anyhow::{Result, ensure};

use crate::{
    dissect::{IkeFrame, PayloadSize},
    table_ii::{Attach, Row},
};

const ETHERNET_IP_UDP: usize = 14 + 20 + 8;
const NON_ESP_MARKER: usize = 4;
const IKE_HEADER: usize = 28;
const SK: u8 = 46;

/// One message, taken apart.
#[derive(Clone, Debug)]
pub struct Message {
    /// Which one.
    pub row: Row,
    /// Ethernet, IPv4, UDP and, on port 4500, the non-ESP marker.
    pub carriage: usize,
    /// IKE header.
    pub header: usize,
    /// SK generic header, IV, padding, pad length and ICV.
    pub protection: usize,
    /// Payloads with their sizes.
    pub payloads: Vec<PayloadSize>,
}

impl Message {
    /// All octets.
    pub fn total(&self) -> usize {
        let payloads: usize = self.payloads.iter().map(|payload| payload.length).sum();
        self.carriage + self.header + self.protection + payloads
    }
}

/// Takes the messages of an attach apart. Every octet of every frame is accounted for, or it is an
/// error: a message that was not decrypted has octets that nothing explains.
pub fn explain(attach: &Attach<'_, IkeFrame>) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    for (row, frame) in attach.rows() {
        let marker = if frame.encapsulated {
            NON_ESP_MARKER
        } else {
            0
        };
        let carriage = ETHERNET_IP_UDP + marker;
        let (sk, payloads): (Vec<PayloadSize>, Vec<PayloadSize>) = frame
            .payloads
            .iter()
            .partition(|payload| payload.kind == SK);
        let inner: usize = payloads.iter().map(|payload| payload.length).sum();
        let protection = match sk.first() {
            Some(sk) => {
                ensure!(!payloads.is_empty(), "{} was not decrypted", row.name);
                let rest = sk.length.checked_sub(inner);
                rest.ok_or_else(|| anyhow::anyhow!("{}: payloads exceed SK", row.name))?
            }
            None => 0,
        };
        let message = Message {
            row: *row,
            carriage,
            header: IKE_HEADER,
            protection,
            payloads,
        };
        ensure!(
            message.total() == frame.length,
            "{}: {} of {} octets explained",
            row.name,
            message.total(),
            frame.length
        );
        messages.push(message);
    }
    Ok(messages)
}

/// A Markdown table of [`explain`].
pub struct Markdown<'a>(pub &'a [Message]);

impl fmt::Display for Markdown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| message | octets | Ethernet, IP, UDP | IKE header | SK | payloads |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|---|")?;
        let mut sums = [0; 4];
        for message in self.0 {
            let names: Vec<String> = message
                .payloads
                .iter()
                .map(|payload| format!("{} {}", payload.name(), payload.length))
                .collect();
            let columns = [
                message.total(),
                message.carriage,
                message.header,
                message.protection,
            ];
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum += column;
            }
            let [total, carriage, header, protection] = columns;
            writeln!(
                f,
                "| {} | {total} | {carriage} | {header} | {protection} | {} |",
                message.row.name,
                names.join(", ")
            )?;
        }
        let [total, carriage, header, protection] = sums;
        let rest = total - carriage - header - protection;
        writeln!(
            f,
            "| **total** | **{total}** | {carriage} | {header} | {protection} | {rest} |"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table_ii::ROWS;

    #[test]
    fn octets_that_nothing_explains_are_an_error() {
        let frame = |length, payloads: &[(u8, usize)]| IkeFrame {
            number: 1,
            length,
            exchange: 34,
            message_id: 0,
            response: false,
            from_initiator: true,
            encapsulated: false,
            payloads: payloads
                .iter()
                .map(|&(kind, length)| PayloadSize {
                    kind,
                    length,
                    notify: None,
                })
                .collect(),
        };
        let explained = |frame: &IkeFrame| {
            let attach = Attach::of(vec![(ROWS[0], frame)]);
            explain(&attach).map(|messages| messages[0].protection)
        };
        assert_eq!(explained(&frame(138, &[(33, 32), (40, 36)])).unwrap(), 0);
        assert!(explained(&frame(139, &[(33, 32), (40, 36)])).is_err());
        assert_eq!(
            explained(&frame(170, &[(46, 100), (33, 32), (40, 36)])).unwrap(),
            32
        );
        assert!(
            explained(&frame(170, &[(46, 100)])).is_err(),
            "not decrypted"
        );
        assert!(explained(&frame(170, &[(46, 60), (33, 32), (40, 36)])).is_err());
    }
}
