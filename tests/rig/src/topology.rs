//! The network of the demonstration and the end-to-end tests: each site in a namespace of its
//! own, nothing shared but the links.
//!
//! ```text
//!   kme-b ------------------ qkd ------------------- kme-a
//!     | site-b                                  site-a |
//!     |                                                |
//!    ue ------------ nwu (untrusted IP) ----------- n3iwf ---- n2n3 ---- core ---- n6 ---- dn
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::exec;
use crate::netns::Netns;

/// UE on NWu.
pub const UE_NWU: &str = "192.0.2.10";
/// N3IWF on NWu.
pub const N3IWF_NWU: &str = "192.0.2.1";
/// N3IWF inside the tunnels.
pub const N3IWF_INNER: &str = "10.0.0.1";
/// The N3IWF's KME, seen from the N3IWF.
pub const KME_A: &str = "198.51.100.2";
/// The UE's KME, seen from the UE.
pub const KME_B: &str = "198.51.100.6";
/// The first KME on the QKD link.
pub const KME_A_LINK: &str = "198.51.100.9";
/// The second KME on the QKD link.
pub const KME_B_LINK: &str = "198.51.100.10";
/// N3IWF on N2 and N3.
pub const N3IWF_CORE: &str = "203.0.113.1";
/// AMF on N2, UPF on N3.
pub const CORE: &str = "203.0.113.2";
/// The host behind the UPF.
pub const DN_HOST: &str = "198.18.0.10";
/// The UE where it is behind the NAT, which then has [`UE_NWU`].
pub const UE_PRIVATE: &str = "198.51.100.18";
/// The NAT, seen from the UE.
const NAT_PRIVATE: &str = "198.51.100.17";
/// The UE's ports on NWu when it is behind the NAT: none of them is its own.
pub const NAT_PORTS: std::ops::RangeInclusive<u16> = 20000..=29999;

/// A place in the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The UE and nothing else.
    Ue,
    /// The N3IWF.
    N3iwf,
    /// The KME at the N3IWF's site.
    KmeA,
    /// The KME at the UE's site.
    KmeB,
    /// AMF, SMF and UPF.
    Core,
    /// A host of the data network.
    Dn,
    /// A NAT between UE and NWu, where a scenario puts one.
    Nat,
}

impl Place {
    /// All places that are always there.
    pub const ALL: [Self; 6] = [
        Self::Ue,
        Self::N3iwf,
        Self::KmeA,
        Self::KmeB,
        Self::Core,
        Self::Dn,
    ];

    /// The last part of the namespace's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ue => "ue",
            Self::N3iwf => "n3iwf",
            Self::KmeA => "kme-a",
            Self::KmeB => "kme-b",
            Self::Core => "core",
            Self::Dn => "dn",
            Self::Nat => "nat",
        }
    }
}

