//! `n3iwf-user preflight`: what this host and its neighbours lack.

use std::{
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use daemon::{
    hardening::Hardening,
    preflight::{Check, Report},
};
use dataplane::{Kind, preflight::Fact};

use crate::config::File;

/// How long a neighbour may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at everything the daemon will need. Nothing is changed.
pub async fn run(file: &File) -> Report {
    let own = &file.configuration;
    let mut report = Report::new();
    let fact = |name: &str, fact: &Fact| check(name, fact);
    if own.dataplane.kind == Kind::Kernel {
        report.extend(
            dataplane::preflight::ipsec()
                .iter()
                .map(|f| fact("kernel", f)),
        );
        if own.dataplane.bpf.is_some() {
            report.extend(dataplane::preflight::bpf().iter().map(|f| fact("ebpf", f)));
        }
    } else {
        report.push(Check::warn(
            "dataplane",
            "`recording`: no IPsec at all",
            "dataplane.kind: kernel, on a kernel with ESP and XFRM interfaces",
        ));
    }
    report.push(check("kernel", &dataplane::preflight::raw_gre()));
    report.push(addresses(own.ike_bind_address, "ikeBindAddress"));
    report.push(addresses(own.n3iwf_gtp_bind_address, "n3iwfGtpBindAddress"));
    match file.endpoint() {
        Ok(_) => report.push(Check::ok(
            "ike",
            "suites, identity and certificates are usable",
        )),
        Err(complaint) => report.push(Check::fail(
            "ike",
            complaint.to_string(),
            "correct the file named",
        )),
    }
    let certificates = [&own.certificate, &own.certificate_authority];
    report.extend(ike_config::preflight::checks(
        certificates
            .into_iter()
            .flatten()
            .map(std::path::PathBuf::as_path),
        own.private_key.as_deref(),
    ));
    report.extend(Hardening::preflight(own.hardening, &file.needs()));
    report.extend(kms(file).await);
    report.extend(amfs(file).await);
    report
}

fn check(group: &str, fact: &Fact) -> Check {
    let name = format!("{group}: {}", fact.name);
    match (fact.ok, fact.optional) {
        (true, _) => Check::ok(name, &fact.detail),
        (false, true) => Check::warn(name, &fact.detail, &fact.hint),
        (false, false) => Check::fail(name, &fact.detail, &fact.hint),
    }
}

fn addresses(address: std::net::IpAddr, key: &str) -> Check {
    match UdpSocket::bind(SocketAddr::new(address, 0)) {
        Ok(_) => Check::ok(key, format!("{address} is an address of this host")),
        Err(error) => Check::fail(
            key,
            format!("{address}: {error}"),
            "give the address to an interface, or name another one",
        ),
    }
}

async fn kms(file: &File) -> Vec<Check> {
    let needed = file.choices().is_ok_and(|choices| choices.needs_kms());
    let Some(own) = file.configuration.qkd.as_ref().filter(|_| needed) else {
        return vec![Check::ok("kms", "not needed: no mode takes QKD keys")];
    };
    let kms = match qkd::Kms::new(&own.kms) {
        Ok(kms) => kms,
        Err(error) => {
            return vec![Check::fail(
                "kms",
                error.to_string(),
                "correct the files of qkd.kms",
            )];
        }
    };
    drop(kms);
    own.kms
        .endpoints
        .iter()
        .map(|endpoint| {
            let name = format!("kms: {endpoint}");
            let fix = "start the KME, or correct qkd.kms.endpoints";
            let host = endpoint.strip_prefix("https://").unwrap_or(endpoint);
            let host = host.split('/').next().unwrap_or_default();
            let host = if host.contains(':') {
                host.to_owned()
            } else {
                format!("{host}:443")
            };
            let found = std::net::ToSocketAddrs::to_socket_addrs(&host)
                .ok()
                .and_then(|mut addresses| addresses.next());
            match found {
                None => Check::fail(name, "no such host", fix),
                Some(address) => match TcpStream::connect_timeout(&address, PATIENCE) {
                    Ok(_) => Check::ok(name, "answers"),
                    Err(error) => Check::fail(name, error.to_string(), fix),
                },
            }
        })
        .collect()
}

async fn amfs(file: &File) -> Vec<Check> {
    let options = n2::Options::default()
        .with_connect_timeout(PATIENCE)
        .with_local(file.configuration.local_sctp_addr);
    let mut checks = Vec::new();
    for address in file.amfs() {
        let name = format!("amf: {address}");
        checks.push(match n2::Association::connect(&address, &options).await {
            Ok(_) => Check::ok(name, "answers"),
            Err(error @ n2::Error::NoSctp(_)) => Check::fail(
                name,
                error.to_string(),
                "modprobe sctp, or use a `unix:` address for tests",
            ),
            // The daemon starts without its AMF and connects when it comes.
            Err(error) => Check::warn(name, error.to_string(), "start the AMF"),
        });
    }
    checks
}
