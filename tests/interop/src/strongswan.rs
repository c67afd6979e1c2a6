//! strongSwan's charon in its namespace: generated `strongswan.conf` and `swanctl.conf`, driven by `swanctl`.
//!
//! Packages need not be installed: unpacked somewhere, they are laid over `/usr/lib` in a mount namespace of the
//! process, since charon looks for its plugins in `/usr/lib/ipsec`. Those of a newer suite come with the whole of their
//! `/usr/lib`, C library and dynamic linker included, and see nothing of this host's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rig::{
    exec,
    process::{Process, Spec},
};

use crate::{
    lab::{self, Lab, Places},
    matrix::{Auth, Begins, Row, Situation},
    pki,
};

/// Name of the postquantum preshared key of both ends.
const PPK_ID: &str = "bc490419-7d60-487f-adc1-4ddcc177c139";
/// The key.
const PPK: &str = "thirty-two octets of a preshared key";

/// The shared key of both ends.
pub const PSK: &str = "a shared key of no secrecy at all";

const PLUGINS: &str = "random nonce aes sha1 sha2 md5 mgf1 hmac kdf gmp curve25519 openssl pem pkcs1 pkcs8 x509 \
     pubkey constraints gcm ctr chapoly drbg eap-identity eap-mschapv2";

/// Lays the packages over `/usr/lib`, then becomes the program.
const OVERLAY: &str = "mount -t overlay overlay -o lowerdir=\"$1/usr/lib:/usr/lib\" /usr/lib && \
     program=\"$1$2\" && shift 2 && exec \"$program\" \"$@\"";

/// Puts the packages' own `/usr/lib` there, then starts the program with the dynamic linker in it.
const OWN_LIBRARIES: &str = "mount --bind \"$1/usr/lib\" /usr/lib && program=\"$1$2\" && shift 2 && \
     exec /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 \"$program\" \"$@\"";

/// Which of the unpacked packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Those of this host's suite.
    Usual,
    /// Those of a newer suite.
    Newer,
}

/// A running charon; ended when dropped.
pub struct Strongswan<'a> {
    lab: &'a Lab,
    places: &'a Places,
    directory: PathBuf,
    settings: String,
    charon: Process,
    version: Version,
}

impl<'a> Strongswan<'a> {
    /// Makes keys, starts charon in its namespace and waits until it serves.
    ///
    /// # Errors
    /// When it is not there, or does not.
    pub fn start(lab: &'a Lab, places: &'a Places, version: Version) -> Result<Self> {
        let directory = places.work.join(match version {
            Version::Usual => "strongswan",
            Version::Newer => "strongswan-newer",
        });
        // Of an earlier run: no sign of this one.
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let settings = settings(places, &directory, None);
        fs::write(directory.join("strongswan.conf"), &settings)?;
        let (program, arguments) = invocation(places, version, "/usr/sbin/charon-systemd", &[]);
        let mut charon = Process::start(
            &lab.theirs,
            Spec {
                name: "charon".to_owned(),
                program: program.into(),
                arguments,
                environment: environment(&directory),
                logs: places.work.clone(),
            },
        )?;
        let socket = directory.join("vici.sock");
        charon.wait_ready(Duration::from_secs(30), || socket.exists())?;
        let theirs = Self {
            lab,
            places,
            directory,
            settings,
            charon,
            version,
        };
        theirs.credentials()?;
        Ok(theirs)
    }