/// A veth pair: name, and at each end the place and the address.
struct Link {
    name: &'static str,
    ends: [(Place, &'static str); 2],
}

const LINKS: &[Link] = &[
    Link {
        name: "nwu",
        ends: [(Place::Ue, "192.0.2.10/24"), (Place::N3iwf, "192.0.2.1/24")],
    },
    Link {
        name: "site-a",
        ends: [
            (Place::N3iwf, "198.51.100.1/30"),
            (Place::KmeA, "198.51.100.2/30"),
        ],
    },
    Link {
        name: "site-b",
        ends: [
            (Place::Ue, "198.51.100.5/30"),
            (Place::KmeB, "198.51.100.6/30"),
        ],
    },
    Link {
        name: "qkd",
        ends: [
            (Place::KmeA, "198.51.100.9/30"),
            (Place::KmeB, "198.51.100.10/30"),
        ],
    },
    Link {
        name: "n2n3",
        ends: [
            (Place::N3iwf, "203.0.113.1/24"),
            (Place::Core, "203.0.113.2/24"),
        ],
    },
    Link {
        name: "n6",
        ends: [
            (Place::Core, "198.18.0.1/24"),
            (Place::Dn, "198.18.0.10/24"),
        ],
    },
];

/// Addresses of PDU sessions, behind the UPF.
pub const PDU_POOL: &str = "10.60.0.0/16";

/// The namespaces and links, up and running; gone when dropped.
#[derive(Debug)]
pub struct Topology {
    prefix: String,
    places: Vec<(Place, Netns)>,
    memo: PathBuf,
    keep: bool,
}

impl Topology {
    /// Builds the whole network; namespaces are called `<prefix>-<place>`.
    ///
    /// # Errors
    /// When this is not root, or the kernel lacks network namespaces or veth.
    pub fn build(prefix: &str) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("network namespaces need root");
        }
        sweep()?;
        let memo = memo_directory().join(prefix);
        fs::create_dir_all(memo_directory())?;
        fs::write(&memo, std::process::id().to_string())
            .with_context(|| format!("cannot write {}", memo.display()))?;
        let mut topology = Self {
            prefix: prefix.to_owned(),
            places: Vec::new(),
            memo,
            keep: false,
        };
        for place in Place::ALL {
            let netns = Netns::create(format!("{prefix}-{}", place.name()))?;
            topology.places.push((place, netns));
        }
        for link in LINKS {
            topology.connect(link)?;
        }
        // The core forwards between its tunnels and the data network.
        topology.sysctl(Place::Core, "net.ipv4.ip_forward", "1")?;
        let dn = topology.place(Place::Dn)?;
        dn.ip(&["route", "add", PDU_POOL, "via", "198.18.0.1"])?;
        for place in Place::ALL {
            // Interfaces made later (TUN, XFRM) start with the default.
            topology.sysctl(place, "net.ipv4.conf.all.rp_filter", "0")?;
            topology.sysctl(place, "net.ipv4.conf.default.rp_filter", "0")?;
            topology.sysctl(place, "net.ipv6.conf.all.disable_ipv6", "1")?;
            topology.sysctl(place, "net.ipv6.conf.default.disable_ipv6", "1")?;
        }
        Ok(topology)
    }

    /// The namespace of a place.
    ///
    /// # Errors
    /// Never for a topology that was built.
    pub fn place(&self, place: Place) -> Result<&Netns> {
        self.places
            .iter()
            .find_map(|(p, netns)| (*p == place).then_some(netns))
            .with_context(|| format!("no namespace for {}", place.name()))
    }

