//! The whole world of a scenario: topology, certificates, configuration files and the five
//! programs, each where it belongs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::Signal;

use crate::exec;
use crate::files::{self, KeyMode, Profile};
use crate::netns::Netns;
use crate::paper;
use crate::pki;
use crate::process::{Process, Spec};
use crate::topology::{self, Place, Topology};

/// How long a program may take to serve, also under emulation.
const READY: Duration = Duration::from_secs(45);
/// How long a program may take to clean up after SIGTERM.
const STOP: Duration = Duration::from_secs(15);

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The N3IWF's KME.
    KmeA,
    /// The UE's KME.
    KmeB,
    /// The 5G core.
    Core,
    /// The N3IWF.
    N3iwf,
    /// The UE.
    Ue,
}

impl Role {
    /// All, in the order in which they can start.
    pub const ALL: [Self; 5] = [Self::KmeA, Self::KmeB, Self::Core, Self::N3iwf, Self::Ue];

    /// Name of its configuration file, log and control socket.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KmeA => "kme-a",
            Self::KmeB => "kme-b",
            Self::Core => "core5g",
            Self::N3iwf => "n3iwf-user",
            Self::Ue => "ue-user",
        }
    }

    pub(crate) const fn place(self) -> Place {
        match self {
            Self::KmeA => Place::KmeA,
            Self::KmeB => Place::KmeB,
            Self::Core => Place::Core,
            Self::N3iwf => Place::N3iwf,
            Self::Ue => Place::Ue,
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::KmeA | Self::KmeB => "kme",
            Self::Core => "core5g",
            Self::N3iwf => "n3iwf-user",
            Self::Ue => "ue-user",
        }
    }
}

/// What a world is made from.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// The eBPF object.
    pub bpf_object: PathBuf,
    /// How the keys of IKE SAs come about.
    pub mode: KeyMode,
    /// Wire profile of the QKD mode.
    pub profile: Profile,
    /// What the namespaces' names begin with.
    pub prefix: String,
    /// Where logs go.
    pub logs: PathBuf,
    /// Whether a dissector is to read everything: the N3IWF writes tables for Wireshark, and the
    /// core prefers the null ciphering algorithm for NAS.
    pub key_log: bool,
    /// Whether the N3IWF relays between GRE and GTP-U by eBPF instead of in user space.
    pub kernel_relay: bool,
    /// Without ESP and SCTP, for kernels that have neither: the data plane is a recording double,
    /// NGAP runs over a Unix socket, and what IPsec would protect is in clear.
    pub recording: bool,
}

/// Everything of one scenario; taken down when dropped.
#[derive(Debug)]
pub struct World {
    options: Options,
    // Before `topology`: programs end before their namespaces go.
    processes: BTreeMap<Role, Process>,
    topology: Topology,
    directory: PathBuf,
    keep: bool,
}

impl World {
    /// Builds the topology and writes certificates and configuration files; starts nothing.
    ///
    /// # Errors
    /// When the topology cannot be built or a file cannot be written.
    pub fn new(options: Options) -> Result<Self> {
        fs::create_dir_all(&options.logs)?;
        let directory = PathBuf::from("/run").join(format!("{}-files", options.prefix));
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let topology = Topology::build(&options.prefix)?;
        let world = Self {
            options,
            processes: BTreeMap::new(),
            topology,
            directory,
            keep: false,
        };
        world.make_certificates()?;
        world.write_files()?;
        Ok(world)
    }

    /// The options it was made from.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The namespaces and links.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Puts a NAT between UE and NWu, see [`Topology::insert_nat`]; before the UE starts.
    ///
    /// # Errors
    /// When the NAT cannot be made.
    pub fn insert_nat(&mut self) -> Result<()> {
        self.topology.insert_nat()?;
        self.reconfigure(Role::Ue, |text| {
            text.replace(
                &format!("localAddress: {}", topology::UE_NWU),
                &format!("localAddress: {}", topology::UE_PRIVATE),
            )
        })
    }

    /// The namespace of a place.
    ///
    /// # Errors
    /// Never for a world that was built.
    pub fn netns(&self, place: Place) -> Result<&Netns> {
        self.topology.place(place)
    }

