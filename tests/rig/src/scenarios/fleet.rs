//! `kill -9` of an N3IWF under UEs with kernel IPsec and traffic: each UE daemon in a network of its own, the N3IWF with
//! the kernel relay.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::faults::{clean_slate, nothing_stays};
use crate::account::{self, KeyAccount};
use crate::bench::load;
use crate::control::{self, number, text};
use crate::files::{SAE_UE, SUPI};
use crate::netns::Netns;
use crate::process::{Process, Spec};
use crate::report::{Finding, Report};
use crate::scrape::Scrape;
use crate::topology::{self, Place};
use crate::world::{Role, World};
use crate::{echoes, exec, kernel, steps};

/// UEs, unless `RIG_UES` says otherwise: each has a daemon and kernel states of its own, and an emulated machine has
/// other tests to run.
const UES: usize = 16;
/// How long after the start of the N3IWF the last of them may be back.
const BACK: Duration = Duration::from_secs(5);
/// How long the N3IWF is away, at least.
const AWAY: Duration = Duration::from_secs(3);
/// How long anything may take until it has failed.
const PATIENCE: Duration = Duration::from_secs(240);
/// Where the UEs are, a network of four addresses each; the UE's namespace forwards.
const NETWORKS: &str = "100.65.0.0/16";
/// The UE's namespace at the site of its KME.
const SITE_B: &str = "198.51.100.5";
/// Echo requests of each UE around the kill, and how far apart.
const ECHOES: u32 = 30;
const APART: &str = "0.2";
/// States and policies of a UE with one PDU session, at either end.
const STATES: usize = 4;
const POLICIES: usize = 6;

/// One UE.
struct Ue {
    netns: Netns,
    socket: PathBuf,
    config: PathBuf,
    process: Option<Process>,
    /// Of its PDU session.
    address: String,
}

