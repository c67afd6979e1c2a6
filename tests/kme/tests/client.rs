//! The `qkd` client against a KME pair in this process, over real sockets and real TLS.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of a test: to panic is to report"
)]

#[path = "client/trust.rs"]
mod trust;

use std::time::{Duration, Instant};

use kme::{
    Kme, Pair, Setup,
    certs::KmeName,
    config::{KmeConfig, LinkConfig, Offer},
    fault::{Fault, Kind, On},
};
use qkd::{
    KeyId, Kms, KmsConfig, Malformed, Method, QkdError, QkdKey, RetryConfig, SaeId, account::Totals,
};

const MS: Duration = Duration::from_millis(1);

fn sae(name: &str) -> SaeId {
    name.parse().unwrap()
}

fn n3iwf() -> SaeId {
    sae("sae-n3iwf")
}

fn ue() -> SaeId {
    sae("sae-ue-1")
}

async fn pair() -> Pair {
    Pair::start(Setup::default()).await.unwrap()
}

fn kms(config: &KmsConfig) -> Kms {
    Kms::new(config).unwrap()
}

/// One attempt, so that a test sees the first error.
fn once(mut config: KmsConfig) -> Kms {
    config.retry.attempts = 1;
    config.retry.replication = MS;
    kms(&config)
}

fn ids(keys: &[QkdKey]) -> Vec<KeyId> {
    keys.iter().map(|key| key.id).collect()
}

fn same(a: &[QkdKey], b: &[QkdKey]) -> bool {
    ids(a) == ids(b) && a.iter().zip(b).all(|(a, b)| a.secret == b.secret)
}

#[tokio::test]
async fn both_sides_get_the_same_keys_once() {
    for method in [Method::Post, Method::Get] {
        let pair = pair().await;
        let client = |sae| {
            kms(&KmsConfig {
                method,
                ..pair.client(sae)
            })
        };
        let (master, slave) = (client("sae-n3iwf"), client("sae-ue-1"));

        let fetched = master.enc_keys(&ue(), 7, 256).await.unwrap();
        assert_eq!(fetched.len(), 7);
        assert!(fetched.iter().all(|key| key.secret.len() == 32));
        let mut backwards = ids(&fetched);
        backwards.reverse();
        let mut collected = slave.dec_keys(&n3iwf(), &backwards).await.unwrap();
        assert_eq!(ids(&collected), backwards, "in the order asked for");
        collected.reverse();
        assert!(same(&fetched, &collected));

        let (a, b) = (pair.a.counters(), pair.b.counters());
        assert_eq!((a.delivered_enc, a.delivered_dec), (7, 0));
        assert_eq!((b.delivered_enc, b.delivered_dec, b.stored), (0, 7, 0));
        for kms in [&master, &slave] {
            let held = Totals {
                fetched: 7,
                held: 7,
                ..Totals::default()
            };
            assert_eq!(kms.account().total(), held);
        }

        let again = once(pair.client("sae-ue-1"));
        assert!(matches!(
            again.dec_keys(&n3iwf(), &backwards[..1]).await,
            Err(QkdError::KeysNotFound)
        ));
    }
}

#[tokio::test]
async fn either_side_may_be_master() {
    let pair = pair().await;
    let keys = kms(&pair.client("sae-ue-1"))
        .enc_keys(&n3iwf(), 2, 512)
        .await
        .unwrap();
    let collected = kms(&pair.client("sae-n3iwf"))
        .dec_keys(&ue(), &ids(&keys))
        .await
        .unwrap();
    assert!(same(&keys, &collected));
    assert_eq!(collected[0].secret.len(), 64);
}

#[tokio::test]
async fn status_tells_both_ends_and_the_offer() {
    let pair = pair().await;
    let status = kms(&pair.client("sae-n3iwf")).status(&ue()).await.unwrap();
    assert_eq!(status.source_kme_id, "kme-a");
    assert_eq!(status.target_kme_id, "kme-b");
    assert_eq!(status.master_sae_id, n3iwf());
    assert_eq!(status.slave_sae_id, ue());
    assert_eq!((status.key_size, status.max_key_per_request), (256, 128));
    assert_eq!(status.stored_key_count, 10_000_000 / 256);
}

