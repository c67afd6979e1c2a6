//! The whole core over its real sockets: N2, N3, control, and N6 where the
//! kernel lets a test have a network of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use core5g::ngap::UeIds;
use core5g::server::{Request, Server, Trigger};
use daemon::control::Client;
use gtpu::{Direction, Message, MessageType, PduSessionContainer};
use oxirush_nas::nas_5gs::*;
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use support::core::{CONFIG, parse};
use support::n3iwf;
use support::ue::Ue;

const LIMIT: Duration = Duration::from_secs(10);

fn config(dir: &Path, upf: Ipv4Addr, n6: &str) -> core5g::config::Config {
    let dir = dir.display();
    let text = CONFIG
        .replace("unix:/run/core5g/n2.sock", &format!("unix:{dir}/n2.sock"))
        .replace("/run/core5g/control.sock", &format!("{dir}/control.sock"))
        .replace(
            "listen: 203.0.113.2:2152",
            &format!("listen: {upf}:2152\n  n6: {n6}"),
        );
    parse(&text)
}

struct Link {
    association: n2::Association,
}

impl Link {
    async fn connect(dir: &Path) -> Self {
        let address = n2::Address::Unix(dir.join("n2.sock"));
        let association = n2::Association::connect(&address, &n2::Options::default())
            .await
            .unwrap();
        let mut link = Self { association };
        let answer = link
            .ask(&n3iwf::ng_setup(&n3iwf::Announce::default()))
            .await;
        assert_eq!(core5g::ngap::name(&answer), "NGSetup");
        link
    }

    async fn send(&mut self, message: &[u8]) {
        self.association.send(1, message).await.unwrap();
    }

    async fn next(&mut self) -> Vec<u8> {
        let received = tokio::time::timeout(LIMIT, self.association.recv()).await;
        received.unwrap().unwrap().unwrap().data
    }

    async fn ask(&mut self, message: &[u8]) -> Vec<u8> {
        self.send(message).await;
        self.next().await
    }

    async fn attach(&mut self, ue: &mut Ue) -> UeIds {
        let request = ue.registration_request();
        let answer = self.ask(&n3iwf::initial_ue(ue.ran_id, request)).await;
        let (ids, nas) = n3iwf::downlink(&answer);
        ue.ids = Some(ids);
        let response = ue.authenticate(&nas);
        let answer = self.ask(&n3iwf::uplink(ids, response)).await;
        let complete = ue.secure(&n3iwf::downlink(&answer).1);
        let answer = self.ask(&n3iwf::uplink(ids, complete)).await;
        assert_eq!(n3iwf::context_setup(&answer).1, ue.k_n3iwf());
        let answer = self.ask(&n3iwf::context_ready(ids)).await;
        let message = ue.decipher(&n3iwf::downlink(&answer).1);
        assert!(matches!(message, Nas5gmmMessage::RegistrationAccept(_)));
        let complete = ue.cipher(NasRegistrationComplete::new());
        let answer = self.ask(&n3iwf::uplink(ids, complete)).await;
        let message = ue.decipher(&n3iwf::downlink(&answer).1);
        assert!(matches!(
            message,
            Nas5gmmMessage::ConfigurationUpdateCommand(_)
        ));
        ids
    }

    /// A session: the uplink tunnel.
    async fn establish(&mut self, ue: &mut Ue, local: Ipv4Addr) -> (SocketAddr, u32) {
        let ids = ue.ids.unwrap();
        let request = ue.session_request(1, None);
        let setup = n3iwf::session_setup(&self.ask(&n3iwf::uplink(ids, request)).await);
        let (message, _) = ue.session_message(&setup.nas);
        assert!(matches!(
            message,
            Nas5gsmMessage::PduSessionEstablishmentAccept(_)
        ));
        let ready = n3iwf::session_ready(ids, 1, local.into(), n3iwf::TEID, &setup.qfis);
        self.send(&ready).await;
        (SocketAddr::new(setup.uplink.0, 2152), setup.uplink.1)
    }
}

async fn call(dir: &Path, request: &Request) -> Value {
    let mut client = Client::connect(dir.join("control.sock")).await.unwrap();
    client.call(request).await.unwrap()
}

