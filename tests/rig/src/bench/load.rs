//! Load, number and key rate: the program `load` in the UE's place, against the ordinary daemons.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench::records::{self, Machine, Record, Writer};
use serde_json::json;

use super::attach;
use crate::account::KeyAccount;
use crate::control;
use crate::exec;
use crate::files::{SAE_N3IWF, SAE_UE, SUPI};
use crate::report::{Finding, Report};
use crate::scenarios::Setting;
use crate::topology::{self, Place};
use crate::world::{Role, World};

/// Inner addresses for thousands of UEs.
const INNER: &str = "10.100.0.0/16";
/// Subscribers of the core.
const SUBSCRIBERS: usize = 12_000;
/// How often UEs attach until there are as many as wanted.
const GROWTHS: usize = 3;
/// QKD keys of an attach with one PDU session, profile `native`.
pub(crate) const KEYS: usize = 7;
/// Bits of such a key.
const KEY_BITS: u64 = 256;
/// Bits per second of a link, and in its buffer, that no measurement exhausts: 390 000 keys.
const AMPLE: u64 = 100_000_000;
/// Why there is no load otherwise.
const RECORDING: &str = "load needs --recording: all UEs share one namespace";
/// Files that a process may have open: a TCP connection for each UE.
const FILES: u64 = 65_536;

/// How many attaches per second, and what beyond that; the result is `rate.jsonl`.
#[must_use]
pub fn rate(setting: &Setting, machine: &Machine, arguments: &[String]) -> Report {
    one(setting, machine, "rate", arguments)
}

/// UEs attached at the same time, several times with new daemons, and then all of them rekeying; the result is
/// `scale.jsonl`.
#[must_use]
pub fn scale(setting: &Setting, machine: &Machine, arguments: &[String]) -> Report {
    let mut report = setting.report("scale");
    let mut parts = Vec::new();
    let mut part = |title: &str, what: &str, file: &str, more: &[String]| {
        report.step(title, || {
            let output = setting.results.join(format!("{file}.part.jsonl"));
            let mut world = build(setting, None, SUBSCRIBERS)?;
            let words = against(&mut world, what, &output, &[arguments, more].concat())?;
            load(&world, Place::Ue, &words)?;
            let keys = accounted(&world)?;
            attach::stop(&mut world)?;
            parts.push(output);
            Ok(keys)
        });
    };
    for run in 0..GROWTHS {
        let number = ["--run".to_owned(), run.to_string()];
        part(
            &format!("attached, {} of {GROWTHS}", run + 1),
            "scale",
            &format!("scale.{run}"),
            &number,
        );
    }
    part("rekeyed at once", "storm", "storm", &[]);
    report.step("one file", || one_file(setting, machine, "scale", &parts));
    report
}

/// Attaches per second, alone in its file.
fn one(setting: &Setting, machine: &Machine, what: &str, arguments: &[String]) -> Report {
    let mut report = setting.report(what);
    report.step("measured", || {
        let mut world = build(setting, None, SUBSCRIBERS)?;
        let output = setting.results.join(format!("{what}.part.jsonl"));
        let words = against(&mut world, what, &output, arguments)?;
        load(&world, Place::Ue, &words)?;
        attach::stop(&mut world)?;
        one_file(setting, machine, what, &[output])
    });
    report
}

/// What was measured in parts, with the machine in front.
fn one_file(
    setting: &Setting,
    machine: &Machine,
    what: &str,
    parts: &[PathBuf],
) -> Result<Finding> {
    let mut writer = Writer::create(&setting.results.join(format!("{what}.jsonl")))?;
    writer.write(&Record::Machine(machine.clone()))?;
    let mut count = 0;
    for part in parts {
        let records = records::read(part)?;
        ensure!(
            !records.is_empty(),
            "nothing was measured: {}",
            part.display()
        );
        for record in &records {
            writer.write(record)?;
        }
        count += records.len();
    }
    Ok(Finding::new(format!("{count} records")))
}

