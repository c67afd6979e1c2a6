//! The namespaces of a run, and what both ends are called in them.
//!
//! ```text
//!   ours --------------- direct --------------- theirs
//!     +------ private ------ nat ------ public ------+
//! ```

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use rig::{exec, netns::Netns};

/// Our identity.
pub const OUR_ID: &str = "peer.example.net";
/// Theirs.
pub const THEIR_ID: &str = "swan.example.net";
/// Our address on the direct link.
pub const OURS: &str = "192.0.2.10";
/// Theirs.
pub const THEIRS: &str = "192.0.2.1";
/// Our address behind the NAT.
pub const OURS_PRIVATE: &str = "198.51.100.18";
/// Their address beyond the NAT.
pub const THEIRS_PUBLIC: &str = "203.0.113.1";
/// What the NAT makes of it.
pub const NAT_PUBLIC: &str = "203.0.113.2";
/// Where we go from [`OURS`].
pub const OURS_LATER: &str = "192.0.2.11";
/// Where they go from [`THEIRS`].
pub const THEIRS_LATER: &str = "192.0.2.2";
/// Our inner address.
pub const OUR_INNER: &str = "10.1.0.1";
/// Theirs.
pub const THEIR_INNER: &str = "10.2.0.1";

/// Three namespaces, gone with this value.
pub struct Lab {
    /// Where `ikepeer` runs.
    pub ours: Netns,
    /// Where the other maker's daemon runs.
    pub theirs: Netns,
    /// Masquerades, with other ports than the sender's.
    pub nat: Netns,
}

impl Lab {
    /// Makes the namespaces; names carry the process ID, so that runs do not meet.
    ///
    /// # Errors
    /// Without root, or when the kernel lacks veth.
    pub fn new() -> Result<Self> {
        let id = std::process::id();
        let lab = Self {
            ours: Netns::create(format!("io-{id}-ours"))?,
            theirs: Netns::create(format!("io-{id}-theirs"))?,
            nat: Netns::create(format!("io-{id}-nat"))?,
        };
        lab.link(&lab.ours, "direct", OURS, &lab.theirs, "direct", THEIRS)?;
        let gateway = "198.51.100.17";
        lab.link(
            &lab.ours,
            "private",
            OURS_PRIVATE,
            &lab.nat,
            "private",
            gateway,
        )?;
        lab.link(
            &lab.nat,
            "public",
            NAT_PUBLIC,
            &lab.theirs,
            "public",
            THEIRS_PUBLIC,
        )?;
        lab.ours
            .ip(&["route", "add", "203.0.113.0/24", "via", gateway])?;
        lab.theirs
            .ip(&["addr", "add", &format!("{THEIR_INNER}/32"), "dev", "lo"])?;
        lab.masquerade()?;
        Ok(lab)
    }

    /// Gives us a second address to go to.
    ///
    /// # Errors
    /// When there is one already.
    pub fn offer_us(&self) -> Result<()> {
        let address = format!("{OURS_LATER}/24");
        self.ours
            .ip(&["addr", "add", &address, "dev", "direct"])
            .map(drop)
    }

    /// Takes that away again.
    ///
    /// # Errors
    /// When it is not there.
    pub fn withdraw_from_us(&self) -> Result<()> {
        let address = format!("{OURS_LATER}/24");
        self.ours
            .ip(&["addr", "delete", &address, "dev", "direct"])
            .map(drop)
    }

    /// Takes their address away and gives them another one.
    ///
    /// # Errors
    /// When they do not have it.
    pub fn move_them(&self, from: &str, to: &str) -> Result<()> {
        // In this order: of two addresses of a subnet, the later goes with the earlier.
        self.theirs.ip_batch(&format!(
            "address delete {from}/24 dev direct\naddress add {to}/24 dev direct\n"
        ))
    }

    fn link(
        &self,
        one: &Netns,
        name: &str,
        address: &str,
        other: &Netns,
        other_name: &str,
        other_address: &str,
    ) -> Result<()> {
        exec::output(Command::new(exec::IP).args([
            "-n",
            one.name(),
            "link",
            "add",
            name,
            "type",
            "veth",
            "peer",
            "name",
            other_name,
            "netns",
            other.name(),
        ]))?;
        for (place, name, address) in [(one, name, address), (other, other_name, other_address)] {
            place.ip(&["addr", "add", &format!("{address}/24"), "dev", name])?;
            place.ip(&["link", "set", name, "up"])?;
        }
        Ok(())
    }

    fn masquerade(&self) -> Result<()> {
        self.nat.run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")?;
            let rules = format!("table ip interop {{\n chain out {{\n  type nat hook postrouting priority srcnat;\n  \
                         oifname \"public\" meta l4proto udp snat to {NAT_PUBLIC}:20000-29999\n }}\n}}\n");
            let file = tempfile::NamedTempFile::new()?;
            std::fs::write(file.path(), rules)?;
            exec::output(Command::new("nft").arg("-f").arg(file.path())).map(drop)
        })
    }
}

/// Where programs, logs and generated files are.
#[derive(Debug, Clone)]
pub struct Places {
    /// `ikepeer`.
    pub ikepeer: PathBuf,
    /// Generated configuration, logs and sockets of this run.
    pub work: PathBuf,
    /// Root of the unpacked packages of the other maker; `None`: installed.
    pub root: Option<PathBuf>,
    /// Root of those of a newer version, with all libraries they need.
    pub newer: Option<PathBuf>,
    /// Whether this kernel carries ESP.
    pub kernel_esp: bool,
}
