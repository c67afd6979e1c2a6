//! Hardening as the kernel sees it. What is given up never comes back, so each case runs in a
//! process of its own: this program again, told by `HARDENED_CASE` which.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

use std::{
    fs,
    io::{Error, ErrorKind},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Output},
    thread,
};

use daemon::hardening::{Capability, Failure, Hardening, Memory, Needs, Options, Seccomp};

const CASE: &str = "HARDENED_CASE";

/// Runs `case` in this process when it is the child that was asked for; otherwise in a child, and
/// returns how that ended.
fn apart(name: &str, case: impl FnOnce()) -> Option<Output> {
    if std::env::var(CASE).is_ok_and(|asked| asked == name) {
        case();
        return None;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CASE, name)
        .output()
        .unwrap();
    Some(output)
}

fn succeeds(output: Option<Output>) {
    if let Some(output) = output {
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}{errors}");
        // The case itself ran, and not a filter that matched nothing.
        assert!(text.contains("1 passed"), "{text}");
    }
}

fn needs() -> Needs {
    Needs {
        start: vec![Capability::CAP_NET_BIND_SERVICE],
        serve: vec![Capability::CAP_NET_ADMIN],
    }
}

fn settled(options: Options) -> Hardening {
    let hardening = Hardening::begin(options, needs()).unwrap();
    hardening.settle().unwrap();
    hardening
}

fn refused<T>(result: std::io::Result<T>) {
    assert_eq!(result.err().unwrap().raw_os_error(), Some(libc::EPERM));
}

/// A field of `status` of every thread of this process.
fn of_threads(field: &str) -> Vec<String> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        found.push(line.unwrap().trim_start_matches(':').trim().to_owned());
    }
    found
}

#[test]
fn every_thread_has_what_serving_needs_and_no_more() {
    succeeds(apart(
        "every_thread_has_what_serving_needs_and_no_more",
        || {
            let root = nix::unistd::geteuid().is_root();
            // The test harness has a thread of its own, which was there before.
            let before: Vec<String> = of_threads("CapEff");
            let hardening = Hardening::begin(Options::default(), needs());
            let hardening = hardening.unwrap();
            let (told, hold) = std::sync::mpsc::channel::<()>();
            let (entered, begun) = std::sync::mpsc::channel();
            let inside = hardening.clone();
            let worker = thread::spawn(move || {
                inside.enter_thread();
                entered.send(()).unwrap();
                let _ = hold.recv();
            });
            begun.recv().unwrap();
            match hardening.settle() {
                Ok(standing) => {
                    assert!(!root || before.len() == 1, "{before:?}");
                    assert_eq!(standing.seccomp, Seccomp::Enforce);
                }
                // As root the harness' thread still has everything, and that is found out.
                Err(Failure::Thread { what, .. }) => {
                    assert!(root && what.contains("not given up"), "{what}");
                }
                Err(other) => panic!("{other}"),
            }
            let own = fs::read_to_string("/proc/thread-self/status").unwrap();
            let effective = if root { 1 << 12 } else { 0 };
            assert!(own.contains(&format!("CapEff:\t{effective:016x}")), "{own}");
            assert!(own.contains(&format!("CapPrm:\t{effective:016x}")), "{own}");
            assert!(own.contains("NoNewPrivs:\t1"), "{own}");
            let bounding = (1 << 12) | (1 << 10);
            assert!(
                !root || own.contains(&format!("CapBnd:\t{bounding:016x}")),
                "{own}"
            );
            // The filter is in every thread, whenever it began.
            assert!(of_threads("Seccomp").iter().all(|mode| mode == "2"));
            assert!(of_threads("NoNewPrivs").iter().all(|set| set == "1"));
            let mine = format!("{effective:016x}");
            assert!(
                of_threads("CapEff")
                    .iter()
                    .filter(|one| **one == mine)
                    .count()
                    >= 2
            );
            drop(told);
            worker.join().unwrap();
        },
    ));
}