pub(super) fn killed(report: &mut Report, world: &mut World) -> Option<()> {
    let count = std::env::var("RIG_UES").map_or(Ok(UES), |text| text.parse());
    let count = count.unwrap_or(UES);
    let mut ues = report.step_with(&format!("{count} UEs in networks of their own"), || {
        world.reconfigure(Role::N3iwf, |text| {
            text.replace(
                "    kind: kernel\n",
                "    kind: kernel\n    relay: kernel\n",
            )
        })?;
        load::subscribers(world, count)?;
        // Each with keys of its own: of UEs that share an SAE ID, the newest takes the place of all others.
        let saes: Vec<String> = (0..count).map(sae).collect();
        world.certify_saes(saes.iter().map(String::as_str))?;
        world.reconfigure(Role::KmeB, |text| text.replace(SAE_UE, &saes.join(", ")))?;
        // An AMF that lets go at once takes the UPF's end of every session with it.
        let keep = format!("amf:\n  keep_lost_ms: {}\n", PATIENCE.as_millis());
        world.reconfigure(Role::Core, |text| text.replace("amf:\n", &keep))?;
        let hub = world.netns(Place::Ue)?;
        hub.run(|| Ok(fs::write("/proc/sys/net/ipv4/ip_forward", "1")?))?;
        for (place, via) in [(Place::N3iwf, topology::UE_NWU), (Place::KmeB, SITE_B)] {
            let route = ["route", "add", NETWORKS, "via", via];
            world.netns(place)?.ip(&route)?;
        }
        let ues: Result<Vec<Ue>> = (0..count).map(|n| build(world, n)).collect();
        Ok((
            Finding::new("routed by what is the UE's place otherwise"),
            ues?,
        ))
    })?;
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    let attached = report.step_with("all attach", || {
        let begun = Instant::now();
        for (n, ue) in ues.iter_mut().enumerate() {
            ue.process = Some(start(world, ue, n)?);
        }
        all_back(world, count)?;
        for ue in &mut ues {
            ue.address = session(ue)?.context("no PDU session")?;
        }
        whole(world, &ues)?;
        let took = begun.elapsed();
        let found = format!("after {} ms", took.as_millis());
        Ok((Finding::new(found), took))
    })?;
    report.step("kill -9 under traffic: none of it is lost", || {
        let mut pings: Vec<Process> = ues
            .iter()
            .enumerate()
            .map(|(n, ue)| ping(world, ue, n))
            .collect::<Result<_>>()?;
        std::thread::sleep(Duration::from_secs(2));
        world.kill(Role::N3iwf)?;
        let killed = Instant::now();
        let mut lost = Vec::new();
        for (n, process) in pings.iter_mut().enumerate() {
            exec::wait_for("pings to end", PATIENCE, || process.ended())?;
            lost.push((n, echoes::unanswered(&process.log_since(0)?, ECHOES)));
        }
        std::thread::sleep(AWAY.saturating_sub(killed.elapsed()));
        lost.retain(|(_, echoes)| !echoes.is_empty());
        let sum: usize = lost.iter().map(|(_, echoes)| echoes.len()).sum();
        let away = killed.elapsed();
        ensure!(away >= AWAY);
        let found = format!(
            "away for {} ms; of {} echoes {sum} lost",
            away.as_millis(),
            ECHOES as usize * ues.len()
        );
        ensure!(sum == 0, "{found}, by UE: {lost:?}");
        Ok(Finding::new(found))
    })?;
    report.step("it starts again: every UE is back", || {
        let begun = Instant::now();
        world.start(Role::N3iwf)?;
        steps::wait_n3iwf(world)?;
        let serves = begun.elapsed();
        let back = all_back(world, count)?;
        let found = format!(
            "it serves after {} ms, the last of {count} is back after {} ms",
            serves.as_millis(),
            back.duration_since(begun).as_millis()
        );
        // Whoever is refused keeps away for seconds.
        let refused = Scrape::of(world, Role::N3iwf)?.sum("n3iwf_ike_init_refused_total", &[])?;
        ensure!(refused == 0.0, "{refused} attaches refused; {found}");
        // Or what the first attaches took, one after the other: an emulated machine has the time it is given.
        let limit = BACK.max(attached);
        ensure!(back.duration_since(begun) <= limit, "{found}");
        Ok(Finding::new(found))
    })?;
    report.step(
        "as many states, policies and counters as they need, and traffic",
        || {
            whole(world, &ues)?;
            for ue in &mut ues {
                ue.address = session(ue)?.context("no PDU session")?;
                let source = ue.address.clone();
                let words = ["-n", "-q", "-c", "2", "-i", "0.2", "-W", "5", "-I", &source];
                let words = [&words[..], &[topology::DN_HOST]].concat();
                ue.netns.output("ping", &words)?;
            }
            let account = KeyAccount::of(world, Role::N3iwf)?;
            ensure!(account.used == 7 * count as u64, "{account}");
            account::exact(world)
        },
    )?;
    report.step("all leave", || {
        for ue in &ues {
            ask(ue, "deregister")?;
        }
        steps::forgotten(world, PATIENCE)?;
        for ue in &mut ues {
            if let Some(process) = ue.process.take() {
                process.stop(Duration::from_secs(30))?;
            }
            let states = kernel::xfrm_states(&ue.netns)?.0.len();
            ensure!(states == 0, "{}: {states} states", ue.netns.name());
        }
        Ok(Finding::default())
    })?;
    nothing_stays(report, world, &before)
}

/// SAE ID of UE `n`.
fn sae(n: usize) -> String {
    format!("sae-ue-{}", n + 1)
}