#[tokio::test]
async fn each_request_is_observed_and_the_stock_is_known() {
    let pair = pair().await;
    let master = once(pair.client("sae-n3iwf"));
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&seen);
    master.observe(move |seen| {
        assert!(seen.took > Duration::ZERO);
        log.lock().unwrap().push((seen.operation, seen.outcome));
    });
    master.refresh_stock(Duration::ZERO).await;
    assert_eq!(master.stock(), None, "no peer is known yet");
    let keys = master.enc_keys(&ue(), 2, 256).await.unwrap();
    let before = master.stock().unwrap();
    assert!(before.stored > 0 && before.stored <= before.capacity);
    master.refresh_stock(Duration::from_secs(60)).await;
    assert_eq!(
        seen.lock().unwrap()[..],
        [("status", "ok"), ("enc_keys", "ok")]
    );
    master.refresh_stock(Duration::ZERO).await;
    assert!(master.stock().unwrap().age <= before.age + Duration::from_secs(5));
    let slave = once(pair.client("sae-ue-1"));
    let log = std::sync::Arc::clone(&seen);
    slave.observe(move |seen| log.lock().unwrap().push((seen.operation, seen.outcome)));
    let unknown = KeyId::from_octets([7; 16]);
    slave.dec_keys(&n3iwf(), &[unknown]).await.unwrap_err();
    // Asks again while the keys are on their way to it.
    let slave = kms(&pair.client("sae-ue-1"));
    let log = std::sync::Arc::clone(&seen);
    slave.observe(move |seen| log.lock().unwrap().push((seen.operation, seen.outcome)));
    slave.dec_keys(&n3iwf(), &ids(&keys)).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen[2], ("status", "ok"));
    assert_eq!(seen[3], ("dec_keys", "keys_not_found"));
    assert_eq!(*seen.last().unwrap(), ("dec_keys", "ok"));
}

#[tokio::test]
async fn requests_are_split_by_the_limit_of_the_kme() {
    let pair = Pair::start(Setup {
        offer: Offer {
            max_key_per_request: 3,
            ..Offer::default()
        },
        ..Setup::default()
    })
    .await
    .unwrap();
    let master = kms(&pair.client("sae-n3iwf"));
    let keys = master.enc_keys(&ue(), 13, 256).await.unwrap();
    assert_eq!(keys.len(), 13);
    assert_eq!(pair.a.counters().requests, 1 + 5, "status, then 3+3+3+3+1");
    master.enc_keys(&ue(), 4, 256).await.unwrap();
    assert_eq!(pair.a.counters().requests, 6 + 2, "the limit is remembered");
    master.enc_keys(&ue(), 1, 256).await.unwrap();
    assert_eq!(pair.a.counters().requests, 8 + 1);

    let limited = kms(&KmsConfig {
        max_keys_per_request: Some(2),
        ..pair.client("sae-n3iwf")
    });
    limited.enc_keys(&ue(), 4, 256).await.unwrap();
    assert_eq!(pair.a.counters().requests, 9 + 2, "no status needed");
    let collected = kms(&pair.client("sae-ue-1"))
        .dec_keys(&n3iwf(), &ids(&keys))
        .await
        .unwrap();
    assert!(same(&keys, &collected));
}

#[tokio::test]
async fn connections_are_kept() {
    let pair = pair().await;
    let master = kms(&pair.client("sae-n3iwf"));
    for _ in 0..20 {
        master.enc_keys(&ue(), 2, 256).await.unwrap();
    }
    // Refusals keep the connection as well.
    for _ in 0..3 {
        assert!(matches!(
            master.enc_keys(&ue(), 1, 8).await,
            Err(QkdError::BadRequest { .. })
        ));
    }
    // The status that tells how many keys a request may ask for has a connection of its own.
    let counters = pair.a.counters();
    assert_eq!((counters.connections, counters.requests), (2, 24));
    assert_eq!(counters.bad_request, 3);
}