    /// What it says of its version.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn version(&self) -> Result<String> {
        let said = self.swanctl(&["--version", "--daemon", "--raw"])?;
        let version = word(&said, "version=").unwrap_or("?");
        Ok(format!("strongSwan {version}"))
    }

    fn credentials(&self) -> Result<()> {
        let pki = self.places.work.join("pki");
        let authorities = self.directory.join("x509ca");
        fs::create_dir_all(&authorities)?;
        fs::copy(pki.join("root.pem"), authorities.join("root.pem"))?;
        for (place, ending) in [("x509", "pem"), ("private", "key")] {
            fs::create_dir_all(self.directory.join(place))?;
            for kind in pki::kinds() {
                let name = format!("theirs-{kind}.{ending}");
                fs::copy(pki.join(&name), self.directory.join(place).join(&name))?;
            }
        }
        let secret = format!(
            "secrets {{\n ike-1 {{\n  id = {ours}\n  secret = \"{PSK}\"\n }}\n \
             eap-1 {{\n  id-1 = {ours}\n  id-2 = {theirs}\n  secret = \"{PSK}\"\n }}\n \
             ppk-1 {{\n  id = {PPK_ID}\n  secret = \"{PPK}\"\n }}\n}}\n",
            ours = lab::OUR_ID,
            theirs = lab::THEIR_ID
        );
        fs::write(self.directory.join("swanctl.conf"), secret)?;
        self.swanctl(&["--load-creds"]).map(drop)
    }

    /// Takes up the settings and the only connection of this row.
    ///
    /// # Errors
    /// When charon refuses them.
    pub fn configure(&mut self, row: &Row) -> Result<()> {
        let settings = settings(self.places, &self.directory, Some(row));
        if settings != self.settings {
            fs::write(self.directory.join("strongswan.conf"), &settings)?;
            self.swanctl(&["--reload-settings"])?;
            self.settings = settings;
        }
        let place = self.directory.join("row.conf");
        fs::write(&place, connection(row))?;
        let file = place.display().to_string();
        self.swanctl(&["--load-conns", "--file", &file]).map(drop)
    }

    /// Begins an IKE SA, and waits for the Child SA.
    ///
    /// # Errors
    /// When there is none.
    pub fn initiate(&self) -> Result<()> {
        self.swanctl(&["--initiate", "--child", "c", "--timeout", "20"])
            .map(drop)
    }

    /// Rekeys the Child SA (`child`, `c`) or the IKE SA (`ike`, `t`).
    ///
    /// # Errors
    /// When there is none.
    pub fn rekey(&self, what: &str, name: &str) -> Result<()> {
        self.swanctl(&["--rekey", &format!("--{what}"), name])
            .map(drop)
    }

    /// Deletes the IKE SA.
    ///
    /// # Errors
    /// When there is none.
    pub fn terminate(&self) -> Result<()> {
        self.swanctl(&["--terminate", "--ike", "t", "--timeout", "10"])
            .map(drop)
    }

    /// All IKE SAs of the connection (a half-open one has none yet), in the words of `swanctl --raw`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn sas(&self) -> Result<String> {
        self.swanctl(&["--list-sas", "--ike", "t", "--raw"])
    }

    /// Waits until it has so many established IKE SAs with a Child SA each, and nothing else.
    ///
    /// # Errors
    /// When that does not come true within 10 s.
    pub fn settles(&self, number: usize) -> Result<String> {
        let mut last = String::new();
        let settled = exec::wait_for("strongSwan's SAs", Duration::from_secs(10), || {
            last = self.sas()?;
            let count = |state: &str| last.matches(state).count();
            let ikes = count("list-sa event");
            Ok((ikes == number
                && count("state=ESTABLISHED") == number
                && count("state=INSTALLED") == number)
                .then_some(()))
        });
        match settled {
            Ok(()) => Ok(last),
            Err(error) => bail!("{error:#}: {last}"),
        }
    }

    /// Forgets whatever is left of a row that failed.
    pub fn clear(&self) {
        // It may have nothing, which is an error to swanctl.
        let _ = self.swanctl(&["--terminate", "--ike", "t", "--force", "--timeout", "1"]);
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        rig::process::tail(&self.directory.join("charon.log"), lines)
    }

    /// Its process ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.charon.id()
    }

    fn swanctl(&self, arguments: &[&str]) -> Result<String> {
        let uri = format!("unix://{}", self.directory.join("vici.sock").display());
        let words = [arguments, &["--uri", &uri]].concat();
        let (program, arguments) =
            invocation(self.places, self.version, "/usr/sbin/swanctl", &words);
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(environment(&self.directory))
            .env("SWANCTL_DIR", &self.directory);
        let output = self.lab.theirs.run(|| exec::raw_output(&mut command))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            let complaint = error.lines().last().unwrap_or_default();
            let words = words.join(" ");
            let last = said.lines().last().unwrap_or_default();
            bail!("swanctl {words}: {last} {complaint}");
        }
        Ok(said)
    }
}

