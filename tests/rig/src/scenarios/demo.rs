//! The demonstration: everything, shown.

use std::fs;

use anyhow::{Context, Result, bail};

use e2e::table_ii::NATIVE_BUDGET;

use super::Setting;
use crate::bulk::Direction;
use crate::capture::{Capture, ike_frames};
use crate::checks::{self, Snapshot};
use crate::files::{KeyMode, Profile, SAE_N3IWF, SAE_UE, XFRM_INTERFACE};
use crate::paper;
use crate::report::{Finding, Report};
use crate::steps;
use crate::topology::{self, Place};
use crate::world::{Options, Role, World};

/// Octets each way: the issue of a relay is segments, and these are enough for many large ones.
const BULK: u64 = 4 << 20;

/// How to demonstrate.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// How the keys of IKE SAs come about.
    pub mode: KeyMode,
    /// Wire profile of the QKD mode.
    pub profile: Profile,
    /// Keep the captures and the tables to open them.
    pub pcap: bool,
    /// GRE to GTP-U by eBPF instead of in user space.
    pub kernel_relay: bool,
    /// Leave everything up, attached.
    pub keep: bool,
}

impl DemoOptions {
    /// QKD keys of an attach with one PDU session: 2 or 4 per IKE and Child SA, and one to
    /// authenticate with.
    const fn keys(self) -> u64 {
        match (self.mode, self.profile) {
            (KeyMode::Qkd, Profile::Native) => 7,
            (KeyMode::Qkd, Profile::Paper) => 13,
            (KeyMode::Hybrid, _) => 1,
            (KeyMode::Psk | KeyMode::Cert, _) => 0,
        }
    }
}

/// Runs the demonstration.
#[must_use]
pub fn demo(setting: &Setting, options: DemoOptions) -> Report {
    let mut report = setting.report("demo");
    if let Some(mut world) = build(&mut report, setting, options) {
        let shown = show(&mut report, &mut world, setting, options);
        if options.keep && shown.is_some() {
            report.step("left up", || {
                world.keep()?;
                Ok(Finding::new("nothing is taken down").with_exhibit(how_to_look(&world)))
            });
        }
    }
    report
}

fn build(report: &mut Report, setting: &Setting, options: DemoOptions) -> Option<World> {
    report.step_with("the network is built", || {
        let prefix = if options.keep {
            "demo".to_owned()
        } else {
            format!("rig{}", std::process::id())
        };
        topology::remove(&prefix);
        let world = World::new(Options {
            bin_dir: setting.bin_dir.clone(),
            bpf_object: setting.bpf_object.clone(),
            mode: options.mode,
            profile: options.profile,
            prefix,
            logs: setting.results.clone(),
            key_log: options.pcap,
            kernel_relay: options.kernel_relay,
            recording: setting.recording,
        })?;
        Ok((Finding::new("six namespaces").with_exhibit(PICTURE), world))
    })
}

const PICTURE: &str = "\
 kme-b ----------------- qkd ----------------- kme-a
   |                                             |
  ue ----------- nwu (untrusted IP) ---------- n3iwf ----- n2n3 ----- core ----- n6 ----- dn";

fn show(
    report: &mut Report,
    world: &mut World,
    setting: &Setting,
    options: DemoOptions,
) -> Option<()> {
    let before = report.step_with("a look before", || {
        Ok((
            Finding::new("interfaces, routes, states, policies, programs"),
            Snapshot::take(world)?,
        ))
    })?;
    report.step("the sites are apart", || sites_are_apart(world))?;
    steps::bring_up(report, world)?;
    let captures = report.step_with("captures are running", || {
        let netns = world.netns(Place::N3iwf)?;
        let logs = world.options().logs.clone();
        let start = |interface: &str, neighbour: &str| {
            let file = setting.results.join(format!("{interface}.pcap"));
            Capture::start(netns, interface, neighbour, &file, &logs)
        };
        let nwu = start("nwu", topology::UE_NWU)?;
        let n2n3 = start("n2n3", topology::CORE)?;
        Ok((Finding::new("NWu and N2/N3"), [nwu, n2n3]))
    })?;
    let how = match options.mode {
        KeyMode::Qkd => "the UE attaches with QKD keys",
        KeyMode::Hybrid => "the UE attaches with a key exchange and a QKD key",
        KeyMode::Psk => "the UE attaches with K_N3IWF",
        KeyMode::Cert => "the UE attaches with certificates",
    };
    let attached = report.step_with(how, || {
        let attached = steps::attach(world)?;
        let detail = format!("registered; PDU session {}", attached.address);
        Ok((Finding::new(detail), attached))
    })?;
    report.step("where the time went", || steps::timeline(world));
    report.step("security associations", || steps::sas(world, 2));
    report.step("ping through the PDU session", || {
        steps::ping(world, &attached, 5)
    });
    for (name, way) in [
        ("TCP to the data network", Direction::Up),
        ("TCP to the UE", Direction::Down),
    ] {
        report.step(name, || steps::tcp(world, &attached, way, BULK));
    }
    report.step("eBPF counters = kernel counters", || steps::counters(world));
    report.step("kernel IPsec", || steps::xfrm_states(world, 4));
    let account = match options.keys() {
        0 => "no QKD key was asked for",
        _ => "QKD keys: fetched = used",
    };
    report.step(account, || steps::keys(world, options.keys()));
    if options.keep {
        for mut capture in captures {
            capture.process_mut().keep();
        }
        return Some(());
    }
    report.step("deregistration", || steps::deregister(world));
    report.step("frames on NWu", || {
        let mut files = Vec::new();
        for capture in captures {
            files.push(capture.finish()?);
        }
        let nwu = files.first().context("no capture")?;
        frames(nwu, options)
    });
    if options.pcap {
        report.step("key tables for Wireshark", || key_tables(world, setting));
    }
    report.step("the daemons end and leave nothing", || {
        for role in Role::ALL.iter().rev() {
            world.stop(*role)?;
        }
        checks::nothing_left(world, &before)?;
        Ok(Finding::new(
            "no state, policy, interface, address, route, rule, program or pin",
        ))
    })
}

