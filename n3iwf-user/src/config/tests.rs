use std::time::Duration;

use ike::{CookiePolicy, Mode, PeerRule, Profile, QkdPolicy};

use super::*;

const SAMPLE: &str = include_str!("../../config/n3iwf.yaml");

fn read(text: &str) -> Result<File, String> {
    daemon::config::parse(Path::new("n3iwf.yaml"), text, File::check)
        .map_err(|error| error.to_string())
}

/// The sample with one line replaced.
fn changed(from: &str, to: &str) -> String {
    assert_eq!(SAMPLE.matches(from).count(), 1, "{from:?} in the sample");
    SAMPLE.replace(from, to)
}

#[test]
fn the_sample_loads_as_it_is() {
    let file = read(SAMPLE).unwrap();
    let core = file.core().unwrap();
    assert_eq!(core.node.plmn, Plmn::from_digits("208", "93").unwrap());
    assert_eq!(core.node.areas[0].tac, [0, 0, 1]);
    assert_eq!(core.node.areas[0].plmns[0].slices, [(1, Some([1, 2, 3]))]);
    assert_eq!(core.amfs, ["sctp:203.0.113.2:38412"]);
    assert_eq!(file.relay().gtp.to_string(), "203.0.113.1:2152");
    let endpoint = file.endpoint().unwrap();
    let responder = endpoint.responder.unwrap();
    let acceptance = endpoint.acceptance;
    assert_eq!(acceptance.modes, [Mode::Qkd(Profile::Native)]);
    assert_eq!(acceptance.policy, QkdPolicy::Require);
    assert_eq!(responder.sae_id.as_str(), "sae-n3iwf");
    assert!(!responder.ike_suites.is_empty() && !responder.esp_suites.is_empty());
    assert_eq!(file.logger.filter(), "info");
}

