//! `bench-report`: tables and pictures of stored results.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool"
)]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bench::figures::{self, Titles};
use bench::records::{self, Mode, Record, Writer};
use bench::tables;
use clap::{Parser, Subcommand};

/// Tables and pictures of what `cargo xtask bench` left behind.
#[derive(Parser)]
#[command(name = "bench-report", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Writes the document and its pictures
    Document {
        /// Directory of the result files
        #[arg(long)]
        results: PathBuf,
        /// The document to write
        #[arg(long)]
        document: PathBuf,
        /// Directory of the pictures
        #[arg(long)]
        pictures: PathBuf,
    },
    /// Says what the results have to reach and whether they do; fails while they do not
    Targets {
        /// Directory of the result files
        #[arg(long)]
        results: PathBuf,
    },
    /// Puts lines that a benchmark printed into a result file
    Maps {
        /// What it printed
        #[arg(long)]
        lines: PathBuf,
        /// The result file to write
        #[arg(long)]
        output: PathBuf,
        /// Result file whose machine these are of
        #[arg(long)]
        machine: PathBuf,
        /// The command that measures the same again
        #[arg(long)]
        again: String,
    },
    /// The same with lines of the user plane
    Relay {
        /// What the benchmark printed
        #[arg(long)]
        lines: PathBuf,
        /// The result file to write
        #[arg(long)]
        output: PathBuf,
        /// `native` or `vm`
        #[arg(long)]
        place: String,
        /// Kernel release, where it is not this host's
        #[arg(long)]
        kernel: Option<String>,
        /// The sources
        #[arg(long)]
        commit: String,
        /// The command that measures the same again
        #[arg(long)]
        again: String,
    },
    /// Takes the captures `frames-<mode>.pcap` of a directory apart, through tshark
    Frames {
        /// Directory of the captures and key tables
        #[arg(long)]
        captures: PathBuf,
        /// The result file to write
        #[arg(long)]
        output: PathBuf,
        /// Result file whose machine these are of
        #[arg(long)]
        machine: PathBuf,
        /// The command that measures the same again
        #[arg(long)]
        again: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-report: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: What) -> Result<()> {
    match what {
        What::Document {
            results,
            document,
            pictures,
        } => {
            let text = write_document(&results, &pictures, &relative(&document, &pictures)?)?;
            fs::write(&document, text)
                .with_context(|| format!("cannot write {}", document.display()))
        }
        What::Targets { results } => {
            let targets = targets(&results)?;
            println!("{}", tables::targets_table(&targets).trim_end());
            let missed = targets.iter().filter(|target| !target.held).count();
            if targets.is_empty() {
                bail!("no results in {}", results.display());
            }
            if missed > 0 {
                bail!("{missed} of {} targets missed", targets.len());
            }
            Ok(())
        }
        What::Maps {
            lines,
            output,
            machine,
            again,
        } => {
            let found: Vec<Record> = records::read(&lines)?
                .into_iter()
                .filter(|record| matches!(record, Record::Maps(_)))
                .collect();
            if found.is_empty() {
                bail!("nothing of maps in {}", lines.display());
            }
            let mut writer = begin(&output, &machine, "maps", again)?;
            found.iter().try_for_each(|record| writer.write(record))
        }
        What::Relay {
            lines,
            output,
            place,
            kernel,
            commit,
            again,
        } => {
            let found: Vec<Record> = records::read(&lines)?
                .into_iter()
                .filter(|record| matches!(record, Record::Relay(_)))
                .collect();
            if found.is_empty() {
                bail!("nothing of the user plane in {}", lines.display());
            }
            let here = records::Machine::here("relay", &place, "kernel", &commit, &again);
            let machine = records::Machine {
                kernel: kernel.unwrap_or_else(|| here.kernel.clone()),
                ..here
            };
            let mut writer = Writer::create(&output)?;
            writer.write(&Record::Machine(machine))?;
            found.iter().try_for_each(|record| writer.write(record))
        }
        What::Frames {
            captures,
            output,
            machine,
            again,
        } => {
            let mut writer = begin(&output, &machine, "frames", again)?;
            let (mut found, mut left_out) = (0, 0);
            for mode in Mode::ALL {
                let capture = captures.join(format!("frames-{mode}.pcap"));
                if capture.is_file() {
                    let keys = captures.join(format!("frames-{mode}.keys"));
                    match tables::captured(mode, &capture, &keys) {
                        Ok(frames) => {
                            writer.write(&Record::Frames(frames))?;
                            found += 1;
                        }
                        Err(error) => {
                            eprintln!("bench-report: {mode} left out: {error:#}");
                            left_out += 1;
                        }
                    }
                }
            }
            if found + left_out == 0 {
                bail!("no captures in {}", captures.display());
            }
            if left_out > 0 {
                bail!("{left_out} of {} captures left out", found + left_out);
            }
            Ok(())
        }
    }
}

