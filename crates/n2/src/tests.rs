#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

use std::net::SocketAddr;
use std::time::Duration;

use super::*;

fn unix_address(dir: &tempfile::TempDir) -> Address {
    Address::Unix(dir.path().join("n2.sock"))
}

async fn pair(address: &Address) -> (Listener, Association, Association) {
    let listener = Listener::bind(address, &Options::default()).unwrap();
    let (client, server) = tokio::join!(
        async { Association::connect(listener.local(), &Options::default()).await },
        listener.accept()
    );
    (listener, client.unwrap(), server.unwrap())
}

#[test]
fn addresses() {
    let sctp = |text: &str| Address::Sctp(text.parse::<SocketAddr>().unwrap());
    for (text, address) in [
        ("sctp:203.0.113.2:38412", sctp("203.0.113.2:38412")),
        ("203.0.113.2:38413", sctp("203.0.113.2:38413")),
        ("203.0.113.2", sctp("203.0.113.2:38412")),
        ("sctp:[2001:db8::2]:38412", sctp("[2001:db8::2]:38412")),
        ("2001:db8::2", sctp("[2001:db8::2]:38412")),
        ("sctp:[2001:db8::2]", sctp("[2001:db8::2]:38412")),
        ("unix:/run/n2.sock", Address::Unix("/run/n2.sock".into())),
    ] {
        let parsed: Address = text.parse().unwrap();
        assert_eq!(parsed, address, "{text}");
        assert_eq!(parsed.to_string().parse::<Address>().unwrap(), address);
    }
    for text in [
        "",
        "unix:",
        "unix:relative",
        "sctp:",
        "amf.example",
        "1.2.3.4:0",
        "1.2.3.4:70000",
        "tcp:1.2.3.4:5",
    ] {
        assert!(text.parse::<Address>().is_err(), "{text}");
    }
}

async fn exchange(address: &Address) {
    let (_listener, client, mut server) = pair(address).await;
    assert!(client.streams() > 1);
    for (stream, len) in [(0u16, 1usize), (1, 1500), (2, 20_000), (0, MAX_MESSAGE)] {
        let data: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        client.send(stream, &data).await.unwrap();
        let received = server.recv().await.unwrap().unwrap();
        assert_eq!((received.stream, received.ppid), (stream, NGAP_PPID));
        assert_eq!(received.data, data);
    }

    // Both directions at once, from two tasks, message by message in order.
    let (client_send, mut client_recv) = client.into_split();
    let (server_send, mut server_recv) = server.into_split();
    let echo = tokio::spawn(async move {
        while let Some(message) = server_recv.recv().await.unwrap() {
            server_send
                .send(message.stream, &message.data)
                .await
                .unwrap();
        }
    });
    let sender = tokio::spawn(async move {
        for number in 0..500u32 {
            client_send.send(1, &number.to_be_bytes()).await.unwrap();
        }
        client_send
    });
    for number in 0..500u32 {
        let message = client_recv.recv().await.unwrap().unwrap();
        assert_eq!(message.data, number.to_be_bytes());
        assert_eq!(message.stream, 1);
    }
    let client_send = sender.await.unwrap();

    assert!(matches!(client_send.send(0, &[]).await, Err(Error::Empty)));
    let long = vec![0; MAX_MESSAGE + 1];
    assert!(matches!(
        client_send.send(0, &long).await,
        Err(Error::TooLong)
    ));

    // An orderly end is `None` on both sides.
    client_send.shutdown().unwrap();
    assert_eq!(client_recv.recv().await.unwrap(), None);
    echo.await.unwrap();
    let error = client_send.send(0, &[1]).await.unwrap_err();
    assert!(!error.is_recoverable(), "{error}");
}

#[tokio::test]
async fn unix_exchange() {
    let dir = tempfile::tempdir().unwrap();
    exchange(&unix_address(&dir)).await;
}

