//! The scenarios: the demonstration, the attach, and what may go wrong.

mod demo;
mod esp;
mod faults;
mod fleet;
mod flood;
mod flows;
mod hygiene;
mod ipv6;
mod metrics;
mod nat;
mod path;
mod quiet;
mod rekey;
mod relays;
mod restart;
mod roam;
mod sessions;
mod survive;

use std::path::PathBuf;

use anyhow::Result;

use crate::files::{KeyMode, Profile};
use crate::report::{Finding, Report};
use crate::world::{Options, World};

pub use demo::{DemoOptions, demo};
pub use flood::{FloodOptions, run as flood};

/// What every scenario is given.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// The eBPF object.
    pub bpf_object: PathBuf,
    /// Where logs and captures go.
    pub results: PathBuf,
    /// Without ESP and SCTP: see [`Options::recording`].
    pub recording: bool,
    /// Whether to print nothing while running.
    pub quiet: bool,
}

impl Setting {
    /// A fresh world for a scenario; its logs go to a directory of its name.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn world(&self, scenario: &str, profile: Profile) -> Result<World> {
        self.world_of(scenario, KeyMode::Qkd, profile)
    }

    /// The same in any key mode.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn world_of(&self, scenario: &str, mode: KeyMode, profile: Profile) -> Result<World> {
        World::new(Options {
            bin_dir: self.bin_dir.clone(),
            bpf_object: self.bpf_object.clone(),
            mode,
            profile,
            prefix: format!("rig{}", std::process::id()),
            logs: self.results.join(scenario),
            key_log: false,
            kernel_relay: false,
            recording: self.recording,
        })
    }

    /// A report for a scenario.
    #[must_use]
    pub fn report(&self, scenario: &str) -> Report {
        Report::new(scenario, self.quiet)
    }
}

/// A scenario by name.
pub struct Scenario {
    /// What `rig scenario` calls it.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// How keys come about in it.
    mode: KeyMode,
    run: fn(&mut Report, &mut World) -> Option<()>,
}

impl Scenario {
    /// Whether it runs when it is named, and not with all others: a flood needs a processor of its own for the senders,
    /// and the UEs of `n3iwf-killed-100` share a namespace, which only the recording data plane lets them.
    #[must_use]
    pub fn apart(&self) -> bool {
        matches!(self.name, "flood" | "flood-bucket" | "n3iwf-killed-100")
    }

