//! A daemon that is out of file descriptors: who asks waits, and is answered once there are some.
//! In a process of its own, since the limit is the process's.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs::File, time::Duration};

use daemon::control::{Client, Server};
use nix::sys::resource::{Resource, setrlimit};
use serde_json::{Value, json};
use tokio::time::timeout;

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

#[tokio::test]
async fn a_control_socket_outlives_a_lack_of_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let server = Server::bind(&path).await.unwrap();
    let serving = tokio::spawn(server.serve(|request: Value| async move { Ok(request) }));
    let mut first = Client::connect(&path).await.unwrap();
    assert_eq!(first.call::<Value>(&json!(1)).await.unwrap(), json!(1));

    setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    // Kept: the daemon's ends of closed connections would come free at any time.
    let mut kept = Vec::new();
    for round in 0..3 {
        let mut files = exhaust();
        // One for our end of the connection; the daemon's end has none.
        drop(files.pop());
        let mut second = Client::connect(&path).await.unwrap();
        assert_eq!(
            File::open("/dev/null").unwrap_err().raw_os_error(),
            Some(libc::EMFILE)
        );
        let request = json!({ "round": round });
        let mut asked = Box::pin(second.call::<Value>(&request));
        let early = timeout(Duration::from_millis(300), &mut asked).await;
        assert!(early.is_err(), "answered without a descriptor");
        // Who is connected already is served meanwhile.
        assert_eq!(first.call::<Value>(&json!(2)).await.unwrap(), json!(2));
        drop(files);
        assert_eq!(asked.await.unwrap(), request);
        kept.push(second);
    }
    assert!(!serving.is_finished());
}
