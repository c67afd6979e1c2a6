//! Whom client and KME take for whom: certificates, KME IDs, SAE IDs, and the files that hold them.

use kme::{
    Pair, Setup,
    certs::{KmeName, Pki},
    config::{LinkConfig, Offer},
    fault::{Fault, Kind},
};
use qkd::{Kms, KmsConfig, QkdError};

use super::{MS, ids, kms, n3iwf, once, pair, sae, ue};

/// A KME of the other site among the endpoints: its certificate says so, and it is asked for nothing.
#[tokio::test]
async fn a_kme_of_another_site_is_never_asked() {
    let pair = pair().await;
    let mut config = pair.client("sae-n3iwf");
    config.kme_id = vec!["kme-a".into()];
    config.endpoints.insert(0, pair.b.url());
    let master = kms(&config);
    assert_eq!(master.enc_keys(&ue(), 3, 256).await.unwrap().len(), 3);
    assert_eq!(pair.a.counters().delivered_enc, 3);
    assert_eq!(pair.b.counters().delivered_enc, 0);
    let health = master.health();
    assert!(!health[0].healthy && health[1].healthy, "{health:?}");
    let total = master.account().total();
    assert_eq!((total.held, total.uncertain), (3, 0));
}

#[tokio::test]
async fn a_server_certificate_of_another_ca_is_refused() {
    let pair = pair().await;
    let master = once(pair.client("sae-n3iwf"));
    master.status(&ue()).await.unwrap();
    pair.a.fault(Fault::new(Kind::WrongCertificate));
    // The fault hangs up idle connections; give the client a moment to see it.
    tokio::time::sleep(50 * MS).await;
    let error = master.status(&ue()).await.unwrap_err();
    assert!(
        matches!(&error, QkdError::Tls(text) if text.contains("UnknownIssuer")),
        "{error:?}"
    );
    pair.a.clear_faults();
    master.status(&ue()).await.unwrap();
}

#[tokio::test]
async fn a_server_is_pinned_by_its_kme_id() {
    let pair = pair().await;
    // The right CA and ID, but no address: refused by name, accepted by KME ID.
    for (kme_id, accepted) in [
        (vec![], true),
        (vec!["kme-a".to_owned()], true),
        (vec!["kme-x".to_owned(), "kme-a".to_owned()], true),
        (vec!["kme-b".to_owned()], false),
    ] {
        let config = KmsConfig {
            kme_id,
            ..pair.client("sae-n3iwf")
        };
        let result = once(config.clone()).status(&ue()).await;
        match result {
            Ok(_) => assert!(accepted, "{:?}", config.kme_id),
            Err(error) => {
                assert!(!accepted, "{:?}: {error:?}", config.kme_id);
                assert!(matches!(&error, QkdError::Tls(text) if text.contains("NotValidForName")));
            }
        }
    }
    // Pinned, a certificate of another CA is refused all the same.
    pair.a.fault(Fault::new(Kind::WrongCertificate));
    let pinned = once(KmsConfig {
        kme_id: vec!["kme-a".into()],
        ..pair.client("sae-n3iwf")
    });
    assert!(matches!(pinned.status(&ue()).await, Err(QkdError::Tls(_))));
}

#[tokio::test]
async fn a_certificate_without_the_address_needs_the_kme_id() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), 30).unwrap();
    for id in ["kme-a", "kme-b"] {
        pki.kme(&KmeName {
            id: id.into(),
            addresses: Vec::new(),
        })
        .unwrap();
    }
    pki.sae("alice").unwrap();
    let config = |id: &str| kme::config::KmeConfig {
        id: id.into(),
        listen: "127.0.0.1:0".parse().unwrap(),
        ca: pki.certificate("ca"),
        certificate: pki.certificate(id),
        private_key: pki.key(id),
        saes: Vec::new(),
        offer: Offer::default(),
        faults: Vec::new(),
        journal: None,
    };
    let (a, _b) = kme::Kme::start_both(&config("kme-a"), &config("kme-b"), &LinkConfig::default())
        .await
        .unwrap();
    let pair = pair().await;
    let client = KmsConfig {
        endpoints: vec![a.url()],
        ca: pki.certificate("ca"),
        certificate: pki.certificate("alice"),
        private_key: pki.key("alice"),
        ..pair.client("sae-n3iwf")
    };
    let error = once(client.clone()).status(&sae("bob")).await.unwrap_err();
    assert!(matches!(&error, QkdError::Tls(_)), "{error:?}");
    let pinned = KmsConfig {
        kme_id: vec!["kme-a".into()],
        ..client
    };
    once(pinned).status(&sae("bob")).await.unwrap();
}