/// Whether the keys that the N3IWF has fetched are those that the UEs have.
fn accounted(world: &World) -> Result<Finding> {
    let fetched = KeyAccount::of(world, Role::N3iwf)?.fetched;
    let status = control::ask(world, Role::KmeB, &json!({ "command": "status" }))?;
    let collected = control::number(&status, "/0/counters/deliveredDec")?;
    ensure!(
        fetched == collected,
        "the N3IWF has fetched {fetched} keys, the UEs have {collected}"
    );
    Ok(Finding::new(format!("{fetched} keys at either end")))
}

/// Latency of the KMEs, and attaches by the key rate of the link; the result is `qkd.jsonl`.
#[must_use]
pub fn qkd(setting: &Setting, machine: &Machine, requests: usize, rates: &[u32]) -> Report {
    let mut report = setting.report("qkd");
    let mut parts: Vec<PathBuf> = Vec::new();
    let part = |name: &str| setting.results.join(format!("qkd.{name}.jsonl"));
    report.step("requests to the KMEs", || {
        let mut world = build(setting, None, SUBSCRIBERS)?;
        let ids = world.directory().join("ids").display().to_string();
        for (place, call, role, peer) in [
            (Place::N3iwf, "enc-keys", Role::N3iwf, SAE_UE),
            (Place::Ue, "dec-keys", Role::Ue, SAE_N3IWF),
        ] {
            let output = part(call);
            let words = [
                call.to_owned(),
                "--config".to_owned(),
                world.config(role).display().to_string(),
                "--peer".to_owned(),
                peer.to_owned(),
                "--requests".to_owned(),
                requests.to_string(),
                "--ids".to_owned(),
                ids.clone(),
                "--output".to_owned(),
                output.display().to_string(),
            ];
            load(&world, place, &words)?;
            parts.push(output);
        }
        attach::stop(&mut world)?;
        Ok(Finding::default())
    });
    for &keys in rates {
        report.step(&format!("{keys} keys per second"), || {
            let mut world = build(setting, Some(keys), SUBSCRIBERS)?;
            let output = part(&keys.to_string());
            let arguments = [
                "--keys-per-second".to_owned(),
                keys.to_string(),
                "--keys-per-attach".to_owned(),
                KEYS.to_string(),
            ];
            let words = against(&mut world, "key-rate", &output, &arguments)?;
            load(&world, Place::Ue, &words)?;
            attach::stop(&mut world)?;
            parts.push(output);
            Ok(Finding::default())
        });
    }
    report.step("one file", || one_file(setting, machine, "qkd", &parts));
    report
}

/// The words of `load` for a kind of load on the N3IWF.
fn against(
    world: &mut World,
    what: &str,
    output: &Path,
    arguments: &[String],
) -> Result<Vec<String>> {
    let mut words = vec![
        what.to_owned(),
        "--config".to_owned(),
        world.config(Role::Ue).display().to_string(),
        "--watch".to_owned(),
        world.process(Role::N3iwf)?.id().to_string(),
        "--output".to_owned(),
        output.display().to_string(),
    ];
    words.extend_from_slice(arguments);
    Ok(words)
}

/// Everything but the UE, up and running, with room for many UEs. `link` is the key rate of the
/// QKD link in keys per second, with room for a quarter of a second's keys, and none in store; `number` is how many UEs there may be.
pub(super) fn build(setting: &Setting, link: Option<u32>, number: usize) -> Result<World> {
    ensure!(setting.recording, RECORDING);
    let mut world = setting.world("load", crate::files::Profile::Native)?;
    prepare(&mut world, link, number)?;
    Ok(world)
}