/// Asks until the answer is as wanted.
async fn until(dir: &Path, request: &Request, wanted: impl Fn(&Value) -> bool) -> Value {
    let asking = async {
        loop {
            let value = call(dir, request).await;
            if wanted(&value) {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, asking).await.expect("in time")
}

fn uplink(teid: u32, packet: &[u8]) -> Vec<u8> {
    let container = PduSessionContainer {
        direction: Direction::Uplink,
        qfi: 1,
        rqi: false,
    };
    gtpu::encode_g_pdu(teid, container, packet).unwrap()
}

/// An ICMP echo request with right checksums.
fn ping(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let sum = |octets: &[u8]| {
        let mut sum: u32 = octets
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!u16::try_from(sum).unwrap()).to_be_bytes()
    };
    let mut packet = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 64, 1, 0, 0];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    let check = sum(&packet);
    packet[10..12].copy_from_slice(&check);
    let mut icmp = vec![8, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3, 4];
    let check = sum(&icmp);
    icmp[2..4].copy_from_slice(&check);
    packet.extend_from_slice(&icmp);
    packet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attach_control_and_release_over_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Loopback addresses of this process alone.
    let [a, b] = [std::process::id() >> 8, std::process::id()].map(|v| v.to_le_bytes()[0]);
    let (upf, local) = (Ipv4Addr::new(127, a, b, 2), Ipv4Addr::new(127, a, b, 3));
    let server = Server::bind(config(dir, upf, "{kind: none}"))
        .await
        .unwrap();
    let serving = tokio::spawn(server.serve());
    let n3 = UdpSocket::bind((local, 2152)).await.unwrap();
    let mut link = Link::connect(dir).await;
    let mut ue = Ue::first(1);
    let ids = link.attach(&mut ue).await;
    let (to, teid) = link.establish(&mut ue, local).await;
    assert_eq!(to, SocketAddr::new(upf.into(), 2152));

    let active = |ues: &Value| ues[0]["sessions"][0]["state"] == "active";
    let ues = until(dir, &Request::Ues, active).await;
    assert_eq!(ues[0]["supi"], "imsi-208930000000001");
    assert_eq!(ues[0]["ciphering"], "NEA2");
    n3.send_to(
        &uplink(teid, &ping([10, 60, 0, 2].into(), [198, 18, 0, 10].into())),
        to,
    )
    .await
    .unwrap();
    let counted = |sessions: &Value| sessions[0]["uplink_packets"] == 1;
    let sessions = until(dir, &Request::Sessions, counted).await;
    assert_eq!(sessions[0]["uplink_bytes"], 32);
    n3.send_to(&gtpu::echo_request(5), to).await.unwrap();
    let mut buffer = [0; 2048];
    let (len, _) = tokio::time::timeout(LIMIT, n3.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    let kind = Message::decode(&buffer[..len]).unwrap().header.kind;
    assert_eq!(kind, MessageType::EchoResponse);
    // An unknown tunnel's error indication comes to the port of GTP-U.
    n3.send_to(&uplink(teid ^ 1, &[0x45; 20]), to)
        .await
        .unwrap();
    let (len, _) = tokio::time::timeout(LIMIT, n3.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    let kind = Message::decode(&buffer[..len]).unwrap().header.kind;
    assert_eq!(kind, MessageType::ErrorIndication);

    // The core's time of every message of the attach.
    let request = Request::Transactions {
        supi: Some(ue.supi.clone()),
        clear: true,
    };
    let transactions = call(dir, &request).await;
    let names: Vec<&str> = transactions
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["received"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "RegistrationRequest",
            "AuthenticationResponse",
            "SecurityModeComplete",
            "InitialContextSetup",
            "RegistrationComplete",
            "PduSessionEstablishmentRequest",
            "PDUSessionResourceSetup",
        ]
    );
    assert_eq!(transactions[0]["sent"], json!(["AuthenticationRequest"]));
    assert!(transactions[0]["spent_us"].as_u64().unwrap() < 10_000_000);
    assert_eq!(call(dir, &request).await, json!([]));

    // A trigger, an impossible one, and a new policy.
    let trigger = |what| Request::Trigger { what };
    let release = trigger(Trigger::ReleaseSession {
        supi: ue.supi.clone(),
        session: 1,
    });
    assert_eq!(call(dir, &release).await, json!({"started": true}));
    let (session, nas) = n3iwf::session_release(&link.next().await);
    assert_eq!(session, 1);
    ue.session_message(&nas.unwrap());
    link.send(&n3iwf::session_released(ids, 1)).await;
    let complete = Nas5gsMessage::new_5gsm(NasPduSessionReleaseComplete::new(), 1, 0);
    let complete = ue.session_transport(1, complete, None);
    link.send(&n3iwf::uplink(ids, complete)).await;
    until(dir, &Request::Sessions, |sessions| *sessions == json!([])).await;
    let mut client = Client::connect(dir.join("control.sock")).await.unwrap();
    let refused = client.call::<Value>(&release).await.unwrap_err();
    assert!(
        refused.to_string().contains("no PDU session 1"),
        "{refused}"
    );
    let policy = core5g::policy::Policy {
        pdu_session_reject: Some(26),
        ..core5g::policy::Policy::default()
    };
    call(dir, &Request::Policy { set: Some(policy) }).await;
    let request = ue.session_request(1, None);
    let (_, nas) = n3iwf::downlink(&link.ask(&n3iwf::uplink(ids, request)).await);
    let (message, _) = ue.session_message(&nas);
    assert!(matches!(
        message,
        Nas5gsmMessage::PduSessionEstablishmentReject(_)
    ));

    // A fault with a delay: the timer task sends it.
    let faults: Vec<core5g::policy::Fault> =
        serde_json::from_value(json!([{"on": "DownlinkNASTransport", "do": "delay", "ms": 80}]))
            .unwrap();
    call(dir, &Request::Faults { set: Some(faults) }).await;
    let request = ue.session_request(1, None);
    let begun = std::time::Instant::now();
    link.ask(&n3iwf::uplink(ids, request)).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(80),
        "{:?}",
        begun.elapsed()
    );

    // The end of the association is the end of its UEs.
    call(dir, &trigger(Trigger::DropN2)).await;
    let end = tokio::time::timeout(LIMIT, link.association.recv())
        .await
        .unwrap();
    assert!(matches!(end, Ok(None) | Err(_)), "{end:?}");
    let gone = |status: &Value| status["ues"] == 0 && status["associations"] == json!([]);
    until(dir, &Request::Status, gone).await;
    serving.abort();
}

