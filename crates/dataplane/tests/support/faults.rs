//! A thread some of whose system calls fail, the nth from now on, as the kernel fails them when it has no memory: by a
//! seccomp filter that asks another thread (seccomp_unotify(2)). Nothing of what runs there knows.
#![allow(unsafe_code, reason = "system calls that no library wraps")]

use std::{
    mem::size_of,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A system call that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// The request does not reach the kernel.
    Send,
    /// It does, and its answer is lost.
    Receive,
}

impl Call {
    const fn number(self) -> i64 {
        match self {
            Self::Send => libc::SYS_sendto,
            Self::Receive => libc::SYS_recvfrom,
        }
    }
}

/// One that is to fail: after `left` others of its kind, and `lasting`: so do all after it.
#[derive(Clone, Copy)]
struct Fault {
    call: Call,
    left: usize,
    errno: i32,
    lasting: bool,
    hit: bool,
}

/// What fails next.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Option<Fault>>>);

impl Faults {
    /// The `nth` call from now, counted from 0, fails with `errno`.
    pub(crate) fn arm(&self, call: Call, nth: usize, errno: i32) {
        self.set(call, nth, errno, false);
    }

    /// So do all calls after it.
    pub(crate) fn arm_lasting(&self, call: Call, nth: usize, errno: i32) {
        self.set(call, nth, errno, true);
    }

    fn set(&self, call: Call, left: usize, errno: i32, lasting: bool) {
        *self.0.lock().unwrap() = Some(Fault {
            call,
            left,
            errno,
            lasting,
            hit: false,
        });
    }

    /// Nothing fails any more. Whether something has.
    pub(crate) fn disarm(&self) -> bool {
        self.0.lock().unwrap().take().is_some_and(|fault| fault.hit)
    }

    /// What this call fails with.
    fn of(&self, number: i64) -> Option<i32> {
        let mut armed = self.0.lock().unwrap();
        let fault = armed.as_mut()?;
        if fault.call.number() != number || (fault.hit && !fault.lasting) {
            return None;
        }
        if fault.left > 0 {
            fault.left -= 1;
            return None;
        }
        fault.hit = true;
        Some(fault.errno)
    }
}

type Work<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread that works on an `S` of its own, and whose calls can fail.
pub(crate) struct Worker<S> {
    work: mpsc::Sender<Work<S>>,
    pub(crate) faults: Faults,
}

impl<S: 'static> Worker<S> {
    /// `begin` makes the `S` on the new thread, before anything can fail there.
    pub(crate) fn new(begin: impl FnOnce() -> S + Send + 'static) -> Self {
        let (work, jobs) = mpsc::channel::<Work<S>>();
        let (listening, listener) = mpsc::channel();
        let faults = Faults::default();
        thread::spawn(move || {
            let mut own = begin();
            listening.send(filter()).unwrap();
            for job in jobs {
                job(&mut own);
            }
        });
        let listener: OwnedFd = listener.recv().unwrap();
        let supervised = faults.clone();
        thread::spawn(move || supervise(&listener, &supervised));
        Self { work, faults }
    }

    /// What `work` returns. It must start no program: that would be filtered, too.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> T {
        let (done, result) = mpsc::channel();
        let job: Work<S> = Box::new(move |own| done.send(work(own)).unwrap());
        self.work.send(job).unwrap();
        result.recv().unwrap()
    }
}

/// From here on this thread's `sendto` and `recvfrom` wait for the supervisor.
fn filter() -> OwnedFd {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let number = |call: Call| u32::try_from(call.number()).unwrap();
    let mut program = [
        op(LOAD, 0, 0, 0),
        op(EQUAL, 2, 0, number(Call::Send)),
        op(EQUAL, 1, 0, number(Call::Receive)),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        op(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
    ];
    let program = libc::sock_fprog {
        len: 5,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program is valid for the call, which copies it; the descriptor is nobody else's.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let listener = libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        );
        let errno = std::io::Error::last_os_error();
        assert!(listener >= 0, "seccomp: {errno}");
        OwnedFd::from_raw_fd(i32::try_from(listener).unwrap())
    }
}

/// Answers until the thread is gone.
fn supervise(listener: &OwnedFd, faults: &Faults) {
    nix::ioctl_readwrite!(receive, b'!', 0, libc::seccomp_notif);
    nix::ioctl_readwrite!(send, b'!', 1, libc::seccomp_notif_resp);
    // What the kernel calls SECCOMP_USER_NOTIF_FLAG_CONTINUE: the call is done as if nobody had asked.
    const CONTINUE: u32 = 1;
    assert_eq!(size_of::<libc::seccomp_notif_resp>(), 24);
    loop {
        let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::NONE).unwrap();
        let events = ready[0].revents().unwrap_or(PollFlags::empty());
        if !events.contains(PollFlags::POLLIN) {
            return;
        }
        // SAFETY: plain integers; the kernel wants zeros.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is the one the request is made for.
        if unsafe { receive(listener.as_raw_fd(), &raw mut call) }.is_err() {
            continue;
        }
        let errno = faults.of(i64::from(call.data.nr));
        let mut answer = libc::seccomp_notif_resp {
            id: call.id,
            val: 0,
            error: errno.map_or(0, |errno| -errno),
            flags: if errno.is_some() { 0 } else { CONTINUE },
        };
        // SAFETY: as above. That the thread is gone meanwhile does not matter.
        let _ = unsafe { send(listener.as_raw_fd(), &raw mut answer) };
    }
}
