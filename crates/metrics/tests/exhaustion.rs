//! A daemon that is out of file descriptors: a scrape waits, and gets its page once there are some.
//! In a process of its own, since the limit is the process's.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs::File, time::Duration};

use metrics::Server;
use nix::sys::resource::{Resource, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Opens files until the process may open no more.
fn exhaust() -> Vec<File> {
    let mut files = Vec::new();
    loop {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                return files;
            }
        }
    }
}

async fn scrape(mut stream: TcpStream) -> String {
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn a_scrape_waits_for_descriptors() {
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.address().unwrap();
    let serving = tokio::spawn(server.serve(|| async { Ok("x 1\n".to_owned()) }));
    let reply = scrape(TcpStream::connect(address).await.unwrap()).await;
    assert!(reply.ends_with("\r\n\r\nx 1\n"), "{reply}");

    setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    for _ in 0..3 {
        let mut files = exhaust();
        // One for our end of the connection; the daemon's end has none.
        drop(files.pop());
        let stream = TcpStream::connect(address).await.unwrap();
        let mut asked = Box::pin(scrape(stream));
        let early = timeout(Duration::from_millis(300), &mut asked).await;
        assert!(early.is_err(), "answered without a descriptor");
        drop(files);
        let reply = asked.await;
        assert!(reply.ends_with("\r\n\r\nx 1\n"), "{reply}");
    }
    assert!(!serving.is_finished());
}
