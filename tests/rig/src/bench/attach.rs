//! The paper's experiment: attaches of each mode in turn, and where their time went.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench::records::{self, Cpu, Machine, Mode, Phase, Record, Writer};
use serde_json::Value;

use super::cpu;
use super::ues::{self, Ue};
use crate::capture::Capture;
use crate::control::{self, number, text};
use crate::exec;
use crate::files::{KeyMode, Profile};
use crate::pki;
use crate::report::{Finding, Report};
use crate::scenarios::Setting;
use crate::steps;
use crate::topology::{self, Place};
use crate::world::{Options, Role, World};

/// What to measure.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// Attaches of each mode, without the first that opens connections.
    pub runs: usize,
    /// The modes.
    pub modes: Vec<Mode>,
    /// Round-trip time to add on NWu.
    pub rtt: Duration,
    /// What to add to each answer of the KMEs.
    pub kms_delay: Duration,
    /// How much later one KME knows of the keys that the other has delivered.
    pub kme_link: Duration,
    /// The head of the result file.
    pub machine: Machine,
}

/// Attaches of each mode, one after the other in each round; the results go to `attach.jsonl`.
#[must_use]
pub fn attach(setting: &Setting, options: &AttachOptions) -> Report {
    let mut report = setting.report("bench");
    measure(&mut report, setting, options);
    report
}

/// One attach of each mode under a capture, with the keys to open it: `frames-<mode>.pcap` and
/// `frames-<mode>.keys`.
#[must_use]
pub fn frames(setting: &Setting, modes: &[Mode]) -> Report {
    let mut report = setting.report("frames");
    for &mode in modes {
        let step = report.step(&format!("{mode}: captured"), || capture(setting, mode));
        if step.is_none() {
            break;
        }
    }
    report
}

/// Modes that share an N3IWF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    /// Most of them.
    Common,
    /// Keys are fetched ahead for whoever asks.
    Ahead,
    /// The paper's profile has an RSA certificate, where `psk` and `cert` have others.
    Paper,
}

impl Site {
    const ALL: [Self; 3] = [Self::Common, Self::Ahead, Self::Paper];

    const fn of(mode: Mode) -> Self {
        match mode {
            Mode::QkdPaper => Self::Paper,
            Mode::QkdAhead => Self::Ahead,
            _ => Self::Common,
        }
    }

    /// In the names of its namespaces and of its logs.
    const fn letter(self) -> &'static str {
        match self {
            Self::Common => "",
            Self::Ahead => "a",
            Self::Paper => "p",
        }
    }
}

/// A site for some of its modes; one KME knows `link` later what the other has delivered.
fn build(
    setting: &Setting,
    site: Site,
    modes: &[Mode],
    key_log: bool,
    link: Duration,
) -> Result<World> {
    let letter = site.letter();
    let world = World::new(Options {
        bin_dir: setting.bin_dir.clone(),
        bpf_object: setting.bpf_object.clone(),
        mode: KeyMode::Qkd,
        profile: match site {
            Site::Paper => Profile::Paper,
            Site::Common | Site::Ahead => Profile::Native,
        },
        prefix: format!("rig{}{letter}", std::process::id()),
        logs: setting.results.join(format!("bench{letter}")),
        key_log,
        kernel_relay: false,
        recording: setting.recording,
    })?;
    neighbours(&world, link)?;
    if site == Site::Ahead {
        fetched_ahead(&world)?;
    }
    if modes.iter().any(|mode| ues::exchange(*mode).is_some()) {
        let pki = world.directory().join("pki");
        pki::make(&pki)?;
        let pki = pki.display();
        let proposals: Vec<&str> = std::iter::once(ues::PROPOSAL_QKD)
            .chain(modes.iter().filter_map(|mode| ues::exchange(*mode)))
            .collect();
        world.reconfigure(Role::N3iwf, |text| {
            text.replace(
                "  modes: [qkd]\n",
                &format!(
                    "  modes: [qkd, hybrid, psk, cert]\n  policy: prefer-qkd\n  privateKey: {pki}/n3iwf.key\n  \
                     certificate: {pki}/n3iwf.pem\n  certificateAuthority: {pki}/ike-ca.pem\n"
                ),
            )
            .replace(
                "  ike:\n",
                &format!("  ike:\n    proposals: [{}]\n", proposals.join(", ")),
            )
        })?;
    }
    Ok(world)
}

/// The worlds that these modes need, each with its modes.
fn worlds(setting: &Setting, modes: &[Mode], link: Duration) -> Result<Vec<(World, Vec<Mode>)>> {
    let mut worlds = Vec::new();
    for site in Site::ALL {
        let here: Vec<Mode> = modes
            .iter()
            .copied()
            .filter(|mode| Site::of(*mode) == site)
            .collect();
        if !here.is_empty() {
            worlds.push((build(setting, site, &here, false, link)?, here));
        }
    }
    Ok(worlds)
}