#[test]
fn a_minimal_file_is_enough() {
    let text = "
configuration:
  n3iwfInformation:
    globalN3IWFID: { plmnID: { mcc: 208, mnc: 93 }, n3iwfID: 135 }
    supportedTAList:
      - tac: 000001
        broadcastPlmnList:
          - plmnID: { mcc: 208, mnc: 93 }
            taiSliceSupportList: [{ snssai: { sst: 1 } }]
  amfSCTPAddresses: [{ unix: /run/amf.sock }]
  ikeBindAddress: 192.0.2.1
  ipSecTunnelAddress: 10.0.0.1
  ueIpAddressRange: 10.0.0.0/24
  n3iwfGtpBindAddress: 203.0.113.1
  fqdn: n3iwf.example.net
  qkd:
    saeId: sae-n3iwf
    kms: { endpoints: ['https://198.51.100.2:8443'], ca: ca.pem, certificate: c.pem, privateKey: k.pem }
";
    let file = read(text).unwrap();
    assert_eq!(file.core().unwrap().amfs, ["unix:/run/amf.sock"]);
    assert_eq!(file.configuration.nas_tcp_port, 20_000);
    assert_eq!(file.choices().unwrap().general.policy, QkdPolicy::Require);
    assert_eq!(file.relay().gtp.to_string(), "203.0.113.1:2152");
    let over_ipv6 = text.replace("203.0.113.1", "2001:db8::1");
    let over_ipv6 = read(&over_ipv6).unwrap();
    assert_eq!(over_ipv6.relay().gtp.to_string(), "[2001:db8::1]:2152");
    assert_eq!(
        over_ipv6.core().unwrap().gtp_address.to_string(),
        "2001:db8::1"
    );
    let cookies = file.endpoint().unwrap().responder.unwrap().cookies;
    assert_eq!(cookies, CookiePolicy::Above(32));
    let timing = file.endpoint().unwrap().timing;
    assert_eq!(timing.dpd_interval, Some(Duration::from_secs(60)));
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (from, to, key, what) in [
        (
            "  nasTcpPort: 20000",
            "  nasTcpPrt: 20000",
            "nasTcpPrt",
            "did you mean `nasTcpPort`?",
        ),
        (
            "  nasTcpPort: 20000",
            "  nasTcpPort: 0",
            "nasTcpPort",
            "0 is no port",
        ),
        (
            "ikeBindAddress: 192.0.2.1",
            "ikeBindAddress: 0.0.0.0",
            "ikeBindAddress",
            "one address",
        ),
        (
            "n3iwfGtpBindAddress: 203.0.113.1",
            "n3iwfGtpBindAddress: '::'",
            "n3iwfGtpBindAddress",
            "one address",
        ),
        (
            "n3iwfGtpBindAddress: 203.0.113.1",
            "n3iwfGtpBindAddress: fe80::1",
            "n3iwfGtpBindAddress",
            "more than one link",
        ),
        (
            "n3iwfGtpBindAddress: 203.0.113.1",
            "n3iwfGtpBindAddress: '::ffff:203.0.113.1'",
            "n3iwfGtpBindAddress",
            "write it as IPv4",
        ),
        (
            "ikeBindAddress: 192.0.2.1",
            "ikeBindAddress: host",
            "ikeBindAddress",
            "invalid IP address",
        ),
        (
            "ueIpAddressRange: 10.0.0.0/24",
            "ueIpAddressRange: 10.0.0.0/31",
            "ueIpAddressRange",
            "no room",
        ),
        (
            "xfrmInterfaceID: 1",
            "xfrmInterfaceID: 0",
            "dataplane",
            "not 0",
        ),
        (
            "xfrmInterfaceName: xfrmi",
            "xfrmInterfaceName: a/b",
            "dataplane",
            "interface name",
        ),
        (
            "profiles: [native]",
            "profiles: [paper]",
            "qkd.profiles",
            "privateKey",
        ),
        (
            "profiles: [native]",
            "profiles: [nativ]",
            "qkd.profiles[0]",
            "did you mean `native`?",
        ),
        (
            "profiles: [native]",
            "profiles: []",
            "qkd.profiles",
            "at least one",
        ),
        (
            "saeId: sae-n3iwf",
            "saeId: ''",
            "qkd.saeId",
            "1 to 255 octets",
        ),
        ("transFreq: 60s", "transFreq: soon", "transFreq", "soon"),
        (
            "      - tac: \"000001\"",
            "      - tac: \"1\"",
            "supportedTAList[0].tac",
            "six hexadecimal",
        ),
        (
            "    espProposals: [aes256gcm16-esn, aes256gcm16]",
            "    espProposals: [rot13]",
            "ike.espProposals[0]",
            "rot13",
        ),
        (
            "modes: [qkd]",
            "modes: [pks]",
            "modes[0]",
            "did you mean `psk`?",
        ),
        (
            "modes: [qkd]",
            "modes: [qkd, psk]",
            "modes",
            "`policy` has to say",
        ),
        ("modes: [qkd]", "modes: [cert]", "modes", "mode cert needs"),
        (
            "  # policy: require-qkd",
            "  policy: no-qkd",
            "policy",
            "leaves none of `modes`",
        ),
        (
            "    # sendCertificate: when-asked",
            "    sendCertificate: always",
            "ike.sendCertificate",
            "needs `certificate`",
        ),
        (
            "    # proposals: [aes256gcm16-prfsha256, aes256gcm16-prfsha384-ecp384-x25519]",
            "    proposals: aes256gcm16-prfsha384-ecp384",
            "ike.proposals",
            "mode qkd needs a proposal",
        ),
    ] {
        let text = changed(from, to);
        let error = read(&text).unwrap_err();
        let line = text.lines().position(|line| line.contains(to)).unwrap_or(0) + 1;
        assert!(error.starts_with("n3iwf.yaml:"), "{error}");
        assert!(error.contains(key), "{key} in: {error}");
        assert!(error.contains(what), "{what} in: {error}");
        if key != "dataplane" {
            assert!(
                error.starts_with(&format!("n3iwf.yaml:{line}:")),
                "line {line}: {error}"
            );
        }
    }
}

#[test]
fn the_paper_profile_needs_files_that_fit() {
    let text = changed(
        "profiles: [native]",
        "profiles: [native, paper]\n    paper: { ueSaeId: sae-ue-1 }",
    )
    .replace("  # privateKey: ", "  privateKey: ")
    .replace("  # certificate: ", "  certificate: ");
    let file = read(&text).unwrap();
    let complaint = file.endpoint().err().unwrap().to_string();
    assert!(
        complaint.contains("configuration.certificate"),
        "{complaint}"
    );
}