/// Makes that of a world in which nothing runs yet.
pub(crate) fn prepare(world: &mut World, link: Option<u32>, number: usize) -> Result<()> {
    ensure!(world.options().recording, RECORDING);
    allow_files()?;
    world.reconfigure(Role::N3iwf, |text| {
        text.replace(
            "ueIpAddressRange: 10.0.0.0/24",
            &format!("ueIpAddressRange: {INNER}"),
        )
        // What is measured is attaching and being attached, not being asked whether one is there.
        .replace(
            "  qkd:\n",
            "  livenessCheck: { enable: false, transFreq: 3600s, maxRetryTimes: 4 }\n  qkd:\n",
        )
    })?;
    world.reconfigure(Role::Ue, |text| {
        text.replace("dpdInterval: 10s", "dpdInterval: 0s")
    })?;
    attach::neighbours(world, Duration::ZERO)?;
    subscribers(world, number)?;
    // The KMEs' files count in bits. Where the link is not what is measured, it is no limit.
    let (rate, buffer, initial) = match link {
        // What comes in a quarter of a second can wait for whoever pauses before it asks again.
        Some(keys) => {
            let rate = u64::from(keys) * KEY_BITS;
            (rate, (rate / 4).max(KEYS as u64 * 2 * KEY_BITS), 0)
        }
        None => (AMPLE, AMPLE, AMPLE),
    };
    for role in [Role::KmeA, Role::KmeB] {
        world.reconfigure(role, |text| {
            text.replace("rate: 100000\n", &format!("rate: {rate}\n"))
                .replace(
                    "  buffer: 1000000\n",
                    &format!("  buffer: {buffer}\n  initial: {initial}\n"),
                )
        })?;
    }
    attach::start(world)?;
    // The UEs' inner addresses are those of no interface, and the N3IWF's is behind NWu.
    let ue = world.netns(Place::Ue)?;
    ue.ip(&["link", "set", "lo", "up"])?;
    ue.ip(&["route", "add", "local", INNER, "dev", "lo"])?;
    let inner = format!("{}/32", topology::N3IWF_INNER);
    ue.ip(&["route", "add", &inner, "via", topology::N3IWF_NWU])?;
    Ok(())
}

/// Lets the daemons have as many files open as they may.
fn allow_files() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES.max(hard)).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("the limit of files")?;
    }
    Ok(())
}

/// Gives the core as many subscribers as there may be UEs, all like the first.
pub(crate) fn subscribers(world: &World, count: usize) -> Result<()> {
    let text = fs::read_to_string(world.config(Role::Core))?;
    let (_, list) = text
        .split_once("subscribers:\n")
        .context("no subscribers in the core's configuration")?;
    let end = list.get(1..).and_then(|rest| rest.find("  - supi:"));
    let first = list.get(..end.map_or(list.len(), |at| at + 1));
    let first = first
        .filter(|one| one.contains(SUPI))
        .context("no first subscriber")?;
    let number: usize = SUPI
        .strip_prefix("imsi-")
        .and_then(|digits| digits.parse().ok())
        .context("a SUPI without number")?;
    let mut all = String::from("subscribers:\n");
    for offset in 0..count {
        all.push_str(&first.replace(SUPI, &format!("imsi-{:015}", number + offset)));
    }
    world.reconfigure(Role::Core, |text| {
        let head = text.split("subscribers:\n").next().unwrap_or_default();
        format!("{head}{all}")
    })
}

/// Runs `load` in a place to its end.
fn load(world: &World, place: Place, words: &[String]) -> Result<()> {
    run_beside(world, place, words, || Ok(()))
}

/// The same, and calls `beside` again and again meanwhile; when that fails, `load` ends.
pub(super) fn run_beside(
    world: &World,
    place: Place,
    words: &[String],
    mut beside: impl FnMut() -> Result<()>,
) -> Result<()> {
    let program = world.options().bin_dir.join("load");
    let log = world.options().logs.join("load.log");
    let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = world.netns(place)?.run(|| {
        Command::new(&program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))
    })?;
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(());
            }
            bail!("load: {status}\n{}", crate::process::tail(&log, 15));
        }
        if exec::check_interrupt().is_err() {
            child.kill()?;
            child.wait()?;
        }
        if let Err(error) = beside() {
            child.kill()?;
            child.wait()?;
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