#[tokio::test]
async fn a_connection_is_there_before_it_is_needed() {
    let pair = pair().await;
    let mut config = pair.client("sae-n3iwf");
    config.max_keys_per_request = Some(4);
    let master = kms(&config);
    for _ in 0..3 {
        master.ready().await;
    }
    // The KME counts a connection when it has accepted it, which may be a little later.
    let counted = async {
        while pair.a.counters().connections == 0 {
            tokio::time::sleep(MS).await;
        }
    };
    tokio::time::timeout(5000 * MS, counted).await.unwrap();
    assert_eq!(pair.a.counters().requests, 0);
    master.enc_keys(&ue(), 2, 256).await.unwrap();
    master.ready().await;
    let counters = pair.a.counters();
    assert_eq!((counters.connections, counters.requests), (1, 1));
}

#[tokio::test]
async fn many_requests_at_once_share_a_few_new_connections() {
    const REQUESTS: u64 = 48;
    let pair = pair().await;
    let master = kms(&pair.client("sae-n3iwf"));
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..REQUESTS {
        let master = master.clone();
        all.spawn(async move { master.enc_keys(&ue(), 2, 256).await.unwrap() });
    }
    let keys = all.join_all().await;
    assert_eq!(keys.len() as u64, REQUESTS);
    let counters = pair.a.counters();
    assert_eq!(
        counters.requests,
        REQUESTS + 1,
        "one status for all of them"
    );
    // Each would have one of its own if none waited for those of others.
    assert!(
        counters.connections <= REQUESTS / 2,
        "{} connections",
        counters.connections
    );
}

#[tokio::test]
async fn a_connection_that_nobody_gets_is_waited_for_so_long_and_no_longer() {
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    let pair = pair().await;
    let mut config = pair.client("sae-n3iwf");
    config.endpoints = vec![format!("https://{}", silent.local_addr().unwrap())];
    config.connect_timeout = 200 * MS;
    config.max_keys_per_request = Some(4);
    let master = once(config);
    let begun = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let master = master.clone();
        all.spawn(async move { master.enc_keys(&ue(), 1, 256).await.unwrap_err() });
    }
    for error in all.join_all().await {
        assert!(matches!(error, QkdError::Timeout), "{error:?}");
    }
    assert!(
        begun.elapsed() < 8 * 200 * MS,
        "they did not wait one after the other"
    );
    assert_eq!(master.account().total().uncertain, 0, "nothing was sent");
}

#[tokio::test]
async fn the_limit_of_one_sae_is_tried_for_another() {
    let pair = pair().await;
    let pki = pair.pki();
    // Another KME pair of the same site, with less to a request.
    let config = |id: &str, sae: &str| {
        pki.kme(&KmeName {
            id: id.into(),
            addresses: vec!["127.0.0.1".into()],
        })
        .unwrap();
        KmeConfig {
            id: id.into(),
            listen: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
            ca: pki.certificate("ca"),
            certificate: pki.certificate(id),
            private_key: pki.key(id),
            saes: vec![sae.into()],
            offer: Offer {
                max_key_per_request: 3,
                ..Offer::default()
            },
            faults: Vec::new(),
            journal: None,
        }
    };
    let (c, _d) = Kme::start_both(
        &config("kme-c", "sae-n3iwf"),
        &config("kme-d", "sae-ue-2"),
        &LinkConfig::default(),
    )
    .await
    .unwrap();
    let mut client = pair.client("sae-n3iwf");
    client.endpoints.push(c.url());
    let master = kms(&client);

    master.enc_keys(&ue(), 5, 256).await.unwrap();
    assert_eq!(pair.a.counters().requests, 2, "status and keys");
    pair.a.stop();
    let keys = master.enc_keys(&sae("sae-ue-2"), 5, 256).await.unwrap();
    assert_eq!(keys.len(), 5);
    let counters = c.counters();
    assert_eq!(counters.bad_request, 1, "more than it gives at a time");
    assert_eq!(counters.requests, 1 + 1 + 2, "refusal, status, then 3+2");
    // What it has said itself is known now.
    master.enc_keys(&sae("sae-ue-2"), 5, 256).await.unwrap();
    assert_eq!(c.counters().requests, 4 + 2);
    assert!(master.account().total().balanced());
}