#[test]
fn other_system_calls_fail() {
    succeeds(apart("other_system_calls_fail", || {
        let filtered = Options {
            capabilities: false,
            ..Options::default()
        };
        settled(filtered);
        // Packets of all, past the addresses and policies of this host.
        refused(socket2::Socket::new(
            socket2::Domain::PACKET,
            socket2::Type::RAW,
            None,
        ));
        // The rights of files are not the daemon's to give away.
        refused(std::os::unix::fs::chown("/nonexistent", Some(0), None));
        refused(std::os::unix::fs::symlink("a", "/nonexistent/b"));
        // Limits are as they are, and so is what may look into this process.
        let limit = nix::sys::resource::Resource::RLIMIT_CORE;
        assert_eq!(
            nix::sys::resource::setrlimit(limit, 1, 1),
            Err(nix::Error::EPERM)
        );
        assert_eq!(nix::sys::prctl::set_dumpable(true), Err(nix::Error::EPERM));
        // No memory is written and run.
        assert_eq!(mapping(true), Err(nix::Error::EPERM));
        assert_eq!(mapping(false), Ok(()));
        // What a daemon does all day goes on: threads, files, sockets.
        assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
        assert!(fs::read("/proc/self/status").unwrap().len() > 100);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = thread::spawn(move || std::net::TcpStream::connect(address).unwrap());
        listener.accept().unwrap();
        client.join().unwrap();
        let gone = fs::read(Path::new("/nonexistent"));
        assert_eq!(
            gone.err().map(|e: Error| e.kind()),
            Some(ErrorKind::NotFound)
        );
    }));
}

/// One anonymous page that can be written, and run or not.
#[allow(unsafe_code, reason = "the wrapper of mmap is unsafe as a whole")]
fn mapping(executable: bool) -> nix::Result<()> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
    let mut protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    protection.set(ProtFlags::PROT_EXEC, executable);
    let length = std::num::NonZeroUsize::new(4096).unwrap();
    // SAFETY: the kernel chooses a place that nothing else uses, and nothing uses it.
    unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }.map(drop)
}

#[test]
fn running_a_program_ends_the_process() {
    let ended = apart("running_a_program_ends_the_process", || {
        settled(Options {
            capabilities: false,
            ..Options::default()
        });
        // In place of this process: a new one could not even be made.
        let error = std::os::unix::process::CommandExt::exec(&mut Command::new("/bin/true"));
        panic!("execve came back: {error}");
    });
    if let Some(output) = ended {
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
    }
}

#[test]
fn a_second_process_cannot_be_made() {
    succeeds(apart("a_second_process_cannot_be_made", || {
        settled(Options {
            capabilities: false,
            ..Options::default()
        });
        #[allow(unsafe_code, reason = "fork is unsafe as a whole")]
        // SAFETY: it fails; there is no second process whose state could be wrong.
        let forked = unsafe { nix::unistd::fork() };
        assert_eq!(forked.err(), Some(nix::Error::EPERM));
    }));
}

#[test]
fn what_is_switched_off_stays_off() {
    succeeds(apart("what_is_switched_off_stays_off", || {
        let before = of_threads("CapEff");
        let hardening = Hardening::begin(
            Options {
                capabilities: false,
                seccomp: Seccomp::Off,
                lock_memory: false,
            },
            needs(),
        )
        .unwrap();
        let standing = hardening.settle().unwrap();
        assert_eq!(standing.capabilities, None);
        assert_eq!(standing.memory, Memory::NotAsked);
        assert_eq!(of_threads("CapEff"), before);
        assert!(of_threads("Seccomp").iter().all(|mode| mode == "0"));
        // Core dumps are off in any case.
        assert_eq!(nix::sys::prctl::get_dumpable(), Ok(false));
    }));
}

#[test]
fn locked_memory_is_locked_and_the_rest_is_told() {
    succeeds(apart(
        "locked_memory_is_locked_and_the_rest_is_told",
        || {
            let options = Options {
                capabilities: false,
                seccomp: Seccomp::Off,
                lock_memory: true,
            };
            let standing = Hardening::begin(options, needs())
                .unwrap()
                .settle()
                .unwrap();
            let locked = |field: &str| -> u64 {
                let status = fs::read_to_string("/proc/self/status").unwrap();
                let line = status.lines().find_map(|line| line.strip_prefix(field));
                let word = line.unwrap().split_whitespace().next().unwrap().to_owned();
                word.parse().unwrap()
            };
            match standing.memory {
                Memory::Locked => {
                    let before = locked("VmLck:");
                    // What is allocated later is locked, too.
                    let octets = vec![0x5a_u8; 8 << 20];
                    assert!(before > 0 && locked("VmLck:") >= before + (8 << 10));
                    assert_eq!(
                        octets.iter().filter(|octet| **octet == 0x5a).count(),
                        8 << 20
                    );
                }
                Memory::Refused(why) => assert!(!why.is_empty() && locked("VmLck:") == 0),
                Memory::NotAsked => panic!("it was asked for"),
            }
        },
    ));
}
