//! The kernel data plane when netlink fails: each request of each operation in turn, and each answer. Nothing is half
//! installed, the error is the kernel's, and the data plane goes on.
//!
//! Needs root and a kernel with ESP and XFRM interfaces; skips with a printed reason elsewhere,
//! fails instead when `REQUIRE_KERNEL` is set.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a test fails by panicking"
)]

#[path = "support/faults.rs"]
mod faults;
mod support;

use std::{
    fs::File,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use dataplane::{
    ChildSaSpec, Config, Dataplane, EncrAlg, Error, EspKeys, Limits, Notice, Options, Plane, Role,
    Xfrm,
};
use faults::{Call, Worker};
use keys::Secret;
use nix::sched::{CloneFlags, setns};
use support::{Space, is_root, missing_ipsec, nwu, skip};
use tokio::runtime::{Builder, Runtime};

const INNER: (&str, &str) = ("10.0.0.7", "10.0.0.1");
/// More requests than any operation makes.
const MOST: usize = 60;

fn ready() -> bool {
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

fn config(limits: Limits) -> Config {
    Config {
        role: Role::Ue,
        owner: "netlink_faults".into(),
        interface_name: "xfrmi".into(),
        interface_id: 7,
        inner_address: None,
        inner_range: None,
        options: Options {
            limits,
            ..Options::default()
        },
    }
}

/// The UE's end; addresses, routes, states and policies all depend on it.
fn child_sa(id: u64) -> ChildSaSpec {
    let keys = || EspKeys {
        encr: Secret::filled(32, |octets| octets.fill(id as u8)),
        salt: [id as u8; 4],
        integ: None,
    };
    ChildSaSpec {
        id,
        plane: Plane::User,
        ue: 1,
        pdu_session: Some(1),
        spi_in: 0xc100_0000 + id as u32,
        spi_out: 0xc200_0000 + id as u32,
        encr: EncrAlg::AesGcm16,
        integ: None,
        keys_in: keys(),
        keys_out: keys(),
        esn: true,
        replay_window: 64,
        local: "192.0.2.10:500".parse().unwrap(),
        remote: "192.0.2.1:500".parse().unwrap(),
        udp_encap: false,
        inner_local: INNER.0.parse().unwrap(),
        inner_remote: INNER.1.parse().unwrap(),
        protocol: Some(47),
        // With an interface of its own, which is made with the first Child SA on it.
        slot: 1,
        reqid: 3,
    }
}

/// The data plane, and what drives it: the socket that it listens on belongs to one runtime.
struct Own {
    plane: Xfrm,
    runtime: Runtime,
}

impl Own {
    fn wait<'a, T, F: Future<Output = T>>(&'a self, work: impl FnOnce(&'a Xfrm) -> F) -> T {
        self.runtime.block_on(work(&self.plane))
    }
}

struct End {
    space: Space,
    worker: Worker<Own>,
    _peer: Space,
}

impl End {
    fn new(limits: Limits) -> Self {
        let (peer, space) = nwu();
        let netns = File::open(format!("/run/netns/{}", space.name)).unwrap();
        let worker = Worker::new(move || {
            setns(&netns, CloneFlags::CLONE_NEWNET).unwrap();
            let plane = Xfrm::new(config(limits)).unwrap();
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(plane.start()).unwrap();
            Own { plane, runtime }
        });
        Self {
            space,
            worker,
            _peer: peer,
        }
    }

    /// All that an operation may change, but for the interface of a slot, which stays until the end. By one program: it
    /// is looked at after every fault.
    fn kernel(&self) -> String {
        let asked = "xfrm state list\nxfrm policy list\naddress\nroute\n";
        let mut child = Command::new("ip")
            .args(["-n", &self.space.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(asked.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let kept = text
            .lines()
            .filter(|line| !line.contains("fe80") && !line.trim().starts_with("valid_lft"));
        kept.map(|line| format!("{line}\n")).collect()
    }

    fn install(&self, id: u64) -> Result<(), Error> {
        self.worker
            .run(move |own| own.wait(|plane| plane.install(child_sa(id))))
    }

    fn remove(&self, id: u64) -> Result<(), Error> {
        self.worker
            .run(move |own| own.wait(|plane| plane.remove(id)).map(drop))
    }

    fn ids(&self) -> Vec<u64> {
        let all = self
            .worker
            .run(|own| own.wait(Dataplane::readings).unwrap());
        assert!(all.iter().all(|sa| sa.in_kernel), "{all:?}");
        all.into_iter().map(|sa| sa.id).collect()
    }

    /// Stops; nothing is left.
    fn stop(self) {
        let report = self.worker.run(|own| own.wait(Dataplane::stop).unwrap());
        assert_eq!(report.left, Vec::<String>::new());
        assert_eq!(self.space.ip(&["xfrm", "state"]), "");
        assert_eq!(
            self.space.ip(&["xfrm", "policy"]).matches("tmpl").count(),
            0
        );
        assert!(!self.space.ip(&["-o", "link"]).contains("xfrmi"));
        assert!(!self.space.ip(&["-o", "address"]).contains("10.0.0."));
    }
}

fn errno(error: &Error) -> Option<i32> {
    match error {
        Error::Kernel { source, .. } | Error::Io { source, .. } => source.raw_os_error(),
        _ => None,
    }
}

/// Each way to fail at each request.
const FAULTS: [(Call, i32); 3] = [
    (Call::Send, libc::ENOMEM),
    (Call::Send, libc::ENOBUFS),
    (Call::Receive, libc::ENOBUFS),
];

#[test]
fn an_installation_that_fails_anywhere_leaves_nothing() {
    if !ready() {
        return;
    }
    let end = End::new(Limits::default());
    // The interface of the slot is there from now on.
    end.install(1).unwrap();
    end.remove(1).unwrap();
    let before = end.kernel();
    for (call, code) in FAULTS {
        let mut failed = 0;
        for nth in 0..MOST {
            end.worker.faults.arm(call, nth, code);
            let outcome = end.install(1);
            if !end.worker.faults.disarm() {
                outcome.unwrap();
                assert_eq!(end.ids(), [1]);
                end.remove(1).unwrap();
                break;
            }
            failed += 1;
            let at = format!("{call:?} {nth}, errno {code}");
            let error = outcome.expect_err(&at);
            assert_eq!(errno(&error), Some(code), "{at}: {error}");
            assert_eq!(end.kernel(), before, "{at}");
            assert_eq!(end.ids(), [0; 0], "{at}");
            // And it goes on.
            end.install(1)
                .unwrap_or_else(|error| panic!("{at}: {error}"));
            assert_eq!(end.ids(), [1], "{at}");
            end.remove(1).unwrap();
        }
        // Address, route, two states and three policies, and what of them is read back.
        assert!((12..MOST).contains(&failed), "{call:?} {code}: {failed}");
    }
    end.stop();
}

#[test]
fn an_interface_is_made_whole_or_not_at_all() {
    if !ready() {
        return;
    }
    let end = End::new(Limits::default());
    for ((call, code), slot) in FAULTS.into_iter().zip(2..) {
        let name = format!("xfrmi-{slot}");
        let install = || {
            let mut sa = child_sa(1);
            sa.slot = slot;
            end.worker
                .run(move |own| own.wait(|plane| plane.install(sa)))
        };
        let mut failed = 0;
        for nth in 0..MOST {
            end.worker.faults.arm(call, nth, code);
            let error = install().expect_err("a fault");
            assert!(end.worker.faults.disarm());
            assert_eq!(errno(&error), Some(code), "{call:?} {nth}: {error}");
            if end.space.ip(&["-o", "link"]).contains(&name) {
                // It stays, and what comes after it is another test's.
                break;
            }
            failed += 1;
        }
        // A look, the interface, its index, its mark, up.
        assert!((5..MOST).contains(&failed), "{call:?} {code}: {failed}");
        install().unwrap();
        assert_eq!(end.ids(), [1]);
        end.remove(1).unwrap();
    }
    end.stop();
}

#[test]
fn a_removal_asks_again_and_leaves_nothing() {
    if !ready() {
        return;
    }
    let end = End::new(Limits::default());
    end.install(1).unwrap();
    end.remove(1).unwrap();
    let before = end.kernel();
    for (call, code) in FAULTS {
        let mut failed = 0;
        for nth in 0..MOST {
            end.install(1).unwrap();
            end.worker.faults.arm(call, nth, code);
            let outcome = end.remove(1);
            let hit = end.worker.faults.disarm();
            let at = format!("{call:?} {nth}, errno {code}");
            // Only the last reading of its counters may be lost.
            if let Err(error) = outcome {
                assert!(hit && errno(&error) == Some(code), "{at}: {error}");
            }
            assert_eq!(end.kernel(), before, "{at}");
            assert_eq!(end.ids(), [0; 0], "{at}");
            if !hit {
                break;
            }
            failed += 1;
        }
        assert!((7..MOST).contains(&failed), "{call:?} {code}: {failed}");
    }
    end.stop();
}

#[test]
fn a_switch_that_fails_is_tried_again() {
    if !ready() {
        return;
    }
    let end = End::new(Limits::default());
    for (call, code) in FAULTS {
        for nth in 0..MOST {
            let inbound = end
                .worker
                .run(|own| own.wait(|plane| plane.install_inbound(child_sa(1))));
            inbound.unwrap();
            end.worker.faults.arm(call, nth, code);
            let switched = end.worker.run(|own| own.wait(|plane| plane.switch(1)));
            let hit = end.worker.faults.disarm();
            let at = format!("{call:?} {nth}, errno {code}");
            switched.unwrap_or_else(|error| panic!("{at}: {error}"));
            let states = end.space.ip(&["xfrm", "state"]);
            assert!(states.contains("0xc2000001"), "{at}: {states}");
            end.remove(1).unwrap();
            if !hit {
                assert!(nth >= 2, "{at}");
                break;
            }
        }
    }
    // One that goes on failing is told, and may be asked for again.
    let inbound = end
        .worker
        .run(|own| own.wait(|plane| plane.install_inbound(child_sa(1))));
    inbound.unwrap();
    end.worker.faults.arm_lasting(Call::Send, 0, libc::ENOMEM);
    let error = end
        .worker
        .run(|own| own.wait(|plane| plane.switch(1)))
        .expect_err("no memory");
    assert!(end.worker.faults.disarm());
    assert_eq!(errno(&error), Some(libc::ENOMEM), "{error}");
    assert!(!end.space.ip(&["xfrm", "state"]).contains("0xc2000001"));
    end.worker
        .run(|own| own.wait(|plane| plane.switch(1)).unwrap());
    assert!(end.space.ip(&["xfrm", "state"]).contains("0xc2000001"));
    end.stop();
}

#[test]
fn a_kernel_without_memory_for_long_loses_nothing_of_others() {
    if !ready() {
        return;
    }
    let end = End::new(Limits::default());
    end.install(1).unwrap();
    let before = end.kernel();
    end.worker.faults.arm_lasting(Call::Send, 0, libc::ENOMEM);
    let mut second = child_sa(2);
    second.reqid = 4;
    let refused = end
        .worker
        .run(move |own| own.wait(|plane| plane.install(second)));
    assert_eq!(errno(&refused.unwrap_err()), Some(libc::ENOMEM));
    assert!(end.worker.faults.disarm());
    assert_eq!(end.kernel(), before);
    assert_eq!(end.ids(), [1]);
    // What could not be taken away goes with the end.
    end.worker.faults.arm_lasting(Call::Send, 0, libc::ENOBUFS);
    assert_eq!(errno(&end.remove(1).unwrap_err()), Some(libc::ENOBUFS));
    assert!(end.worker.faults.disarm());
    end.stop();
}

/// EEXIST, by somebody who has the SPI or the policy already.
#[test]
fn what_exists_is_left_alone_and_the_installation_undone() {
    if !ready() {
        return;
    }
    let end = End::new(Limits::default());
    // The interface of the slot is there from now on.
    end.install(1).unwrap();
    end.remove(1).unwrap();
    let ours = ["0xc1000001", "0xc2000001"];
    for (spi, (source, destination)) in ours
        .into_iter()
        .zip([("192.0.2.1", "192.0.2.10"), ("192.0.2.10", "192.0.2.1")])
    {
        let key = format!("0x{}", "11".repeat(36));
        end.space.ip(&[
            "xfrm",
            "state",
            "add",
            "src",
            source,
            "dst",
            destination,
            "proto",
            "esp",
            "spi",
            spi,
            "mode",
            "tunnel",
            "aead",
            "rfc4106(gcm(aes))",
            &key,
            "128",
        ]);
        let before = end.kernel();
        let error = end.install(1).unwrap_err();
        assert_eq!(errno(&error), Some(libc::EEXIST), "{error}");
        assert!(error.to_string().contains(&spi[2..]), "{error} names it");
        assert_eq!(end.kernel(), before, "the other's is as it was");
        end.space.ip(&[
            "xfrm",
            "state",
            "delete",
            "dst",
            destination,
            "proto",
            "esp",
            "spi",
            spi,
        ]);
    }
    for direction in ["in", "fwd", "out"] {
        let (from, to) = match direction {
            "out" => INNER,
            _ => (INNER.1, INNER.0),
        };
        let other = [
            "src", from, "dst", to, "proto", "47", "dir", direction, "if_id", "0x8",
        ];
        end.space
            .ip(&[&["xfrm", "policy", "add"][..], &other, &["action", "block"]].concat());
        let before = end.kernel();
        let error = end.install(1).unwrap_err();
        assert_eq!(errno(&error), Some(libc::EEXIST), "{direction}: {error}");
        assert_eq!(end.kernel(), before, "{direction}");
        end.space
            .ip(&[&["xfrm", "policy", "delete"][..], &other].concat());
    }
    end.install(1).unwrap();
    assert_eq!(end.ids(), [1]);
    end.stop();
}

/// More expiries than the socket holds (ENOBUFS): those that were lost are found out from the counters.
#[test]
fn expiries_that_were_lost_are_told_all_the_same() {
    if !ready() {
        return;
    }
    const SAS: u64 = 40;
    let limits = Limits {
        soft_packets: Some(1),
        hard_packets: Some(1_000_000),
        jitter_percent: 0,
        ..Limits::default()
    };
    let end = End::new(limits);
    for id in 1..=SAS {
        let mut sa = child_sa(id);
        sa.reqid = id as u32;
        sa.inner_remote = format!("10.0.1.{id}").parse().unwrap();
        end.worker
            .run(move |own| own.wait(|plane| plane.install(sa)).unwrap());
    }
    // A socket that holds next to nothing, as when the daemon has no time to read it.
    let shrunk = end.worker.run(|_| shrink_notice_socket());
    assert!(shrunk >= 1, "the socket of notices");
    // One packet into each tunnel reaches its soft limit.
    end.space.run(|| {
        let socket = socket2::Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::RAW,
            Some(socket2::Protocol::from(47)),
        )
        .unwrap();
        let address: std::net::SocketAddr = format!("{}:0", INNER.0).parse().unwrap();
        socket.bind(&address.into()).unwrap();
        socket.bind_device(Some(b"xfrmi-1")).unwrap();
        for _ in 0..3 {
            for id in 1..=SAS {
                let to: std::net::SocketAddr = format!("10.0.1.{id}:0").parse().unwrap();
                socket.send_to(&[0; 64], &to.into()).unwrap();
            }
        }
    });
    let told = end.worker.run(|own| {
        let mut told = std::collections::BTreeSet::new();
        own.runtime.block_on(async {
            let limit = Duration::from_secs(5);
            while let Ok(notice) = tokio::time::timeout(limit, own.plane.notice()).await {
                if let Notice::Expired { id, hard: false } = notice {
                    told.insert(id);
                }
                if told.len() as u64 == SAS {
                    break;
                }
            }
        });
        told
    });
    assert_eq!(told, (1..=SAS).collect());
    end.stop();
}

/// Gives this process's netlink sockets that belong to a multicast group the least memory there is; how many they are.
fn shrink_notice_socket() -> usize {
    use nix::sys::socket::{getsockname, setsockopt, sockopt::RcvBuf};
    let mut shrunk = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let name = entry.file_name();
        let Ok(number) = name.to_string_lossy().parse::<i32>() else {
            continue;
        };
        let Ok(address) = getsockname::<nix::sys::socket::NetlinkAddr>(number) else {
            continue;
        };
        if address.groups() == 0 {
            continue;
        }
        setsockopt(&borrowed(number), RcvBuf, &1).unwrap();
        shrunk += 1;
    }
    shrunk
}

#[allow(unsafe_code, reason = "a descriptor by its number")]
fn borrowed(number: i32) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: it was listed a moment ago, and nobody closes it during the test.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }
}