#[tokio::test]
async fn replication_delay_is_waited_for() {
    let pair = Pair::start(Setup {
        link: LinkConfig {
            delay: 300 * MS,
            ..LinkConfig::default()
        },
        ..Setup::default()
    })
    .await
    .unwrap();
    let keys = kms(&pair.client("sae-n3iwf"))
        .enc_keys(&ue(), 7, 256)
        .await
        .unwrap();
    let impatient = once(pair.client("sae-ue-1"));
    assert!(matches!(
        impatient.dec_keys(&n3iwf(), &ids(&keys)).await,
        Err(QkdError::KeysNotFound)
    ));
    let started = Instant::now();
    let slave = kms(&pair.client("sae-ue-1"));
    let collected = slave.dec_keys(&n3iwf(), &ids(&keys)).await.unwrap();
    assert!(same(&keys, &collected));
    assert!(started.elapsed() > 100 * MS && started.elapsed() < 1500 * MS);
    assert!(pair.b.counters().bad_request >= 2, "asked more than once");
    assert!(slave.health()[0].healthy, "not the endpoint's fault");
}

#[tokio::test]
async fn one_sided_loss_ends_within_its_bound() {
    let pair = pair().await;
    pair.a.fault(Fault::new(Kind::Loss).times(1));
    let master = kms(&pair.client("sae-n3iwf"));
    let lost = master.enc_keys(&ue(), 1, 256).await.unwrap();
    let kept = master.enc_keys(&ue(), 1, 256).await.unwrap();
    let mut config = pair.client("sae-ue-1");
    config.retry.replication = 400 * MS;
    let slave = kms(&config);
    let both = [lost[0].id, kept[0].id];
    let started = Instant::now();
    assert!(matches!(
        slave.dec_keys(&n3iwf(), &both).await,
        Err(QkdError::KeysNotFound)
    ));
    assert!(started.elapsed() < 1500 * MS, "{:?}", started.elapsed());
    assert!(started.elapsed() >= 400 * MS);
    assert_eq!(pair.a.counters().lost, 1);
    // All or nothing: the key that did arrive is still there.
    assert_eq!(pair.b.counters().delivered_dec, 0);
    let collected = slave.dec_keys(&n3iwf(), &both[1..]).await.unwrap();
    assert!(same(&kept, &collected));
}

/// Each fault at the KME, the operation it strikes, and the error the caller sees.
#[tokio::test]
async fn each_fault_has_its_error() {
    let pair = pair().await;
    let master = once(KmsConfig {
        timeout: 400 * MS,
        ..pair.client("sae-n3iwf")
    });
    type Test = fn(&QkdError) -> bool;
    let slow = |kind| Fault::new(kind).delay(600 * MS);
    let cases: [(Fault, Test); 13] = [
        (
            Fault::new(Kind::Unavailable),
            |e| matches!(e, QkdError::Unavailable { message } if message == "the KME is not available"),
        ),
        (
            Fault::new(Kind::Empty),
            |e| matches!(e, QkdError::Unavailable { message } if message == "not enough keys"),
        ),
        (
            Fault::new(Kind::LinkDown),
            |e| matches!(e, QkdError::Unavailable { message } if message == "the QKD link is down"),
        ),
        (Fault::new(Kind::Unauthorized), |e| {
            matches!(e, QkdError::Unauthorized)
        }),
        (Fault::new(Kind::Status), |e| {
            matches!(e, QkdError::Unexpected { status: 502 })
        }),
        (slow(Kind::Latency), |e| matches!(e, QkdError::Timeout)),
        (slow(Kind::Drip), |e| matches!(e, QkdError::Timeout)),
        (Fault::new(Kind::LostResponse), |e| {
            matches!(e, QkdError::Connect(_))
        }),
        (Fault::new(Kind::Malformed), |e| {
            matches!(e, QkdError::Malformed(Malformed::Json { .. }))
        }),
        (Fault::new(Kind::Oversized), |e| {
            matches!(e, QkdError::Malformed(Malformed::TooLong { .. }))
        }),
        (Fault::new(Kind::DuplicateIds), |e| {
            matches!(e, QkdError::Malformed(Malformed::Duplicate(_)))
        }),
        (Fault::new(Kind::MissingKey), |e| {
            matches!(
                e,
                QkdError::Malformed(Malformed::Count { got: 1, asked: 2 })
            )
        }),
        (Fault::new(Kind::WrongSize), |e| {
            matches!(
                e,
                QkdError::Malformed(Malformed::Size {
                    bits: 248,
                    asked: 256,
                    ..
                })
            )
        }),
    ];
    master.status(&ue()).await.unwrap();
    for (fault, expected) in cases {
        pair.a.fault(fault.clone().on(On::EncKeys));
        let error = master.enc_keys(&ue(), 2, 256).await.unwrap_err();
        assert!(expected(&error), "{fault:?}: {error:?}");
        pair.a.clear_faults();
        let keys = master.enc_keys(&ue(), 2, 256).await.unwrap();
        for key in keys {
            master.account().used(&key.id, "test", "1").unwrap();
        }
    }
    let total = master.account().total();
    assert!(total.balanced());
    assert_eq!((total.fetched, total.used, total.held), (26, 26, 0));
    // 502, latency, drip, lost response and five unusable bodies: what may have left the KME.
    assert_eq!(total.uncertain, 2 * 9);
    assert_eq!(pair.a.counters().delivered_enc, 26 + 18);
}

