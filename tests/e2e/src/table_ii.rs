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

/// A column of the table: one way to key IKE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Column {
    /// K_N3IWF and Diffie-Hellman.
    Psk,
    /// Certificates and Diffie-Hellman.
    Certificate,
    /// QKD keys.
    #[default]
    Qkd,
}

impl Column {
    const fn name(self) -> &'static str {
        match self {
            Self::Psk => "paper (PSK)",
            Self::Certificate => "paper (cert)",
            Self::Qkd => "paper (QKD)",
        }
    }

    const fn of(self, row: &Row) -> usize {
        match self {
            Self::Psk => row.psk,
            Self::Certificate => row.certificate,
            Self::Qkd => row.qkd,
        }
    }

    /// All messages together.
    pub fn total(self) -> usize {
        ROWS.iter().map(|row| self.of(row)).sum()
    }
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

/// What mode `hybrid` has besides: ML-KEM, then the PPK (RFC 9370, RFC 9867).
const INTERMEDIATE: [Row; 4] = [
    row("IKE_INTERMEDIATE 1 request", 0, 0, 0),
    row("IKE_INTERMEDIATE 1 response", 0, 0, 0),
    row("IKE_INTERMEDIATE 2 request", 0, 0, 0),
    row("IKE_INTERMEDIATE 2 response", 0, 0, 0),
];

/// Octets of the largest frame of mode `hybrid`: an Ethernet header, and what every path takes.
const LARGEST_FRAME: usize = 14 + 1280;

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
pub struct Attach<'a, F> {
    rows: Vec<(Row, &'a F)>,
    column: Column,
}

impl<'a, F: Frame> Attach<'a, F> {
    /// Picks the fourteen messages of the first attach out of a capture.
    ///
    /// A retransmission is the same message again and counts once. An error if one is missing, or
    /// came again with another size.
    pub fn find(frames: &'a [F]) -> Result<Self> {
        Self::pick(frames, &[])
    }

    /// The same in mode `hybrid`, whose IKE_INTERMEDIATE exchanges come before IKE_AUTH.
    pub fn find_hybrid(frames: &'a [F]) -> Result<Self> {
        Self::pick(frames, &INTERMEDIATE)
    }

    fn pick(frames: &'a [F], between: &[Row]) -> Result<Self> {
        let mut found = Vec::new();
        let (init, rest) = ROWS.split_at(2);
        let rows = init.iter().chain(between).chain(rest);
        let intermediate = between.len() / 2;
        for (index, row) in rows.copied().enumerate() {
            let response = index % 2 == 1;
            let (exchange, id) = match index / 2 {
                0 => (34, 0),
                round if round <= intermediate => (43, u32::try_from(round)?),
                round if round <= intermediate + 5 => (35, u32::try_from(round)?),
                _ => (36, 0),
            };
            let mut matching = frames.iter().filter(|frame| {
                (frame.exchange(), frame.message_id(), frame.is_response())
                    == (exchange, id, response)
            });
            let Some(frame) = matching.next() else {
                bail!("{} is missing", row.name);
            };
            ensure!(
                matching.all(|again| again.length() == frame.length()),
                "{} was sent again with another size",
                row.name
            );
            found.push((row, frame));
        }
        Ok(Self {
            rows: found,
            column: Column::default(),
        })
    }

