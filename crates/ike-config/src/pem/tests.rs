use std::path::PathBuf;

use super::*;

const PKI: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ike/tests/vectors/pki");

fn vector(name: &str) -> PathBuf {
    Path::new(PKI).join(name)
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

fn text(name: &str) -> String {
    fs::read_to_string(vector(name)).unwrap()
}

#[test]
fn a_chain_and_its_key_are_read() {
    for kind in ["p256", "p384", "p521", "ed25519", "rsa"] {
        let (chain, key) = (
            vector(&format!("{kind}.pem")),
            vector(&format!("{kind}.key")),
        );
        let read = credential(("c", &chain), ("k", &key));
        assert!(read.is_ok(), "{kind}");
    }
    let sec1 = credential(("c", &vector("p256.pem")), ("k", &vector("p256-sec1.key")));
    assert!(sec1.is_ok());
    assert_eq!(describe_all("c", &vector("p256.pem")).unwrap().len(), 1);
}

/// Key, file and line, and what is wrong there.
#[test]
fn what_is_wrong_has_a_place() {
    let files = Files::new();
    let (chain, key) = (text("p256.pem"), text("p256.key"));
    let lines = chain.lines().count();
    let truncated = chain.replace("-----END CERTIFICATE-----\n", "");
    let garbage = chain.replacen("MI", "!!", 1);
    let noise = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (name, chain, key, wrong_key, expected) in [
        (
            "a",
            String::new(),
            key.clone(),
            "c",
            ": nothing in PEM".to_owned(),
        ),
        (
            "b",
            truncated,
            key.clone(),
            "c",
            ":1: CERTIFICATE has no end".to_owned(),
        ),
        ("c", garbage, key.clone(), "c", ":1: not base64".to_owned()),
        (
            "d",
            format!("{chain}{noise}"),
            key.clone(),
            "c",
            format!(":{}: not an X.509 certificate", lines + 1),
        ),
        (
            "e",
            key.clone(),
            key.clone(),
            "c",
            ":1: PRIVATE KEY where a cert".to_owned(),
        ),
        (
            "f",
            chain.clone(),
            chain.clone(),
            "k",
            ":1: CERTIFICATE where a private".to_owned(),
        ),
        (
            "g",
            chain.clone(),
            text("p384.key"),
            "k",
            ": the private key does not".to_owned(),
        ),
        (
            "h",
            chain.clone(),
            key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
            "k",
            ":1: the key is encrypted".to_owned(),
        ),
        (
            "i",
            chain.clone(),
            format!("{key}{key}"),
            "k",
            format!(":{}: a second private key", key.lines().count() + 1),
        ),
    ] {
        let chain = files.file(&format!("{name}.pem"), &chain);
        let key = files.file(&format!("{name}.key"), &key);
        let complaint = credential(("c", &chain), ("k", &key))
            .err()
            .unwrap()
            .to_string();
        let file = if wrong_key == "c" { &chain } else { &key };
        let expected = format!("{wrong_key}: {}{expected}", file.display());
        assert!(complaint.starts_with(&expected), "{complaint}\n{expected}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let complaint = credential(("c", Path::new("/no/chain")), ("k", Path::new("/no/key")));
    let complaint = complaint.err().unwrap().to_string();
    assert!(complaint.starts_with("c: /no/chain: "), "{complaint}");
}

#[test]
fn an_end_entity_is_no_authority() {
    let none: [&Path; 0] = [];
    assert!(authorities("t", &none).unwrap().is_none());
    let both = [vector("root.pem"), vector("sub.pem")];
    assert_eq!(authorities("t", &both).unwrap().unwrap().hashes().len(), 2);
    let files = Files::new();
    let root = text("root.pem");
    let mixed = files.file("mixed.pem", &format!("{root}{}", text("p256.pem")));
    let complaint = authorities("t", &[&mixed]).err().unwrap().to_string();
    let line = root.lines().count() + 1;
    let start = format!("t: {}:{line}: not an authority", mixed.display());
    assert!(complaint.starts_with(&start), "{complaint}");
}