/// The value after a key of `--raw` output.
#[must_use]
pub fn word<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(key)?;
    rest.split([' ', '}', '\n']).next()
}

fn invocation(
    places: &Places,
    version: Version,
    program: &str,
    words: &[&str],
) -> (String, Vec<String>) {
    let (root, script) = match version {
        Version::Usual => (&places.root, OVERLAY),
        Version::Newer => (&places.newer, OWN_LIBRARIES),
    };
    let Some(root) = root else {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        return (program.to_owned(), words);
    };
    let root = root.display().to_string();
    let mut all = vec!["-m", "sh", "-c", script, "sh", &root, program];
    all.extend(words);
    let all = all.into_iter().map(str::to_owned).collect();
    ("unshare".to_owned(), all)
}

fn environment(directory: &Path) -> Vec<(String, String)> {
    let config = directory.join("strongswan.conf").display().to_string();
    vec![
        ("STRONGSWAN_CONF".to_owned(), config),
        ("LD_LIBRARY_PATH".to_owned(), "/usr/lib/ipsec".to_owned()),
    ]
}

fn settings(places: &Places, directory: &Path, row: Option<&Row>) -> String {
    let kernel = match places.kernel_esp {
        true => "kernel-netlink",
        false => "kernel-libipsec kernel-netlink",
    };
    let yes = |word: bool| if word { "yes" } else { "no" };
    let auth = row.map(|row| row.auth);
    let fragments = row.is_some_and(|row| row.situation == Situation::Fragments);
    // Too small for an IKE_AUTH with certificates; else its default.
    let size = if fragments { 576 } else { 1280 };
    format!(
        "charon-systemd {{\n\
         \x20load = {PLUGINS} {kernel} socket-default vici updown\n\
         \x20cookie_threshold = 1\n\
         \x20delete_rekeyed_delay = 0\n\
         \x20retransmit_tries = 3\n\
         \x20signature_authentication = {}\n\
         \x20rsa_pss = {}\n\
         \x20fragment_size = {size}\n\
         \x20filelog {{\n  log {{\n   path = {log}\n   default = 1\n   flush_line = yes\n  }}\n }}\n\
         \x20plugins {{\n  vici {{\n   socket = unix://{socket}\n  }}\n }}\n\
         }}\n\
         swanctl {{\n load = pem pkcs1 pkcs8 x509 pubkey openssl random\n}}\n",
        yes(auth != Some(Auth::RsaMethod1)),
        yes(auth == Some(Auth::RsaPss)),
        log = directory.join("charon.log").display(),
        socket = directory.join("vici.sock").display(),
    )
}

/// How one end proves itself, in swanctl's words.
fn method(row: &Row, end: Begins) -> &'static str {
    match row.auth {
        Auth::Psk => "psk",
        Auth::Eap if row.begins == end => "eap-mschapv2",
        _ => "pubkey",
    }
}