/// A result file of the machine that another one names.
fn begin(output: &Path, machine: &Path, bench: &str, again: String) -> Result<Writer> {
    let of = records::read(machine)?;
    let machine = tables::machine(&of).context("the result file names no machine")?;
    let mut writer = Writer::create(output)?;
    writer.write(&Record::Machine(records::Machine {
        bench: bench.to_owned(),
        command: again,
        ..machine.clone()
    }))?;
    Ok(writer)
}

/// What the stored results have to reach.
fn targets(results: &Path) -> Result<Vec<tables::Target>> {
    let read = |name: &str| {
        let path = results.join(format!("{name}.jsonl"));
        match path.is_file() {
            true => records::read(&path),
            false => Ok(Vec::new()),
        }
    };
    let (attach, frames) = (read("attach-native")?, read("frames")?);
    let (ike, scale, qkd) = (read("ike")?, read("scale")?, read("qkd")?);
    Ok(tables::targets(&tables::Stored {
        attach: &attach,
        frames: &frames,
        ike: &ike,
        scale: &scale,
        qkd: &qkd,
    }))
}

/// The directory of the pictures as the document names it.
fn relative(document: &Path, pictures: &Path) -> Result<String> {
    let home = document.parent().context("a document without a place")?;
    let path = pictures
        .strip_prefix(home)
        .context("the pictures have to be below the document")?;
    Ok(path.display().to_string())
}

/// What each file is about: its name without suffix, heading, and what is to be known of it.
const FILES: &[(&str, &str, &str)] = &[
    (
        "attach-native",
        "Attach, natively",
        "The experiment of arXiv 2603.24426, modes in turn run by run: UE, N3IWF, both KMEs and the core as processes of one host. The data plane records instead of programming IPsec, N2 is a Unix socket, what one KME delivers the other knows at once, and the UE's sequence numbers are stored in memory, so what is measured is the project's own code and the KMS. The paper's figures stand beside; its 1200 ms are mostly its core and a sleep of 500 ms in its UE, so compare phases and ratios and not totals. Suites are AES-256-GCM with HMAC-SHA-256 but in `qkd-paper`, which has the paper's; the N3IWF of `qkd-ahead` has fetched its keys before the UE asks; `psk` and `cert` do MODP-2048 as the paper does, `psk-x25519` X25519, `hybrid` X25519 with ML-KEM-768 and a QKD key; the N3IWF's certificate is ECDSA P-256 there and RSA-2048 in `qkd-paper`.",
    ),
    (
        "attach-vm",
        "Attach, kernel IPsec and SCTP",
        "The same in the virtual machine: XFRM and SCTP of the kernel. Its processor is emulated, so times compare with each other and with nothing else.",
    ),
    (
        "frames",
        "Octets on NWu",
        "Ethernet frames of one attach, decrypted by tshark, beside Table II. The paper prints 286 for CREATE_CHILD_SA request with PSK; only with 486 its column sums to its printed total.",
    ),
    (
        "rate",
        "Rate",
        "A load driver with the real initiator, many UEs in one process, on the same host as what it loads.",
    ),
    (
        "ike",
        "IKE against charon",
        "IKE_SA_INIT, IKE_AUTH by shared key and one Child SA, then Delete, from the same initiator (the project's engine) on the same host, one responder after the other in each run: this project's engine behind a socket (`ike`), and strongSwan's charon with 16 threads, no log, no uniqueness check and no routes to install. Exponents of MODP groups have 320 bits here (RFC 3526, section 8) and in charon the length of the modulus, its default (`dh_exponent_ansi_x9_42`): `charon-short-exponents` is charon with that turned off. The host's kernel takes no part: charon keeps ESP SAs in its process (`kernel-libipsec`), the engine hands them to nobody.",
    ),
    (
        "scale",
        "Scale",
        "UEs that are attached at the same time, each with a PDU session, data plane recording. Memory is resident anonymous memory of the N3IWF's process; *per UE* is what it has grown since before the first. Attaches are timed one at a time, in windows of 25 after which these UEs leave again: eight windows at each size, and all of it three times with daemons that have just started. Times are medians of the windows' medians.",
    ),
    (
        "maps",
        "eBPF maps",
        "The maps that the programs look into, on this host's kernel, filled as user space fills them: for each UE two Child SAs for the programs that count on NWu, and a PDU session with two flows for those that relay. Memory is what the kernel has for them (`memlock` in `/proc/PID/fdinfo`). A packet is one run of the program (`BPF_PROG_TEST_RUN`) on a packet of one UE after another, the median without what a run takes that does nothing; few UEs and many take turns.",
    ),
    (
        "relay",
        "The programs of the user plane",
        "What relaying and counting cost, natively. [user-plane.md](user-plane.md) says what the figures mean.",
    ),
    (
        "relay-streams",
        "Relays",
        "Kernel relay, relay in user space and plain forwarding between namespaces, GRE in clear.",
    ),
    (
        "relay-profile",
        "Relays: where the processor is",
        "All of the relay is on one processor, in a flood of PDUs of 64 octets; functions by their share of samples (`perf`), the kernel's and the relay's.",
    ),
    (
        "relay-vm",
        "Relays behind ESP",
        "A UE sends through ESP (AES-GCM-16) as much as it can, and what comes out on N3 is counted; ways in turn. The virtual machine's processor is emulated, so the cipher dominates, and rates compare with each other and with nothing else.",
    ),
    (
        "qkd",
        "QKD keys",
        "The ETSI GS QKD 014 client against the KME stand-in over mutual TLS.",
    ),
];

