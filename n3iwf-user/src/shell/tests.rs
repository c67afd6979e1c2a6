//! The shell's parts against real sockets on this host.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Mutex,
    time::Duration,
};

use dataplane::{
    ChildSaSpec, ClassReading, SaReading, StopReport,
    relay::{AccessSession, Ambr, Drops, SessionReading},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::*;
use crate::core::RelaySession;

async fn next(input: &mut mpsc::Receiver<Input>) -> Input {
    timeout(Duration::from_secs(10), input.recv())
        .await
        .expect("an input in time")
        .expect("an input")
}

/// An AMF's listener on a Unix socket, and the link of a gateway to it.
struct N2Test {
    _directory: tempfile::TempDir,
    address: n2::Address,
    link: N2,
    input: mpsc::Receiver<Input>,
}

fn n2_test() -> N2Test {
    let directory = tempfile::tempdir().unwrap();
    let address = n2::Address::Unix(directory.path().join("amf"));
    let (inputs, input) = mpsc::channel(64);
    N2Test {
        link: N2::new(vec![address.clone()], n2::Options::default(), inputs),
        _directory: directory,
        address,
        input,
    }
}

#[tokio::test]
async fn n2_connects_carries_messages_and_tells_its_end() {
    let mut test = n2_test();
    let listener = n2::Listener::bind(&test.address, &n2::Options::default()).unwrap();
    test.link.connect(0);
    let mut amf = listener.accept().await.unwrap();
    let Input::AmfConnected {
        amf: 0,
        attempt,
        sender,
    } = next(&mut test.input).await
    else {
        panic!("connected");
    };
    assert!(test.link.connected(0, attempt, sender));

    test.link.send(0, None, b"setup".to_vec());
    test.link.send(0, Some(7), b"first".to_vec());
    test.link.send(0, Some(7), b"second".to_vec());
    let mut streams = Vec::new();
    for text in [&b"setup"[..], b"first", b"second"] {
        let received = amf.recv().await.unwrap().unwrap();
        assert_eq!((received.data.as_slice(), received.ppid), (text, 60));
        streams.push(received.stream);
    }
    assert_eq!(streams[0], 0, "stream 0 is not for UEs");
    assert!(streams[1] > 0 && streams[1] == streams[2]);

    amf.send(0, b"answer").await.unwrap();
    let Input::Ngap {
        attempt: of, data, ..
    } = next(&mut test.input).await
    else {
        panic!("a message");
    };
    assert_eq!((of, data.as_slice()), (attempt, &b"answer"[..]));

    drop(amf);
    let Input::AmfLost { attempt: of, .. } = next(&mut test.input).await else {
        panic!("lost");
    };
    assert!(test.link.lost(0, of));
    assert!(!test.link.lost(0, of), "only once");
    assert!(!test.link.is_current(0, of));
}

#[tokio::test]
async fn n2_tells_a_refusal_and_forgets_what_it_gave_up() {
    let mut test = n2_test();
    test.link.connect(0);
    let Input::AmfLost {
        attempt, reason, ..
    } = next(&mut test.input).await
    else {
        panic!("refused");
    };
    assert!(reason.contains("connect"), "{reason}");
    // Given up before the news arrived: a later attempt is the current one.
    test.link.connect(0);
    assert!(!test.link.lost(0, attempt));
    // Nothing stands: what is sent goes nowhere and hurts nobody.
    test.link.send(0, None, vec![1]);
    test.link.send(9, None, vec![1]);
}

#[tokio::test]
async fn n2_closes_after_what_is_queued() {
    let mut test = n2_test();
    let listener = n2::Listener::bind(&test.address, &n2::Options::default()).unwrap();
    test.link.connect(0);
    let mut amf = listener.accept().await.unwrap();
    let Input::AmfConnected {
        attempt, sender, ..
    } = next(&mut test.input).await
    else {
        panic!("connected");
    };
    assert!(test.link.connected(0, attempt, sender));
    for number in 0..20_u8 {
        test.link.send(0, Some(1), vec![number]);
    }
    test.link.close().await;
    for number in 0..20_u8 {
        assert_eq!(amf.recv().await.unwrap().unwrap().data, [number]);
    }
    assert!(amf.recv().await.unwrap().is_none());
}

/// A listener on loopback and its inputs. Port 0 is not configurable, so one is picked.
async fn nas_test() -> (Nas, SocketAddr, mpsc::Receiver<Input>) {
    let (inputs, input) = mpsc::channel(64);
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let nas = Nas::listen(address, None, inputs).unwrap();
    (nas, address, input)
}

#[tokio::test]
async fn nas_is_framed_both_ways_in_order() {
    let (mut nas, address, mut input) = nas_test().await;
    let mut ue = TcpStream::connect(address).await.unwrap();
    let Input::NasConnected { link, from, writer } = next(&mut input).await else {
        panic!("connected");
    };
    assert_eq!(from, address.ip());
    nas.opened(link, writer);
    // Two messages and the beginning of a third in one segment, its end in another.
    ue.write_all(&[0, 1, 0xa1, 0, 2, 0xb1, 0xb2, 0])
        .await
        .unwrap();
    ue.flush().await.unwrap();
    for expected in [&[0xa1][..], &[0xb1, 0xb2]] {
        let Input::Nas { link: of, message } = next(&mut input).await else {
            panic!("a message");
        };
        assert_eq!((of, message.as_slice()), (link, expected));
    }
    ue.write_all(&[1, 0xc1]).await.unwrap();
    let Input::Nas { message, .. } = next(&mut input).await else {
        panic!("a message");
    };
    assert_eq!(message, [0xc1]);

    nas.send(link, &[1, 2, 3]);
    nas.send(link, &[4]);
    nas.close(link);
    let mut received = Vec::new();
    ue.read_to_end(&mut received).await.unwrap();
    assert_eq!(
        received,
        [0, 3, 1, 2, 3, 0, 1, 4],
        "what was queued, then the end"
    );
    drop(ue);
    assert!(matches!(next(&mut input).await, Input::NasClosed { link: of } if of == link));
}

#[tokio::test]
async fn a_nas_stream_that_makes_no_sense_is_closed() {
    let (mut nas, address, mut input) = nas_test().await;
    let mut ue = TcpStream::connect(address).await.unwrap();
    let Input::NasConnected { link, writer, .. } = next(&mut input).await else {
        panic!("connected");
    };
    nas.opened(link, writer);
    ue.write_all(&[0, 0, 1, 2]).await.unwrap();
    assert!(matches!(next(&mut input).await, Input::NasClosed { link: of } if of == link));
    nas.close(link);
    let mut rest = Vec::new();
    // The end, or a reset because of what was not read.
    let end = ue.read_to_end(&mut rest).await;
    assert!(rest.is_empty() && end.map_or(true, |octets| octets == 0));
}

/// A UE that opens connections and leaves each half open: what we close is closed.
#[tokio::test]
async fn a_nas_connection_we_close_is_gone_though_the_ue_keeps_its_end() {
    let (mut nas, address, mut input) = nas_test().await;
    let mut kept = Vec::new();
    for _ in 0..8 {
        // Half an envelope, and then nothing more.
        let mut ue = TcpStream::connect(address).await.unwrap();
        ue.write_all(&[0]).await.unwrap();
        let Input::NasConnected { link, writer, .. } = next(&mut input).await else {
            panic!("connected");
        };
        nas.opened(link, writer);
        kept.push((link, ue));
    }
    for (link, ue) in &mut kept {
        nas.close(*link);
        assert!(matches!(next(&mut input).await, Input::NasClosed { link: of } if of == *link));
        assert_eq!(ue.read(&mut [0; 16]).await.unwrap(), 0, "our end");
        // Nobody reads there any more: the system says so to who writes on.
        let refused = timeout(Duration::from_secs(60), async {
            while ue.write_all(&[0; 64]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        refused.await.expect("a reset");
    }
}

#[tokio::test]
async fn a_ue_that_reads_nothing_loses_its_connection_and_nothing_else() {
    let (mut nas, address, mut input) = nas_test().await;
    let ue = TcpStream::connect(address).await.unwrap();
    let Input::NasConnected { link, writer, .. } = next(&mut input).await else {
        panic!("connected");
    };
    let probe = writer.clone();
    nas.opened(link, writer);
    let message = vec![0; 60_000];
    for _ in 0..2000 {
        nas.send(link, &message);
        tokio::task::yield_now().await;
    }
    assert_eq!(probe.capacity(), 0, "bounded");
    drop(ue);
    assert!(matches!(next(&mut input).await, Input::NasClosed { .. }));
}

/// Remembers the order of what it is asked.
#[derive(Default)]
struct Journal {
    lines: Mutex<Vec<String>>,
}

impl Journal {
    fn note(&self, line: String) {
        self.lines.lock().unwrap().push(line);
    }
}

#[async_trait::async_trait]
impl Dataplane for Journal {
    async fn start(&self) -> Result<StartReport, dataplane::Error> {
        Ok(StartReport::default())
    }

    async fn install(&self, sa: ChildSaSpec) -> Result<(), dataplane::Error> {
        // Slow, so that a removal would overtake it if jobs ran side by side.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.note(format!("install {}", sa.id));
        Ok(())
    }

    async fn install_inbound(&self, sa: ChildSaSpec) -> Result<(), dataplane::Error> {
        self.note(format!("install {} inbound", sa.id));
        Ok(())
    }

    async fn switch(&self, id: u64) -> Result<(), dataplane::Error> {
        self.note(format!("switch to {id}"));
        Ok(())
    }

    async fn relocate(
        &self,
        id: u64,
        _local: SocketAddr,
        remote: SocketAddr,
        _udp_encap: bool,
    ) -> Result<(), dataplane::Error> {
        self.note(format!("{id} goes to {remote}"));
        Ok(())
    }

    async fn notice(&self) -> dataplane::Notice {
        std::future::pending().await
    }

    async fn remove(&self, id: u64) -> Result<Option<SaReading>, dataplane::Error> {
        self.note(format!("remove {id}"));
        Ok(None)
    }

    async fn readings(&self) -> Result<Vec<SaReading>, dataplane::Error> {
        Ok(Vec::new())
    }

    async fn classes(&self) -> Result<Option<ClassReading>, dataplane::Error> {
        Ok(None)
    }

    async fn stop(&self) -> Result<StopReport, dataplane::Error> {
        Ok(StopReport::default())
    }
}

impl AccessRelay for Journal {
    fn add(&self, session: AccessSession) -> Result<(), dataplane::Error> {
        self.note(format!(
            "add {} on {:?}, default QFI {}, {:?} bit/s down",
            session.dl_teid,
            session.interface,
            session.default_qfi,
            session.session_ambr.map(|ambr| ambr.downlink)
        ));
        Ok(())
    }

    fn bind(&self, dl_teid: u32, reqid: u32) {
        self.note(format!("bind {dl_teid} to {reqid}"));
    }

    fn modify(&self, session: AccessSession) -> Result<(), dataplane::Error> {
        self.note(format!(
            "modify {}: QFIs {:?}, TEID {}",
            session.dl_teid, session.qfis, session.ul_teid
        ));
        Ok(())
    }

    fn set_ue_ambr(&self, ue: u32, ambr: Ambr) {
        self.note(format!("UE {ue}: {} bit/s down", ambr.downlink));
    }

    fn remove(&self, dl_teid: u32) -> Option<SessionReading> {
        self.note(format!("end {dl_teid}"));
        None
    }

    fn readings(&self) -> Vec<SessionReading> {
        Vec::new()
    }

    fn drops(&self) -> Drops {
        Drops::default()
    }

    fn poll_event(&self) -> Option<AccessEvent> {
        None
    }
}

#[tokio::test]
async fn the_data_plane_works_in_the_order_it_is_told() {
    let journal = Arc::new(Journal::default());
    let (inputs, mut input) = mpsc::channel(16);
    let plane = Plane::start(
        Arc::clone(&journal) as Arc<dyn Dataplane>,
        Arc::clone(&journal) as Arc<dyn AccessRelay>,
        |slot| Some(format!("xfrmi-{slot}")),
        None,
        Arc::default(),
        inputs,
    );
    let session = |upf: &str| RelaySession {
        ue: 3,
        session: 1,
        ue_inner: "10.0.0.2".parse().unwrap(),
        up_address: "10.0.0.1".parse().unwrap(),
        slot: 2,
        reqid: 11,
        dscp: 0,
        further: Vec::new(),
        n3_dscp: BTreeMap::new(),
        ambr: Some(Ambr {
            uplink: 1_000_000,
            downlink: 2_000_000,
        }),
        ue_ambr: None,
        qfis: vec![9, 1],
        upf: upf.parse().unwrap(),
        ul_teid: 5,
        dl_teid: 6,
    };
    plane.add_session(session("203.0.113.2"));
    plane.modify_session(
        RelaySession {
            qfis: vec![9, 2],
            ul_teid: 7,
            ..session("203.0.113.2")
        },
        44,
    );
    let ambr = Ambr {
        uplink: 1,
        downlink: 2,
    };
    plane.set_ue_ambr(3, ambr);
    plane.remove_session(3, 6);
    plane.add_session(session("2001:db8::2"));
    assert!(matches!(
        next(&mut input).await,
        Input::SessionAdded {
            ue: 3,
            dl_teid: 6,
            result: Ok(())
        }
    ));
    assert!(matches!(
        next(&mut input).await,
        Input::SessionModified {
            ue: 3,
            token: 44,
            result: Ok(())
        }
    ));
    assert!(matches!(
        next(&mut input).await,
        Input::SessionRemoved { ue: 3, dl_teid: 6 }
    ));
    assert!(matches!(
        next(&mut input).await,
        Input::SessionAdded { result: Ok(()), .. }
    ));
    assert_eq!(
        *journal.lines.lock().unwrap(),
        [
            "add 6 on Some(\"xfrmi-2\"), default QFI 9, Some(2000000) bit/s down",
            "bind 6 to 11",
            "modify 6: QFIs [9, 2], TEID 7",
            "UE 3: 2 bit/s down",
            "end 6",
            "add 6 on Some(\"xfrmi-2\"), default QFI 9, Some(2000000) bit/s down",
            "bind 6 to 11",
        ]
    );
}
