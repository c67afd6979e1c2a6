use std::path::Path;

use super::*;

const SAMPLE: &str = include_str!("../../config/ue.yaml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    daemon::config::parse(Path::new("ue.yaml"), text, Config::check)
}

fn complaint(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("the file should be refused"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_sample_loads() {
    let config = parse(SAMPLE).unwrap();
    let ue = config.ue().unwrap();
    assert_eq!(ue.sessions.len(), 1);
    assert_eq!(ue.sessions[0].dnn.as_deref(), Some("internet"));
    assert_eq!(ue.path.local.port(), 500);
    assert_eq!(ue.nas.requested_nssai.len(), 1);
    assert_eq!(config.dataplane().interface_name, "nwuipsec");
    config.dataplane().check().unwrap();
    let usim = config.usim(crate::core::usim::SqnState::default()).unwrap();
    assert_eq!(usim.imsi(), "208930000000001");
}

/// What the sample says in comments is what an absent key means.
#[test]
fn the_commented_defaults_are_the_defaults() {
    let mut uncommented = String::new();
    for line in SAMPLE.lines().skip(3) {
        let body = line.trim_start();
        let wanted = body.starts_with("# ") && body.contains(": ") || body.ends_with(':');
        let choice = [
            "homeNetworkPublicKey",
            "suciScheme",
            "bpf",
            "amfId",
            "n3iwfSaeId",
            "interface:",
            "certificate:",
            "privateKey:",
            "identity:",
        ];
        if body.starts_with("# ") && wanted && !choice.iter().any(|key| body.contains(key)) {
            uncommented.push_str(&line.replacen("# ", "", 1));
        } else {
            uncommented.push_str(line);
        }
        uncommented.push('\n');
    }
    let explicit = parse(&uncommented).unwrap_or_else(|error| panic!("{error}\n{uncommented}"));
    let implicit = parse(SAMPLE).unwrap();
    assert_eq!(explicit.dataplane, implicit.dataplane);
    assert_eq!(explicit.control, implicit.control);
    let proposals = |config: &Config| config.proposals(&config.choice().unwrap());
    assert_eq!(proposals(&explicit), proposals(&implicit));
    assert_eq!(explicit.ike.esp_proposals, implicit.ike.esp_proposals);
    assert_eq!(explicit.choice(), implicit.choice());
    assert_eq!(explicit.ike.replay_window, implicit.ike.replay_window);
    assert_eq!(explicit.ike.dpd_interval, implicit.ike.dpd_interval);
    assert_eq!(explicit.ike.nat_keepalive, implicit.ike.nat_keepalive);
    assert_eq!(explicit.ike.mobike, implicit.ike.mobike);
    assert_eq!(explicit.ike.retransmit_max, implicit.ike.retransmit_max);
    assert_eq!(explicit.retry.maximum, implicit.retry.maximum);
    assert_eq!(
        explicit.retry.release_timeout,
        implicit.retry.release_timeout
    );
    assert_eq!(
        explicit.nwu.xfrm_interface_id,
        implicit.nwu.xfrm_interface_id
    );
    assert_eq!(explicit.logger.level, implicit.logger.level);
}

#[test]
fn a_misspelt_key_is_named_with_its_place() {
    let text = SAMPLE.replace("  imeisv:", "  imiesv:");
    let error = complaint(&text);
    assert!(error.starts_with("ue.yaml:"), "{error}");
    assert!(
        error.contains("imiesv") && error.contains("imeisv"),
        "{error}"
    );
}

#[test]
fn no_error_quotes_a_key() {
    for wrong in [
        "465b5ce8b199b49faa5f0a2ee238a6",
        "465b5ce8b199b49faa5f0a2ee238a66x",
    ] {
        let text = SAMPLE.replace("465b5ce8b199b49faa5f0a2ee238a6bc", wrong);
        let error = complaint(&text);
        assert!(error.contains("32 hexadecimal digits"), "{error}");
        assert!(!error.contains("465b"), "{error}");
    }
}

#[test]
fn contradictions_are_refused() {
    let both = SAMPLE.replace(
        "  imeisv:",
        "  op: \"00000000000000000000000000000000\"\n  imeisv:",
    );
    assert!(complaint(&both).contains("either opc or op"));
    let other_home = SAMPLE.replace(
        "plmn: {mcc: \"208\", mnc: \"93\"}       #",
        "plmn: {mcc: \"001\", mnc: \"01\"} #",
    );
    assert!(complaint(&other_home).contains("subscriber.supi"));
    let concealed = SAMPLE.replace("  # suciScheme: null ", "  suciScheme: profileA ");
    assert!(complaint(&concealed).contains("homeNetworkPublicKey"));
    let paper = SAMPLE.replace("# profile: native", "profile: paper");
    assert!(complaint(&paper).contains("n3iwfSaeId"));
    let family = SAMPLE.replace("n3iwfAddress: 192.0.2.1 ", "n3iwfAddress: \"2001:db8::1\" ");
    assert!(complaint(&family).contains("IP version"));
    let suite = SAMPLE.replace("# ike:", "ike:\n  proposals: [ROT13]\n# ike:");
    assert!(complaint(&suite).contains("ROT13"));
    let storm = SAMPLE.replace("# ike:", "ike: {natKeepalive: 10ms}\n# ike:");
    assert!(complaint(&storm).contains("natKeepalive"));
}

#[test]
fn the_keepalive_interval_reaches_ike() {
    let text = SAMPLE.replace("# ike:", "ike: {natKeepalive: 7s}\n# ike:");
    let of = |text: &str| parse(text).unwrap().ue().unwrap().timing.keepalive;
    assert_eq!(of(&text), Duration::from_secs(7));
    assert_eq!(of(SAMPLE), ike::Timing::default().keepalive);
}

#[test]
fn the_paper_profile_is_the_papers() {
    let text = SAMPLE
        .replace("# profile: native", "profile: paper")
        .replace("  # n3iwfSaeId", "  n3iwfSaeId")
        .replace("# amfId", "amfId");
    let ue = parse(&text).unwrap().ue().unwrap();
    assert_eq!((ue.identity_len, ue.nas.gmm_capability), (2, 7));
    assert!(ue.nas.requested_nssai.is_empty() && ue.an_nssai.len() == 1);
    let guami = ue.guami.unwrap();
    assert_eq!((guami.region, guami.set, guami.pointer), (0xca, 0x3f8, 0));
}

#[test]
fn concealment_is_configured() {
    let key = "5a8d38864820197c3394b92613b20b91633cbd897119273bf8e4a6f4eec0a650";
    let text = SAMPLE
        .replace("  # suciScheme: null ", "  suciScheme: profileA ")
        .replace(
            "  # homeNetworkPublicKey: ... ",
            &format!("  homeNetworkPublicKey: {key}"),
        )
        .replace("  # homeNetworkPublicKeyId", "  homeNetworkPublicKeyId");
    let config = parse(&text).unwrap();
    let (_, concealer) = subscriber(&config).unwrap();
    assert!(format!("{concealer:?}").contains("profile A"));
}

#[test]
fn a_file_others_can_read_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ue.yaml");
    std::fs::write(&path, SAMPLE).unwrap();
    let of_mode = |mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let warnings = Config::load(&path).unwrap().warnings(&path);
        warnings.iter().any(|warning| warning.contains("chmod"))
    };
    assert!(of_mode(0o644) && of_mode(0o640) && !of_mode(0o600));
}

#[test]
fn the_peer_profile_brings_suites_and_wants_its_conditions() {
    let ike = "\nike: {peerProfile: free5gc}\n";
    let error = complaint(&format!("{SAMPLE}{ike}"));
    assert!(error.contains("ike.peerProfile"), "{error}");
    let psk = format!("{SAMPLE}\nmodes: [psk]\n");
    let error = complaint(&format!("{psk}{ike}"));
    assert!(error.contains("ike.greProtocol"), "{error}");
    let ike = "\nike: {peerProfile: free5gc, greProtocol: 2048}\n";
    let config = parse(&format!("{psk}{ike}")).unwrap();
    let ue = config.ue().unwrap();
    assert_eq!(ue.peer_profile, ike::PeerProfile::Free5gc);
    assert!(ue.offer.allow_sha1);
    let suites: Vec<String> = ue
        .initiator
        .ike_suites
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(suites.len(), 2);
    assert!(
        suites[0].ends_with("PRF_HMAC_SHA2_256/MODP_2048"),
        "{suites:?}"
    );
    assert!(
        config
            .warnings(Path::new("ue.yaml"))
            .iter()
            .any(|w| w.contains("peerProfile"))
    );
}