/// Runs in a network namespace of its own, or tells why not.
fn in_own_network(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let up = |device: &str| {
            Command::new("ip")
                .args(["link", "set", device, "up"])
                .status()
        };
        if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            return Err(format!("no network namespace: {error}"));
        }
        if !Path::new("/dev/net/tun").exists() || !up("lo").is_ok_and(|s| s.success()) {
            return Err("no TUN device or no `ip`".to_owned());
        }
        test();
        Ok(())
    });
    match thread.join() {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => {
            let required = std::env::var_os("REQUIRE_KERNEL").is_some_and(|value| value == "1");
            assert!(!required, "REQUIRE_KERNEL=1 and {reason}");
            eprintln!("skipped: {reason}");
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[test]
fn packets_cross_the_tun_device_both_ways() {
    in_own_network(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            let (upf, local) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 1));
            let n6 = "{kind: tun, name: upfgtp, address: 10.60.0.1/16}";
            let server = Server::bind(config(dir, upf, n6)).await.unwrap();
            let serving = tokio::spawn(server.serve());
            let n3 = UdpSocket::bind((local, 2152)).await.unwrap();
            let mut link = Link::connect(dir).await;
            let mut ue = Ue::first(1);
            link.attach(&mut ue).await;
            let (to, teid) = link.establish(&mut ue, local).await;
            let active = |ues: &Value| ues[0]["sessions"][0]["state"] == "active";
            until(dir, &Request::Ues, active).await;
            // The kernel behind the TUN device answers the UE's ping.
            let (ue_address, gateway) = (Ipv4Addr::new(10, 60, 0, 2), Ipv4Addr::new(10, 60, 0, 1));
            n3.send_to(&uplink(teid, &ping(ue_address, gateway)), to)
                .await
                .unwrap();
            let mut buffer = [0; 2048];
            let (len, from) = tokio::time::timeout(LIMIT, n3.recv_from(&mut buffer))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(from, to);
            let message = Message::decode(&buffer[..len]).unwrap();
            assert_eq!(message.header.kind, MessageType::GPdu);
            assert_eq!(message.header.teid, n3iwf::TEID);
            let container = message.header.container.unwrap();
            assert_eq!(
                (container.direction, container.qfi),
                (Direction::Downlink, 1)
            );
            assert_eq!(message.payload[12..16], gateway.octets());
            assert_eq!(message.payload[16..20], ue_address.octets());
            assert_eq!(message.payload[20], 0, "echo reply");
            assert_eq!(message.payload[28..32], [1, 2, 3, 4]);
            let sessions = call(dir, &Request::Sessions).await;
            assert_eq!(sessions[0]["downlink_packets"], 1);
            serving.abort();
        });
    });
}