    /// Runs it in a world of its own.
    #[must_use]
    pub fn run(&self, setting: &Setting) -> Report {
        let mut report = setting.report(self.name);
        let world = report.step_with("the network is built", || {
            let world = setting.world_of(self.name, self.mode, Profile::Native)?;
            Ok((Finding::new("six namespaces"), world))
        });
        if let Some(mut world) = world {
            (self.run)(&mut report, &mut world);
        }
        report
    }
}

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "attach",
        about: "attach, ping, deregister, nothing left",
        mode: KeyMode::Qkd,
        run: faults::attach,
    },
    Scenario {
        name: "attach-hybrid",
        about: "the same in mode hybrid: Diffie-Hellman, ML-KEM and a QKD key",
        mode: KeyMode::Hybrid,
        run: faults::attach,
    },
    Scenario {
        name: "attach-psk",
        about: "the same in mode psk: Diffie-Hellman and K_N3IWF",
        mode: KeyMode::Psk,
        run: faults::attach,
    },
    Scenario {
        name: "attach-cert",
        about: "the same in mode cert: Diffie-Hellman and certificates of both ends",
        mode: KeyMode::Cert,
        run: faults::attach,
    },
    Scenario {
        name: "hygiene",
        about: "rights of every thread, and a search of memory for each QKD key",
        mode: KeyMode::Qkd,
        run: hygiene::hygiene,
    },
    Scenario {
        name: "quiet-logs",
        about: "both daemons log all there is, as text and as JSON: no key is in any log",
        mode: KeyMode::Qkd,
        run: quiet::logs,
    },
    Scenario {
        name: "hostile-esp",
        about: "recorded ESP again, from elsewhere, under another SPI or number: refused, counted, delivered once",
        mode: KeyMode::Qkd,
        run: esp::hostile,
    },
    Scenario {
        name: "flood",
        about: "strangers send IKE_SA_INIT, a known UE attaches: no key, no state, no growth",
        mode: KeyMode::Qkd,
        run: flood::flood,
    },
    Scenario {
        name: "flood-bucket",
        about: "strangers claim a UE's SAE ID until its bucket is empty; the UE, seen before, attaches",
        mode: KeyMode::Qkd,
        run: flood::bucket,
    },
    Scenario {
        name: "metrics",
        about: "every page for Prometheus agrees with the control tools",
        mode: KeyMode::Qkd,
        run: metrics::metrics,
    },
    Scenario {
        name: "two-sessions",
        about: "two PDU sessions at once; the second goes, comes back, and goes with the UE",
        mode: KeyMode::Qkd,
        run: sessions::two_sessions,
    },
    Scenario {
        name: "flows",
        about: "two QoS flows of one PDU session, each by a Child SA of its own",
        mode: KeyMode::Qkd,
        run: flows::flows,
    },
    Scenario {
        name: "flows-kernel",
        about: "the same with the kernel relay",
        mode: KeyMode::Qkd,
        run: flows::flows_in_kernel,
    },
    Scenario {
        name: "kernel-relay",
        about: "both daemons relay in the kernel: ping, TCP, counters as at the UPF",
        mode: KeyMode::Qkd,
        run: relays::in_kernel,
    },
    Scenario {
        name: "n3-ipv6",
        about: "N3 is of IPv6, the relays are in user space",
        mode: KeyMode::Qkd,
        run: relays::over_ipv6,
    },
    Scenario {
        name: "n3-ipv6-kernel",
        about: "N3 is of IPv6, both daemons relay in the kernel",
        mode: KeyMode::Qkd,
        run: relays::over_ipv6_in_kernel,
    },
    Scenario {
        name: "ipv6",
        about: "IPv4 and IPv6 in one PDU session: router advertisement, ping, TCP",
        mode: KeyMode::Qkd,
        run: ipv6::both,
    },
    Scenario {
        name: "nat",
        about: "the UE is behind a NAT: port 4500, ESP in UDP, keepalives, a mapping that changes",
        mode: KeyMode::Qkd,
        run: nat::nat,
    },
    Scenario {
        name: "rekey",
        about: "Child SAs and the IKE SA get fresh QKD keys from each side, under traffic",
        mode: KeyMode::Qkd,
        run: rekey::rekey,
    },
    Scenario {
        name: "rekey-hybrid",
        about: "the same in mode hybrid: every key exchange again, and a QKD key each",
        mode: KeyMode::Hybrid,
        run: rekey::rekey,
    },
    Scenario {
        name: "rekey-psk",
        about: "the same in mode psk: every key exchange again",
        mode: KeyMode::Psk,
        run: rekey::rekey,
    },
    Scenario {
        name: "roam",
        about: "the UE's address changes, three times by itself and by command: MOBIKE keeps the attach",
        mode: KeyMode::Qkd,
        run: roam::roam,
    },
    Scenario {
        name: "kme-down",
        about: "the N3IWF's KME is down, then comes back",
        mode: KeyMode::Qkd,
        run: faults::kme_down,
    },
    Scenario {
        name: "kme-empty",
        about: "the KME has no keys, then has some",
        mode: KeyMode::Qkd,
        run: faults::kme_empty,
    },
    Scenario {
        name: "kme-slow",
        about: "the KME answers late: the attach works, no key is fetched twice",
        mode: KeyMode::Qkd,
        run: faults::kme_slow,
    },
    Scenario {
        name: "kme-401",
        about: "the KME refuses the N3IWF's certificate",
        mode: KeyMode::Qkd,
        run: faults::kme_unauthorized,
    },
    Scenario {
        name: "kme-one-sided",
        about: "keys reach the N3IWF's KME and never the UE's",
        mode: KeyMode::Qkd,
        run: faults::kme_one_sided,
    },
    Scenario {
        name: "kme-restart",
        about: "both KMEs start again without their keys, under a UE that is attached and keys fetched ahead",
        mode: KeyMode::Qkd,
        run: restart::kmes,
    },
    Scenario {
        name: "amf-restart",
        about: "the AMF is killed under a UE that is attached, and starts again knowing nobody",
        mode: KeyMode::Qkd,
        run: restart::amf,
    },
    Scenario {
        name: "amf-path-lost",
        about: "the path to an AMF carries nothing: a short while, then for good; another AMF takes over",
        mode: KeyMode::Qkd,
        run: path::lost,
    },
    Scenario {
        name: "amf-down",
        about: "the AMF is not there when the N3IWF starts",
        mode: KeyMode::Qkd,
        run: faults::amf_down,
    },
    Scenario {
        name: "amf-lost",
        about: "the AMF breaks off in the middle of an attach",
        mode: KeyMode::Qkd,
        run: faults::amf_lost,
    },
    Scenario {
        name: "wrong-k",
        about: "the UE has another K than the network",
        mode: KeyMode::Qkd,
        run: faults::wrong_k,
    },
    Scenario {
        name: "ue-killed",
        about: "the UE is killed in the middle of an attach",
        mode: KeyMode::Qkd,
        run: faults::ue_killed,
    },
    Scenario {
        name: "n3iwf-killed",
        about: "the N3IWF is killed with a UE attached, and started again",
        mode: KeyMode::Qkd,
        run: faults::n3iwf_killed,
    },
    Scenario {
        name: "n3iwf-killed-kernel",
        about: "the same with kernel IPsec and the kernel relay under traffic, each UE in a network of its own",
        mode: KeyMode::Qkd,
        run: fleet::killed,
    },
    Scenario {
        name: "n3iwf-killed-100",
        about: "the same with a hundred UEs, all of which are back 5 s after the start (--recording)",
        mode: KeyMode::Qkd,
        run: survive::n3iwf_killed,
    },
];

/// The scenario of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