/// KMEs that know `link` later of each other's deliveries, and write nothing down that only tests
/// look at; an N3IWF that lets all UEs of a measurement have one SAE ID. The rig's own 20 ms are
/// there to bring about the race between the two KMEs.
pub(super) fn neighbours(world: &World, link: Duration) -> Result<()> {
    for role in [Role::KmeA, Role::KmeB] {
        let journal = world.journal(role).display().to_string();
        world.reconfigure(role, |text| {
            text.lines()
                .filter(|line| !line.contains(&journal))
                .map(|line| line.replace("delay: 20ms", &format!("delay: {}ms", link.as_millis())))
                .fold(String::new(), |text, line| text + &line + "\n")
        })?;
    }
    world.reconfigure(Role::N3iwf, |text| {
        text.replace("  qkd:\n", "  qkd:\n    bucket: null\n")
    })
}

/// An N3IWF with the keys of two attaches in hand.
fn fetched_ahead(world: &World) -> Result<()> {
    let ahead = "    ahead: { keys: 14, refillBelow: 8 }\n";
    world.reconfigure(Role::N3iwf, |text| {
        text.replace("  qkd:\n", &format!("  qkd:\n{ahead}"))
    })
}

/// Everything but the UE.
pub(super) fn start(world: &mut World) -> Result<()> {
    for role in [Role::KmeA, Role::KmeB] {
        world.start(role)?;
    }
    control::wait_kme_link(world)?;
    world.start(Role::Core)?;
    world.start(Role::N3iwf)?;
    steps::wait_n3iwf(world)
}

/// Ends whatever runs.
pub(crate) fn stop(world: &mut World) -> Result<()> {
    for role in Role::ALL.iter().rev() {
        if world.process(*role).is_ok() {
            world.stop(*role)?;
        }
    }
    Ok(())
}

fn measure(report: &mut Report, setting: &Setting, options: &AttachOptions) -> Option<()> {
    let modes: Vec<&str> = options.modes.iter().map(|mode| mode.name()).collect();
    let mut worlds = report.step_with("the network is built", || {
        let worlds = worlds(setting, &options.modes, options.kme_link)?;
        Ok((Finding::new(modes.join(", ")), worlds))
    })?;
    report.step("KMEs, core and N3IWF are ready", || {
        for (world, _) in &mut worlds {
            start(world)?;
            delays(world, options)?;
        }
        Ok(Finding::default())
    })?;
    report.step(&format!("{} attaches of each mode", options.runs), || {
        let mut writer = Writer::create(&setting.results.join("attach.jsonl"))?;
        writer.write(&Record::Machine(options.machine.clone()))?;
        let mut ues: Vec<(usize, Ue)> = Vec::new();
        let mut failed = 0;
        for (place, (world, modes)) in worlds.iter_mut().enumerate() {
            for (index, &mode) in modes.iter().enumerate() {
                let before = Watched::now(world, None)?;
                let mut ue = Ue::start(world, mode, index)?;
                let begun = ue.begun();
                let run = observe(world, &mut ue, 0, begun, &before);
                if let Some(error) = &run.error {
                    bail!("{mode}: the first attach failed: {error}");
                }
                writer.write(&Record::Attach(run))?;
                ue.detach(world)?;
                ues.push((place, ue));
            }
        }
        for round in 1..=options.runs {
            // No mode always follows the same other.
            let count = ues.len().max(1);
            for turn in 0..count {
                let Some((place, ue)) = ues.get_mut((turn + round) % count) else {
                    continue;
                };
                let Some((world, _)) = worlds.get_mut(*place) else {
                    continue;
                };
                exec::check_interrupt()?;
                let position = ue.position();
                let before = Watched::now(world, Some(ue))?;
                let asked = ue.attach()?;
                let run = observe(world, ue, round, position, &before);
                asked.answer()?;
                failed += usize::from(run.error.is_some());
                writer.write(&Record::Attach(run))?;
                ue.detach(world)
                    .with_context(|| format!("round {round}, {}", ue.mode))?;
            }
        }
        for (_, ue) in &mut ues {
            ue.stop()?;
        }
        let all = options.runs * options.modes.len();
        Ok(Finding::new(format!(
            "{} worked, {failed} failed",
            all - failed
        )))
    })?;
    report.step("the daemons end", || {
        for (world, _) in &mut worlds {
            stop(world)?;
        }
        Ok(Finding::default())
    })
}

