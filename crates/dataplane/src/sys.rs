//! The few kernel calls no library wraps.
#![allow(unsafe_code)]

use std::{
    io,
    net::{SocketAddrV6, UdpSocket},
    os::fd::{AsFd, AsRawFd},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::Error;

/// `UDP_ENCAP` (linux/udp.h).
const UDP_ENCAP: libc::c_int = 100;
/// `UDP_ENCAP_ESPINUDP` (linux/udp.h): ESP without, IKE with the non-ESP marker.
const UDP_ENCAP_ESPINUDP: libc::c_int = 2;
/// `ETHTOOL_STSO`, `ETHTOOL_SGSO`, `ETHTOOL_SGRO` (linux/ethtool.h).
const ETHTOOL_SWITCHES: [(&str, u32); 3] = [("TSO", 0x1f), ("GSO", 0x24), ("GRO", 0x2c)];
/// `SIOCETHTOOL` (linux/sockios.h).
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// Makes the kernel take ESP out of the UDP datagrams of `socket` (RFC 3948); IKE behind the
/// non-ESP marker still arrives. For the daemon's socket on port 4500.
pub fn enable_udp_encap(socket: &impl AsFd) -> Result<(), Error> {
    const LEN: libc::socklen_t = 4;
    const _: () = assert!(size_of::<libc::c_int>() == LEN as usize);
    let value = UDP_ENCAP_ESPINUDP;
    // SAFETY: the file descriptor is open for the call; the value is an int, as its length says.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_UDP,
            UDP_ENCAP,
            (&raw const value).cast(),
            LEN,
        )
    };
    if ret == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOPROTOOPT) {
        return Err(Error::Unsupported {
            what: "UDP_ENCAP",
            hint: "it comes with CONFIG_XFRM; load the module xfrm_user or use a distribution kernel",
        });
    }
    Err(Error::io("set UDP_ENCAP on the NAT-T socket", error))
}

/// The MTU of the path from `ours` to `to` as the kernel knows it: of the route, or what "packet too big"
/// has said (`IPV6_MTU`, linux/in6.h). Octets.
pub(crate) fn path_mtu(ours: SocketAddrV6, to: SocketAddrV6) -> io::Result<u16> {
    const LEN: libc::socklen_t = 4;
    const _: () = assert!(size_of::<libc::c_int>() == LEN as usize);
    let socket = UdpSocket::bind(SocketAddrV6::new(*ours.ip(), 0, 0, ours.scope_id()))?;
    socket.connect(to)?;
    let mut mtu: libc::c_int = 0;
    let mut len = LEN;
    // SAFETY: the descriptor is open; the kernel writes at most an int, as the length says.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU,
            (&raw mut mtu).cast(),
            &raw mut len,
        )
    };
    if ret == 0 {
        // A loopback interface has more than fits.
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A program on such a processor may see a later write before an earlier one.
pub(crate) const WEAKLY_ORDERED: bool = cfg!(not(target_arch = "x86_64"));

/// `MEMBARRIER_CMD_GLOBAL` (linux/membarrier.h).
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Returns when every eBPF program that runs now has ended: the kernel waits for an RCU grace
/// period, some milliseconds. A kernel that lacks the call is no error.
pub(crate) fn wait_for_programs() {
    // SAFETY: the call has no pointers.
    let ret = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if ret != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "membarrier");
    }
}

/// `CLOCK_MONOTONIC`, nanoseconds: the clock of eBPF programs.
pub(crate) fn monotonic() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure lives until the call returns; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Makes `interface` carry packets as they are on the wire: segmentation offloads and GRO off.
pub(crate) fn disable_merging(interface: &str) -> Result<(), Error> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)
        .map_err(|e| Error::io("open a socket for ethtool", e))?;
    for (name, cmd) in ETHTOOL_SWITCHES {
        match set_ethtool(&socket, interface, cmd, 0) {
            // What the driver does not have needs no switching off.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            other => {
                other.map_err(|e| Error::io(format!("switch {name} of {interface} off"), e))?;
            }
        }
    }
    Ok(())
}

fn set_ethtool(socket: &socket2::Socket, interface: &str, cmd: u32, data: u32) -> io::Result<()> {
    let mut value = EthtoolValue { cmd, data };
    // SAFETY: ifreq is a plain C structure, for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = interface.as_bytes();
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request names an interface and points to an ethtool_value, which SIOCETHTOOL with
    // one of the switches reads; both live until the call returns.
    let ret = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has the runtime watch a netlink socket for datagrams.
pub(crate) fn watch(socket: netlink_sys::Socket) -> io::Result<AsyncFd<netlink_sys::Socket>> {
    // SAFETY: the socket owns its descriptor, always shows the same one, and closes it only when it
    // is dropped, which `AsyncFd` does after it has deregistered it.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
}