#[tokio::test]
async fn a_client_nobody_vouches_for_is_refused() {
    let pair = pair().await;
    // A certificate of another CA: refused by TLS.
    let dir = tempfile::tempdir().unwrap();
    let rogue = Pki::open(dir.path(), 30).unwrap();
    rogue.sae("sae-n3iwf").unwrap();
    let config = KmsConfig {
        certificate: rogue.certificate("sae-n3iwf"),
        private_key: rogue.key("sae-n3iwf"),
        ..pair.client("sae-n3iwf")
    };
    let error = once(config).status(&ue()).await.unwrap_err();
    assert!(matches!(error, QkdError::Tls(_)), "{error:?}");
    // One of the right CA for an SAE of another site: 401.
    pair.pki().sae("sae-stranger").unwrap();
    let config = pair.client("sae-stranger");
    let error = once(config).status(&ue()).await.unwrap_err();
    assert!(matches!(error, QkdError::Unauthorized), "{error:?}");
    assert_eq!(pair.a.counters().unauthorized, 1);
}

#[tokio::test]
async fn keys_of_others_are_not_given_away() {
    let pair = Pair::start(Setup {
        saes_b: vec!["sae-ue-1".into(), "sae-ue-2".into()],
        ..Setup::default()
    })
    .await
    .unwrap();
    let keys = kms(&pair.client("sae-n3iwf"))
        .enc_keys(&ue(), 1, 256)
        .await
        .unwrap();
    tokio::time::sleep(50 * MS).await;
    let other = once(pair.client("sae-ue-2"));
    assert!(matches!(
        other.dec_keys(&n3iwf(), &ids(&keys)).await,
        Err(QkdError::Unauthorized)
    ));
    let slave = once(pair.client("sae-ue-1"));
    assert!(matches!(
        slave.dec_keys(&sae("sae-else"), &ids(&keys)).await,
        Err(QkdError::Unauthorized)
    ));
    assert!(slave.dec_keys(&n3iwf(), &ids(&keys)).await.is_ok());
}

#[tokio::test]
async fn configuration_mistakes_are_named() {
    let pair = pair().await;
    let good = pair.client("sae-n3iwf");
    let complaint = |config: KmsConfig| Kms::new(&config).err().unwrap().to_string();
    let text = complaint(KmsConfig {
        ca: "/nonexistent/ca.pem".into(),
        ..good.clone()
    });
    assert!(text.starts_with("ca: /nonexistent/ca.pem: "), "{text}");
    let text = complaint(KmsConfig {
        private_key: good.certificate.clone(),
        ..good.clone()
    });
    assert!(
        text.starts_with("privateKey: ") && text.contains("no PEM private key"),
        "{text}"
    );
    let text = complaint(KmsConfig {
        certificate: good.private_key.clone(),
        ..good.clone()
    });
    assert!(text.starts_with("certificate: "), "{text}");
    let text = complaint(KmsConfig {
        private_key: pair.pki().key("sae-ue-1"),
        ..good.clone()
    });
    assert!(text.starts_with("TLS: "), "another's key: {text}");
    let text = complaint(KmsConfig {
        endpoints: vec!["http://127.0.0.1".into()],
        ..good.clone()
    });
    assert!(text.contains("only https"), "{text}");
    let text = complaint(KmsConfig {
        endpoints: Vec::new(),
        ..good
    });
    assert!(text.starts_with("endpoints: "), "{text}");
}