    #[cfg(test)]
    pub(crate) fn of(rows: Vec<(Row, &'a F)>) -> Self {
        Self {
            rows,
            column: Column::default(),
        }
    }

    /// Rows with their frames.
    pub fn rows(&self) -> &[(Row, &'a F)] {
        &self.rows
    }

    /// All octets.
    pub fn total(&self) -> usize {
        self.rows.iter().map(|(_, frame)| frame.length()).sum()
    }

    /// The same beside another column than that of QKD.
    #[must_use]
    pub fn beside(self, column: Column) -> Self {
        Self { column, ..self }
    }

    /// A mode with a key exchange: all messages together are no more than the paper's of its column.
    pub fn check_exchange(&self) -> Result<()> {
        let (total, most) = (self.total(), self.column.total());
        ensure!(total <= most, "{total} octets, the paper has {most}");
        Ok(())
    }

    /// Mode `hybrid`, which the paper has not: no frame is too large for a path of 1280 octets.
    pub fn check_hybrid(&self) -> Result<()> {
        for (row, frame) in &self.rows {
            let length = frame.length();
            ensure!(
                length <= LARGEST_FRAME,
                "{}: {length} octets, more than {LARGEST_FRAME}",
                row.name
            );
        }
        Ok(())
    }

    /// Profile `paper`: every frame as in the QKD column, IKE_SA_INIT within the unexplained octets.
    pub fn check_paper(&self) -> Result<()> {
        for (row, frame) in &self.rows {
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
        for (row, frame) in &self.rows {
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
        let column = self.column;
        writeln!(f, "{:<26} {:>8} {:>12}", "message", "octets", column.name())?;
        for (row, frame) in &self.rows {
            let paper = column.of(row);
            writeln!(f, "{:<26} {:>8} {paper:>12}", row.name, frame.length())?;
        }
        let (total, paper) = (self.total(), column.total());
        let per_mille = (total * 1000 + paper / 2) / paper;
        let share = format!("{}.{} %", per_mille / 10, per_mille % 10);
        writeln!(f, "{:<26} {total:>8} {paper:>12}   {share}", "total")
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
        assert_eq!(Column::Qkd.total(), QKD_TOTAL);
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
    fn a_key_exchange_is_held_to_its_column() {
        let mut frames = frames();
        let of = |frames: &[IkeFrame], column| {
            Attach::find(frames)
                .unwrap()
                .beside(column)
                .check_exchange()
        };
        of(&frames, Column::Psk).unwrap();
        frames[0].length += Column::Psk.total() - QKD_TOTAL + 1;
        assert!(of(&frames, Column::Psk).is_err());
        of(&frames, Column::Certificate).unwrap();
    }

    #[test]
    fn a_hybrid_attach_has_two_exchanges_more() {
        let mut frames = frames();
        assert!(Attach::find_hybrid(&frames).is_err());
        let create = frames.split_off(12);
        let mut auth = frames.split_off(2);
        for frame in &mut auth {
            frame.message_id += 2;
        }
        for (id, response) in [(1, false), (1, true), (2, false), (2, true)] {
            frames.push(IkeFrame {
                exchange: 43,
                message_id: id,
                response,
                length: LARGEST_FRAME,
                ..frames[0].clone()
            });
        }
        for frame in &mut frames {
            frame.length = frame.length.min(LARGEST_FRAME);
        }
        auth[1].length = LARGEST_FRAME;
        let frames: Vec<IkeFrame> = frames.into_iter().chain(auth).chain(create).collect();
        let attach = Attach::find_hybrid(&frames).unwrap();
        assert_eq!(attach.rows().len(), 18);
        assert_eq!(attach.rows()[6].0.name, "IKE_AUTH 1 request");
        attach.check_hybrid().unwrap();
        let mut large = frames.clone();
        large[3].length += 1;
        let attach = Attach::find_hybrid(&large).unwrap();
        assert!(attach.check_hybrid().is_err());
    }

    #[test]
    fn a_disturbed_run_is_refused() {
        let whole = frames();
        let missing: Vec<IkeFrame> = whole.iter().skip(1).cloned().collect();
        assert!(Attach::find(&missing).is_err());
        let mut twice: Vec<IkeFrame> = whole.iter().chain(&whole[3..4]).cloned().collect();
        let total = Attach::find(&whole).unwrap().total();
        assert_eq!(
            Attach::find(&twice).unwrap().total(),
            total,
            "a retransmission"
        );
        twice[14].length += 1;
        assert!(Attach::find(&twice).is_err());
    }
}
