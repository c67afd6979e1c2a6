//! What this host's kernel can do: whether a scenario may run in namespaces
//! here, or needs the virtual machine.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{paths, proc, setup};

/// A feature the scenarios need and the way to find out whether it is there,
/// by using it in a network namespace that is gone afterwards.
const PROBES: &[(&str, &str)] = &[
    ("XFRM interfaces", "$IP link add probe type xfrm if_id 1"),
    (
        "ESP with AES-GCM",
        "$IP xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 256 mode tunnel if_id 1 \
         aead 'rfc4106(gcm(aes))' \
         0x0000000000000000000000000000000000000000000000000000000000000000000000ff 128",
    ),
    (
        "ESP with AES-CBC",
        "$IP xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 257 mode tunnel if_id 1 \
         enc 'cbc(aes)' 0x00000000000000000000000000000000000000000000000000000000000000ff \
         auth-trunc 'hmac(sha256)' \
         0x00000000000000000000000000000000000000000000000000000000000000ff 128",
    ),
    // The module registers it; a kernel with SCTP built in has it anyway.
    ("SCTP", "modprobe -q sctp; test -d /proc/sys/net/sctp"),
    ("veth", "$IP link add probe0 type veth peer name probe1"),
    ("TUN", "modprobe -q tun; $IP tuntap add probe2 mode tun"),
    (
        "the BPF file system",
        "grep -q ' /sys/fs/bpf bpf ' /proc/mounts",
    ),
];

/// Features the host's kernel lacks; empty when the scenarios can run here.
pub(crate) fn missing() -> Result<Vec<&'static str>> {
    if !setup::is_root()? {
        return Ok(vec!["root"]);
    }
    let Some(ip) = paths::which("ip") else {
        return Ok(vec!["iproute2"]);
    };
    Ok(PROBES
        .iter()
        .filter(|(_, probe)| !works(&ip, probe))
        .map(|(name, _)| *name)
        .collect())
}

fn works(ip: &Path, probe: &str) -> bool {
    Command::new("unshare")
        .args(["--net", "sh", "-c", probe])
        .env("IP", ip)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// `uname -r`.
pub(crate) fn release() -> Result<String> {
    Ok(proc::output(Command::new("uname").arg("-r"))?
        .trim()
        .to_owned())
}