#[tokio::test]
async fn unix_refuses_what_it_must() {
    let dir = tempfile::tempdir().unwrap();
    let address = unix_address(&dir);
    let nobody = Association::connect(&address, &Options::default()).await;
    assert!(
        matches!(
            nobody,
            Err(Error::Io {
                what: "connect",
                ..
            })
        ),
        "{nobody:?}"
    );

    let listener = Listener::bind(&address, &Options::default()).unwrap();
    // A second listener does not steal a living one's socket.
    assert!(Listener::bind(&address, &Options::default()).is_err());
    let _unused = listener.accept().await.unwrap();

    // A raw peer: a short packet and an overlong one are refused one by one.
    let raw = association::unix_socket().unwrap();
    let Address::Unix(path) = &address else {
        unreachable!()
    };
    raw.connect(&socket2::SockAddr::unix(path).unwrap())
        .unwrap();
    let mut server = listener.accept().await.unwrap();
    raw.send(&[0, 0, 0, 0, 0, 60]).unwrap();
    raw.send(&vec![7; MAX_MESSAGE + 7]).unwrap();
    raw.send(&[0, 3, 0x3c, 0, 0, 0, 9]).unwrap();
    assert!(matches!(server.recv().await, Err(Error::ShortPacket(6))));
    assert!(matches!(server.recv().await, Err(Error::TooLong)));
    let message = server.recv().await.unwrap().unwrap();
    assert_eq!(
        (message.stream, message.ppid, message.data),
        (3, 0x3c00_0000, vec![9])
    );
    drop(raw);
    assert_eq!(server.recv().await.unwrap(), None);

    // A dead listener's file is replaced, any other file is left alone.
    drop(listener);
    assert!(!path.exists());
    let dead = association::unix_socket().unwrap();
    dead.bind(&socket2::SockAddr::unix(path).unwrap()).unwrap();
    drop(dead);
    assert!(path.exists());
    drop(Listener::bind(&address, &Options::default()).unwrap());
    std::fs::write(path, b"data").unwrap();
    assert!(Listener::bind(&address, &Options::default()).is_err());
    assert_eq!(std::fs::read(path).unwrap(), b"data");
}

#[tokio::test]
async fn an_abort_ends_a_waiting_receive() {
    let dir = tempfile::tempdir().unwrap();
    let (_listener, client, mut server) = pair(&unix_address(&dir)).await;
    let (send, mut recv) = client.into_split();
    let waiting = tokio::spawn(async move { recv.recv().await });
    tokio::task::yield_now().await;
    send.abort().unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), None);
    assert_eq!(server.recv().await.unwrap(), None);
    assert!(send.send(0, &[1]).await.is_err());
}

#[tokio::test]
async fn a_dropped_receive_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_listener, client, mut server) = pair(&unix_address(&dir)).await;
    let waited = tokio::time::timeout(Duration::from_millis(10), server.recv()).await;
    assert!(waited.is_err());
    client.send(5, b"later").await.unwrap();
    assert_eq!(server.recv().await.unwrap().unwrap().data, b"later");
}

/// Skips with a printed reason on a kernel without SCTP; `REQUIRE_KERNEL=1`
/// makes that a failure.
fn sctp_or_skip() -> bool {
    if sctp_supported() {
        return true;
    }
    let required = std::env::var_os("REQUIRE_KERNEL").is_some_and(|value| value == "1");
    assert!(!required, "REQUIRE_KERNEL=1 and this kernel has no SCTP");
    eprintln!("skipped: this kernel has no SCTP");
    false
}

#[tokio::test]
async fn sctp_exchange() {
    if sctp_or_skip() {
        exchange(&"sctp:127.0.0.1:0".parse().unwrap()).await;
    }
}

