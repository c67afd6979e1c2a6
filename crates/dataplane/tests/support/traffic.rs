//! Traffic between inner addresses: TCP, and GRE over raw sockets.

use std::{
    io::{Read, Write},
    mem::MaybeUninit,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::support::Space;

const PATIENCE: Duration = Duration::from_secs(60);

/// `amount` octets from the UE to the N3IWF and back again.
pub(crate) fn tcp_exchange(n3iwf: &Space, ue: &Space, server: &str, client: &str, amount: usize) {
    let server: IpAddr = server.parse().unwrap();
    let client: IpAddr = client.parse().unwrap();
    let listener = n3iwf.run(|| TcpListener::bind((server, 20_000)).unwrap());
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, from) = listener.accept().unwrap();
            assert_eq!(from.ip(), client);
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            assert_eq!(received.len(), amount);
            stream.write_all(&received).unwrap();
        });
        let mut stream = ue.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket
                .bind(&SockAddr::from(SocketAddr::new(client, 0)))
                .unwrap();
            socket
                .connect_timeout(&SockAddr::from(SocketAddr::new(server, 20_000)), PATIENCE)
                .unwrap();
            TcpStream::from(socket)
        });
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let sent: Vec<u8> = (0..amount).map(|i| (i % 251) as u8).collect();
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == sent, "{} octets came back", back.len());
    });
    // Let the last acknowledgements arrive before counters are compared.
    thread::sleep(Duration::from_millis(500));
}

/// A raw GRE socket bound to an inner address and an XFRM interface.
fn gre_socket(space: &Space, local: &str, interface: &str) -> Socket {
    space.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(47))).unwrap();
        socket.bind_device(Some(interface.as_bytes())).unwrap();
        let local = SocketAddr::new(local.parse().unwrap(), 0);
        socket.bind(&SockAddr::from(local)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    })
}

/// GRE header with a key, and octets up to `size`.
fn gre(size: usize) -> Vec<u8> {
    let mut packet = vec![0x20, 0, 0, 0, 9, 0, 0, 0];
    packet.resize(size, 0xab);
    packet
}

/// Sends GRE packets of these sizes and waits a moment for them to arrive.
pub(crate) fn send_gre(space: &Space, local: &str, remote: &str, interface: &str, sizes: &[usize]) {
    let socket = gre_socket(space, local, interface);
    let to = SockAddr::from(SocketAddr::new(remote.parse().unwrap(), 0));
    for size in sizes {
        assert_eq!(socket.send_to(&gre(*size), &to).unwrap(), *size);
    }
    thread::sleep(Duration::from_millis(500));
}

/// GRE packets of these sizes from the UE to the N3IWF, then the other way.
pub(crate) fn gre_exchange(
    n3iwf: &Space,
    ue: &Space,
    n3iwf_inner: &str,
    ue_inner: &str,
    interface: &str,
    sizes: &[usize],
) {
    let at_n3iwf = gre_socket(n3iwf, n3iwf_inner, interface);
    let at_ue = gre_socket(ue, ue_inner, interface);
    for (from, to, to_inner) in [
        (&at_ue, &at_n3iwf, n3iwf_inner),
        (&at_n3iwf, &at_ue, ue_inner),
    ] {
        let address = SockAddr::from(SocketAddr::new(to_inner.parse().unwrap(), 0));
        for size in sizes {
            assert_eq!(from.send_to(&gre(*size), &address).unwrap(), *size);
            let mut buffer = [MaybeUninit::uninit(); 2048];
            let (received, _) = to.recv_from(&mut buffer).unwrap();
            // A raw socket sees the IP header too.
            assert_eq!(received, size + 20);
        }
    }
}

/// A datagram between the inner addresses must not arrive: no policy is for UDP.
pub(crate) fn udp_blocked(n3iwf: &Space, ue: &Space, server: &str) {
    let server: IpAddr = server.parse().unwrap();
    let receiver = n3iwf.run(|| UdpSocket::bind((server, 7000)).unwrap());
    receiver
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    ue.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // The kernel may refuse at once, or drop on the interface.
        let _ = socket.send_to(b"clear", (server, 7000));
    });
    let mut buffer = [0; 16];
    assert!(receiver.recv_from(&mut buffer).is_err(), "UDP got through");
}
