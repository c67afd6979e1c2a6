//! Reports as text for people: the shape of `swanctl --list-sas`, with QKD and 5G beside it.

use dataplane::{Traffic, relay::Path};

use crate::report::{ChildSa, Counters, IkeSa, Keys, Sas, Status, Ues};

/// `n3iwfctl status`.
pub fn status(status: &Status) -> String {
    let mut out = String::new();
    line(
        &mut out,
        &format!(
            "n3iwf-user {}, up {}s, {}",
            status.version,
            status.uptime,
            if status.ready {
                "ready"
            } else {
                "NOT READY: no AMF"
            }
        ),
    );
    for amf in &status.amfs {
        let mut text = format!("amf     {}  {}", amf.address, amf.state);
        if !amf.name.is_empty() {
            text += &format!("  {} (capacity {})", amf.name, amf.capacity);
        }
        text += &format!("  {} UEs", amf.ues);
        if let Some(overload) = &amf.overload {
            text += &format!("  OVERLOADED: {overload}");
        }
        if amf.turned_away > 0 {
            text += &format!("  {} turned away", amf.turned_away);
        }
        for guami in &amf.withdrawn {
            text += &format!("  withdrawn: {guami}");
        }
        if let Some(trouble) = &amf.trouble {
            text += &format!("  [{trouble}]");
        }
        line(&mut out, &text);
    }
    for kms in &status.kms {
        let word = |key: &str| {
            kms.get(key)
                .and_then(serde_json::Value::as_str)
                .unwrap_or("")
        };
        let healthy = kms.get("healthy").and_then(serde_json::Value::as_bool);
        let state = if healthy == Some(false) {
            "FAILING"
        } else {
            "ok"
        };
        line(
            &mut out,
            format!("kms     {}  {state}  {}", word("url"), word("error")).trim_end(),
        );
    }
    line(
        &mut out,
        &format!(
            "sae     {}\nplane   {}  interface {}  ebpf {}",
            status.sae_id.as_deref().unwrap_or("-"),
            status.dataplane,
            status.interface.as_deref().unwrap_or("-"),
            status.bpf.as_deref().unwrap_or("-"),
        ),
    );
    line(
        &mut out,
        &format!(
            "{} IKE SAs ({} half-open), {} UEs, {} inner addresses taken",
            status.ike_sas, status.half_open, status.ues, status.addresses_taken
        ),
    );
    out
}

/// `n3iwfctl sas`.
pub fn sas(report: &Sas) -> String {
    let mut out = String::new();
    for sa in &report.sas {
        ike_sa(&mut out, sa);
        for child in &sa.child_sas {
            child_sa(&mut out, child);
        }
    }
    if report.sas.is_empty() {
        line(&mut out, "no IKE SAs");
    }
    out
}

fn ike_sa(out: &mut String, sa: &IkeSa) {
    let peer = sa.peer_sae.as_deref().unwrap_or(&sa.remote_id);
    line(
        out,
        &format!(
            "{peer}: #{}, {}, IKEv2, {}_i {}_r*",
            sa.uniqueid, sa.state, sa.initiator_spi, sa.responder_spi
        ),
    );
    let nat = |behind: bool| if behind { " (NAT)" } else { "" };
    line(
        out,
        &format!(
            "  local  '{}' @ {}[{}]{}",
            sa.local_id,
            sa.local.ip(),
            sa.local.port(),
            nat(sa.nat_local)
        ),
    );
    let inner = sa
        .inner
        .map(|inner| format!(" [{inner}]"))
        .unwrap_or_default();
    line(
        out,
        &format!(
            "  remote '{}' @ {}[{}]{inner}{}",
            sa.remote_id,
            sa.remote.ip(),
            sa.remote.port(),
            nat(sa.nat_remote)
        ),
    );
    line(
        out,
        &format!("  {}", sa.suite.as_deref().unwrap_or("no suite yet")),
    );
    if let Some(established) = sa.established {
        line(
            out,
            &format!(
                "  established {established}s ago, {} retransmissions{}",
                sa.retransmits,
                if sa.mobike { ", MOBIKE" } else { "" }
            ),
        );
    }
    let mut keys = format!("  {}: {}", sa.mode, sa.policy);
    if let Some(method) = &sa.key_exchange {
        keys += &format!(", key exchange {method}");
    }
    if let Some(kme) = &sa.kme {
        let ids = list(&sa.key_ids);
        keys += &format!(", kme {kme}, keys {ids}, held {}", sa.held_keys);
    }
    line(out, &keys);
    if let Some(ran) = sa.ran_ue_ngap_id {
        let amf = sa
            .amf_ue_ngap_id
            .map_or_else(|| "-".to_owned(), |id| id.to_string());
        line(
            out,
            &format!("  5g: RAN-UE-NGAP-ID {ran}, AMF-UE-NGAP-ID {amf}"),
        );
    }
}