#[tokio::test]
async fn sctp_abort_is_an_error_and_refusal_is_told() {
    if !sctp_or_skip() {
        return;
    }
    let (listener, client, server) = pair(&"sctp:127.0.0.1:0".parse().unwrap()).await;
    let (client_send, mut client_recv) = client.into_split();
    let (_server_send, mut server_recv) = server.into_split();
    client_send.abort().unwrap();
    assert_eq!(client_recv.recv().await.unwrap(), None);
    assert!(client_send.send(0, &[1]).await.is_err());
    drop((client_send, client_recv));
    let end = server_recv.recv().await;
    assert!(matches!(end, Err(Error::Io { .. })), "{end:?}");

    let address = listener.local().clone();
    drop(listener);
    let refused = Association::connect(&address, &Options::default()).await;
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
}

#[tokio::test]
async fn sctp_missing_is_its_own_error() {
    if sctp_supported() {
        return;
    }
    let address = "sctp:127.0.0.1:38412".parse().unwrap();
    let error = Association::connect(&address, &Options::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NoSctp(_)), "{error}");
    let error = Listener::bind(&address, &Options::default()).unwrap_err();
    assert!(matches!(error, Error::NoSctp(_)), "{error}");
}

/// What the kernel says of a socket is what was asked for.
#[test]
fn sctp_liveness_is_the_kernels() {
    if !sctp_or_skip() {
        return;
    }
    let liveness = Liveness {
        heartbeat: Duration::from_millis(1234),
        retransmissions: 7,
        rto_max: Duration::from_millis(2345),
    };
    let options = Options::default().with_liveness(liveness);
    let socket = sctp::socket("127.0.0.1:38412".parse().unwrap(), &options).unwrap();
    let get = |name, value: &mut [u8]| {
        let fd = std::os::fd::AsFd::as_fd(&socket);
        sys::get_option(fd, libc::IPPROTO_SCTP, name, value).unwrap()
    };
    let word =
        |octets: &[u8], at: usize| u32::from_ne_bytes(octets[at..at + 4].try_into().unwrap());
    let half =
        |octets: &[u8], at: usize| u16::from_ne_bytes(octets[at..at + 2].try_into().unwrap());
    let mut rto = [0; 16];
    assert_eq!(get(libc::SCTP_RTOINFO, &mut rto), 16);
    assert_eq!([4, 8, 12].map(|at| word(&rto, at)), [2345, 2345, 1000]);
    let mut association = [0; 20];
    assert_eq!(get(libc::SCTP_ASSOCINFO, &mut association), 20);
    assert_eq!(half(&association, 4), 7);
    let mut path = [0; 156];
    get(libc::SCTP_PEER_ADDR_PARAMS, &mut path);
    assert_eq!((word(&path, 132), half(&path, 136)), (1234, 7));
    assert_eq!(word(&path, 146) & 1, 1, "heartbeats are on");
}

#[test]
fn sctp_control_messages() {
    let sent = sctp::send_info(3, NGAP_PPID);
    // The identifier is in network order on the wire, whatever this machine is.
    assert_eq!(&sent[sent.len() - 12..sent.len() - 8], &[0, 0, 0, 60]);

    // A foreign control message, then an sctp_rcvinfo.
    let mut control = Vec::new();
    for (level, kind, body) in [
        (libc::SOL_SOCKET, 99, vec![1u8; 5]),
        (libc::IPPROTO_SCTP, libc::SCTP_RCVINFO, {
            let mut body = vec![0u8; 28];
            body[..2].copy_from_slice(&7u16.to_ne_bytes());
            body[8..12].copy_from_slice(&NGAP_PPID.to_be_bytes());
            body
        }),
    ] {
        control.extend_from_slice(&(16 + body.len()).to_ne_bytes());
        control.extend_from_slice(&level.to_ne_bytes());
        control.extend_from_slice(&kind.to_ne_bytes());
        control.extend_from_slice(&body);
        control.resize(control.len().next_multiple_of(8), 0);
    }
    assert_eq!(sctp::receive_info(&control), Some((7, NGAP_PPID)));
    for end in 0..control.len() - 4 {
        assert_eq!(sctp::receive_info(&control[..end]), None, "cut at {end}");
    }
    assert_eq!(sctp::receive_info(&[0; 64]), None);
}