    /// Directory of configuration files, certificates and sockets.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the N3IWF pins its maps.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(&self.options.prefix)
    }

    /// Where the N3IWF writes tables for Wireshark.
    #[must_use]
    pub fn key_log_directory(&self) -> PathBuf {
        self.directory.join("wireshark")
    }

    /// The control socket of a program.
    #[must_use]
    pub fn socket(&self, role: Role) -> PathBuf {
        self.directory.join(format!("{}.sock", role.name()))
    }

    /// Where a KME writes down the keys it delivers.
    #[must_use]
    pub fn journal(&self, role: Role) -> PathBuf {
        self.directory.join(format!("{}.keys", role.name()))
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self, role: Role) -> PathBuf {
        self.directory.join(format!("{}.yaml", role.name()))
    }

    /// Writes a changed configuration file; the program reads it when it starts next.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn reconfigure(&self, role: Role, change: impl FnOnce(String) -> String) -> Result<()> {
        let path = self.config(role);
        let text = fs::read_to_string(&path)?;
        let changed = change(text.clone());
        if changed == text {
            return Err(anyhow!("nothing in {} was changed", path.display()));
        }
        fs::write(&path, changed).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Has both daemons relay in the kernel. Writes all configuration files anew, so it comes before
    /// [`Self::reconfigure`].
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn relay_in_kernel(&mut self) -> Result<()> {
        self.options.kernel_relay = true;
        self.write_files()
    }

    /// Starts a program and waits until its control socket answers.
    ///
    /// # Errors
    /// When it does not get that far; the end of its log is in the error.
    pub fn start(&mut self, role: Role) -> Result<()> {
        let mut arguments: Vec<String> = Vec::new();
        if matches!(role, Role::KmeA | Role::KmeB) {
            arguments.push("run".to_owned());
        }
        arguments.extend([
            "--config".to_owned(),
            self.config(role).display().to_string(),
        ]);
        let spec = Spec {
            name: role.name().to_owned(),
            program: self.program(role.program()),
            arguments,
            environment: vec![("RUST_BACKTRACE".to_owned(), "1".to_owned())],
            logs: self.options.logs.clone(),
        };
        let mut process = Process::start(self.netns(role.place())?, spec)?;
        let socket = self.socket(role);
        process.wait_ready(READY, || UnixStream::connect(&socket).is_ok())?;
        self.processes.insert(role, process);
        Ok(())
    }

    /// Starts all that are not running.
    ///
    /// # Errors
    /// With the first that does not get ready.
    pub fn start_all(&mut self) -> Result<()> {
        for role in Role::ALL {
            if !self.processes.contains_key(&role) {
                self.start(role)?;
            }
        }
        Ok(())
    }

    /// The running program of a role.
    ///
    /// # Errors
    /// When it is not running.
    pub fn process(&mut self, role: Role) -> Result<&mut Process> {
        self.processes
            .get_mut(&role)
            .with_context(|| format!("{} is not running", role.name()))
    }

    /// Whether it was started, and neither stopped nor killed since.
    #[must_use]
    pub fn runs(&self, role: Role) -> bool {
        self.processes.contains_key(&role)
    }

    /// Ends a program the ordinary way (SIGTERM, exit code 0).
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub fn stop(&mut self, role: Role) -> Result<()> {
        self.take(role)?.stop(STOP)
    }

    /// Ends a program without a chance to clean up (`kill -9`).
    ///
    /// # Errors
    /// When it was not running.
    pub fn kill(&mut self, role: Role) -> Result<()> {
        self.take(role)?.kill_hard().map(drop)
    }

    /// Freezes a program (SIGSTOP) or lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it is not running.
    pub fn freeze(&mut self, role: Role, frozen: bool) -> Result<()> {
        let signal = if frozen {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        };
        self.process(role)?.signal(signal)
    }

    fn take(&mut self, role: Role) -> Result<Process> {
        self.processes
            .remove(&role)
            .with_context(|| format!("{} is not running", role.name()))
    }

    /// Fails when a program ended by itself; its log says why.
    ///
    /// # Errors
    /// Names the program and shows the end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        for process in self.processes.values_mut() {
            if let Some(status) = process.ended()? {
                let log = process.log_tail(15);
                return Err(anyhow!("{} ended with {status}:\n{log}", process.name()));
            }
        }
        Ok(())
    }

    /// Runs one of the project's control tools inside the namespace of its daemon and returns
    /// what it prints.
    ///
    /// # Errors
    /// With what the tool said.
    pub fn tool(&self, role: Role, program: &str, arguments: &[&str]) -> Result<String> {
        let program = self.program(program);
        self.netns(role.place())?
            .run(|| exec::output(Command::new(program).args(arguments)))
    }

    fn program(&self, name: &str) -> PathBuf {
        self.options.bin_dir.join(name)
    }

    fn make_certificates(&self) -> Result<()> {
        let pki = self.directory.join("pki");
        exec::output(
            Command::new(self.program("kme"))
                .args(["certs", "--out"])
                .arg(&pki)
                .args(["--kme", &format!("kme-a={}", topology::KME_A)])
                .args(["--kme", &format!("kme-b={}", topology::KME_B)]),
        )
        .map(drop)?;
        self.certify_saes([files::SAE_N3IWF, files::SAE_UE])?;
        if self.options.mode.exchanges_keys() {
            pki::make(&pki)?;
        } else if self.options.profile == Profile::Paper {
            paper::make_certificate(&pki)?;
        }
        Ok(())
    }

    /// Certificates for SAEs, by the authority that the KMEs trust.
    pub(crate) fn certify_saes<'a>(&self, saes: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut command = Command::new(self.program("kme"));
        command.args(["certs", "--out"]);
        command.arg(self.directory.join("pki"));
        for sae in saes {
            command.args(["--sae", sae]);
        }
        exec::output(&mut command).map(drop)
    }

    fn write_files(&self) -> Result<()> {
        for role in Role::ALL {
            let text = files::config(role, self);
            let path = self.config(role);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Leaves everything up, beyond the end of this process.
    ///
    /// # Errors
    /// When that cannot be noted.
    pub fn keep(&mut self) -> Result<()> {
        self.keep = true;
        for process in self.processes.values_mut() {
            process.keep();
        }
        self.topology.keep_beyond()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // The UE first, the KMEs last: each may take its leave of the next.
        for role in Role::ALL.iter().rev() {
            drop(self.processes.remove(role));
        }
        // What a killed daemon left behind must not outlive the scenario.
        let _ = fs::remove_dir_all(self.pins());
        let _ = fs::remove_dir_all(&self.directory);
    }
}
