//! What the core sends, read by a dissector that is not ours: Wireshark's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use oxirush_nas::nas_5gs::*;

use core5g::amf::OverloadAction;

use support::core::{CONFIG, Core};
use support::n3iwf;
use support::ue::Ue;

/// An attach with two flows, every release, every reject.
fn capture() -> Vec<Vec<u8>> {
    // Without ciphering the dissector reads the NAS messages too.
    let text = CONFIG.replace("amf:\n", "amf:\n  ciphering: [NEA0]\n");
    let mut core = Core::set_up_with(&text);
    let mut ue = Ue::first(7);
    ue.requested = vec![
        NasSNssai::from_sst_sd(1, Some([1, 2, 3])),
        NasSNssai::from_sst_sd(9, None),
    ];
    ue.attach(&mut core);
    ue.establish(&mut core, 1);
    let ids = ue.ids.unwrap();
    core.amf.policy.pdu_session_reject = Some(26);
    let request = ue.session_request(2, None);
    core.ask(&n3iwf::uplink(ids, request));
    let actions = core.amf.release_pdu_session(core.now, &ue.supi, 1).unwrap();
    core.take(actions);
    core.send(&n3iwf::session_released(ids, 1));
    let actions = core.amf.deregister(core.now, &ue.supi, true, Some(22));
    core.take(actions.unwrap());
    let accept = ue.cipher(NasDeregistrationAcceptUeTerminated::new());
    let command = core.ask(&n3iwf::uplink(ids, accept));
    ue.expect_release(&mut core, &command);

    let zeros = "00".repeat(16);
    let mut stranger = Ue::new("imsi-208930000000099", &zeros, &zeros, 8);
    let request = stranger.registration_request();
    core.send(&n3iwf::initial_ue(8, request));
    core.amf.policy.authentication_reject = true;
    let mut ue = Ue::first(9);
    let request = ue.registration_request();
    let (ids, nas) = n3iwf::downlink(&core.ask(&n3iwf::initial_ue(9, request)));
    let response = ue.authenticate(&nas);
    core.send(&n3iwf::uplink(ids, response));
    core.send(&n3iwf::ng_reset(None));
    core.send(&[0x00, 0xff, 0x00]);
    let actions = core.amf.reset(core.now);
    core.take(actions);
    let actions = core
        .amf
        .overload(core.now, Some(OverloadAction::RejectSignalling), Some(30));
    core.take(actions);
    let actions = core.amf.relax(core.now);
    core.take(actions);
    let actions = core.amf.withdraw(core.now, Some("amf-2"));
    core.take(actions);
    core.send(&n3iwf::ng_setup(&n3iwf::Announce {
        plmn: [0, 0xf1, 0x10],
        ..n3iwf::Announce::default()
    }));
    core.wire
        .into_iter()
        .filter_map(|(by_core, message)| by_core.then_some(message))
        .collect()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The capture as Wireshark's Info column has it, and what it complains about.
fn dissect(dir: &Path, messages: &[Vec<u8>]) -> (Vec<String>, String) {
    let mut dump = String::new();
    for message in messages {
        dump.push_str("000000");
        for octet in message {
            write!(dump, " {octet:02x}").unwrap();
        }
        dump.push('\n');
    }
    let (text, pcap) = (dir.join("n2.txt"), dir.join("n2.pcapng"));
    std::fs::write(&text, dump).unwrap();
    run(Command::new("text2pcap")
        .args(["-q", "-S", "38412,38412,60"])
        .args([&text, &pcap]));
    let tshark = |arguments: &[&str]| {
        run(Command::new("tshark")
            .env("HOME", dir)
            .arg("-r")
            .arg(&pcap)
            .args(["-o", "nas-5gs.null_decipher:TRUE"])
            .args(arguments))
    };
    let info = tshark(&["-o", "gui.column.format:\"Info\",\"%i\""]);
    let complaints = tshark(&["-V", "-Y", "_ws.malformed || _ws.expert"]);
    (info.lines().map(str::to_owned).collect(), complaints)
}

#[test]
fn wireshark_reads_every_message_without_complaint() {
    if Command::new("tshark").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "tshark is needed");
        eprintln!("skipped: tshark is not installed");
        return;
    }
    let messages = capture();
    let dir = tempfile::tempdir().unwrap();
    let (packets, complaints) = dissect(dir.path(), &messages);
    assert_eq!(packets.len(), messages.len());
    assert!(complaints.is_empty(), "{complaints}");
    let all = packets.join("\n");
    for expected in [
        "NGSetupResponse",
        "Authentication request",
        "Security mode command",
        "InitialContextSetupRequest",
        "Registration accept",
        "Configuration update command",
        "PDUSessionResourceSetupRequest",
        "PDU session establishment accept",
        "PDU session establishment reject",
        "PDUSessionResourceReleaseCommand",
        "PDU session release command",
        "Deregistration request (UE terminated)",
        "UEContextReleaseCommand",
        "Registration reject",
        "Authentication reject",
        "NGResetAcknowledge",
        "ErrorIndication",
        "NGReset",
        "OverloadStart",
        "OverloadStop",
        "AMFStatusIndication",
        "NGSetupFailure",
    ] {
        assert!(all.contains(expected), "{expected} in\n{all}");
    }
}

#[test]
fn the_dissector_does_complain_about_a_broken_message() {
    if Command::new("tshark").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "tshark is needed");
        eprintln!("skipped: tshark is not installed");
        return;
    }
    let messages = capture();
    let broken = messages[0].get(..messages[0].len() / 2).unwrap().to_vec();
    let dir = tempfile::tempdir().unwrap();
    let (_, complaints) = dissect(dir.path(), &[broken]);
    assert!(complaints.contains("alformed"), "{complaints}");
}