#[tokio::test]
async fn dec_keys_refuses_other_keys_than_asked_for() {
    let pair = pair().await;
    let keys = kms(&pair.client("sae-n3iwf"))
        .enc_keys(&ue(), 2, 256)
        .await
        .unwrap();
    tokio::time::sleep(50 * MS).await;
    pair.b.fault(Fault::new(Kind::ForeignIds));
    let slave = once(pair.client("sae-ue-1"));
    assert!(matches!(
        slave.dec_keys(&n3iwf(), &ids(&keys)).await,
        Err(QkdError::Malformed(Malformed::Foreign(_)))
    ));
    assert_eq!(slave.account().total().fetched, 0);
}

#[tokio::test]
async fn passing_faults_are_retried() {
    let pair = pair().await;
    let master = kms(&pair.client("sae-n3iwf"));
    pair.a.fault(Fault::new(Kind::Unavailable).times(2));
    assert_eq!(master.enc_keys(&ue(), 1, 256).await.unwrap().len(), 1);
    assert!(master.health()[0].healthy);
    assert_eq!(pair.a.counters().unavailable, 2);
    pair.a.fault(Fault::new(Kind::Refuse).times(1));
    assert_eq!(master.enc_keys(&ue(), 1, 256).await.unwrap().len(), 1);
}

#[tokio::test]
async fn refusals_are_not_retried() {
    let pair = pair().await;
    let master = kms(&pair.client("sae-n3iwf"));
    let error = master.enc_keys(&sae("sae-nobody"), 1, 256).await;
    assert!(
        matches!(&error, Err(QkdError::BadRequest { message, details })
            if message == "unknown slave SAE" && details == &["slave_SAE_ID: sae-nobody"]),
        "{error:?}"
    );
    assert_eq!(pair.a.counters().requests, 1);
    assert!(matches!(
        master.dec_keys(&ue(), &[]).await,
        Err(QkdError::Request(_))
    ));
    let id = KeyId::from_octets([1; 16]);
    assert!(matches!(
        master.dec_keys(&ue(), &[id, id]).await,
        Err(QkdError::Request(_))
    ));
    for (number, size) in [(0, 256), (2000, 256), (1, 0), (1, 255)] {
        assert!(matches!(
            master.enc_keys(&ue(), number, size).await,
            Err(QkdError::Request(_))
        ));
    }
    assert!(matches!(
        master.enc_keys(&sae(".."), 1, 256).await,
        Err(QkdError::Request(_))
    ));
    assert_eq!(pair.a.counters().requests, 1, "none of these were sent");
}

