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
use support::{Space, has_ipsec, nwu};
use tokio::runtime::{Builder, Runtime};

const INNER: (&str, &str) = ("10.0.0.7", "10.0.0.1");
/// More requests than any operation makes.
const MOST: usize = 60;

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
    /// `None` where the test cannot run.
    fn new(limits: Limits) -> Option<Self> {
        if !has_ipsec() {
            return None;
        }
        let (peer, space) = nwu();
        let netns = File::open(format!("/run/netns/{}", space.name)).unwrap();
        let worker = Worker::new(move || {
            setns(&netns, CloneFlags::CLONE_NEWNET).unwrap();
            let plane = Xfrm::new(config(limits)).unwrap();
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(plane.start()).unwrap();
            Own { plane, runtime }
        });
        Some(Self {
            space,
            worker,
            _peer: peer,
        })
    }

    /// With the interface of the slot, which comes with the first Child SA on it.
    fn with_slot() -> Option<Self> {
        let end = Self::new(Limits::default())?;
        end.install(1).unwrap();
        end.remove(1).unwrap();
        Some(end)
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
        self.install_as(child_sa(id))
    }

    fn install_as(&self, sa: ChildSaSpec) -> Result<(), Error> {
        self.worker
            .run(move |own| own.wait(|plane| plane.install(sa)))
    }

    fn install_inbound(&self, id: u64) -> Result<(), Error> {
        self.worker
            .run(move |own| own.wait(|plane| plane.install_inbound(child_sa(id))))
    }

    fn switch(&self, id: u64) -> Result<(), Error> {
        self.worker
            .run(move |own| own.wait(|plane| plane.switch(id)))
    }

    fn remove(&self, id: u64) -> Result<(), Error> {
        self.worker
            .run(move |own| own.wait(|plane| plane.remove(id)).map(drop))
    }

    /// What an operation comes to, and whether the fault came in its time.
    fn under<T>(&self, fault: Fault, operation: impl FnOnce() -> T) -> (T, bool) {
        let faults = &self.worker.faults;
        faults.arm(fault.call, fault.nth, fault.code);
        let outcome = operation();
        (outcome, faults.disarm())
    }

    /// The same with a fault that lasts from the first request on.
    fn under_lasting(&self, code: i32, operation: impl FnOnce() -> Result<(), Error>) {
        let faults = &self.worker.faults;
        faults.arm_lasting(Call::Send, 0, code);
        let error = operation().expect_err("a fault that lasts");
        assert!(faults.disarm());
        assert_eq!(errno(&error), Some(code), "{error}");
    }

    /// Whether the kernel has the outbound state of Child SA 1.
    fn sends(&self) -> bool {
        self.space.ip(&["xfrm", "state"]).contains("0xc2000001")
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

/// One request that fails.
#[derive(Clone, Copy, Debug)]
struct Fault {
    /// Which of [`FAULTS`].
    way: usize,
    call: Call,
    code: i32,
    nth: usize,
}

/// Has `meet` meet each fault in turn until it says that one came too late; `least` of each kind have to come in
/// time.
fn every_fault(least: usize, mut meet: impl FnMut(Fault) -> bool) {
    for (way, (call, code)) in FAULTS.into_iter().enumerate() {
        let mut meet = |nth: &usize| {
            meet(Fault {
                way,
                call,
                code,
                nth: *nth,
            })
        };
        let met = (0..MOST).take_while(&mut meet).count();
        assert!((least..MOST).contains(&met), "{call:?} {code}: {met}");
    }
}

#[test]
fn an_installation_that_fails_anywhere_leaves_nothing() {
    let Some(end) = End::with_slot() else { return };
    let before = end.kernel();
    // Address, route, two states and three policies, and what of them is read back.
    every_fault(12, |fault| {
        let (outcome, hit) = end.under(fault, || end.install(1));
        if hit {
            let error = outcome.expect_err("a fault");
            assert_eq!(errno(&error), Some(fault.code), "{fault:?}: {error}");
            assert_eq!(end.kernel(), before, "{fault:?}");
            assert_eq!(end.ids(), [0; 0], "{fault:?}");
            // And it goes on.
            end.install(1).unwrap();
        } else {
            outcome.unwrap();
        }
        assert_eq!(end.ids(), [1], "{fault:?}");
        end.remove(1).unwrap();
        hit
    });
    end.stop();
}

#[test]
fn an_interface_is_made_whole_or_not_at_all() {
    let Some(end) = End::new(Limits::default()) else {
        return;
    };
    // A look, the interface, its index, its mark, up.
    every_fault(5, |fault| {
        let slot = 2 + fault.way as u32;
        let install = || {
            let mut sa = child_sa(1);
            sa.slot = slot;
            end.install_as(sa)
        };
        let (outcome, hit) = end.under(fault, install);
        assert!(hit, "{fault:?}");
        let error = outcome.expect_err("a fault");
        assert_eq!(errno(&error), Some(fault.code), "{fault:?}: {error}");
        let links = end.space.ip(&["-o", "link"]);
        let stays = links.contains(&format!("xfrmi-{slot}"));
        if stays {
            // What comes after it is another test's.
            install().unwrap();
            assert_eq!(end.ids(), [1]);
            end.remove(1).unwrap();
        }
        !stays
    });
    end.stop();
}

#[test]
fn a_removal_asks_again_and_leaves_nothing() {
    let Some(end) = End::with_slot() else { return };
    let before = end.kernel();
    every_fault(7, |fault| {
        end.install(1).unwrap();
        let (outcome, hit) = end.under(fault, || end.remove(1));
        // Only the last reading of its counters may be lost.
        if let Err(error) = outcome {
            assert!(
                hit && errno(&error) == Some(fault.code),
                "{fault:?}: {error}"
            );
        }
        assert_eq!(end.kernel(), before, "{fault:?}");
        assert_eq!(end.ids(), [0; 0], "{fault:?}");
        hit
    });
    end.stop();
}

#[test]
fn a_switch_that_fails_is_tried_again() {
    let Some(end) = End::new(Limits::default()) else {
        return;
    };
    every_fault(2, |fault| {
        end.install_inbound(1).unwrap();
        let (switched, hit) = end.under(fault, || end.switch(1));
        switched.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert!(end.sends(), "{fault:?}");
        end.remove(1).unwrap();
        hit
    });
    // One that goes on failing is told, and may be asked for again.
    end.install_inbound(1).unwrap();
    end.under_lasting(libc::ENOMEM, || end.switch(1));
    assert!(!end.sends());
    end.switch(1).unwrap();
    assert!(end.sends());
    end.stop();
}

#[test]
fn a_kernel_without_memory_for_long_loses_nothing_of_others() {
    let Some(end) = End::new(Limits::default()) else {
        return;
    };
    end.install(1).unwrap();
    let before = end.kernel();
    let mut second = child_sa(2);
    second.reqid = 4;
    end.under_lasting(libc::ENOMEM, || end.install_as(second));
    assert_eq!(end.kernel(), before);
    assert_eq!(end.ids(), [1]);
    // What could not be taken away goes with the end.
    end.under_lasting(libc::ENOBUFS, || end.remove(1));
    end.stop();
}

/// EEXIST, by somebody who has the SPI or the policy already.
#[test]
fn what_exists_is_left_alone_and_the_installation_undone() {
    let Some(end) = End::with_slot() else { return };
    let refused = || {
        let before = end.kernel();
        let error = end.install(1).unwrap_err();
        assert_eq!(errno(&error), Some(libc::EEXIST), "{error}");
        assert_eq!(end.kernel(), before, "the other's is as it was: {error}");
        error.to_string()
    };
    let key = format!("0x{}", "11".repeat(36));
    let [peer, own] = ["192.0.2.1", "192.0.2.10"];
    for (spi, from, to) in [("c1000001", peer, own), ("c2000001", own, peer)] {
        let number = format!("0x{spi}");
        let place = ["src", from, "dst", to, "proto", "esp", "spi", &number];
        let rest = ["mode", "tunnel"];
        let cipher = ["aead", "rfc4106(gcm(aes))", &key, "128"];
        end.space
            .ip(&[&["xfrm", "state", "add"][..], &place, &rest, &cipher].concat());
        let error = refused();
        assert!(error.contains(spi), "{error} names it");
        end.space
            .ip(&[&["xfrm", "state", "delete"][..], &place].concat());
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
        refused();
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
    const SAS: u64 = 40;
    let limits = Limits {
        soft_packets: Some(1),
        hard_packets: Some(1_000_000),
        jitter_percent: 0,
        ..Limits::default()
    };
    let Some(end) = End::new(limits) else { return };
    for id in 1..=SAS {
        let mut sa = child_sa(id);
        sa.reqid = id as u32;
        sa.inner_remote = format!("10.0.1.{id}").parse().unwrap();
        end.install_as(sa).unwrap();
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
