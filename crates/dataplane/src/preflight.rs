//! What this kernel offers, as plain facts.
//!
//! Nothing of the host is touched: what has to be tried is tried in a network namespace that
//! exists for the length of the call.

use std::{
    fs::OpenOptions,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    thread,
};

use aya::{programs::ProgramType, sys::is_program_supported};
use keys::Secret;
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use serde::{Deserialize, Serialize};

use crate::{
    ChildSaSpec, EncrAlg, Error, EspKeys, IntegAlg, Limits, Plane, Suite,
    link::Links,
    loader::{Attachment, attachment},
    sys::enable_udp_encap,
    xfrm::{Direction, Place, StateId, XfrmDb},
};

/// One thing a daemon needs from the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Short name: `xfrm`, `esp-aes-gcm`, `xfrm-interface`, `bpf`, ...
    pub name: String,
    /// Whether it is there.
    pub ok: bool,
    /// Whether the daemon can run without it.
    pub optional: bool,
    /// What was found.
    pub detail: String,
    /// How to get it; empty when it is there.
    pub hint: String,
}

impl Fact {
    fn new(name: &str, optional: bool, found: Result<String, String>, hint: &str) -> Self {
        let (ok, detail, hint) = match found {
            Ok(detail) => (true, detail, ""),
            Err(detail) => (false, detail, hint),
        };
        Self {
            name: name.to_owned(),
            ok,
            optional,
            detail,
            hint: hint.to_owned(),
        }
    }
}

const DISTRIBUTION: &str = "use a kernel that has it, such as Debian's linux-image-cloud-amd64";

/// What the kernel data plane needs: XFRM, ESP with every suite, XFRM interfaces, ESP in UDP.
///
/// All false with a reason when the caller may not make a network namespace.
pub fn ipsec() -> Vec<Fact> {
    let probe = thread::Builder::new()
        .name("preflight".into())
        .spawn(|| unshare(CloneFlags::CLONE_NEWNET).map(|()| probe_ipsec()));
    let result = match probe {
        Ok(thread) => thread.join().unwrap_or(Err(Errno::EIO)),
        Err(_) => Err(Errno::EAGAIN),
    };
    result.unwrap_or_else(|errno| {
        vec![Fact::new(
            "xfrm",
            false,
            Err(format!("a network namespace to try in: {errno}")),
            "run as root, or with CAP_SYS_ADMIN and CAP_NET_ADMIN",
        )]
    })
}

fn probe_ipsec() -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut db = match XfrmDb::open() {
        Ok(db) => Some(db),
        Err(e) => {
            facts.push(Fact::new(
                "xfrm",
                false,
                Err(e.to_string()),
                "modprobe xfrm_user (CONFIG_XFRM_USER)",
            ));
            None
        }
    };
    if let Some(db) = &mut db {
        let found = db
            .policies()
            .map(|_| "NETLINK_XFRM answers".to_owned())
            .map_err(|e| e.to_string());
        facts.push(Fact::new("xfrm", false, found, DISTRIBUTION));
        let suite = |encr, integ| Suite { encr, integ };
        for (name, suite) in [
            ("esp-aes-gcm", suite(EncrAlg::AesGcm16, None)),
            (
                "esp-chacha20-poly1305",
                suite(EncrAlg::ChaCha20Poly1305, None),
            ),
            (
                "esp-aes-cbc-sha256",
                suite(EncrAlg::AesCbc, Some(IntegAlg::HmacSha2_256_128)),
            ),
            (
                "esp-aes-cbc-sha1",
                suite(EncrAlg::AesCbc, Some(IntegAlg::HmacSha1_96)),
            ),
        ] {
            facts.push(Fact::new(
                name,
                // The first suite is the default; the others are for peers that want them.
                suite.encr != EncrAlg::AesGcm16,
                try_state(db, suite),
                "modprobe -a esp4 esp6 gcm cbc ctr ghash_generic hmac sha1_generic sha256_generic \
                 authenc seqiv echainiv chacha20poly1305, or use a kernel that has CONFIG_INET_ESP",
            ));
        }
    }
    facts.push(Fact::new(
        "xfrm-interface",
        false,
        try_interface(),
        "modprobe xfrm_interface (CONFIG_XFRM_INTERFACE, Linux 4.19 and later)",
    ));
    let encap = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .map_err(|e| Error::io("open a UDP socket", e))
        .and_then(|socket| enable_udp_encap(&socket));
    facts.push(Fact::new(
        "udp-encap",
        false,
        encap
            .map(|()| "UDP_ENCAP is accepted".to_owned())
            .map_err(|e| e.to_string()),
        DISTRIBUTION,
    ));
    facts
}

