//! What the `paper` profile needs and shows: a certificate of the size of the stock N3IWF's, and
//! the frame sizes of Table II of arXiv 2603.24426.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::capture::IkeFrame;
use crate::exec;
use crate::files::FQDN;

/// Octets of the certificate (DER) behind the sizes of Table II.
const CERTIFICATE: usize = 1021;

/// Makes `n3iwf.key` and `n3iwf.pem` (RSA-2048, self-signed, 1021 octets of DER) in `directory`.
///
/// # Errors
/// When openssl is missing or fails.
pub fn make_certificate(directory: &Path) -> Result<()> {
    let key = directory.join("n3iwf.key");
    let certificate = directory.join("n3iwf.pem");
    let settings = directory.join("n3iwf.cnf");
    exec::output(
        Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(&key)
            .arg("2048"),
    )?;
    // A comment brings the certificate to its size; its own length octets move the first guess.
    let mut padding = 100usize;
    for _ in 0..4 {
        let comment = "x".repeat(padding);
        fs::write(
            &settings,
            format!(
                "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = more\n\
                 [name]\nCN = {FQDN}\n\
                 [more]\nsubjectAltName = DNS:{FQDN}\nnsComment = {comment}\n"
            ),
        )?;
        exec::output(
            Command::new("openssl")
                .args(["req", "-x509", "-sha256", "-days", "365", "-config"])
                .arg(&settings)
                .arg("-key")
                .arg(&key)
                .arg("-out")
                .arg(&certificate),
        )?;
        let size = der_length(&fs::read_to_string(&certificate)?)?;
        if size == CERTIFICATE {
            return Ok(());
        }
        padding = (padding + CERTIFICATE)
            .checked_sub(size)
            .context("the certificate is too large without any comment")?;
    }
    bail!("no comment brings the certificate to {CERTIFICATE} octets")
}

/// Octets that the base64 text of a PEM file stands for.
fn der_length(pem: &str) -> Result<usize> {
    let text: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    if text.is_empty() || !text.len().is_multiple_of(4) {
        bail!("not a PEM file");
    }
    let padding = text
        .bytes()
        .rev()
        .take_while(|octet| *octet == b'=')
        .count();
    Ok(text.len() / 4 * 3 - padding)
}

/// A message of Table II: name, frame size in the QKD column, octets that may be missing or more.
struct Row {
    name: &'static str,
    exchange: u8,
    response: bool,
    size: usize,
    tolerance: usize,
}

const fn row(name: &'static str, exchange: u8, response: bool, size: usize) -> Row {
    Row {
        name,
        exchange,
        response,
        size,
        tolerance: 0,
    }
}

/// The QKD column of Table II, in the order of the wire. Two octets of IKE_SA_INIT are not
/// explained by what the paper says of its content.
const TABLE_II: &[Row] = &[
    Row {
        name: "IKE_SA_INIT I",
        exchange: 34,
        response: false,
        size: 428,
        tolerance: 2,
    },
    Row {
        name: "IKE_SA_INIT R",
        exchange: 34,
        response: true,
        size: 1099,
        tolerance: 2,
    },
    row("IKE_AUTH 1 I", 35, false, 214),
    row("IKE_AUTH 1 R", 35, true, 1446),
    row("IKE_AUTH 2 I", 35, false, 182),
    row("IKE_AUTH 2 R", 35, true, 166),
    row("IKE_AUTH 3 I", 35, false, 150),
    row("IKE_AUTH 3 R", 35, true, 150),
    row("IKE_AUTH 4 I", 35, false, 182),
    row("IKE_AUTH 4 R", 35, true, 118),
    row("IKE_AUTH 5 I", 35, false, 150),
    row("IKE_AUTH 5 R", 35, true, 278),
    row("CREATE_CHILD_SA request", 36, false, 230),
    row("CREATE_CHILD_SA response", 36, true, 198),
];

/// Most octets of all frames of a `native` attach: 55 % of the QKD column.
pub const NATIVE_LIMIT: usize = 2750;

/// Messages of the attach: everything up to the first user-plane Child SA.
fn attach(frames: &[IkeFrame]) -> Vec<&IkeFrame> {
    let end = frames
        .iter()
        .position(|frame| frame.exchange == 36 && frame.response)
        .map_or(frames.len(), |at| at + 1);
    frames
        .iter()
        .take(end)
        .filter(|frame| (34..=36).contains(&frame.exchange))
        .collect()
}

