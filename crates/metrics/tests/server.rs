//! The endpoint against clients of all kinds.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::{Options, Server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// A server that counts how often it made a page, and takes `delay` for each.
async fn server(page: String, delay: Duration) -> (SocketAddr, Arc<AtomicUsize>) {
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.address().unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    tokio::spawn(server.serve(move || {
        count.fetch_add(1, Ordering::SeqCst);
        let page = page.clone();
        async move {
            sleep(delay).await;
            Ok(page)
        }
    }));
    (address, made)
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    // A connection that is refused may be reset.
    drop(stream.read_to_string(&mut reply).await);
    reply
}

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn a_page_and_nothing_else() {
    let (address, _) = server("x 1\n".to_owned(), Duration::ZERO).await;
    let reply = ask(address, GET).await;
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    assert!(reply.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(reply.contains("connection: close\r\n"), "{reply}");
    assert!(reply.ends_with("\r\n\r\nx 1\n"), "{reply}");
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("GET /metrics/../etc HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        (
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            "405",
        ),
        ("\x16\x03\x01 TLS, perhaps\r\n\r\n", "400"),
    ] {
        let reply = ask(address, request).await;
        assert!(
            reply.starts_with(&format!("HTTP/1.1 {status}")),
            "{request:?}: {reply}"
        );
    }
    let long = format!(
        "GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let reply = ask(address, &long).await;
    assert!(!reply.contains("x 1"), "{reply}");
}

#[tokio::test]
async fn many_who_ask_at_once_cost_one_page() {
    let (address, made) = server("x 1\n".to_owned(), Duration::from_millis(50)).await;
    let asked: Vec<_> = (0..6).map(|_| tokio::spawn(ask(address, GET))).collect();
    for reply in asked {
        assert!(reply.await.unwrap().ends_with("x 1\n"));
    }
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn idle_clients_take_no_place_for_long() {
    let (address, _) = server("x 1\n".to_owned(), Duration::ZERO).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    // All places are taken: one more is let go without an answer, and does not hang.
    let begun = Instant::now();
    let reply = timeout(Duration::from_secs(1), ask(address, GET))
        .await
        .unwrap();
    assert_eq!(reply, "");
    // The heads they never send are waited for 3 s.
    loop {
        if ask(address, GET).await.ends_with("x 1\n") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(8));
        sleep(Duration::from_millis(100)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(2));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    // More than the buffers of both sockets hold.
    let (address, _) = server("x".repeat(32 << 20), Duration::ZERO).await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(GET.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    sleep(Duration::from_millis(300)).await;
    assert_eq!(ask(address, GET).await, "", "all places are taken");
    sleep(Duration::from_millis(10_500)).await;
    let reply = ask(address, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 404"), "{reply}");
    let mut octets = 0;
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read) = slow[0].read(&mut buffer).await
        && read > 0
    {
        octets += read;
    }
    assert!(octets < 32 << 20, "it was cut off in the middle");
}

#[tokio::test]
async fn a_daemon_that_cannot_answer_says_so() {
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.address().unwrap();
    tokio::spawn(server.serve(|| async { Err::<String, _>("ending".to_owned()) }));
    let reply = ask(address, GET).await;
    assert!(reply.starts_with("HTTP/1.1 503"), "{reply}");
    assert!(reply.ends_with("ending\n"), "{reply}");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let first = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = first.address().unwrap();
    let error = Server::bind(address).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("metrics.listen {address}: "))
    );
}

#[test]
fn loopback_unless_told_otherwise() {
    let options: Options = serde_json::from_str("{}").unwrap();
    assert_eq!(options.address(9732).to_string(), "127.0.0.1:9732");
    assert!(!options.peer_sae);
    let options: Options = serde_json::from_str(r#"{"listen": "[::1]:1"}"#).unwrap();
    assert_eq!(options.address(9732).to_string(), "[::1]:1");
    assert!(serde_json::from_str::<Options>(r#"{"listn": "[::1]:1"}"#).is_err());
}
