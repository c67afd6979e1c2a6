//! `dissect`: what tshark makes of the captures of `cargo xtask demo --pcap`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use e2e::{
    dissect::{self, Capture, Opened},
    octets::{self, Markdown},
    table_ii::{Attach, Column},
};

/// Opens the captures of an attach with tshark and holds them to what they should be.
#[derive(Parser)]
#[command(name = "dissect", version)]
struct Arguments {
    /// The capture of NWu.
    #[arg(long)]
    nwu: PathBuf,
    /// The directory with the key tables (`debugKeyLog`).
    #[arg(long)]
    keys: PathBuf,
    /// The capture of N2 and N3.
    #[arg(long)]
    n2n3: Option<PathBuf>,
    /// How the keys of IKE came about.
    #[arg(long, value_enum, default_value = "qkd")]
    mode: Mode,
    /// The profile of mode `qkd`, which fixes its sizes.
    #[arg(long, value_enum, default_value = "native")]
    profile: Profile,
    /// Prints the table of octets in Markdown.
    #[arg(long)]
    octets: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Qkd,
    Hybrid,
    Psk,
    Cert,
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    Native,
    Paper,
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool"
)]
fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("dissect: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<String> {
    let nwu = Capture::open(&arguments.nwu, Some(&arguments.keys))?;
    let hybrid = matches!(arguments.mode, Mode::Hybrid);
    let Opened { frames, complaints } = dissect::opened(&arguments.nwu, &arguments.keys)?;
    let mut attach = match hybrid {
        true => Attach::find_hybrid(&frames)?,
        false => Attach::find(&frames)?,
    };
    match (arguments.mode, arguments.profile) {
        (Mode::Qkd, Profile::Native) => attach.check_native()?,
        (Mode::Qkd, Profile::Paper) => attach.check_paper()?,
        (Mode::Hybrid, _) => {
            attach = attach.beside(Column::Psk);
            attach.check_hybrid()?;
        }
        (Mode::Psk, _) => {
            attach = attach.beside(Column::Psk);
            attach.check_exchange()?;
        }
        (Mode::Cert, _) => {
            attach = attach.beside(Column::Certificate);
            attach.check_exchange()?;
        }
    }
    // Fails on any octet that no payload explains, so on any message that was not decrypted.
    let messages = octets::explain(&attach)?;
    let unnamed: Vec<String> = messages
        .iter()
        .flat_map(|message| &message.payloads)
        .map(dissect::PayloadSize::name)
        .filter(|name| name.starts_with("payload "))
        .collect();
    ensure!(
        unnamed.is_empty(),
        "payloads without a name: {}",
        unnamed.join(", ")
    );
    ensure!(complaints.is_empty(), "NWu: {}", complaints.join("; "));
    let esp = nwu.count("esp && tcp.port == 20000")?;
    ensure!(esp > 0, "no NAS over TCP was found inside ESP");
    let gre = nwu.count("esp && gre")?;
    ensure!(gre > 0, "no GRE was found inside ESP");
    let mut report = if arguments.octets {
        Markdown(&messages).to_string()
    } else {
        attach.to_string()
    };
    report.push_str(&format!(
        "NWu: {} IKE messages decrypted, {esp} frames of NAS over TCP and {gre} of GRE inside ESP, nothing malformed\n",
        frames.len()
    ));
    if let Some(file) = &arguments.n2n3 {
        report.push_str(&core(&Capture::open(file, None)?.each_segment_alone())?);
    }
    Ok(report)
}

/// N2 and N3: every protocol present and well-formed.
fn core(capture: &Capture) -> Result<String> {
    let complaints = capture.complaints("frame")?;
    ensure!(
        complaints.is_empty(),
        "N2 and N3: {}",
        complaints.join("; ")
    );
    let mut counts = Vec::new();
    for (name, filter) in [
        ("Initial UE Message", "ngap.procedureCode == 15"),
        ("Initial Context Setup", "ngap.procedureCode == 14"),
        ("PDU Session Resource Setup", "ngap.procedureCode == 29"),
        ("NAS", "nas-5gs"),
        (
            "GTP-U with a PDU Session Container",
            "gtp.ext_hdr.pdu_ses_con.qos_flow_id",
        ),
    ] {
        let count = capture.count(filter)?;
        ensure!(count > 0, "N2 and N3: no {name}");
        counts.push(format!("{count} {name}"));
    }
    Ok(format!(
        "N2 and N3: {}, nothing malformed\n",
        counts.join(", ")
    ))
}