fn write_document(results: &Path, pictures: &Path, place: &str) -> Result<String> {
    fs::create_dir_all(pictures)?;
    let mut text = String::from(
        "# Benchmarks\n\nGenerated from the result files in [bench/](bench/) by `cargo xtask bench report`; nothing here is\ntyped in by hand. `cargo xtask bench all` measures everything again and stores it. Each section says\nhow it was measured; runs that failed are listed.\n\n",
    );
    let targets = targets(results)?;
    if !targets.is_empty() {
        let _ = writeln!(
            text,
            "## Targets\n\nRatios of medians, each of one run; `cargo xtask bench targets` prints them and fails while one is missed.\n\n{}",
            tables::targets_table(&targets)
        );
    }
    let mut any = false;
    for (name, heading, about) in FILES {
        let path = results.join(format!("{name}.jsonl"));
        if !path.is_file() {
            continue;
        }
        any = true;
        let records = records::read(&path)?;
        let _ = writeln!(
            text,
            "## {heading}\n\n{about}\n\n{}",
            tables::origin(&records)
        );
        text.push_str(&section(name, &records, pictures, place)?);
    }
    if !any {
        bail!("no result files in {}", results.display());
    }
    Ok(format!("{}\n", text.trim_end()))
}

fn section(name: &str, records: &[Record], pictures: &Path, place: &str) -> Result<String> {
    Ok(match name {
        "attach-native" | "attach-vm" => {
            let mut text = tables::attach(records);
            for (phase, stem, title) in [
                (Some("INIT"), "init", "INIT"),
                (Some("AUTH"), "auth", "AUTH"),
                (Some("CHILD"), "child", "Child SA"),
                (None, "total", "Whole attach"),
            ] {
                let file = format!("{name}-{stem}");
                let titles = Titles {
                    title,
                    x: "",
                    y: "ms",
                };
                let samples = tables::boxes(records, phase);
                if samples.iter().all(|(_, values)| values.is_empty()) {
                    let _ = writeln!(text, "{title}: no attach worked, so there is no picture.");
                    continue;
                }
                figures::boxes(&pictures.join(&file), titles, &samples)?;
                let _ = writeln!(text, "![{title}]({place}/{file}.svg)");
            }
            text.push('\n');
            text
        }
        "frames" => tables::frames(records),
        "rate" | "ike" => {
            let mut text = tables::rate(records);
            let lines = tables::rate_lines(records);
            if !lines.is_empty() {
                let titles = Titles {
                    title: "Goodput",
                    x: "begun per second",
                    y: "done per second",
                };
                figures::lines(&pictures.join(name), titles, &lines)?;
                let _ = writeln!(text, "![Goodput]({place}/{name}.svg)");
                let titles = Titles {
                    title: "Latency of what gets done",
                    x: "begun per second",
                    y: "ms",
                };
                let stem = format!("{name}-latency");
                figures::lines(
                    &pictures.join(&stem),
                    titles,
                    &tables::latency_lines(records),
                )?;
                let _ = writeln!(text, "![Latency]({place}/{stem}.svg)\n");
            }
            text
        }
        "scale" => tables::scale(records) + &tables::storms(records),
        "maps" => tables::maps(records),
        "relay" | "relay-streams" | "relay-profile" | "relay-vm" => tables::relay(records),
        _ => {
            let mut text = tables::qkd(records);
            let lines = tables::key_rate_lines(records);
            if !lines.is_empty() {
                let titles = Titles {
                    title: "Attaches by key rate",
                    x: "keys per second",
                    y: "attaches per second",
                };
                figures::lines(&pictures.join(name), titles, &lines)?;
                let _ = writeln!(text, "![Attaches by key rate]({place}/{name}.svg)\n");
            }
            text
        }
    })
}
