//! The `kme` binary as a user runs it: certificates, two processes, faults, status.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of a test: to panic is to report"
)]

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use kme::NodeStatus;
use qkd::{Kms, KmsConfig, QkdError, SaeId};
use tempfile::TempDir;

/// Longer than any step here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn kme() -> Command {
    Command::new(env!("CARGO_BIN_EXE_kme"))
}

fn succeed(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    assert!(
        status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&stderr)
    );
    String::from_utf8(stdout).unwrap()
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A running `kme`; killed when a test fails before it stops it.
struct Process(Child);

impl Process {
    fn start(arguments: &[&str], config: &Path, ready: &Path) -> Self {
        let mut command = kme();
        command.args(arguments).arg("--config").arg(config);
        command.arg("--ready-file").arg(ready);
        Self(command.stderr(Stdio::inherit()).spawn().unwrap())
    }

    fn terminate(mut self) -> ExitStatus {
        let id = self.0.id().to_string();
        succeed(Command::new("kill").args(["-TERM", &id]));
        self.0.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn url(ready: &Path, kme: &str) -> String {
    wait_for("ready", || ready.exists());
    let urls: serde_json::Value = serde_json::from_slice(&fs::read(ready).unwrap()).unwrap();
    urls.get(kme).unwrap().as_str().unwrap().to_owned()
}

/// A directory with the certificates of a pair and its two SAEs.
fn certificates() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs");
    let listed = succeed(kme().arg("certs").arg("--out").arg(&certs).args([
        "--kme=kme-a=127.0.0.1",
        "--kme=kme-b=127.0.0.1,localhost",
        "--sae=sae-n3iwf",
        "--sae=sae-ue-1",
    ]));
    assert_eq!(listed.lines().count(), 5, "{listed}");
    (dir, certs)
}

fn kme_section(certs: &Path, id: &str, sae: &str) -> String {
    let certs = certs.display();
    format!(
        "{{ id: {id}, listen: '127.0.0.1:0', ca: {certs}/ca.pem, certificate: {certs}/{id}.pem, \
         privateKey: {certs}/{id}.key, saes: [{sae}] }}"
    )
}

fn client(certs: &Path, sae: &str, url: &str) -> Kms {
    let yaml = serde_json::json!({
        "endpoints": [url],
        "ca": certs.join("ca.pem"),
        "certificate": certs.join(format!("{sae}.pem")),
        "privateKey": certs.join(format!("{sae}.key")),
        "timeout": "5s",
        "retry": { "attempts": 1, "replication": "2s" },
    });
    let config: KmsConfig = serde_json::from_value(yaml).unwrap();
    Kms::new(&config).unwrap()
}

fn status(control: &Path) -> Vec<NodeStatus> {
    let mut command = kme();
    let text = succeed(
        command
            .arg("status")
            .arg("--json")
            .arg("--control")
            .arg(control),
    );
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_keys_over_their_link() {
    let (dir, certs) = certificates();
    let path = |name: &str| dir.path().join(name);
    let port = free_port();
    let link = "link: { rate: 0, buffer: 25600, delay: 10ms }";
    for (id, sae, peer) in [
        ("kme-a", "sae-n3iwf", "listen"),
        ("kme-b", "sae-ue-1", "connect"),
    ] {
        let config = format!(
            "kme: {}\n{link}\npeer: {{ {peer}: '127.0.0.1:{port}' }}\ncontrol: {}\n",
            kme_section(&certs, id, sae),
            path(&format!("{id}.sock")).display(),
        );
        fs::write(path(&format!("{id}.yaml")), config).unwrap();
    }
    let start = |id: &str| {
        let (config, ready) = (path(&format!("{id}.yaml")), path(&format!("{id}.ready")));
        Process::start(&["run"], &config, &ready)
    };
    let (n3iwf, ue): (SaeId, SaeId) = ("sae-n3iwf".parse().unwrap(), "sae-ue-1".parse().unwrap());

    let a = start("kme-a");
    let control_a = path("kme-a.sock");
    wait_for("control socket", || control_a.exists());
    assert!(!path("kme-a.ready").exists(), "not ready without its peer");
    assert!(!status(&control_a)[0].link_up);
    let b = start("kme-b");
    let master = client(&certs, "sae-n3iwf", &url(&path("kme-a.ready"), "kme-a"));
    let slave = client(&certs, "sae-ue-1", &url(&path("kme-b.ready"), "kme-b"));

    let fetched = master.enc_keys(&ue, 13, 256).await.unwrap();
    let ids: Vec<_> = fetched.iter().map(|key| key.id).collect();
    let collected = slave.dec_keys(&n3iwf, &ids).await.unwrap();
    assert!(
        fetched
            .iter()
            .zip(&collected)
            .all(|(a, b)| a.secret == b.secret)
    );
    let told = master.status(&ue).await.unwrap();
    assert_eq!(told.target_kme_id, "kme-b");
    assert_eq!(told.stored_key_count, 100 - 13);
    let unknown = "sae-unknown".parse().unwrap();
    assert!(matches!(
        master.enc_keys(&unknown, 1, 256).await,
        Err(QkdError::BadRequest { .. })
    ));

    // The other end dies: no keys; it comes back: keys again.
    drop(b);
    wait_for("link down", || !status(&control_a)[0].link_up);
    assert!(matches!(
        master.enc_keys(&ue, 1, 256).await,
        Err(QkdError::Unavailable { message }) if message == "the QKD link is down"
    ));
    fs::remove_file(path("kme-b.ready")).unwrap();
    let b = start("kme-b");
    let slave = client(&certs, "sae-ue-1", &url(&path("kme-b.ready"), "kme-b"));
    wait_for("link up", || status(&control_a)[0].link_up);
    let fetched = slave.enc_keys(&n3iwf, 2, 256).await.unwrap();
    let ids: Vec<_> = fetched.iter().map(|key| key.id).collect();
    let collected = master.dec_keys(&ue, &ids).await.unwrap();
    assert!(
        fetched
            .iter()
            .zip(&collected)
            .all(|(a, b)| a.secret == b.secret)
    );
    let counters = status(&control_a)[0].counters;
    assert_eq!((counters.delivered_enc, counters.delivered_dec), (13, 2));

    assert!(b.terminate().success());
    assert!(a.terminate().success());
    assert!(!control_a.exists() && !path("kme-a.ready").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_for_both_and_faults_at_run_time() {
    let (dir, certs) = certificates();
    let control = dir.path().join("kme.sock");
    let config = dir.path().join("pair.yaml");
    let text = format!(
        "a: {}\nb: {}\ncontrol: {}\n",
        kme_section(&certs, "kme-a", "sae-n3iwf"),
        kme_section(&certs, "kme-b", "'sae-ue-*'"),
        control.display()
    );
    fs::write(&config, text).unwrap();
    let ready = dir.path().join("ready.json");
    let pair = Process::start(&["pair"], &config, &ready);
    let master = client(&certs, "sae-n3iwf", &url(&ready, "kme-a"));
    let ue = "sae-ue-77".parse().unwrap();
    master.enc_keys(&ue, 1, 256).await.unwrap();

    let fault = |arguments: &[&str]| {
        let mut command = kme();
        command
            .arg("fault")
            .arg("--control")
            .arg(&control)
            .args(arguments);
        command.output().unwrap()
    };
    let told = fault(&["--kme=kme-a", "unavailable", "--on=enc-keys", "--count=1"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(
        told.contains(r#"fault: {"kind":"unavailable","on":"enc-keys","count":1"#),
        "{told}"
    );
    assert!(matches!(
        master.enc_keys(&ue, 1, 256).await,
        Err(QkdError::Unavailable { .. })
    ));
    master.enc_keys(&ue, 1, 256).await.unwrap();

    assert!(fault(&["--kme=kme-a", "unauthorized"]).status.success());
    assert!(matches!(
        master.enc_keys(&ue, 1, 256).await,
        Err(QkdError::Unauthorized)
    ));
    assert!(fault(&["--clear"]).status.success());
    master.enc_keys(&ue, 1, 256).await.unwrap();

    let refused = fault(&["unavailable"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && why.contains("name one"),
        "{why}"
    );
    let refused = fault(&["--kme=kme-c", "unavailable"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && why.contains("no KME kme-c"),
        "{why}"
    );

    let counters = status(&control)[0].counters;
    assert_eq!(
        (
            counters.delivered_enc,
            counters.unavailable,
            counters.unauthorized
        ),
        (3, 1, 1)
    );
    assert!(pair.terminate().success());
}

#[test]
fn a_mistake_in_the_configuration_is_named() {
    let (dir, certs) = certificates();
    let config = dir.path().join("pair.yaml");
    let sections = |extra: &str| {
        format!(
            "a: {}\nb: {}\n{extra}\n",
            kme_section(&certs, "kme-a", "x"),
            kme_section(&certs, "kme-b", "y")
        )
    };
    for (text, complaint) in [
        (sections("link: { rat: 5 }"), "rat"),
        (sections("link: { delay: 20 }"), "delay"),
        (sections("peers: 1"), "peers"),
    ] {
        fs::write(&config, text).unwrap();
        let output = kme()
            .arg("pair")
            .arg("--config")
            .arg(&config)
            .output()
            .unwrap();
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{complaint}");
        assert!(
            why.contains("pair.yaml") && why.contains(complaint),
            "{why}"
        );
    }
}

/// The files that users copy from are valid.
#[test]
fn shipped_configurations_are_valid() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let load = |name: &str| directory.join(name);
    for name in ["kme-a.yaml", "kme-b.yaml"] {
        daemon::config::load::<kme::config::RunConfig>(load(name))
            .unwrap_or_else(|e| panic!("{e}"));
    }
    daemon::config::load::<kme::config::PairConfig>(load("pair.yaml"))
        .unwrap_or_else(|e| panic!("{e}"));
}
