use serde_json::json;

use super::*;

/// One UE that sent `packets` of 100 octets after `seconds` of uptime.
fn overview(seconds: u64, packets: u64, state: &str) -> Overview {
    serde_json::from_value(json!({
        "status": {
            "version": "0.1.0", "uptime": seconds, "ready": true, "sae_id": "sae-n3iwf",
            "amfs": [{ "address": "amf-1", "state": "ready", "name": "", "capacity": 1, "ues": 1 }],
            "kms": [{ "url": "https://kme", "healthy": true, "failures": 0, "error": null }],
            "ike_sas": 1, "half_open": 0, "ues": 3, "addresses_taken": 1,
            "dataplane": "kernel", "interface": null, "bpf": null
        },
        "uptime_ms": seconds * 1000,
        "ike_sas": [["established", "qkd-native", 1]],
        "child_sas_control": 1, "child_sas_user": 1,
        "ues": { "up": 1, "closed": 0 }, "sessions": { "up": 1 },
        "counts": {
            "attaches": { "established": seconds, "no_keys": 2 }, "established": {}, "closed": {},
            "ngap_in": 0, "ngap_out": 0, "rekeys": {}, "phase_us": {}
        },
        "retransmissions": 4, "cookies_sent": 5,
        "keys": {
            "fetched": seconds * 7, "used": seconds * 7 - 1, "lost": 0, "held": 1, "uncertain": 0,
            "balanced": true
        },
        "stock": { "stored": 700, "capacity": 1000, "age": 3 },
        "traffic": {
            "control_in": { "packets": 0, "bytes": 0 }, "control_out": { "packets": 0, "bytes": 0 },
            "user_in": { "packets": packets, "bytes": packets * 100 },
            "user_out": { "packets": 0, "bytes": 0 },
            "refused_replay": 0, "refused_integrity": 0,
            "relay_up": { "packets": 0, "bytes": 0 }, "relay_down": { "packets": 0, "bytes": 0 },
            "drops": {
                "no_session": 1, "qfi_not_allowed": 0, "wrong_address": 0, "malformed": 2,
                "wrong_sa": 0, "too_big": 0, "rate": 0, "send_failed": 0
            }
        },
        "rows": [
            { "ue": 1, "state": "up", "remote": "192.0.2.9:4500", "inner": null, "sessions": 0,
              "up": { "packets": 0, "bytes": 0 }, "down": { "packets": 0, "bytes": 0 } },
            { "ue": 7, "state": state, "remote": "192.0.2.10:500", "inner": "10.0.0.2",
              "sessions": 1, "up": { "packets": packets, "bytes": packets * 100 },
              "down": { "packets": 0, "bytes": 0 } }
        ]
    }))
    .unwrap()
}

#[test]
fn the_view_shows_rates_and_puts_the_busy_first() {
    let (before, now) = (overview(10, 1000, "up"), overview(12, 3000, "up"));
    assert_eq!(
        view(&now, Some(&before), 120, 40).join("\n"),
        "\
n3iwf-user 0.1.0  up 12s  ready  AMF 1/1  KMS 1/1
UEs      1 up; PDU sessions 1 up
IKE SAs  1 established qkd-native; 0 half-open; Child SAs 1 control, 1 user
attaches 12 established, 1.0/s; failed: no_keys 2; 4 retransmissions, 5 cookies
keys     fetched 84 = used 83 + lost 0 + held 1; 7.0/s
stock    [##############------] 700 of 1000 keys, 3s ago; lasts 100s at this rate without any new
user     up 1000 pkt/s 800.0 kbit/s, down 0 pkt/s 0.0 bit/s; dropped 3 (0/s)

      UE STATE          INNER           REMOTE                SESS  UP pkt/s         UP DOWN pkt/s       DOWN
       7 up             10.0.0.2        192.0.2.10:500           1      1000 800.0 kbit/s          0  0.0 bit/s
       1 up             -               192.0.2.9:4500           0         0  0.0 bit/s          0  0.0 bit/s
and 1 UEs more"
    );
    let small = view(&now, None, 20, 3);
    assert_eq!(small.len(), 3);
    assert!(small.iter().all(|line| line.chars().count() <= 20));
}

#[test]
fn an_account_that_does_not_add_up_and_a_silent_kms_are_told() {
    let mut now = overview(12, 0, "up");
    now.keys.balanced = false;
    now.stock = None;
    now.status.ready = false;
    let text = view(&now, None, 200, 40).join("\n");
    assert!(text.contains("DOES NOT ADD UP"), "{text}");
    assert!(text.contains("stock    unknown"), "{text}");
    assert!(text.contains("NOT READY"), "{text}");
}

#[test]
fn rates_of_a_restarted_daemon_are_none() {
    let (before, now) = (overview(100, 5000, "up"), overview(2, 10, "up"));
    assert_eq!(Rates::between(&before, &now), Rates::default());
    assert_eq!(events(&before, &now), [json!({ "event": "restarted" })]);
}

#[test]
fn changes_are_told_once() {
    let before = overview(10, 0, "authenticating");
    let mut now = overview(11, 0, "up");
    now.rows.remove(0);
    now.status.amfs[0].state = "down".to_owned();
    now.status.kms[0]["healthy"] = json!(false);
    now.status.kms[0]["error"] = json!("no connection");
    assert_eq!(
        events(&before, &now),
        [
            json!({ "event": "ue", "ue": 7, "state": "up", "sessions": 1 }),
            json!({ "event": "ue", "ue": 1, "state": "gone" }),
            json!({ "event": "amf", "amf": "amf-1", "state": "down" }),
            json!({ "event": "kms", "url": "https://kme", "healthy": false, "error": "no connection" }),
        ]
    );
    assert!(events(&now, &now).is_empty());
    let line = record(&now, Some(&Rates::between(&before, &now)));
    assert_eq!(line["event"], "interval");
    assert_eq!(line["rates"]["interval"], 1.0);
    assert_eq!(line["overview"]["keys"]["fetched"], 77);
}

#[test]
fn control_characters_of_a_peer_do_not_reach_the_terminal() {
    let now = overview(12, 0, "up\u{1b}[2J");
    let text = view(&now, None, 200, 40).join("");
    assert!(!text.contains('\u{1b}'));
}