/// Adds, reads back and deletes a state.
fn try_state(db: &mut XfrmDb, suite: Suite) -> Result<String, String> {
    let Suite { encr, integ } = suite;
    let key = || EspKeys {
        encr: Secret::filled(32, |octets| octets.fill(0x11)),
        salt: [0x22; 4],
        integ: integ.map(|alg| Secret::filled(alg.key_len(), |octets| octets.fill(0x33))),
    };
    let outer = |last| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 4500);
    let sa = ChildSaSpec {
        id: 0,
        plane: Plane::Control,
        ue: 0,
        pdu_session: None,
        spi_in: 0x1000_0000,
        spi_out: 0x1000_0001,
        encr,
        integ,
        keys_in: key(),
        keys_out: key(),
        esn: true,
        replay_window: 64,
        local: outer(1),
        remote: outer(2),
        udp_encap: true,
        inner_local: Ipv4Addr::new(127, 0, 1, 1).into(),
        inner_remote: Ipv4Addr::new(127, 0, 1, 2).into(),
        protocol: None,
        slot: 0,
        reqid: 0,
    };
    let (place, limits) = (Place { if_id: 1, reqid: 1 }, Limits::default());
    db.add_state(&sa, place, Direction::In, &limits)
        .and_then(|()| db.check_state(&sa, place, Direction::In, &limits))
        .and_then(|()| db.delete_state(StateId::inbound(&sa)))
        .map(|_| "a state could be added and read back".to_owned())
        .map_err(|e| e.to_string())
}

fn try_interface() -> Result<String, String> {
    Links::open()
        .and_then(|mut links| links.create_xfrm("preflight0", 1, 1400, "preflight"))
        .map(|_| "an XFRM interface could be made".to_owned())
        .map_err(|e| e.to_string())
}

/// What eBPF accounting needs. Optional: without it the counters of the kernel's SAs remain.
pub fn bpf() -> Vec<Fact> {
    let program = match is_program_supported(ProgramType::SchedClassifier) {
        Ok(true) => Ok("tc programs load".to_owned()),
        Ok(false) => Err("the kernel refuses tc programs".to_owned()),
        Err(e) => Err(e.to_string()),
    };
    let tcx = match attachment() {
        Attachment::Tcx => Ok("tcx links (Linux 6.6 and later)".to_owned()),
        Attachment::Clsact => Err("no tcx links: the clsact qdisc is used".to_owned()),
    };
    let bpffs = Path::new("/sys/fs/bpf");
    let mounted = match statfs(bpffs) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => {
            Ok(format!("{} is mounted", bpffs.display()))
        }
        Ok(_) => Ok(format!(
            "{} is not mounted yet; the daemon mounts it",
            bpffs.display()
        )),
        Err(e) => Err(format!("{}: {e}", bpffs.display())),
    };
    vec![
        Fact::new(
            "bpf",
            true,
            program,
            "run as root or with CAP_BPF and CAP_NET_ADMIN; needs CONFIG_BPF_SYSCALL and \
             CONFIG_NET_CLS_ACT",
        ),
        Fact::new(
            "tcx",
            true,
            tcx,
            "Linux 6.6 or later, for links that end with the daemon",
        ),
        Fact::new("bpffs", true, mounted, "mount -t bpf bpf /sys/fs/bpf"),
    ]
}

/// What the user-plane relay of a UE needs.
pub fn tun() -> Fact {
    let path = "/dev/net/tun";
    let found = OpenOptions::new().read(true).write(true).open(path);
    Fact::new(
        "tun",
        false,
        found
            .map(|_| format!("{path} opens"))
            .map_err(|e| format!("{path}: {e}")),
        "modprobe tun; in a container, pass the device in",
    )
}

/// What both relays need: a raw socket for GRE.
pub fn raw_gre() -> Fact {
    let socket = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::RAW,
        Some(socket2::Protocol::from(libc::IPPROTO_GRE)),
    );
    Fact::new(
        "raw-gre",
        false,
        socket
            .map(|_| "a raw GRE socket opens".to_owned())
            .map_err(|e: io::Error| e.to_string()),
        "run as root or with CAP_NET_RAW",
    )
}
