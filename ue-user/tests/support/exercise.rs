//! What the fuzz targets do with an input; the corpus test does the same on any compiler.
#![allow(dead_code, reason = "each target uses one")]

use std::path::Path;

use oxirush_nas::nas_5gs::NasQosRules;
use ue_user::{config::Config, core::nas::QosRules};

/// The authorized QoS rules of an accept, and those of a modification command after them. The first octet is the length
/// of the former. Whatever is taken has one default rule, and flows that exist.
pub fn qos_rules(input: &[u8]) -> Option<(QosRules, Option<QosRules>)> {
    let (len, octets) = input.split_first()?;
    let (first, then) = octets.split_at(usize::from(*len).min(octets.len()));
    let established = QosRules::established(&NasQosRules::new(first.to_vec())).ok()?;
    check(&established);
    let modified = established.modified(&NasQosRules::new(then.to_vec())).ok();
    modified.iter().for_each(check);
    Some((established, modified))
}

fn check(rules: &QosRules) {
    let qfis = rules.qfis();
    assert!(qfis.contains(&rules.default_qfi()));
    assert!(qfis.iter().all(|qfi| (1..=63).contains(qfi)), "{qfis:?}");
    let _ = rules.uplink();
}

/// A configuration file: refused in one line that names a place in it, or good for everything but the files it names.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match Config::parse(Path::new("ue.yaml"), text) {
        Ok(config) => {
            let choice = config.choice().expect("checked");
            assert!(!choice.order().is_empty());
            config.dataplane().check().expect("checked");
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("ue.yaml:"), "{error}");
            let mut place = error.split(':').skip(1);
            for part in ["line", "column"] {
                let number = place.next().and_then(|number| number.parse::<u64>().ok());
                assert!(number.is_some_and(|number| number > 0), "{part}: {error}");
            }
        }
    }
}
