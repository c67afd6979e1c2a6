//! Table II of arXiv 2603.24426: octets per Ethernet frame of each message of an attach.

use std::fmt;

use anyhow::{Result, bail, ensure};

/// A message of an attach, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Name as in the table.
    pub name: &'static str,
    /// The paper's PSK column (its 286 for the CREATE_CHILD_SA request is a misprint of 486: only
    /// with that its column sums to the printed 5388).
    pub psk: usize,
    /// The paper's certificate column.
    pub certificate: usize,
    /// The paper's QKD column.
    pub qkd: usize,
}

const fn row(name: &'static str, psk: usize, certificate: usize, qkd: usize) -> Row {
    Row {
        name,
        psk,
        certificate,
        qkd,
    }
}

/// The table.
pub const ROWS: [Row; 14] = [
    row("IKE_SA_INIT request", 698, 698, 428),
    row("IKE_SA_INIT response", 698, 698, 1099),
    row("IKE_AUTH 1 request", 214, 1494, 214),
    row("IKE_AUTH 1 response", 1446, 1446, 1446),
    row("IKE_AUTH 2 request", 182, 182, 182),
    row("IKE_AUTH 2 response", 166, 166, 166),
    row("IKE_AUTH 3 request", 150, 150, 150),
    row("IKE_AUTH 3 response", 150, 150, 150),
    row("IKE_AUTH 4 request", 182, 182, 182),
    row("IKE_AUTH 4 response", 118, 118, 118),
    row("IKE_AUTH 5 request", 150, 118, 150),
    row("IKE_AUTH 5 response", 278, 246, 278),
    row("CREATE_CHILD_SA request", 486, 486, 230),
    row("CREATE_CHILD_SA response", 470, 470, 198),
];

/// Sum of the paper's QKD column as printed.
pub const QKD_TOTAL: usize = 4991;

/// Octets of IKE_SA_INIT that nothing known explains: its request is 426 by the wire format.
pub const UNEXPLAINED: usize = 2;

/// What profile `native` may take altogether: 55 % of the paper's QKD column.
pub const NATIVE_BUDGET: usize = 2750;

/// What the table needs to know of a captured IKE message.
pub trait Frame {
    /// Octets of the Ethernet frame.
    fn length(&self) -> usize;
    /// Exchange type (RFC 7296 section 3.1).
    fn exchange(&self) -> u8;
    /// Message ID.
    fn message_id(&self) -> u32;
    /// The R flag.
    fn is_response(&self) -> bool;
}

/// The frames of one attach beside the table's rows.
#[derive(Clone, Debug)]
pub struct Attach<'a, F>(Vec<(Row, &'a F)>);

impl<'a, F: Frame> Attach<'a, F> {
    /// Picks the fourteen messages of the first attach out of a capture.
    ///
    /// An error if one is missing, or was sent twice: sizes of a disturbed run say nothing.
    pub fn find(frames: &'a [F]) -> Result<Self> {
        let mut found = Vec::new();
        for (index, row) in ROWS.into_iter().enumerate() {
            let response = index % 2 == 1;
            let (exchange, id) = match index / 2 {
                0 => (34, 0),
                round @ 1..=5 => (35, u32::try_from(round)?),
                _ => (36, 0),
            };
            let mut matching = frames.iter().filter(|frame| {
                (frame.exchange(), frame.message_id(), frame.is_response())
                    == (exchange, id, response)
            });
            let Some(frame) = matching.next() else {
                bail!("{} is missing", row.name);
            };
            ensure!(matching.next().is_none(), "{} was sent again", row.name);
            found.push((row, frame));
        }
        Ok(Self(found))
    }

    #[cfg(test)]
    pub(crate) fn of(rows: Vec<(Row, &'a F)>) -> Self {
        Self(rows)
    }

    /// Rows with their frames.
    pub fn rows(&self) -> &[(Row, &'a F)] {
        &self.0
    }

    /// All octets.
    pub fn total(&self) -> usize {
        self.0.iter().map(|(_, frame)| frame.length()).sum()
    }

    /// Profile `paper`: every frame as in the QKD column, IKE_SA_INIT within the unexplained octets.
    pub fn check_paper(&self) -> Result<()> {
        for (row, frame) in &self.0 {
            let slack = if frame.exchange() == 34 {
                UNEXPLAINED
            } else {
                0
            };
            ensure!(
                frame.length().abs_diff(row.qkd) <= slack,
                "{}: {} octets, the paper has {}",
                row.name,
                frame.length(),
                row.qkd
            );
        }
        Ok(())
    }

    /// Profile `native`: no message larger than the paper's, all of them within the budget.
    pub fn check_native(&self) -> Result<()> {
        for (row, frame) in &self.0 {
            // A nonce stands where the paper has none, so CREATE_CHILD_SA is compared with PSK.
            let bound = if frame.exchange() == 36 {
                row.psk
            } else {
                row.qkd
            };
            ensure!(
                frame.length() <= bound,
                "{}: {} octets, more than the paper's {bound}",
                row.name,
                frame.length()
            );
        }
        let total = self.total();
        ensure!(
            total <= NATIVE_BUDGET,
            "{total} octets, the budget is {NATIVE_BUDGET}"
        );
        Ok(())
    }
}

impl<F: Frame> fmt::Display for Attach<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<26} {:>8} {:>12}", "message", "octets", "paper (QKD)")?;
        for (row, frame) in &self.0 {
            writeln!(f, "{:<26} {:>8} {:>12}", row.name, frame.length(), row.qkd)?;
        }
        let total = self.total();
        let per_mille = total * 1000 / QKD_TOTAL;
        let share = format!("{}.{} %", per_mille / 10, per_mille % 10);
        writeln!(f, "{:<26} {total:>8} {QKD_TOTAL:>12}   {share}", "total")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dissect::IkeFrame;

    fn frames() -> Vec<IkeFrame> {
        let ids = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 0, 0];
        ROWS.iter()
            .zip(ids)
            .enumerate()
            .map(|(index, (row, message_id))| IkeFrame {
                number: 1,
                length: row.qkd,
                exchange: [34, 35, 35, 35, 35, 35, 36][index / 2],
                message_id,
                response: index % 2 == 1,
                from_initiator: index % 2 == 0,
                encapsulated: false,
                payloads: Vec::new(),
            })
            .collect()
    }

    #[test]
    fn the_columns_sum_to_what_is_printed() {
        let sum = |column: fn(&Row) -> usize| ROWS.iter().map(column).sum::<usize>();
        assert_eq!(sum(|row| row.qkd), QKD_TOTAL);
        assert_eq!(sum(|row| row.psk), 5388);
        assert_eq!(sum(|row| row.certificate), 6604);
    }

    #[test]
    fn checks_notice_one_octet() {
        let mut frames = frames();
        let attach = Attach::find(&frames).unwrap();
        attach.check_paper().unwrap();
        assert!(
            attach.check_native().is_err(),
            "the paper is over the budget"
        );
        frames[0].length -= 2;
        Attach::find(&frames).unwrap().check_paper().unwrap();
        frames[4].length += 16;
        assert!(Attach::find(&frames).unwrap().check_paper().is_err());
    }

    #[test]
    fn a_disturbed_run_is_refused() {
        let whole = frames();
        let missing: Vec<IkeFrame> = whole.iter().skip(1).cloned().collect();
        assert!(Attach::find(&missing).is_err());
        let twice: Vec<IkeFrame> = whole.iter().chain(&whole[3..4]).cloned().collect();
        assert!(Attach::find(&twice).is_err());
    }
}
