//! The few kernel calls no library wraps.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use crate::Error;

/// `UDP_ENCAP` (linux/udp.h).
const UDP_ENCAP: libc::c_int = 100;
/// `UDP_ENCAP_ESPINUDP` (linux/udp.h): ESP without, IKE with the non-ESP marker.
const UDP_ENCAP_ESPINUDP: libc::c_int = 2;
/// `ETHTOOL_SGRO` (linux/ethtool.h).
const ETHTOOL_SGRO: u32 = 0x2c;
/// `SIOCETHTOOL` (linux/sockios.h).
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// Makes the kernel take ESP out of the UDP datagrams of `socket` (RFC 3948); IKE behind the
/// non-ESP marker still arrives. For the daemon's socket on port 4500.
pub fn enable_udp_encap(socket: &impl AsFd) -> Result<(), Error> {
    let value = UDP_ENCAP_ESPINUDP;
    // SAFETY: the file descriptor is open for the call; the value is an int, as its length says.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_UDP,
            UDP_ENCAP,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
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

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Switches generic receive offload of `interface` off.
pub(crate) fn disable_gro(interface: &str) -> Result<(), Error> {
    let doing = || format!("switch GRO of {interface} off");
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)
        .map_err(|e| Error::io(doing(), e))?;
    let mut value = EthtoolValue {
        cmd: ETHTOOL_SGRO,
        data: 0,
    };
    // SAFETY: ifreq is a plain C structure, for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = interface.as_bytes();
    if name.len() >= request.ifr_name.len() {
        return Err(Error::Config(format!(
            "interface name {interface} is too long"
        )));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request names an interface and points to an ethtool_value, which SIOCETHTOOL with
    // ETHTOOL_SGRO reads; both live until the call returns.
    let ret = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if ret == 0 {
        Ok(())
    } else {
        Err(Error::io(doing(), io::Error::last_os_error()))
    }
}
