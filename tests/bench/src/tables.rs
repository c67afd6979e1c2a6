//! Tables in Markdown: each function turns the records of one file into a section, and each figure
//! in it is worked out from the records.

mod attach;
mod frames;
mod load;
mod qkd;
mod relay;
mod targets;

use std::fmt::Write;

pub use self::{
    attach::{attach, boxes},
    frames::{captured, frames},
    load::{latency_lines, maps, rate, rate_lines, scale, storms},
    qkd::{key_rate_lines, qkd},
    relay::relay,
    targets::{Stored, Target, targets, targets_table},
};
use crate::records::{Machine, Record};

/// The machine of a file, if it names one.
#[must_use]
pub fn machine(records: &[Record]) -> Option<&Machine> {
    records.iter().find_map(|record| match record {
        Record::Machine(machine) => Some(machine),
        _ => None,
    })
}

/// Where, when and by what command a file was made.
#[must_use]
pub fn origin(records: &[Record]) -> String {
    let Some(machine) = machine(records) else {
        return "The machine is not named.\n".to_owned();
    };
    let place = match machine.place.as_str() {
        "vm" => "virtual machine (emulated processor)",
        _ => "natively",
    };
    format!(
        "```\n{}\n```\n\n{} · commit {} · {place}, Linux {}, data plane `{}` · {} × {}, {} MiB\n",
        machine.command,
        machine.time,
        machine.commit,
        machine.kernel,
        machine.dataplane,
        machine.processors,
        machine.processor,
        machine.memory_mib,
    )
}

/// A table under construction.
struct Table {
    text: String,
}

impl Table {
    /// The first column is text, the others are numbers.
    fn new(heads: &[&str]) -> Self {
        let mut text = format!("| {} |\n|---|", heads.join(" | "));
        text.push_str(&"---:|".repeat(heads.len().saturating_sub(1)));
        text.push('\n');
        Self { text }
    }

    fn row(&mut self, cells: &[String]) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    fn end(mut self) -> String {
        self.text.push('\n');
        self.text
    }
}

/// Microseconds as milliseconds with two decimals.
fn ms(micros: f64) -> String {
    format!("{:.2}", micros / 1000.0)
}

/// A count of microseconds as a real number.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52 µs, 142 years")]
const fn real(micros: u64) -> f64 {
    micros as f64
}

/// A count as a real number.
#[expect(clippy::cast_precision_loss, reason = "a count of octets or setups")]
const fn count_real(count: usize) -> f64 {
    count as f64
}

/// `n` and the noun, in plural where it has to be.
fn count(n: usize, noun: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{s}")
}