#[tokio::test]
async fn keys_of_a_call_that_fails_half_way_are_booked_as_lost() {
    let pair = Pair::start(Setup {
        offer: Offer {
            max_key_per_request: 2,
            ..Offer::default()
        },
        link: LinkConfig {
            rate: 0,
            buffer: 5 * 256,
            ..LinkConfig::default()
        },
        ..Setup::default()
    })
    .await
    .unwrap();
    let master = once(pair.client("sae-n3iwf"));
    assert!(matches!(
        master.enc_keys(&ue(), 7, 256).await,
        Err(QkdError::Unavailable { .. })
    ));
    let total = master.account().total();
    assert!(total.balanced());
    assert_eq!((total.fetched, total.lost, total.held), (4, 4, 0));
    assert_eq!(pair.a.counters().delivered_enc, 4);
}

#[tokio::test]
async fn a_dropped_call_is_booked_too() {
    let pair = pair().await;
    let master = kms(&pair.client("sae-n3iwf"));
    master.status(&ue()).await.unwrap();
    pair.a
        .fault(Fault::new(Kind::Latency).delay(Duration::from_secs(1)));
    let slave = ue();
    let call = master.enc_keys(&slave, 3, 256);
    assert!(tokio::time::timeout(200 * MS, call).await.is_err());
    assert_eq!(master.account().total().uncertain, 3);
    assert_eq!(pair.a.counters().delivered_enc, 3);
}

#[tokio::test]
async fn the_next_endpoint_takes_over() {
    let (gone, alive) = (pair().await, pair().await);
    // Both pairs' CAs, as one file of trusted roots, and the SAE's certificate of the second.
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let mut roots = std::fs::read(gone.pki().certificate("ca")).unwrap();
    roots.extend(std::fs::read(alive.pki().certificate("ca")).unwrap());
    std::fs::write(&ca, roots).unwrap();
    let mut config = alive.client("sae-n3iwf");
    config.ca = ca;
    config.endpoints.insert(0, gone.a.url());
    gone.a.stop();

    let master = kms(&config);
    assert_eq!(master.enc_keys(&ue(), 1, 256).await.unwrap().len(), 1);
    let health = master.health();
    assert_eq!((health[0].healthy, health[1].healthy), (false, true));
    assert_eq!(health[0].url, gone.a.url());
    assert!(
        health[0]
            .error
            .as_deref()
            .unwrap()
            .contains("no connection")
    );
    // The failed endpoint comes last now: no time is lost on it.
    let failures = health[0].failures;
    master.enc_keys(&ue(), 1, 256).await.unwrap();
    assert_eq!(master.health()[0].failures, failures);
    assert_eq!(alive.a.counters().delivered_enc, 2);
}

/// The first endpoint is preferred again once a probe found it working, and no caller waited for that.
#[tokio::test]
async fn an_endpoint_that_works_again_is_preferred_again() {
    let pair = pair().await;
    let mut config = pair.client("sae-n3iwf");
    config.retry.cooldown = 20 * MS;
    // Two ways to one KME: the second has a name of its own, so that faults of the first are told apart.
    config.endpoints.push(format!("{}/", pair.a.url()));
    let master = kms(&config);
    pair.a
        .fault(Fault::new(Kind::Unavailable).on(On::EncKeys).times(1));
    assert_eq!(master.enc_keys(&ue(), 1, 256).await.unwrap().len(), 1);
    let health = master.health();
    assert_eq!((health[0].healthy, health[1].healthy), (false, true));
    assert!(health[0].probe_in_ms.is_some());
    // Each call may start a probe; its end is not waited for.
    for _ in 0..500 {
        if master.health()[0].healthy {
            break;
        }
        tokio::time::sleep(10 * MS).await;
        master.enc_keys(&ue(), 1, 256).await.unwrap();
    }
    assert!(master.health().iter().all(|endpoint| endpoint.healthy));
    assert!(master.account().total().balanced());
}

#[tokio::test]
async fn nobody_answers() {
    let pair = pair().await;
    let mut config = pair.client("sae-n3iwf");
    pair.a.stop();
    config.retry = RetryConfig {
        attempts: 3,
        initial: 10 * MS,
        ..config.retry
    };
    let master = kms(&config);
    let error = master.enc_keys(&ue(), 1, 256).await.unwrap_err();
    assert!(matches!(error, QkdError::Connect(_)), "{error:?}");
    assert_eq!(master.health()[0].failures, 3);
    assert_eq!(master.account().total().uncertain, 0, "nothing was sent");
}