#[test]
fn the_peer_profile_brings_suites_and_wants_its_conditions() {
    let standard = read(SAMPLE).unwrap().endpoint().unwrap();
    assert_eq!(standard.peer_profile, ike::PeerProfile::Standard);
    let sha1 = "AES_CBC-256/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_2048"
        .parse()
        .unwrap();
    assert!(!standard.responder.unwrap().ike_suites.contains(&sha1));
    let with = SAMPLE.replace("# peerProfile: standard", "peerProfile: free5gc");
    let error = read(&with).unwrap_err();
    assert!(error.contains("configuration.ike.peerProfile"), "{error}");
    let psk = with.replace("modes: [qkd]", "modes: [psk]");
    let error = read(&psk).unwrap_err();
    assert!(error.contains("configuration.greProtocol"), "{error}");
    let file = read(&psk.replace("greProtocol: 0", "greProtocol: 2048")).unwrap();
    let endpoint = file.endpoint().unwrap();
    assert_eq!(endpoint.peer_profile, ike::PeerProfile::Free5gc);
    let suites = endpoint.responder.unwrap().ike_suites;
    assert_eq!(suites.last(), Some(&sha1), "after all others");
    assert!(suites.len() > 2);
}

#[test]
fn the_bucket_and_the_tags_reach_the_engine_and_can_be_left_out() {
    let admission = |text: &str| read(text).unwrap().endpoint().unwrap().admission;
    let sample = admission(SAMPLE);
    let bucket = sample.bucket.unwrap();
    let numbers = (bucket.per_minute, bucket.burst, bucket.hard);
    assert_eq!(numbers, (60, 60, 240));
    assert_eq!(sample.tags, Some(Duration::from_secs(86_400)));
    let braces = "{ perMinute: 60, burst: 60, hard: 240 }";
    assert_eq!(admission(&changed(braces, "null")).bucket, None);
    assert_eq!(
        admission(&changed(braces, "{ hard: 1 }"))
            .bucket
            .unwrap()
            .hard,
        1
    );
    assert_eq!(
        admission(&changed("recognise: 24h", "recognise: 0s")).tags,
        None
    );
    for (fault, key) in [
        ("{ perMinute: 0 }", "perMinute"),
        ("{ burst: 0, hard: 0 }", "hard"),
        ("{ burst: 1000001 }", "burst"),
    ] {
        let error = read(&changed(braces, fault)).unwrap_err();
        assert!(error.contains(&format!("qkd.bucket.{key}")), "{error}");
    }
}

/// The sample with both kinds of modes, `prefer-qkd`, and these peers.
fn with_peers(lines: &[&str]) -> String {
    let peers: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    changed("  modes: [qkd]\n", "  modes: [qkd, psk]\n").replace(
        "  # policy: require-qkd\n",
        &format!("  policy: prefer-qkd\n  peers:\n{peers}"),
    )
}

#[test]
fn peers_have_modes_and_policies_of_their_own() {
    let text = with_peers(&[
        "- { addresses: [192.0.2.0/24, 2001:db8::/32], policy: require-qkd }",
        "- { addresses: [192.0.2.99], modes: [psk], policy: no-qkd }",
        "- { addresses: [198.51.100.0/24], modes: [hybrid, psk] }",
        "- { addresses: [198.51.100.128/25] }",
    ]);
    let file = read(&text).unwrap();
    let rules = file.endpoint().unwrap().acceptance.peers;
    let both = vec![Mode::Qkd(Profile::Native), Mode::Psk];
    let rule = |address: &str, prefix_len, modes: &[Mode], policy| PeerRule {
        address: address.parse().unwrap(),
        prefix_len,
        modes: modes.to_vec(),
        policy,
    };
    assert_eq!(
        rules,
        [
            rule("192.0.2.0", 24, &both, QkdPolicy::Require),
            rule("2001:db8::", 32, &both, QkdPolicy::Require),
            rule("192.0.2.99", 32, &[Mode::Psk], QkdPolicy::Forbid),
            rule(
                "198.51.100.0",
                24,
                &[Mode::Hybrid, Mode::Psk],
                QkdPolicy::Prefer
            ),
            rule("198.51.100.128", 25, &both, QkdPolicy::Prefer),
        ]
    );
}

