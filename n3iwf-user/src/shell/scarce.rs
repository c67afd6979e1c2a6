//! Without file descriptors, and with a disk that fills up. Limits are a process's: each test is one of its own.

use std::{fs::File, net::Ipv4Addr, process::Command};

use dataplane::EncrAlg;
use nix::sys::{
    resource::{Resource, setrlimit},
    signal::{SigSet, Signal},
};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::*;

/// Set in the process that a test has for itself.
const ALONE: &str = "N3IWF_TEST_ALONE";

/// Whether this is that process; elsewhere it is started, and has to succeed.
fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let name = format!("shell::scarce::{test}");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

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

#[test]
fn nas_waits_for_descriptors() {
    if alone("nas_waits_for_descriptors") {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(nas_without_descriptors());
    }
}

async fn nas_without_descriptors() {
    let (inputs, mut input) = mpsc::channel(64);
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut nas = Nas::listen(address, None, inputs).unwrap();
    let mut first = TcpStream::connect(address).await.unwrap();
    let Some(Input::NasConnected { link, writer, .. }) = input.recv().await else {
        panic!("connected");
    };
    nas.opened(link, writer);

    setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    let mut kept = Vec::new();
    for octet in 0..3 {
        let mut files = exhaust();
        // One for the UE's end of the connection; ours has none.
        drop(files.pop());
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(&[0, 1, octet]).await.unwrap();
        let early = timeout(Duration::from_millis(300), input.recv()).await;
        assert!(early.is_err(), "accepted without a descriptor");
        // Who is connected already is served meanwhile.
        first.write_all(&[0, 1, 0xa1]).await.unwrap();
        let Some(Input::Nas { link: of, message }) = input.recv().await else {
            panic!("a message of the first");
        };
        assert_eq!((of, message.as_slice()), (link, &[0xa1][..]));
        nas.send(link, &[0xb1]);
        let mut answer = [0; 3];
        first.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0, 1, 0xb1]);
        drop(files);
        let Some(Input::NasConnected { link, writer, .. }) = input.recv().await else {
            panic!("the second");
        };
        nas.opened(link, writer);
        let Some(Input::Nas { link: of, message }) = input.recv().await else {
            panic!("a message of the second");
        };
        assert_eq!((of, message.as_slice()), (link, &[octet][..]));
        kept.push(second);
    }
}

/// A file that may not grow any further takes part of a row, as a disk does with its last free octets.
#[test]
fn a_key_log_has_whole_rows_or_none() {
    if !alone("a_key_log_has_whole_rows_or_none") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let log = DebugKeyLog::open(directory.path()).unwrap();
    let table = || std::fs::read_to_string(directory.path().join("esp_sa")).unwrap();
    let spec = keylog::tests::spec(EncrAlg::AesGcm16, None);
    log.child_sa(&spec);
    let whole = table();
    // It would end the process.
    SigSet::from(Signal::SIGXFSZ).thread_block().unwrap();
    let room = whole.len() as u64 + 10;
    setrlimit(Resource::RLIMIT_FSIZE, room, libc::RLIM_INFINITY).unwrap();
    log.child_sa(&spec);
    assert_eq!(table(), whole, "half a row is left");
    setrlimit(
        Resource::RLIMIT_FSIZE,
        libc::RLIM_INFINITY,
        libc::RLIM_INFINITY,
    )
    .unwrap();
    log.child_sa(&spec);
    assert_eq!(table(), [whole.as_str(), &whole].concat());
}
