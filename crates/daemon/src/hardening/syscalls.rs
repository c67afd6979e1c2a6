//! The system calls of a daemon that serves (seccomp(2)).
//!
//! Three filters, of which the strictest answer counts: what is not on the list fails with EPERM;
//! what only an intruder would try ends the process; and clone3, whose flags a filter cannot see,
//! is said not to exist, so that the C library makes threads by clone, which makes nothing else.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpArgLen::Qword,
    SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, apply_filter_all_threads,
};

use super::{Failure, Seccomp};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Of these any arguments are right.
const ANY: &[i64] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    // Threads; giving rights up, for those that come later.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_capget,
    libc::SYS_capset,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Files.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_openat,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_flock,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_readlinkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_mkdirat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_umask,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    // Sockets.
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    // Maps of eBPF programs, and attaching them to the interfaces of sessions.
    libc::SYS_bpf,
    // What the system is like.
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
];

/// The same under older numbers, which a C library for this machine may still use.
#[cfg(target_arch = "x86_64")]
const ANY_OLDER: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_chmod,
    libc::SYS_getdents,
    libc::SYS_dup2,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_getrlimit,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ANY_OLDER: &[i64] = &[];

/// No part of a daemon that serves has a use for these; whoever has taken one over would.
const NEVER: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_by_handle_at,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
];

/// Families of the sockets a daemon opens while it serves.
const FAMILIES: &[libc::c_int] = &[
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// What the standard library, the runtime and giving rights up ask prctl for.
const PRCTL: &[libc::c_int] = &[
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_VMA,
    libc::PR_CAP_AMBIENT,
    libc::PR_CAPBSET_READ,
];

/// Installs the filters in every thread of the process. It cannot be undone.
pub(super) fn filter(seccomp: Seccomp) -> Result<(), Failure> {
    let other = match seccomp {
        Seccomp::Enforce => SeccompAction::Errno(errno(libc::EPERM)),
        Seccomp::Log => SeccompAction::Log,
        Seccomp::Off => return Ok(()),
    };
    let mut programs = vec![program(listed()?, other, SeccompAction::Allow)?];
    if seccomp == Seccomp::Enforce {
        programs.push(program(
            all(NEVER),
            SeccompAction::Allow,
            SeccompAction::KillProcess,
        )?);
        programs.push(program(
            all(&[libc::SYS_clone3]),
            SeccompAction::Allow,
            SeccompAction::Errno(errno(libc::ENOSYS)),
        )?);
    }
    // The list comes last: it has no place for installing another.
    for program in programs.iter().rev() {
        apply_filter_all_threads(program)?;
    }
    Ok(())
}

fn program(
    rules: Rules,
    other: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let machine = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, other, matching, machine)?.try_into()
}

fn all(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn listed() -> Result<Rules, BackendError> {
    let mut rules = all(ANY);
    rules.extend(all(ANY_OLDER));
    let eq = SeccompCmpOp::Eq;
    let one_of = |argument, values: &[libc::c_int]| {
        let rules = values.iter().map(|value| {
            SeccompRule::new(vec![SeccompCondition::new(
                argument,
                Dword,
                eq.clone(),
                unsigned(*value),
            )?])
        });
        rules.collect::<Result<Vec<_>, _>>()
    };
    let without = |bits: libc::c_int| {
        let op = SeccompCmpOp::MaskedEq(unsigned(bits));
        SeccompRule::new(vec![SeccompCondition::new(2, Dword, op, 0)?])
    };
    // Nothing that can be written can be run.
    rules.insert(
        libc::SYS_mmap,
        vec![without(libc::PROT_WRITE)?, without(libc::PROT_EXEC)?],
    );
    rules.insert(libc::SYS_mprotect, vec![without(libc::PROT_EXEC)?]);
    // Threads, not processes.
    let thread = unsigned(libc::CLONE_THREAD);
    let thread = SeccompCondition::new(0, Qword, SeccompCmpOp::MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![thread])?]);
    rules.insert(libc::SYS_socket, one_of(0, FAMILIES)?);
    rules.insert(libc::SYS_socketpair, one_of(0, &[libc::AF_UNIX])?);
    rules.insert(libc::SYS_prctl, one_of(0, PRCTL)?);
    // Limits are read and not set.
    let no_new = SeccompCondition::new(2, Qword, eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![no_new])?]);
    Ok(rules)
}

/// Constants of the kernel's interface are not negative.
const fn unsigned(value: libc::c_int) -> u64 {
    value.unsigned_abs() as u64
}

const fn errno(value: libc::c_int) -> u32 {
    value.unsigned_abs()
}