/// Its namespace, and its configuration made from the ordinary one.
fn build(world: &World, n: usize) -> Result<Ue> {
    let hub = world.netns(Place::Ue)?;
    let netns = Netns::create(format!("{}-u{n}", world.topology().prefix()))?;
    let (gateway, own) = (format!("100.65.{n}.1"), format!("100.65.{n}.2"));
    hub.ip_batch(&format!(
        "link add u{n} type veth peer name nwu netns {}\naddress add {gateway}/30 dev u{n}\n\
         link set u{n} up\n",
        netns.name()
    ))?;
    netns.ip_batch(&format!(
        "address add {own}/30 dev nwu\nlink set nwu up\nroute add default via {gateway}\n"
    ))?;
    let file = |ending: &str| world.directory().join(format!("ue-{n}.{ending}"));
    let digits = SUPI.trim_start_matches("imsi-");
    let supi: usize = digits.parse()?;
    let numbers = world.directory().join("ue-sqn.json").display().to_string();
    let socket = world.socket(Role::Ue).display().to_string();
    let text = fs::read_to_string(world.config(Role::Ue))?
        .replace(digits, &format!("{:015}", supi + n))
        .replace(SAE_UE, &sae(n))
        .replace(topology::UE_NWU, &own)
        .replace(&numbers, &file("sqn.json").display().to_string())
        .replace(&socket, &file("sock").display().to_string());
    fs::write(file("yaml"), text)?;
    Ok(Ue {
        netns,
        socket: file("sock"),
        config: file("yaml"),
        process: None,
        address: String::new(),
    })
}

fn start(world: &World, ue: &Ue, n: usize) -> Result<Process> {
    let spec = Spec {
        name: format!("ue-{n}"),
        program: world.options().bin_dir.join("ue-user"),
        arguments: vec!["--config".to_owned(), ue.config.display().to_string()],
        environment: Vec::new(),
        logs: world.options().logs.clone(),
    };
    let mut process = Process::start(&ue.netns, spec)?;
    process.wait_ready(PATIENCE, || UnixStream::connect(&ue.socket).is_ok())?;
    Ok(process)
}

fn ask(ue: &Ue, request: &str) -> Result<Value> {
    control::ask_at(&ue.socket, ue.netns.name(), &json!({ "request": request }))
}

/// The address of its PDU session, if that is up.
fn session(ue: &Ue) -> Result<Option<String>> {
    let status = ask(ue, "status")?;
    let up = status.pointer("/sessions/0/up").and_then(Value::as_bool);
    if text(&status, "/state") != "registered" || up != Some(true) {
        return Ok(None);
    }
    Ok(Some(steps::address(&status, 0)?.to_string()))
}

/// Waits until all are attached, with their PDU sessions; when they were.
fn all_back(world: &World, count: usize) -> Result<Instant> {
    exec::wait_for("every UE", PATIENCE, || {
        let core = control::core(world, "status")?;
        let ues = number(&control::n3iwf(world, "status")?, "/ues")?;
        let sessions = number(&core, "/sessions")?;
        Ok((ues == count as u64 && sessions == ues).then(Instant::now))
    })
}

/// Kernel and daemon hold what the UEs have, and nothing of an earlier life.
fn whole(world: &World, ues: &[Ue]) -> Result<()> {
    let netns = world.netns(Place::N3iwf)?;
    exec::wait_for("states of just these UEs", Duration::from_secs(20), || {
        let (states, _) = kernel::xfrm_states(netns)?;
        let policies = kernel::xfrm_policies(netns)?;
        let counted = kernel::sa_places(&world.pins())?.0.len();
        let exact = states.len() == STATES * ues.len()
            && policies == POLICIES * ues.len()
            && counted == states.len();
        Ok(exact.then_some(()))
    })?;
    let status = control::n3iwf(world, "status")?;
    for what in ["/ike_sas", "/addresses_taken"] {
        ensure!(number(&status, what)? == ues.len() as u64, "{status}");
    }
    for ue in ues {
        exec::wait_for("states of its own", Duration::from_secs(20), || {
            let states = kernel::xfrm_states(&ue.netns)?.0.len();
            Ok((states == STATES).then_some(()))
        })?;
    }
    Ok(())
}

/// Echo requests through its PDU session, for a while.
fn ping(world: &World, ue: &Ue, n: usize) -> Result<Process> {
    let spec = Spec {
        name: format!("ping-{n}"),
        program: PathBuf::from("ping"),
        arguments: echoes::words(&ue.address, topology::DN_HOST, ECHOES, APART),
        environment: Vec::new(),
        logs: world.options().logs.clone(),
    };
    Process::start(&ue.netns, spec)
}
