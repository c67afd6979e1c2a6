//! What the fuzz targets do with an input; the corpus test does the same on any compiler.
#![allow(dead_code, reason = "each target uses one")]

use std::path::Path;

use n3iwf_user::{config::File, ngap};
use oxirush_ngap::ngap::NGAP_PDU;

/// A message of an AMF. The answer to one that is none can be read, and is an ERROR INDICATION.
pub fn ngap(input: &[u8]) {
    const ERROR_INDICATION: u8 = 9;
    if let Err(fault) = ngap::decode(input)
        && let Some(answer) = fault.answer
    {
        let answer = NGAP_PDU::decode(&answer).expect("our own answer");
        assert_eq!(answer.procedure_code(), ERROR_INDICATION);
    }
}

/// A configuration file: refused in one line that names a place in it, or good for everything but the
/// files that it names.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match File::parse(Path::new("n3iwf.yaml"), text) {
        Ok(file) => {
            let choices = file.choices().expect("checked");
            assert!(!choices.general.order().is_empty());
            assert!(choices.peers.iter().all(|(_, own)| !own.order().is_empty()));
            let core = file.core().expect("checked");
            assert!(!core.amfs.is_empty());
            file.dataplane().check().expect("checked");
            file.relay();
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("n3iwf.yaml:"), "{error}");
            let mut place = error.split(':').skip(1);
            for part in ["line", "column"] {
                let number = place.next().and_then(|number| number.parse::<u64>().ok());
                assert!(number.is_some_and(|number| number > 0), "{part}: {error}");
            }
        }
    }
}