/// Delays on NWu and at the KMEs.
fn delays(world: &World, options: &AttachOptions) -> Result<()> {
    if !options.rtt.is_zero() {
        let each = format!("{}us", options.rtt.as_micros() / 2);
        for place in [Place::Ue, Place::N3iwf] {
            world
                .netns(place)?
                .output(
                    "tc",
                    &[
                        "qdisc", "add", "dev", "nwu", "root", "netem", "delay", &each,
                    ],
                )
                .context("--rtt needs a kernel with sch_netem: the virtual machine has it")?;
        }
    }
    if !options.kms_delay.is_zero() {
        let delay = format!("{}us", options.kms_delay.as_micros());
        for (role, call) in [(Role::KmeA, "enc-keys"), (Role::KmeB, "dec-keys")] {
            control::kme_fault(world, role, &["latency", "--on", call, "--delay", &delay])?;
        }
    }
    Ok(())
}

/// Processor time of everybody at one moment.
struct Watched {
    ue: Duration,
    others: BTreeMap<Role, Duration>,
}

impl Watched {
    fn now(world: &mut World, ue: Option<&Ue>) -> Result<Self> {
        let mut others = BTreeMap::new();
        for role in [Role::KmeA, Role::KmeB, Role::Core, Role::N3iwf] {
            others.insert(role, cpu::spent(world.process(role)?.id())?);
        }
        Ok(Self {
            ue: ue.map(Ue::cpu).transpose()?.unwrap_or_default(),
            others,
        })
    }

    fn since(&self, before: &Self) -> Cpu {
        let of = |role: Role| {
            let get = |watched: &Self| watched.others.get(&role).copied().unwrap_or_default();
            cpu::micros(get(self).saturating_sub(get(before)))
        };
        Cpu {
            ue: cpu::micros(self.ue.saturating_sub(before.ue)),
            n3iwf: of(Role::N3iwf),
            core: of(Role::Core),
            kmes: of(Role::KmeA) + of(Role::KmeB),
        }
    }
}

/// Waits for an attach that is under way, and writes down what it took.
fn observe(
    world: &mut World,
    ue: &mut Ue,
    round: usize,
    position: u64,
    before: &Watched,
) -> records::Attach {
    let mut run = records::Attach {
        mode: ue.mode,
        round,
        error: None,
        phases: Vec::new(),
        cpu: Cpu::default(),
    };
    let seen = ue.wait_attached(position).and_then(|()| {
        run.cpu = Watched::now(world, Some(ue))?.since(before);
        run.phases = phases(world, ue)?;
        Ok(())
    });
    run.error = seen.err().map(|error| format!("{error:#}"));
    run
}

/// Both ends' timelines of the attach that has just ended.
fn phases(world: &World, ue: &Ue) -> Result<Vec<Phase>> {
    let status = ue.ask("status")?;
    ensure!(
        text(&status, "/state") == "registered",
        "the UE is {}",
        text(&status, "/state")
    );
    let ues = control::n3iwf(world, "ues")?;
    let rows = |value: &Value, pointer: &str| -> Result<Vec<Value>> {
        value
            .pointer(pointer)
            .and_then(Value::as_array)
            .cloned()
            .with_context(|| format!("no {pointer}"))
    };
    let ours = rows(&status, "/timeline")?;
    let theirs = rows(&ues, "/ues/0/timeline")?;
    ensure!(
        ours.len() == theirs.len(),
        "timelines of different phases: {status} {ues}"
    );
    ours.iter()
        .zip(&theirs)
        .map(|(ue, n3iwf)| {
            Ok(Phase {
                phase: text(ue, "/phase").to_owned(),
                wall: number(ue, "/wall_us")?,
                ue_own: number(ue, "/own_us")?,
                ue_kms: number(ue, "/kms_us")?,
                n3iwf_own: number(n3iwf, "/own_us")?,
                n3iwf_kms: number(n3iwf, "/kms_us")?,
                n3iwf_core: number(n3iwf, "/core_us")?,
            })
        })
        .collect()
}

/// One attach under a capture.
fn capture(setting: &Setting, mode: Mode) -> Result<Finding> {
    let mut world = build(setting, Site::of(mode), &[mode], true, Duration::ZERO)?;
    start(&mut world)?;
    let place =
        |suffix: &str| -> PathBuf { setting.results.join(format!("frames-{mode}.{suffix}")) };
    let capture = Capture::start(
        world.netns(Place::N3iwf)?,
        "nwu",
        topology::UE_NWU,
        &place("pcap"),
        &world.options().logs,
    )?;
    let before = Watched::now(&mut world, None)?;
    let mut ue = Ue::start(&world, mode, 0)?;
    let begun = ue.begun();
    let run = observe(&mut world, &mut ue, 0, begun, &before);
    if let Some(error) = run.error {
        bail!("{error}");
    }
    ue.detach(&world)?;
    ue.stop()?;
    let file = capture.finish()?;
    copy(&world.key_log_directory(), &place("keys"))?;
    stop(&mut world)?;
    Ok(Finding::new(file.display().to_string()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("no {}", from.display()))? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
