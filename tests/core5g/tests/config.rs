//! Configuration files: the samples load, and mistakes are told.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic
)]

mod support;

use std::path::Path;

use core5g::config::{self, Config, N6Config};
use core5g::home::Home;

use support::core::CONFIG;

fn complaint(text: &str) -> String {
    let parsed: Result<Config, _> =
        daemon::config::parse(Path::new("core5g.yaml"), text, config::check);
    parsed.expect_err("a mistake").to_string()
}

#[test]
fn the_samples_load() {
    for name in ["core5g.yaml", "core5g-unix.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("samples")
            .join(name);
        let config = config::load(&path).unwrap();
        assert_eq!(config.subscribers.len(), 3);
        assert_eq!(
            config.amf.plmn.serving_network_name(),
            "5G:mnc093.mcc208.3gppnetwork.org"
        );
        let tun = matches!(config.upf.n6, N6Config::Tun { .. });
        assert_eq!(tun, matches!(config.listen, n2::Address::Sctp(_)));
        Home::new(config.subscribers, &config.home_network_keys).unwrap();
    }
}

#[test]
fn mistakes_are_told_with_their_key() {
    for (from, to, key, what) in [
        ("plmn:", "plnm:", "amf", "plmn"),
        ("mcc: \"208\"", "mcc: \"20\"", "amf.plmn", ""),
        ("[\"000001\"]", "[]", "amf.tracking_areas", "at least one"),
        (
            "[\"000001\"]",
            "[\"1\"]",
            "amf.tracking_areas[0]",
            "6 hexadecimal digits",
        ),
        (
            "{qfi: 1, five_qi: 9}",
            "{qfi: 64}",
            "smf.dnns[0].flows[0].qfi",
            "1 to 63",
        ),
        (
            "{qfi: 1, five_qi: 9}",
            "{qfi: 2}",
            "smf.dnns[0].flows[1].qfi",
            "twice",
        ),
        (
            "remote_port: 5004",
            "port: 5004",
            "smf.dnns[0].flows[1].filter",
            "port",
        ),
        (
            ", filter: {protocol: 17, remote_port: 5004}",
            "",
            "smf.dnns[0].flows[1].qfi",
            "needs a filter",
        ),
        ("listen: unix:", "listen: tcp:", "listen", "NGAP address"),
        ("id: 27", "id: 0", "home_network_keys[0].id", "null scheme"),
        (
            "imsi-208930000000001",
            "208930000000001",
            "subscribers[0].supi",
            "imsi-",
        ),
        (
            "    sqn: \"000000000020\"",
            "    sqn: \"20\"",
            "subscribers[0].sqn",
            "12 hex",
        ),
        (
            "    op: ",
            "    amf: \"8000\"\n    opx: ",
            "subscribers[1]",
            "op",
        ),
        (
            "k: \"465b",
            "k: \"465g",
            "subscribers[0].k",
            "32 hexadecimal digits",
        ),
        (
            "smf:\n",
            "faults: [{on: X, do: explode}]\nsmf:\n",
            "faults[0].do",
            "explode",
        ),
        (
            "smf:\n",
            "policy: {be_nice: true}\nsmf:\n",
            "policy",
            "be_nice",
        ),
    ] {
        assert!(CONFIG.contains(from), "{from}");
        let text = complaint(&CONFIG.replacen(from, to, 1));
        assert!(text.starts_with("core5g.yaml:"), "{text}");
        assert!(
            text.contains(key) && text.contains(what),
            "{from} -> {to}: {text}"
        );
        // A key is never repeated in an error.
        assert!(!text.contains("465g5ce8"), "{text}");
    }
}

#[test]
fn a_subscriber_given_twice_is_refused() {
    let text = CONFIG.replace("imsi-208930000000002", "imsi-208930000000001");
    let config = support::core::parse(&text);
    let error = Home::new(config.subscribers, &config.home_network_keys)
        .err()
        .unwrap();
    assert!(error.to_string().contains("twice"), "{error}");
}