fn child_sa(out: &mut String, child: &ChildSa) {
    let reqid = child
        .reqid
        .map_or_else(|| "-".to_owned(), |reqid| reqid.to_string());
    line(
        out,
        &format!(
            "  {}: #{}, reqid {reqid}, {}, TUNNEL, ESP:{}",
            child.name,
            child.uniqueid,
            child.state,
            child.suite.as_deref().unwrap_or("-")
        ),
    );
    if let Some(age) = child.age {
        line(out, &format!("    installed {age}s ago"));
    }
    let if_id = child
        .if_id
        .map(|id| format!(" (-|0x{id:08x})"))
        .unwrap_or_default();
    let traffic = |name: &str, spi: &str, traffic: &Traffic| {
        format!(
            "    {name:3} {spi}{if_id}, {:>10} bytes, {:>7} packets",
            traffic.bytes, traffic.packets
        )
    };
    line(out, &traffic("in", &child.spi_in, &child.traffic_in));
    line(out, &traffic("out", &child.spi_out, &child.traffic_out));
    line(out, &format!("    local  {}", list(&child.local_ts)));
    line(out, &format!("    remote {}", list(&child.remote_ts)));
    if !child.key_ids.is_empty() {
        line(out, &format!("    qkd    keys {}", list(&child.key_ids)));
    }
    if let Some(session) = &child.pdu_session {
        let qfis: Vec<String> = session.qfis.iter().map(u8::to_string).collect();
        line(
            out,
            &format!(
                "    5g     PDU session {}, QFI {}, UPF {} TEID ul 0x{:08x} dl 0x{:08x}, {}",
                session.session,
                list(&qfis),
                session.upf,
                session.ul_teid,
                session.dl_teid,
                session.state
            ),
        );
    }
}

/// `n3iwfctl ues`.
pub fn ues(report: &Ues) -> String {
    let mut out = String::new();
    for ue in &report.ues {
        let inner = ue
            .inner
            .map_or_else(|| "-".to_owned(), |inner| inner.to_string());
        let amf_id = ue
            .amf_ue_ngap_id
            .map_or_else(|| "-".to_owned(), |id| id.to_string());
        line(
            &mut out,
            &format!(
                "UE {}: {}, {} [{inner}], IKE SA #{}, AMF {} (AMF-UE-NGAP-ID {amf_id}), NAS {}, {}s",
                ue.ue,
                ue.state,
                ue.remote,
                ue.ike_sa,
                ue.amf.as_deref().unwrap_or("-"),
                if ue.nas_connected {
                    "over TCP"
                } else {
                    "not connected"
                },
                ue.age,
            ),
        );
        for session in &ue.sessions {
            line(
                &mut out,
                &format!(
                    "  PDU session {}: {}, QFI {:?}, UPF {}, TEID ul 0x{:08x} dl 0x{:08x}",
                    session.session,
                    session.state,
                    session.qfis,
                    session.upf,
                    session.ul_teid,
                    session.dl_teid
                ),
            );
        }
        line(
            &mut out,
            "  phase     wall ms    own ms    KMS ms   core ms   rest ms",
        );
        for row in &ue.timeline {
            let waited = row.own_us + row.kms_us + row.core_us;
            let rest = row.wall_us.saturating_sub(waited);
            let ms = |us: u64| format!("{:>7}.{:02}", us / 1000, us % 1000 / 10);
            line(
                &mut out,
                &format!(
                    "  {:<7}{}{}{}{}{}",
                    row.phase.name(),
                    ms(row.wall_us),
                    ms(row.own_us),
                    ms(row.kms_us),
                    ms(row.core_us),
                    ms(rest)
                ),
            );
        }
    }
    if report.ues.is_empty() {
        line(&mut out, "no UEs");
    }
    out
}