/// Compares the frames of a `paper` attach with Table II; returns the comparison.
///
/// # Errors
/// Names every frame that has another size, or the messages that are missing or too many.
pub fn compare_with_table(frames: &[IkeFrame]) -> Result<String> {
    let seen = attach(frames);
    let mut table = format!("{:<26} {:>8} {:>9}\n", "frame", "here", "Table II");
    let mut wrong = Vec::new();
    for (frame, row) in seen.iter().zip(TABLE_II) {
        table.push_str(&format!(
            "{:<26} {:>8} {:>9}\n",
            row.name, frame.length, row.size
        ));
        let same_message = frame.exchange == row.exchange && frame.response == row.response;
        if !same_message || frame.length.abs_diff(row.size) > row.tolerance {
            wrong.push(format!(
                "{}: {} instead of {}",
                row.name, frame.length, row.size
            ));
        }
    }
    if seen.len() != TABLE_II.len() {
        wrong.push(format!(
            "{} messages instead of {}",
            seen.len(),
            TABLE_II.len()
        ));
    }
    let total: usize = seen.iter().map(|frame| frame.length).sum();
    table.push_str(&format!("{:<26} {total:>8} {:>9}\n", "total", 4991));
    if wrong.is_empty() {
        Ok(table)
    } else {
        bail!("{}\n{table}", wrong.join("; "))
    }
}

/// Sums the frames of a `native` attach; returns them message by message.
///
/// # Errors
/// When they are more than [`NATIVE_LIMIT`] octets, or no attach is in the capture.
pub fn native_size(frames: &[IkeFrame]) -> Result<(usize, String)> {
    let seen = attach(frames);
    if !seen
        .iter()
        .any(|frame| frame.exchange == 36 && frame.response)
    {
        bail!(
            "no complete attach in the capture ({} messages)",
            seen.len()
        );
    }
    let mut table = String::new();
    for frame in &seen {
        let name = match frame.exchange {
            34 => "IKE_SA_INIT",
            35 => "IKE_AUTH",
            _ => "CREATE_CHILD_SA",
        };
        let way = if frame.response {
            "response"
        } else {
            "request"
        };
        table.push_str(&format!(
            "{name:<16} {way:<9} message ID {:<3} {:>6}\n",
            frame.message_id, frame.length
        ));
    }
    let total: usize = seen.iter().map(|frame| frame.length).sum();
    table.push_str(&format!("{:<40} {total:>6}\n", "all frames"));
    if total > NATIVE_LIMIT {
        bail!("{total} octets, more than {NATIVE_LIMIT}\n{table}");
    }
    Ok((total, table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(exchange: u8, response: bool, length: usize) -> IkeFrame {
        IkeFrame {
            length,
            exchange,
            message_id: 0,
            response,
            message: Vec::new(),
        }
    }

    fn paper() -> Vec<IkeFrame> {
        TABLE_II
            .iter()
            .map(|row| frame(row.exchange, row.response, row.size))
            .collect()
    }

    #[test]
    fn the_column_sums_to_the_printed_total() {
        assert_eq!(TABLE_II.iter().map(|row| row.size).sum::<usize>(), 4991);
    }

    #[test]
    fn the_table_is_held_to_the_octet() {
        let mut frames = paper();
        frames[0].length = 426;
        // What follows the attach is not part of it.
        frames.push(frame(37, false, 100));
        frames.push(frame(36, false, 999));
        assert!(compare_with_table(&frames).unwrap().contains("4989"));
        frames[0].length = 425;
        assert!(compare_with_table(&frames).is_err());
        let mut frames = paper();
        frames[5].length += 16;
        let error = compare_with_table(&frames).unwrap_err().to_string();
        assert!(
            error.contains("IKE_AUTH 2 R: 182 instead of 166"),
            "{error}"
        );
        assert!(compare_with_table(&paper()[..13]).is_err());
    }

    #[test]
    fn native_is_held_to_its_limit() {
        let frames = [
            frame(34, false, 300),
            frame(36, false, 300),
            frame(36, true, 300),
        ];
        assert_eq!(native_size(&frames).unwrap().0, 900);
        assert!(native_size(&frames[..2]).is_err(), "not complete");
        let large = [frame(34, false, 2000), frame(36, true, 751)];
        assert!(
            native_size(&large)
                .unwrap_err()
                .to_string()
                .contains("2751")
        );
    }

    #[test]
    fn the_certificate_has_its_size() {
        let dir = tempfile::tempdir().unwrap();
        make_certificate(dir.path()).unwrap();
        let pem = fs::read_to_string(dir.path().join("n3iwf.pem")).unwrap();
        assert_eq!(der_length(&pem).unwrap(), CERTIFICATE);
        assert!(der_length("").is_err());
    }
}
