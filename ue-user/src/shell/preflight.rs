//! What this host lacks before the UE can attach.

use std::{net::UdpSocket, path::Path};

use daemon::{
    hardening::Hardening,
    preflight::{Check, Report},
};
use dataplane::preflight::Fact;

use super::SqnFile;
use crate::config::Config;

/// Looks at everything an attach needs and changes nothing.
pub async fn report(config: &Config, path: &Path) -> Report {
    let mut report = Report::new();
    for warning in config.warnings(path) {
        report.push(Check::warn(
            "configuration",
            warning,
            "see the commented sample, config/ue.yaml",
        ));
    }
    report.push(match config.ue() {
        Ok(_) => Check::ok("ike", "modes, proposals and certificates are usable"),
        Err(complaint) => Check::fail(
            "ike",
            daemon::config::place(path, complaint).to_string(),
            "correct the file named",
        ),
    });
    let own = &config.ike;
    let certificates = own.trusted_certificates.iter().chain(&own.certificate);
    report.extend(ike_config::preflight::checks(
        certificates.map(std::path::PathBuf::as_path),
        own.private_key.as_deref(),
    ));
    report.push(sqn(config));
    let kernel = config.dataplane.kind == dataplane::Kind::Kernel;
    if kernel {
        for fact in dataplane::preflight::ipsec() {
            report.push(check(fact));
        }
    } else {
        report.push(Check::warn(
            "data plane",
            "`recording`: nothing is protected",
            "dataplane.kind: kernel",
        ));
    }
    if config.dataplane.bpf.is_some() {
        for fact in dataplane::preflight::bpf() {
            report.push(check(fact));
        }
    }
    report.push(check(dataplane::preflight::tun()));
    report.push(check(dataplane::preflight::raw_gre()));
    report.extend(Hardening::preflight(config.hardening, &config.needs()));
    for port in [500, 4500] {
        report.push(udp(config, port));
    }
    report.push(kms(config).await);
    report
}

fn check(fact: Fact) -> Check {
    match (fact.ok, fact.optional) {
        (true, _) => Check::ok(fact.name, fact.detail),
        (false, true) => Check::warn(fact.name, fact.detail, fact.hint),
        (false, false) => Check::fail(fact.name, fact.detail, fact.hint),
    }
}

fn sqn(config: &Config) -> Check {
    let name = "sequence numbers";
    let file = SqnFile::new(&config.subscriber.sqn_file, &config.subscriber.supi);
    match file.load() {
        Ok(Some(state)) => Check::ok(name, format!("highest {:#014x}", state.highest())),
        Ok(None) => Check::ok(name, "none stored yet"),
        Err(error) => Check::fail(
            name,
            error.to_string(),
            "restore the file, or remove it and let the network resynchronise",
        ),
    }
}

fn udp(config: &Config, port: u16) -> Check {
    let name = format!("UDP port {port}");
    let address = (config.nwu.local_address, port);
    match UdpSocket::bind(address) {
        Ok(_) => Check::ok(name, format!("free on {}", config.nwu.local_address)),
        Err(error) => Check::fail(
            name,
            error.to_string(),
            "run as root or with CAP_NET_BIND_SERVICE; nwu.localAddress is an address of this host; stop other IKE daemons",
        ),
    }
}

async fn kms(config: &Config) -> Check {
    let name = "KMS";
    let needed = config.choice().is_ok_and(|choice| choice.needs_kms());
    let Some(own) = config.qkd.as_ref().filter(|_| needed) else {
        return Check::ok(name, "not needed: no mode takes QKD keys");
    };
    let kms = match qkd::Kms::new(&own.kms) {
        Ok(kms) => kms,
        Err(error) => return Check::fail(name, error.to_string(), "qkd.kms in the configuration"),
    };
    // As slave SAE the UE asks about the master; a KME that knows the pair answers.
    let Some(peer) = &own.n3iwf_sae_id else {
        return Check::ok(
            name,
            "client ready; not asked, since n3iwfSaeId is not configured",
        );
    };
    match kms.status(peer).await {
        Ok(status) => Check::ok(name, format!("answers: {status:?}")),
        Err(error) => Check::warn(
            name,
            error.to_string(),
            "the KMS of this site, its network, its certificates",
        ),
    }
}