/// `n3iwfctl keys`.
pub fn keys(report: &Keys) -> String {
    let mut out = String::new();
    let totals = |name: &str, totals: &crate::report::KeyTotals| {
        format!(
            "{name:<24} fetched {:>6} = used {:>6} + lost {:>6} + held {:>6}{}{}{}",
            totals.fetched,
            totals.used,
            totals.lost,
            totals.held,
            match totals.ahead {
                0 => String::new(),
                ahead => format!("  (ahead {ahead})"),
            },
            if totals.balanced {
                ""
            } else {
                "  DOES NOT ADD UP"
            },
            match totals.uncertain {
                0 => String::new(),
                uncertain => format!("  (uncertain {uncertain})"),
            }
        )
    };
    line(&mut out, &totals("all", &report.total));
    for (peer, sums) in &report.peers {
        line(&mut out, &totals(peer, sums));
    }
    for key in &report.keys {
        let place = match (&key.sa, &key.purpose) {
            (Some(sa), Some(purpose)) => format!("IKE SA #{sa}  {purpose}"),
            _ => String::new(),
        };
        line(
            &mut out,
            &format!("{}  {:<5} {:<16} {place}", key.id, key.state, key.peer),
        );
    }
    out
}

/// `n3iwfctl counters`.
pub fn counters(report: &Counters) -> String {
    let mut out = String::new();
    match &report.classes {
        Some(classes) => {
            line(
                &mut out,
                "class                   in packets      in bytes   out packets     out bytes",
            );
            for ((name, ingress), (_, egress)) in classes.ingress.iter().zip(classes.egress.iter())
            {
                line(
                    &mut out,
                    &format!(
                        "{name:<20}{:>14}{:>14}{:>14}{:>14}",
                        ingress.packets, ingress.bytes, egress.packets, egress.bytes
                    ),
                );
            }
            if let Some(dropped) = &classes.init_dropped {
                line(
                    &mut out,
                    &format!(
                        "IKE_SA_INIT above the limit of its source, dropped: {} packets, {} bytes",
                        dropped.packets, dropped.bytes
                    ),
                );
            }
        }
        None => line(&mut out, "no eBPF accounting"),
    }
    for sa in &report.sas {
        let session = sa
            .pdu_session
            .map_or_else(|| "signalling".to_owned(), |id| format!("PDU session {id}"));
        line(
            &mut out,
            &format!("Child SA #{}  UE {}  {session}", sa.id, sa.ue),
        );
        for (name, spi, kernel, ebpf) in [
            ("in", sa.spi_in, sa.kernel_in, sa.ebpf_in),
            ("out", sa.spi_out, sa.kernel_out, sa.ebpf_out),
        ] {
            let mut text = format!(
                "  {name:3} {spi:08x}  kernel {:>9} packets {:>12} bytes (inner)",
                kernel.packets, kernel.bytes
            );
            if let Some(seen) = ebpf {
                text += &format!(
                    "   ebpf {:>9} packets {:>12} bytes (outer)",
                    seen.packets, seen.bytes
                );
            }
            line(&mut out, &text);
        }
        let refused = sa.refused;
        if refused.replay + refused.replay_window + refused.integrity > 0 {
            line(
                &mut out,
                &format!(
                    "  refused: replay {}, window {}, integrity {}",
                    refused.replay, refused.replay_window, refused.integrity
                ),
            );
        }
    }
    for session in &report.sessions {
        let path = match session.path {
            Path::User => "user",
            Path::Kernel => "kernel",
        };
        line(
            &mut out,
            &format!(
                "relay ({path}) PDU session {} of {}: up {}, down {}, dropped: {}",
                session.pdu_session,
                session.address,
                traffic(session.uplink),
                traffic(session.downlink),
                counted(&session.drops.named())
            ),
        );
        for flow in &session.flows {
            line(
                &mut out,
                &format!(
                    "  QFI {:<2}  up {}, down {}",
                    flow.qfi,
                    traffic(flow.uplink),
                    traffic(flow.downlink)
                ),
            );
        }
    }
    line(
        &mut out,
        &format!(
            "relay, of no session, dropped: {}",
            counted(&report.drops.named())
        ),
    );
    if let Some(reasons) = &report.relay_kernel {
        for (direction, reasons) in [("up", &reasons.uplink), ("down", &reasons.downlink)] {
            let named: Vec<(&str, u64)> = reasons
                .iter()
                .map(|(name, count)| (name.as_str(), *count))
                .collect();
            line(
                &mut out,
                &format!(
                    "relay programs, {direction}, not relayed: {}",
                    counted(&named)
                ),
            );
        }
    }
    out
}

