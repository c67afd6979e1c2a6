//! Captures of NWu: taking one with tcpdump, and reading the IKE messages out of it
//! (pcap: `https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::exec;
use crate::netns::Netns;
use crate::process::{Process, Spec};

/// Octets of a pcap file without packets.
const FILE_HEADER: u64 = 24;

/// A running capture of one interface.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts tcpdump on an interface and waits until it captures: until a ping to `neighbour`,
    /// an address on that link, is in the file. That it says "listening" is not enough, what comes
    /// in the moment after may be missing.
    ///
    /// # Errors
    /// When tcpdump is missing or does not start.
    pub fn start(
        netns: &Netns,
        interface: &str,
        neighbour: &str,
        file: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let mut process = Process::start(
            netns,
            Spec {
                name: format!("tcpdump-{interface}"),
                program: PathBuf::from("tcpdump"),
                arguments: [
                    "-i",
                    interface,
                    "-s",
                    "0",
                    "-U",
                    "-Z",
                    "root",
                    "-n",
                    "--immediate-mode",
                    // KiB: room for what one busy processor cannot read at once
                    "-B",
                    "16384",
                    "-w",
                ]
                .iter()
                .map(|word| (*word).to_owned())
                .chain([file.display().to_string()])
                .collect(),
                environment: Vec::new(),
                logs: logs.to_path_buf(),
            },
        )?;
        let log = process.log();
        process.wait_ready(Duration::from_secs(20), || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains("listening on"))
        })?;
        exec::wait_for("tcpdump capturing", Duration::from_secs(20), || {
            // Whether anybody answers does not matter.
            drop(netns.output("ping", &["-n", "-c", "1", "-W", "1", neighbour]));
            let length = std::fs::metadata(file).map_or(0, |meta| meta.len());
            Ok((length > FILE_HEADER).then_some(()))
        })?;
        Ok(Self {
            process,
            file: file.to_path_buf(),
        })
    }

    /// Ends the capture and returns its file.
    ///
    /// # Errors
    /// When tcpdump does not end.
    pub fn finish(self) -> Result<PathBuf> {
        // Packets still in the socket.
        std::thread::sleep(Duration::from_millis(300));
        self.process.stop(Duration::from_secs(10))?;
        Ok(self.file)
    }

    /// The file, still being written.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The capturing process, to leave it running.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// An IKE message seen on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeFrame {
    /// Octets of the Ethernet frame, without FCS.
    pub length: usize,
    /// Exchange type (RFC 7296 section 3.1).
    pub exchange: u8,
    /// Message ID.
    pub message_id: u32,
    /// Whether it is a response.
    pub response: bool,
    /// The IKE message itself.
    pub message: Vec<u8>,
}

/// The IKE messages of a capture in their order, repetitions of the same message left out.
///
/// # Errors
/// When the file is not a pcap file of Ethernet frames.
pub fn ike_frames(file: &Path) -> Result<Vec<IkeFrame>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut frames: Vec<IkeFrame> = Vec::new();
    for frame in ethernet_frames(&bytes)? {
        if let Some(ike) = ike_frame(frame)
            && !frames.contains(&ike)
        {
            frames.push(ike);
        }
    }
    Ok(frames)
}

/// The whole IPv4 packets of a capture that are ESP of this SPI, without UDP around it.
///
/// # Errors
/// As [`ike_frames`].
pub fn esp_packets(file: &Path, spi: u32) -> Result<Vec<Vec<u8>>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let packets = ethernet_frames(&bytes)?.into_iter();
    Ok(packets.filter_map(|frame| esp(frame, spi)).collect())
}

/// The IPv4 packet of an Ethernet frame, if it is ESP of this SPI (RFC 4303) and has no options.
fn esp(frame: &[u8], spi: u32) -> Option<Vec<u8>> {
    let ip = frame.get(12..)?.strip_prefix(&[0x08, 0x00])?;
    let length = u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]);
    let packet = ip.get(..usize::from(length))?;
    let theirs = packet.get(20..24)? == spi.to_be_bytes();
    (*packet.first()? == 0x45 && *packet.get(9)? == 50 && theirs).then(|| packet.to_vec())
}

/// The whole IPv4 packets of a capture that are uplink G-PDUs (TS 29.281), and their QFIs.
///
/// # Errors
/// As [`ike_frames`].
pub fn uplink_gtpu(file: &Path) -> Result<Vec<(u8, Vec<u8>)>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let packets = ethernet_frames(&bytes)?.into_iter();
    Ok(packets.filter_map(gtpu).collect())
}

fn gtpu(frame: &[u8]) -> Option<(u8, Vec<u8>)> {
    let ip = frame.get(12..)?.strip_prefix(&[0x08, 0x00])?;
    let (header, udp) = ip.split_at_checked(20)?;
    if *header.first()? != 0x45 || *header.get(9)? != 17 || udp.get(2..4)? != [0x08, 0x68] {
        return None;
    }
    let message = gtpu::Message::decode(udp.get(8..)?).ok()?;
    let container = message.header.container?;
    (container.direction == gtpu::Direction::Uplink).then(|| (container.qfi, ip.to_vec()))
}

