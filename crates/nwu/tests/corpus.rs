//! Every input of the fuzz corpus, on the compiler at hand.
//!
//! `UPDATE_CORPUS=1 cargo test -p nwu --test corpus` writes the seeds anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::PathBuf};

use nwu::{
    AnParameters, EstablishmentCause, GreHeader, Guami, Plmn, QosInfo, SNssai,
    eap5g::{Packet, Request, Response},
    nas_envelope, notify,
};

#[path = "support/exercise.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets share it")]
mod exercise;

fn replay(target: &str, seeds: &[Vec<u8>], exercise: fn(&[u8])) {
    let directory: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../fuzz/corpus", target]
        .iter()
        .collect();
    for (index, octets) in seeds.iter().enumerate() {
        let file = directory.join(format!("seed-{index}"));
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            fs::create_dir_all(&directory).unwrap();
            fs::write(&file, octets).unwrap();
        }
        assert_eq!(&fs::read(&file).unwrap(), octets, "{}", file.display());
    }
    for entry in fs::read_dir(&directory).unwrap() {
        exercise(&fs::read(entry.unwrap().path()).unwrap());
    }
}

#[test]
fn nwu_eap5g() {
    let plmn = Plmn::from_digits("208", "93").unwrap();
    let an_parameters = AnParameters {
        guami: Some(Guami {
            plmn,
            region: 0xca,
            set: 0x3f8,
            pointer: 0,
        }),
        selected_plmn: Some(plmn),
        requested_nssai: vec![SNssai {
            sst: 1,
            sd: Some([1, 2, 3]),
        }],
        establishment_cause: Some(EstablishmentCause::MoSignalling),
    };
    let nas = vec![0x7e, 0x00, 0x41, 0x79, 0x00];
    let response = |message| Packet::Response {
        identifier: 2,
        message,
    };
    let request = |message| Packet::Request {
        identifier: 2,
        message,
    };
    let packets = [
        request(Request::Start),
        request(Request::Nas(nas.clone())),
        request(Request::Notification),
        response(Response::Nas { an_parameters, nas }),
        response(Response::Notification),
        response(Response::Stop),
        Packet::Success { identifier: 3 },
        Packet::Failure { identifier: 3 },
    ];
    let seeds = packets.map(|packet| packet.encode().unwrap());
    replay("nwu_eap5g", &seeds, exercise::eap5g);
}

#[test]
fn nwu_notify() {
    let info = QosInfo {
        pdu_session: 1,
        qfis: vec![1, 9],
        default: true,
        dscp: Some(46),
    };
    let seeds = [
        info.encode().unwrap(),
        notify::nas_address("192.0.2.1".parse().unwrap()).1,
        notify::up_address("2001:db8::1".parse().unwrap()).1,
        notify::encode_port(20000),
    ];
    replay("nwu_notify", &seeds, exercise::notify);
}

#[test]
fn nwu_envelope() {
    let one = nas_envelope::wrap(&[0x7e, 0x00, 0x43]).unwrap();
    let two = nas_envelope::wrap(&[0x7e; 40]).unwrap();
    let cut = two[..20].to_vec();
    replay(
        "nwu_envelope",
        &[[one, two].concat(), cut, vec![0, 0]],
        exercise::envelope,
    );
}

#[test]
fn nwu_gre() {
    let header = GreHeader {
        qfi: Some(9),
        rqi: true,
    };
    let optional = vec![0xb0, 0, 8, 0, 1, 1, 0, 0, 5, 0, 0, 0, 0, 0, 0, 1, 0x45];
    let plain = [&header.encode(0)[..], &[0x45, 0, 0, 20]].concat();
    replay("nwu_gre", &[plain, optional], exercise::gre);
}