fn traffic(traffic: Traffic) -> String {
    format!("{} packets {} bytes", traffic.packets, traffic.bytes)
}

/// What there is any of.
fn counted(named: &[(&str, u64)]) -> String {
    let found: Vec<String> = named
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if found.is_empty() {
        "nothing".to_owned()
    } else {
        found.join(", ")
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() {
        "-".to_owned()
    } else {
        items.join(" ")
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_overloaded_amf_shows_in_the_status() {
        let report: Status = serde_json::from_value(json!({
            "version": "1", "uptime": 1, "ready": true, "sae_id": null, "kms": [], "ike_sas": 0,
            "half_open": 0, "ues": 2, "addresses_taken": 2, "dataplane": "recording",
            "interface": null, "bpf": null,
            "amfs": [{
                "address": "sctp:203.0.113.2:38412", "state": "ready", "name": "amf-1",
                "capacity": 255, "ues": 2, "overload": "no MO data, 30 % less",
                "turned_away": 4, "withdrawn": ["208/93 1/1/0 -> amf-2"]
            }]
        }))
        .unwrap();
        let line = "amf     sctp:203.0.113.2:38412  ready  amf-1 (capacity 255)  2 UEs  \
                    OVERLOADED: no MO data, 30 % less  4 turned away  \
                    withdrawn: 208/93 1/1/0 -> amf-2";
        let text = status(&report);
        assert!(text.lines().any(|shown| shown == line), "{text}");
    }

    #[test]
    fn sas_have_the_shape_of_swanctl_with_qkd_and_5g_beside_it() {
        let report: Sas = serde_json::from_str(
            r#"{ "sas": [{
            "uniqueid": 1, "state": "ESTABLISHED",
            "initiator-spi": "0000000000000001", "responder-spi": "0000000000000002",
            "local-id": "n3iwf.example.net", "remote-id": "5aa5",
            "local": "192.0.2.1:500", "remote": "192.0.2.10:500",
            "nat-local": false, "nat-remote": true,
            "mode": "qkd-native", "suite": "AES_GCM_16-256/PRF_HMAC_SHA2_256",
            "established": 12, "retransmits": 0, "peer-sae": "sae-ue-1", "policy": "require-qkd", "kme": "kme-a",
            "key-ids": ["0b2e9c4e", "1b2e9c4e"], "held-keys": 2,
            "ran-ue-ngap-id": 7, "amf-ue-ngap-id": 9, "inner": "10.0.0.2",
            "child-sas": [{
                "uniqueid": 2, "name": "pdu-1", "reqid": 3, "state": "INSTALLED",
                "suite": "AES_GCM_16-256/ESN", "spi-in": "c0000001", "spi-out": "c0000002",
                "if-id": 1,
                "traffic-in": { "packets": 1, "bytes": 84 },
                "traffic-out": { "packets": 2, "bytes": 168 },
                "age": 11, "local-ts": ["10.0.0.1"], "remote-ts": ["10.0.0.2"],
                "key-ids": ["2b2e9c4e"],
                "pdu-session": {
                    "session": 1, "state": "up", "child": 2, "qfis": [1, 9],
                    "upf": "203.0.113.2", "ul_teid": 1, "dl_teid": 2, "slot": 0
                }
            }]
        }] }"#,
        )
        .unwrap();
        assert_eq!(
            sas(&report),
            "\
sae-ue-1: #1, ESTABLISHED, IKEv2, 0000000000000001_i 0000000000000002_r*
  local  'n3iwf.example.net' @ 192.0.2.1[500]
  remote '5aa5' @ 192.0.2.10[500] [10.0.0.2] (NAT)
  AES_GCM_16-256/PRF_HMAC_SHA2_256
  established 12s ago, 0 retransmissions
  qkd-native: require-qkd, kme kme-a, keys 0b2e9c4e 1b2e9c4e, held 2
  5g: RAN-UE-NGAP-ID 7, AMF-UE-NGAP-ID 9
  pdu-1: #2, reqid 3, INSTALLED, TUNNEL, ESP:AES_GCM_16-256/ESN
    installed 11s ago
    in  c0000001 (-|0x00000001),         84 bytes,       1 packets
    out c0000002 (-|0x00000001),        168 bytes,       2 packets
    local  10.0.0.1
    remote 10.0.0.2
    qkd    keys 2b2e9c4e
    5g     PDU session 1, QFI 1 9, UPF 203.0.113.2 TEID ul 0x00000001 dl 0x00000002, up
"
        );
    }

    #[test]
    fn a_key_account_that_does_not_add_up_says_so() {
        let totals = |held: u64, balanced: bool| {
            json!({
                "fetched": 7, "used": 6, "lost": 0, "held": held,
                "uncertain": 2, "balanced": balanced
            })
        };
        let render = |totals: serde_json::Value| {
            let value = json!({ "total": totals, "peers": [], "keys": [] });
            keys(&serde_json::from_value(value).unwrap())
        };
        let good = render(totals(1, true));
        assert!(
            good.contains("uncertain 2") && !good.contains("ADD UP"),
            "{good}"
        );
        assert!(render(totals(0, false)).contains("DOES NOT ADD UP"));
    }

    #[test]
    fn counters_show_each_flow_and_each_reason() {
        let report = json!({
            "classes": null, "sas": [],
            "sessions": [{
                "pdu_session": 5, "dl_teid": 1, "address": "10.0.0.7", "path": "kernel",
                "uplink": { "packets": 3, "bytes": 300 },
                "downlink": { "packets": 1, "bytes": 1400 },
                "flows": [
                    { "qfi": 1, "uplink": { "packets": 1, "bytes": 100 },
                      "downlink": { "packets": 0, "bytes": 0 }, "last_seen": null },
                    { "qfi": 9, "uplink": { "packets": 2, "bytes": 200 },
                      "downlink": { "packets": 1, "bytes": 1400 }, "last_seen": null }
                ],
                "drops": { "rate": 4, "qfi_not_allowed": 2 }
            }],
            "drops": { "no_session": 6 },
            "relay_kernel": { "uplink": { "rate": 4, "gso": 0 }, "downlink": {} }
        });
        let report = serde_json::from_value(report).unwrap();
        assert_eq!(
            counters(&report),
            "\
no eBPF accounting
relay (kernel) PDU session 5 of 10.0.0.7: up 3 packets 300 bytes, down 1 packets 1400 bytes, dropped: qfi_not_allowed 2, rate 4
  QFI 1   up 1 packets 100 bytes, down 0 packets 0 bytes
  QFI 9   up 2 packets 200 bytes, down 1 packets 1400 bytes
relay, of no session, dropped: no_session 6
relay programs, up, not relayed: rate 4
relay programs, down, not relayed: nothing
"
        );
    }

    #[test]
    fn counters_tell_what_a_limit_has_dropped() {
        let report = |limited| Counters {
            classes: Some(dataplane::ClassReading {
                init_dropped: limited,
                ..Default::default()
            }),
            sas: Vec::new(),
            sessions: Vec::new(),
            drops: Default::default(),
            relay_kernel: None,
        };
        assert!(!counters(&report(None)).contains("limit"));
        let dropped = dataplane::Seen {
            packets: 7,
            bytes: 420,
            last_seen: None,
        };
        let text = counters(&report(Some(dropped)));
        assert!(text.contains("dropped: 7 packets, 420 bytes"), "{text}");
    }

    #[test]
    fn nothing_to_show_is_said() {
        let none: Sas = serde_json::from_value(json!({ "sas": [] })).unwrap();
        assert_eq!(sas(&none), "no IKE SAs\n");
        let none: Ues = serde_json::from_value(json!({ "ues": [] })).unwrap();
        assert_eq!(ues(&none), "no UEs\n");
    }
}
