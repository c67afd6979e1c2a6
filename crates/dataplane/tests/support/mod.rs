//! Network namespaces for tests that need root, and reasons to skip them.
#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod internet;

use std::{
    fs::File,
    future::Future,
    net::Ipv6Addr,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};

/// Ends a test early: fails when `REQUIRE_KERNEL` is set, else says why on standard error.
pub(crate) fn skip(reason: &str) {
    assert!(
        std::env::var_os("REQUIRE_KERNEL").is_none(),
        "REQUIRE_KERNEL is set, but {reason}"
    );
    eprintln!("skipped: {reason}");
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// What the data plane needs of the kernel and is not there, if anything.
fn missing_ipsec() -> Option<String> {
    let facts = dataplane::preflight::ipsec();
    let missing: Vec<&str> = facts
        .iter()
        .filter(|fact| !fact.ok)
        .map(|fact| fact.name.as_str())
        .collect();
    (!missing.is_empty()).then(|| format!("this kernel lacks {}", missing.join(", ")))
}

/// Whether a test with kernel IPsec can run here.
pub(crate) fn has_ipsec() -> bool {
    if !is_root() {
        skip("XFRM needs root");
        return false;
    }
    let missing = missing_ipsec();
    if let Some(missing) = &missing {
        skip(missing);
    }
    missing.is_none()
}

/// Whether a test with the eBPF programs can run here.
pub(crate) fn has_programs() -> bool {
    if !is_root() {
        skip("eBPF programs need root");
        return false;
    }
    has_object()
}

/// Whether there is the eBPF object.
pub(crate) fn has_object() -> bool {
    let found = object().is_some();
    if !found {
        skip("there is no eBPF object: run `cargo xtask build`");
    }
    found
}

/// Whether a test with ESP and the eBPF programs can run here.
pub(crate) fn ready() -> bool {
    has_ipsec() && has_object()
}

/// The eBPF object, if it has been built.
pub(crate) fn object() -> Option<PathBuf> {
    let path = std::env::var_os("N3IWF_BPF_OBJECT").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../target/bpf/n3iwf.bpf.o"
            ))
        },
        PathBuf::from,
    );
    path.exists().then_some(path)
}

/// Runs a future on the calling thread, and so in its network namespace.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Runs a program and returns what it printed; fails the test when it fails.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A network namespace that goes with the value.
pub(crate) struct Space {
    pub(crate) name: String,
    file: File,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Space {
    pub(crate) fn new(tag: &str) -> Self {
        let name = format!(
            "dp{}-{}{tag}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        run("ip", &["netns", "add", &name]);
        let file = File::open(format!("/run/netns/{name}")).unwrap();
        let space = Self { name, file };
        space.ip(&["link", "set", "lo", "up"]);
        space
    }

    /// Runs `work` on a thread in the namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `ip` in the namespace.
    pub(crate) fn ip(&self, args: &[&str]) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(args);
        run("ip", &all)
    }

    /// Waits until packets to an IPv6 address of this namespace are delivered: `ip address add` returns before
    /// the kernel has made the route to it, `nodad` or not.
    pub(crate) fn delivers(&self, address: Ipv6Addr) {
        let address = address.to_string();
        let end = Instant::now() + Duration::from_secs(10);
        while !self
            .ip(&["-6", "route", "show", "table", "local", &address])
            .contains("local")
        {
            assert!(Instant::now() < end, "no route to {address} itself");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// Two namespaces joined by a veth pair called `nwu` at both ends: the N3IWF at 192.0.2.1 and
/// 2001:db8::1, the UE at 192.0.2.10 and 2001:db8::10.
pub(crate) fn nwu() -> (Space, Space) {
    let (n3iwf, ue) = (Space::new("n"), Space::new("u"));
    n3iwf.ip(&[
        "link", "add", "nwu", "type", "veth", "peer", "name", "nwu", "netns", &ue.name,
    ]);
    for (space, last) in [(&n3iwf, "1"), (&ue, "10")] {
        // Silence on the link: no neighbour discovery or router solicitation by itself.
        space.run(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/nwu/addr_gen_mode", "1").unwrap();
        });
        space.ip(&[
            "address",
            "add",
            &format!("192.0.2.{last}/24"),
            "dev",
            "nwu",
        ]);
        space.ip(&[
            "address",
            "add",
            &format!("2001:db8::{last}/64"),
            "dev",
            "nwu",
            "nodad",
        ]);
        space.ip(&["link", "set", "nwu", "up"]);
    }
    n3iwf.delivers("2001:db8::1".parse().unwrap());
    ue.delivers("2001:db8::10".parse().unwrap());
    (n3iwf, ue)
}

/// A pin directory of this test.
pub(crate) fn pin_dir(space: &Space) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/{}", space.name))
}