/// The UE has no way to the N3IWF's KME or the core, the N3IWF none to the UE's KME.
fn sites_are_apart(world: &World) -> Result<Finding> {
    let forbidden = [
        (Place::Ue, topology::KME_A),
        (Place::Ue, topology::CORE),
        (Place::N3iwf, topology::KME_B),
        (Place::KmeA, topology::UE_NWU),
    ];
    for (place, address) in forbidden {
        let route = world.netns(place)?.ip(&["route", "get", address]);
        if let Ok(route) = route {
            bail!(
                "{} has a route to {address}: {}",
                place.name(),
                route.trim()
            );
        }
    }
    Ok(Finding::new(
        "no route from the UE to KME-A or the core, from the N3IWF to KME-B",
    ))
}

fn frames(nwu: &std::path::Path, options: DemoOptions) -> Result<Finding> {
    let (total, table) = paper::sizes(&ike_frames(nwu)?, options.mode, options.profile)?;
    let detail = match (options.mode, options.profile) {
        (KeyMode::Hybrid, _) => format!("{total} octets of IKE for the attach"),
        (KeyMode::Psk | KeyMode::Cert, _) => {
            format!("{total} octets of IKE for the attach, no more than the paper's")
        }
        (KeyMode::Qkd, Profile::Native) => {
            format!("{total} octets of IKE for the attach, at most {NATIVE_BUDGET}")
        }
        (KeyMode::Qkd, Profile::Paper) => {
            format!("{total} octets, every frame has the size of Table II")
        }
    };
    Ok(Finding::new(detail).with_exhibit(table))
}

/// Takes the tables the N3IWF wrote for Wireshark to the results.
fn key_tables(world: &World, setting: &Setting) -> Result<Finding> {
    let target = setting.results.join("wireshark");
    fs::create_dir_all(&target)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(world.key_log_directory()).context("no key tables were written")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if fs::metadata(entry.path())?.len() == 0 {
            bail!("{name} is empty");
        }
        fs::copy(entry.path(), target.join(&name))?;
        names.push(name);
    }
    if names.is_empty() {
        bail!("no key tables were written");
    }
    names.sort();
    Ok(Finding::new(names.join(", ")))
}

fn how_to_look(world: &World) -> String {
    let prefix = world.topology().prefix();
    let bin = world.options().bin_dir.display();
    let pins = world.pins();
    let (n3iwf, ue) = (world.socket(Role::N3iwf), world.socket(Role::Ue));
    format!(
        "{bin}/n3iwfctl --socket {n3iwf} sas          (ues, keys, counters)
{bin}/uectl --control {ue} status
ip netns exec {prefix}-n3iwf ip -s xfrm state
ip netns exec {prefix}-n3iwf ip -d link show {XFRM_INTERFACE}
bpftool map dump pinned {pins}/nwu_sas
ip netns exec {prefix}-ue ping {host}
{bin}/rig down {prefix}                     takes everything down
SAE IDs: {SAE_N3IWF}, {SAE_UE}",
        n3iwf = n3iwf.display(),
        ue = ue.display(),
        pins = pins.display(),
        host = topology::DN_HOST,
    )
}