fn connection(row: &Row) -> String {
    let (local, remote) = match row.situation {
        Situation::Nat => (lab::THEIRS_PUBLIC, "%any"),
        _ => (lab::THEIRS, lab::OURS),
    };
    let certs = row
        .auth
        .key()
        .map(|kind| format!("   certs = theirs-{kind}.pem\n"));
    let certificate = certs.unwrap_or_default();
    let (local_auth, remote_auth) = (method(row, Begins::Them), method(row, Begins::Us));
    let yes = |word: bool| if word { "yes" } else { "no" };
    let ppk = match row.situation {
        Situation::Ppk => format!("  ppk_id = {PPK_ID}\n  ppk_required = yes\n"),
        _ => String::new(),
    };
    // A fresh Child SA and its rekeys are by command alone.
    format!(
        "connections {{\n t {{\n  version = 2\n  local_addrs = {local}\n  remote_addrs = {remote}\n\
         \x20 proposals = {}\n  mobike = {}\n  fragmentation = yes\n  rekey_time = 0\n  reauth_time = 0\n{ppk}\
         \x20 local {{\n   auth = {local_auth}\n   id = {}\n{certificate}  }}\n\
         \x20 remote {{\n   auth = {remote_auth}\n   id = {}\n  }}\n\
         \x20 children {{\n   c {{\n    local_ts = {}/32\n    remote_ts = {}/32\n    esp_proposals = {}\n\
         \x20   rekey_time = 0\n    start_action = none\n   }}\n  }}\n }}\n}}\n",
        row.ike,
        yes(row.situation == Situation::Mobike),
        lab::THEIR_ID,
        lab::OUR_ID,
        lab::THEIR_INNER,
        lab::OUR_INNER,
        row.esp,
    )
}

/// The YAML of `ikepeer` for the same row.
#[must_use]
pub fn ours(places: &Places, row: &Row) -> String {
    let (listen, remote) = match row.situation {
        Situation::Nat => (lab::OURS_PRIVATE, lab::THEIRS_PUBLIC),
        _ => (lab::OURS, lab::THEIRS),
    };
    let pki = places.work.join("pki").display().to_string();
    let files = |indent: &str, kind: &str| {
        format!(
            "{indent}chain: {pki}/ours-{kind}.pem\n{indent}key: {pki}/ours-{kind}.key\n\
             {indent}authorities: {pki}/root.pem\n{indent}allowSha1: {}\n",
            row.auth == Auth::RsaMethod1
        )
    };
    let authentication = match row.auth.key() {
        None => format!("  psk: {PSK}\n"),
        Some(kind) if row.auth == Auth::Eap => {
            let user = match row.begins {
                Begins::Us => lab::OUR_ID,
                Begins::Them => lab::THEIR_ID,
            };
            format!(
                "  eap:\n    user: {user}\n    password: {PSK}\n    certificates:\n{}",
                files("      ", kind)
            )
        }
        Some(kind) => format!("  certificate:\n{}", files("    ", kind)),
    };
    let mobike = row.situation == Situation::Mobike;
    let cookies = row.situation == Situation::Cookie && row.begins == Begins::Them;
    let esp = match places.kernel_esp {
        true => "kernel",
        false => "nothing",
    };
    let ppk = match row.situation {
        Situation::Ppk => format!("ppk:\n  id: {PPK_ID}\n  secret: {PPK}\n"),
        _ => String::new(),
    };
    let datagram = match row.situation {
        Situation::Fragments => "datagram: 576\n",
        _ => "",
    };
    format!(
        "listen: {listen}\nremote: {remote}\nidentity: {}\nremoteIdentity: {}\nike: {}\nesp: {}\n\
         authentication:\n{authentication}innerLocal: {}\ninnerRemote: {}\ncookies: {cookies}\nmobike: {mobike}\n\
         espIn: {esp}\n{datagram}{ppk}",
        lab::OUR_ID,
        lab::THEIR_ID,
        row.ike,
        row.esp,
        lab::OUR_INNER,
        lab::THEIR_INNER,
    )
}

/// Whether charon is there, and where.
///
/// # Errors
/// Says what to do when it is not.
pub fn find(root: Option<&Path>) -> Result<()> {
    let place = match root {
        Some(root) => root.join("usr/sbin/charon-systemd"),
        None => PathBuf::from("/usr/sbin/charon-systemd"),
    };
    fs::metadata(&place)
        .map(drop)
        .with_context(|| format!("strongSwan is not there: {}", place.display()))
}