/// The frames of a classic pcap file.
fn ethernet_frames(bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let (header, mut rest) = bytes
        .split_at_checked(24)
        .context("not a pcap file: shorter than its header")?;
    let little = match header.get(..4) {
        Some([0xd4, 0xc3, 0xb2, 0xa1]) | Some([0x4d, 0x3c, 0xb2, 0xa1]) => true,
        Some([0xa1, 0xb2, 0xc3, 0xd4]) | Some([0xa1, 0xb2, 0x3c, 0x4d]) => false,
        _ => bail!("not a pcap file: unknown magic number"),
    };
    let word = |bytes: &[u8], at: usize| -> Option<u32> {
        let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(if little {
            u32::from_le_bytes(four)
        } else {
            u32::from_be_bytes(four)
        })
    };
    if word(header, 20).map(|network| network & 0xffff) != Some(1) {
        bail!("not a capture of Ethernet frames");
    }
    let mut frames = Vec::new();
    while let Some((record, after)) = rest.split_at_checked(16) {
        let captured = word(record, 8).unwrap_or(0) as usize;
        // The last record of a capture still running may be cut.
        let Some((frame, next)) = after.split_at_checked(captured) else {
            break;
        };
        frames.push(frame);
        rest = next;
    }
    Ok(frames)
}

/// The IKE message of an Ethernet frame with IPv4 and UDP port 500 or 4500.
fn ike_frame(frame: &[u8]) -> Option<IkeFrame> {
    let ip = frame
        .strip_prefix(frame.get(..12)?)?
        .strip_prefix(&[0x08, 0x00])?;
    let header = usize::from(ip.first()? & 0x0f) * 4;
    // Later fragments have no UDP header; a first one is not a whole message.
    let fragmented = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x3fff != 0;
    if ip.first()? >> 4 != 4 || *ip.get(9)? != 17 || fragmented {
        return None;
    }
    let udp = ip.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    let ports = [port(0)?, port(2)?];
    let data = udp.get(8..usize::from(port(4)?))?;
    let message = if ports.contains(&4500) {
        data.strip_prefix(&[0; 4])?
    } else if ports.contains(&500) {
        data
    } else {
        return None;
    };
    Some(IkeFrame {
        length: frame.len(),
        exchange: *message.get(18)?,
        response: message.get(19)? & 0x20 != 0,
        message_id: u32::from_be_bytes(message.get(20..24)?.try_into().ok()?),
        message: message.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        frame.extend([192, 0, 2, 10, 192, 0, 2, 1]);
        frame.extend(port.to_be_bytes());
        frame.extend(port.to_be_bytes());
        frame.extend(u16::try_from(payload.len() + 8).unwrap().to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }

    fn message(exchange: u8, flags: u8, id: u32) -> Vec<u8> {
        let mut message = vec![0x11; 16];
        message.extend([33, 0x20, exchange, flags]);
        message.extend(id.to_be_bytes());
        message.extend(28u32.to_be_bytes());
        message
    }

    fn file(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
        bytes.extend([0; 8]);
        bytes.extend([0, 0, 4, 0, 1, 0, 0, 0]);
        for frame in frames {
            bytes.extend([0; 8]);
            let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
            bytes.extend(length);
            bytes.extend(length);
            bytes.extend(frame);
        }
        bytes
    }

    #[test]
    fn ike_is_found_on_both_ports_and_esp_is_not() {
        let mut marked = vec![0; 4];
        marked.extend(message(35, 0x08, 1));
        let frames = [
            frame(500, &message(34, 0x08, 0)),
            frame(500, &message(34, 0x08, 0)),
            frame(4500, &marked),
            frame(4500, &[1, 2, 3, 4, 5, 6, 7, 8]),
            frame(53, &message(34, 0x08, 0)),
            vec![0; 60],
        ];
        let bytes = file(&frames);
        let seen: Vec<_> = ethernet_frames(&bytes)
            .unwrap()
            .into_iter()
            .filter_map(ike_frame)
            .collect();
        assert_eq!(seen.len(), 3, "the repetition is still there");
        assert_eq!(
            (seen[0].exchange, seen[0].length, seen[0].response),
            (34, 70, false)
        );
        assert_eq!(
            (seen[2].exchange, seen[2].length, seen[2].message_id),
            (35, 74, 1)
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(ike_frames(&path).unwrap().len(), 2);
    }

    #[test]
    fn esp_is_found_by_its_spi() {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 30, 0, 0, 0x40, 0, 64, 50, 0, 0]);
        frame.extend([192, 0, 2, 10, 192, 0, 2, 1, 0, 0, 1, 1, 0, 0, 0, 1, 9, 9]);
        let padded = [frame.clone(), vec![0; 20]].concat();
        assert_eq!(esp(&padded, 0x101).unwrap(), frame[14..]);
        assert_eq!(esp(&padded, 0x102), None);
        for length in 0..frame.len() {
            assert_eq!(esp(&frame[..length], 0x101), None, "cut at {length}");
        }
    }

    #[test]
    fn cut_and_foreign_files_are_no_panic() {
        let bytes = file(&[frame(500, &message(34, 0x20, 0))]);
        for length in 0..bytes.len() {
            if let Ok(frames) = ethernet_frames(&bytes[..length]) {
                assert!(frames.is_empty(), "a cut record at {length}");
            }
        }
        assert!(ethernet_frames(&[0; 64]).is_err());
        let whole = frame(500, &message(34, 0x20, 0));
        for length in 0..whole.len() {
            assert_eq!(ike_frame(&whole[..length]), None, "cut at {length}");
        }
        assert!(ike_frame(&whole).unwrap().response);
    }
}