#[test]
fn what_peers_alone_need_is_there() {
    // Nobody else takes QKD keys; the proposals are those of all.
    let text = changed("modes: [qkd]", "modes: [psk]").replace(
        "  # policy: require-qkd\n",
        "  peers:\n    - { addresses: [192.0.2.0/24], modes: [qkd] }\n",
    );
    let file = read(&text).unwrap();
    let choices = file.choices().unwrap();
    assert_eq!(choices.general.policy, QkdPolicy::Forbid);
    assert!(!choices.general.needs_kms() && choices.needs_kms());
    // Without a policy above, the list says which.
    assert_eq!(choices.peers[0].1.policy, QkdPolicy::Require);
    let suites = file.endpoint().unwrap().responder.unwrap().ike_suites;
    assert!(suites.iter().any(|suite| suite.ke.is_none()));
    assert!(suites.iter().any(|suite| suite.ke.is_some()));
}

#[test]
fn mistakes_about_peers_are_named_with_their_place() {
    for (wrong, key, what) in [
        ("- { addresses: [] }", "addresses", "at least one range"),
        ("- { policy: no-qkd }", "peers[1]", "`addresses` is missing"),
        (
            "- { addresses: [192.0.2.0/24] }",
            "addresses[0]",
            "is in configuration.peers[0].addresses[0] already",
        ),
        (
            "- { addresses: [10.1.2.3/8] }",
            "addresses[0]",
            "10.0.0.0/8 is the range",
        ),
        (
            "- { addresses: [somewhere] }",
            "addresses[0]",
            "not a range of addresses",
        ),
        (
            "- { addresses: [10.0.0.0/33] }",
            "addresses[0]",
            "not a range of addresses",
        ),
        (
            "- { addresses: ['::ffff:10.0.0.0/104'] }",
            "addresses[0]",
            "write it as IPv4",
        ),
        (
            "- { addresses: [10.0.0.0/8], polcy: no-qkd }",
            "polcy",
            "did you mean `policy`?",
        ),
        (
            "- { addresses: [10.0.0.0/8], policy: none }",
            "policy",
            "unknown value `none`",
        ),
        ("- { addresses: [10.0.0.0/8], policy: }", "policy", ""),
        ("- { addresses: [10.0.0.0/8], modes: }", "modes", ""),
        (
            "- { addresses: [10.0.0.0/8], modes: [] }",
            "modes",
            "at least one mode",
        ),
        (
            "- { addresses: [10.0.0.0/8], modes: [psk, psk] }",
            "modes[1]",
            "twice",
        ),
        (
            "- { addresses: [10.0.0.0/8], modes: [psk], policy: require-qkd }",
            "policy",
            "leaves none of `modes`",
        ),
        (
            "- { addresses: [10.0.0.0/8], modes: [cert] }",
            "modes",
            "mode cert needs",
        ),
    ] {
        let text = with_peers(&[
            "- { addresses: [192.0.2.0/24], policy: require-qkd }",
            wrong,
        ]);
        let error = read(&text).unwrap_err();
        let line = text.lines().position(|line| line.contains(wrong)).unwrap() + 1;
        let place = format!("n3iwf.yaml:{line}:");
        assert!(error.starts_with(&place), "{place} {error}");
        assert!(error.contains("configuration.peers[1]"), "{error}");
        assert!(error.contains(key), "{key} in: {error}");
        assert!(error.contains(what), "{what} in: {error}");
    }
    // What is inherited has to fit as well.
    let text = changed(
        "  # policy: require-qkd\n",
        "  policy: require-qkd\n  peers: [{ addresses: [10.0.0.0/8], modes: [psk] }]\n",
    );
    let error = read(&text).unwrap_err();
    assert!(
        error.contains("peers[0].policy: require-qkd leaves none"),
        "{error}"
    );
}