    /// What the namespaces' names begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Puts a NAT between UE and NWu: the UE is at [`UE_PRIVATE`], and what the N3IWF sees of it is
    /// [`UE_NWU`] with one of [`NAT_PORTS`]. Nobody can reach the UE first.
    ///
    /// # Errors
    /// When the kernel or `nft` lacks something.
    pub fn insert_nat(&mut self) -> Result<()> {
        let nat = Netns::create(format!("{}-{}", self.prefix, Place::Nat.name()))?;
        self.places.push((Place::Nat, nat));
        let ue = self.place(Place::Ue)?;
        ue.ip(&["link", "delete", "nwu"])?;
        self.connect(&Link {
            name: "nwu",
            ends: [
                (Place::Nat, "192.0.2.10/24"),
                (Place::N3iwf, "192.0.2.1/24"),
            ],
        })?;
        // The UE's interface keeps its name; at the NAT it has another.
        let nat = self.place(Place::Nat)?;
        exec::output(Command::new(exec::IP).args([
            "link",
            "add",
            "nwu",
            "netns",
            ue.name(),
            "type",
            "veth",
            "peer",
            "name",
            "private",
            "netns",
            nat.name(),
        ]))?;
        nat.ip_batch(&format!(
            "address add {NAT_PRIVATE}/29 dev private\nlink set private up\n"
        ))?;
        ue.ip_batch(&format!(
            "address add {UE_PRIVATE}/29 dev nwu\nlink set nwu up\n\
             route add 192.0.2.0/24 via {NAT_PRIVATE}\n"
        ))?;
        let (first, last) = (NAT_PORTS.start(), NAT_PORTS.end());
        nat.output(
            "nft",
            &[&format!(
                "table ip nat {{
                   chain postrouting {{
                     type nat hook postrouting priority srcnat;
                     oifname nwu meta l4proto udp snat to {UE_NWU}:{first}-{last}
                   }}
                   chain forward {{
                     type filter hook forward priority filter; policy drop;
                     ct state established,related accept
                     iifname private oifname nwu accept
                   }}
                 }}"
            )],
        )?;
        self.sysctl(Place::Nat, "net.ipv4.conf.all.rp_filter", "0")?;
        self.sysctl(Place::Nat, "net.ipv4.ip_forward", "1")
    }

    /// Lets the NAT forget a mapping after a second of silence, or after the kernel's usual time.
    ///
    /// # Errors
    /// When there is no NAT.
    pub fn forgetful_nat(&self, forgetful: bool) -> Result<()> {
        let (first, later) = if forgetful { ("1", "1") } else { ("30", "120") };
        let key = "net.netfilter.nf_conntrack_udp_timeout";
        self.sysctl(Place::Nat, key, first)?;
        self.sysctl(Place::Nat, &format!("{key}_stream"), later)
    }

    /// Takes a link down or up at one end (both ends see it).
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn set_link(&self, place: Place, interface: &str, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.place(place)?
            .ip(&["link", "set", interface, state])
            .map(drop)
    }

    /// Leaves everything up when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
        for (_, netns) in &mut self.places {
            netns.keep();
        }
    }

    fn connect(&self, link: &Link) -> Result<()> {
        let [(a, a_address), (b, b_address)] = link.ends;
        let (a, b) = (self.place(a)?, self.place(b)?);
        exec::output(Command::new(exec::IP).args([
            "link",
            "add",
            link.name,
            "netns",
            a.name(),
            "type",
            "veth",
            "peer",
            "name",
            link.name,
            "netns",
            b.name(),
        ]))?;
        for (netns, address) in [(a, a_address), (b, b_address)] {
            netns.ip_batch(&format!(
                "address add {address} dev {name}\nlink set {name} up\n",
                name = link.name
            ))?;
        }
        Ok(())
    }

    fn sysctl(&self, place: Place, name: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        self.place(place)?.run(|| {
            // A kernel without IPv6 has nothing to switch off.
            if !file.exists() && name.contains(".ipv6.") {
                return Ok(());
            }
            // /proc/sys/net shows the namespace of the thread that opens it.
            fs::write(&file, value).with_context(|| format!("cannot set {name}"))
        })
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        if !self.keep {
            self.places.clear();
            // The note of a topology that is gone only costs the next sweep a look.
            let _ = fs::remove_file(&self.memo);
        }
    }
}

fn memo_directory() -> PathBuf {
    PathBuf::from("/run/n3iwf-rig")
}

/// Removes the topologies of rigs that were killed: those whose process is gone.
///
/// # Errors
/// When the notes of earlier runs cannot be read.
pub fn sweep() -> Result<()> {
    let Ok(entries) = fs::read_dir(memo_directory()) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let owner = fs::read_to_string(entry.path()).unwrap_or_default();
        let alive = owner
            .trim()
            .parse::<i32>()
            .is_ok_and(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok());
        if alive || owner.trim() == KEPT {
            continue;
        }
        remove(&entry.file_name().to_string_lossy());
    }
    Ok(())
}

/// In a note: the topology stays until it is asked to go.
const KEPT: &str = "kept";

impl Topology {
    /// [`Topology::keep`], also beyond the end of this process.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn keep_beyond(&mut self) -> Result<()> {
        self.keep();
        fs::write(&self.memo, KEPT).context("cannot note that the topology stays")
    }
}

/// Removes the topology of this prefix with every process in it.
pub fn remove(prefix: &str) {
    for place in Place::ALL.into_iter().chain([Place::Nat]) {
        Netns::destroy(&format!("{prefix}-{}", place.name()));
    }
    // The next sweep removes what does not go now.
    let _ = fs::remove_file(memo_directory().join(prefix));
}
