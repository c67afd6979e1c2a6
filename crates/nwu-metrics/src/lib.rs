//! The families that both ends of NWu export, each under its own prefix, and how their values are
//! read: declared here once, so that a dashboard for one end reads like that for the other.

use std::collections::BTreeMap;

use dataplane::{ClassReading, Totals};
use ike::SaState;
use keys::SaeId;
use metrics::{Family, Page};
use qkd::{account, policy::EndpointHealth};

/// The families of one end, as [`shared_families`] declares them.
#[derive(Debug)]
#[allow(missing_docs, reason = "each family says itself what it is")]
pub struct Families {
    pub ike_sas: &'static Family<2>,
    pub child_sas: &'static Family<1>,
    pub messages: &'static Family<3>,
    pub retransmissions: &'static Family<0>,
    pub discarded: &'static Family<1>,
    pub keys_fetched: &'static Family<0>,
    pub keys_used: &'static Family<0>,
    pub keys_lost: &'static Family<0>,
    pub keys_held: &'static Family<0>,
    pub keys_uncertain: &'static Family<0>,
    pub peer_keys: &'static Family<2>,
    pub peer_held: &'static Family<1>,
    pub kms_requests: &'static Family<2>,
    pub kms_healthy: &'static Family<1>,
    pub nwu_packets: &'static Family<2>,
    pub nwu_bytes: &'static Family<2>,
    pub esp_packets: &'static Family<2>,
    pub esp_bytes: &'static Family<2>,
    pub esp_refused: &'static Family<1>,
    pub relay_packets: &'static Family<1>,
    pub relay_bytes: &'static Family<1>,
    pub relay_drops: &'static Family<1>,
}

/// Declares `SHARED`, the list of these families with this prefix, and `FAMILIES`, all of them by
/// name.
#[macro_export]
macro_rules! shared_families {
    ($prefix:literal) => {
        ::metrics::families! {
            /// What the other end of NWu exports as well, under its own prefix.
            pub SHARED;
            IKE_SAS: ::metrics::Kind::Gauge, concat!($prefix, "_ike_sas"),
                ["state" = "`connecting`, `established`, `deleting`", "mode" = "key mode, such as `qkd-native`, `psk`"],
                "IKE SAs now.";
            CHILD_SAS: ::metrics::Kind::Gauge, concat!($prefix, "_child_sas"), ["plane" = "`control`, `user`"],
                "Child SAs that are up.";
            MESSAGES: ::metrics::Kind::Counter, concat!($prefix, "_ike_messages_total"),
                ["direction" = "`in`, `out`", "exchange" = "`ike_sa_init`, `ike_auth`, `create_child_sa`, `informational`, `ike_intermediate`, `other`", "type" = "`request`, `response`"],
                "IKE messages, retransmissions included; of a fragmented one, each fragment.";
            RETRANSMISSIONS: ::metrics::Kind::Counter, concat!($prefix, "_ike_retransmissions_total"), [],
                "Own IKE requests sent again because no response came.";
            DISCARDED: ::metrics::Kind::Counter, concat!($prefix, "_ike_discarded_total"),
                ["reason" = "`malformed`, `unknown_spi`"],
                "Datagrams that are no IKE message, and messages for an SPI nobody has here.";
            KEYS_FETCHED: ::metrics::Kind::Counter, concat!($prefix, "_qkd_keys_fetched_total"), [],
                "QKD keys that arrived from the KMS; always used + lost + held.";
            KEYS_USED: ::metrics::Kind::Counter, concat!($prefix, "_qkd_keys_used_total"), [],
                "QKD keys that keyed something.";
            KEYS_LOST: ::metrics::Kind::Counter, concat!($prefix, "_qkd_keys_lost_total"), [],
                "QKD keys wiped without use.";
            KEYS_HELD: ::metrics::Kind::Gauge, concat!($prefix, "_qkd_keys_held"), [],
                "QKD keys in memory: fetched ahead, or for exchanges that are not final.";
            KEYS_UNCERTAIN: ::metrics::Kind::Counter, concat!($prefix, "_qkd_keys_uncertain_total"), [],
                "QKD keys asked for in requests that ended without a response.";
            PEER_KEYS: ::metrics::Kind::Counter, concat!($prefix, "_qkd_peer_keys_total"),
                ["peer_sae" = "SAE ID of the other end; the first 256, the others as one `other`", "event" = "`fetched`, `used`, `lost`"],
                "The same per peer SAE. Only with `metrics.peerSae`: an N3IWF's peers are subscribers.";
            PEER_HELD: ::metrics::Kind::Gauge, concat!($prefix, "_qkd_peer_keys_held"), ["peer_sae" = "as above"],
                "QKD keys held per peer SAE. Only with `metrics.peerSae`.";
            KMS_REQUESTS: ::metrics::Kind::Histogram(::metrics::buckets::KMS), concat!($prefix, "_kms_request_duration_seconds"),
                ["operation" = "`status`, `enc_keys`, `dec_keys`", "outcome" = "`ok`, or the word of the error, such as `unavailable`, `keys_not_found`, `timeout`"],
                "Requests to the KMS, each attempt for itself.";
            KMS_HEALTHY: ::metrics::Kind::Gauge, concat!($prefix, "_kms_endpoint_healthy"), ["endpoint" = "URL as configured"],
                "Whether the last request to this KMS endpoint ended well.";
            NWU_PACKETS: ::metrics::Kind::Counter, concat!($prefix, "_nwu_packets_total"),
                ["direction" = "`in`, `out`", "class" = "class of the eBPF programs, such as `ike_auth`, `esp_user`, `esp_unknown_spi`"],
                "Packets on NWu as eBPF classifies them; only with eBPF.";
            NWU_BYTES: ::metrics::Kind::Counter, concat!($prefix, "_nwu_bytes_total"),
                ["direction" = "`in`, `out`", "class" = "as above"],
                "Octets of those, of outer IP packets.";
            ESP_PACKETS: ::metrics::Kind::Counter, concat!($prefix, "_esp_packets_total"),
                ["direction" = "`in`, `out`", "plane" = "`control`, `user`"],
                "Packets of Child SAs as the kernel counts them, of those that are gone as well.";
            ESP_BYTES: ::metrics::Kind::Counter, concat!($prefix, "_esp_bytes_total"),
                ["direction" = "`in`, `out`", "plane" = "`control`, `user`"],
                "Octets of those, of inner packets.";
            ESP_REFUSED: ::metrics::Kind::Counter, concat!($prefix, "_esp_refused_packets_total"),
                ["reason" = "`replay`, `integrity`"],
                "Packets that inbound Child SAs refused.";
            RELAY_PACKETS: ::metrics::Kind::Counter, concat!($prefix, "_relay_packets_total"), ["direction" = "`up`, `down`"],
                "Packets relayed between GRE and the other side: GTP-U at the N3IWF, TUN devices at a UE.";
            RELAY_BYTES: ::metrics::Kind::Counter, concat!($prefix, "_relay_bytes_total"), ["direction" = "`up`, `down`"],
                "Octets of those, of PDUs.";
            RELAY_DROPS: ::metrics::Kind::Counter, concat!($prefix, "_relay_drops_total"),
                ["reason" = "`no_session`, `qfi_not_allowed`, `wrong_address`, `malformed`, `wrong_sa`, `too_big`, `rate`, `send_failed`"],
                "Packets the relay did not pass on.";
        }

        /// The same by name.
        pub static FAMILIES: $crate::Families = $crate::Families {
            ike_sas: &IKE_SAS,
            child_sas: &CHILD_SAS,
            messages: &MESSAGES,
            retransmissions: &RETRANSMISSIONS,
            discarded: &DISCARDED,
            keys_fetched: &KEYS_FETCHED,
            keys_used: &KEYS_USED,
            keys_lost: &KEYS_LOST,
            keys_held: &KEYS_HELD,
            keys_uncertain: &KEYS_UNCERTAIN,
            peer_keys: &PEER_KEYS,
            peer_held: &PEER_HELD,
            kms_requests: &KMS_REQUESTS,
            kms_healthy: &KMS_HEALTHY,
            nwu_packets: &NWU_PACKETS,
            nwu_bytes: &NWU_BYTES,
            esp_packets: &ESP_PACKETS,
            esp_bytes: &ESP_BYTES,
            esp_refused: &ESP_REFUSED,
            relay_packets: &RELAY_PACKETS,
            relay_bytes: &RELAY_BYTES,
            relay_drops: &RELAY_DROPS,
        };
    };
}

/// Peers that have series of their own.
const MOST_PEERS: usize = 256;

impl Families {
    /// SAs and messages of an endpoint.
    pub fn ike(&self, page: &mut Page, census: &ike::Census, counters: &ike::Counters) {
        for ((state, mode), count) in &census.ike_sas {
            let state = match state {
                SaState::Connecting => "connecting",
                SaState::Established => "established",
                SaState::Deleting => "deleting",
            };
            page.put(self.ike_sas, [state, &mode.to_string()], *count);
        }
        page.put(self.child_sas, ["control"], census.signalling);
        page.put(self.child_sas, ["user"], census.user);
        for (direction, messages) in [("in", counters.received), ("out", counters.sent)] {
            for (exchange, kind, count) in messages.iter() {
                page.put(self.messages, [direction, exchange, kind], count);
            }
        }
        page.put(self.retransmissions, [], counters.retransmitted);
        page.put(self.discarded, ["malformed"], counters.malformed);
        page.put(self.discarded, ["unknown_spi"], counters.unknown_spi);
    }

    /// The key account and the health of the KMS.
    pub fn keys(&self, page: &mut Page, total: &account::Totals, endpoints: &[EndpointHealth]) {
        page.put(self.keys_fetched, [], total.fetched);
        page.put(self.keys_used, [], total.used);
        page.put(self.keys_lost, [], total.lost);
        page.put(self.keys_held, [], total.held);
        page.put(self.keys_uncertain, [], total.uncertain);
        for endpoint in endpoints {
            page.put(self.kms_healthy, [&endpoint.url], endpoint.healthy);
        }
    }

    /// The key account per peer.
    pub fn peers(&self, page: &mut Page, peers: &BTreeMap<SaeId, account::Totals>) {
        let mut other = account::Totals::default();
        let mut put = |peer: &str, totals: &account::Totals| {
            page.put(self.peer_keys, [peer, "fetched"], totals.fetched);
            page.put(self.peer_keys, [peer, "used"], totals.used);
            page.put(self.peer_keys, [peer, "lost"], totals.lost);
            page.put(self.peer_held, [peer], totals.held);
        };
        for (peer, totals) in peers.iter().take(MOST_PEERS) {
            put(peer.as_str(), totals);
        }
        for totals in peers.values().skip(MOST_PEERS) {
            other.fetched += totals.fetched;
            other.used += totals.used;
            other.lost += totals.lost;
            other.held += totals.held;
        }
        if peers.len() > MOST_PEERS {
            put("other", &other);
        }
    }

    /// Packets: on NWu where eBPF counts them, in Child SAs, through the relay.
    pub fn traffic(&self, page: &mut Page, classes: Option<&ClassReading>, totals: &Totals) {
        if let Some(classes) = classes {
            for (direction, classes) in [("in", &classes.ingress), ("out", &classes.egress)] {
                for (class, count) in classes.iter() {
                    page.put(self.nwu_packets, [direction, class], count.packets);
                    page.put(self.nwu_bytes, [direction, class], count.bytes);
                }
            }
        }
        for (labels, traffic) in [
            (["in", "control"], totals.control_in),
            (["out", "control"], totals.control_out),
            (["in", "user"], totals.user_in),
            (["out", "user"], totals.user_out),
        ] {
            page.put(self.esp_packets, labels, traffic.packets);
            page.put(self.esp_bytes, labels, traffic.bytes);
        }
        page.put(self.esp_refused, ["replay"], totals.refused_replay);
        page.put(self.esp_refused, ["integrity"], totals.refused_integrity);
        for (direction, traffic) in [("up", totals.relay_up), ("down", totals.relay_down)] {
            page.put(self.relay_packets, [direction], traffic.packets);
            page.put(self.relay_bytes, [direction], traffic.bytes);
        }
        for (reason, count) in totals.drops.named() {
            page.put(self.relay_drops, [reason], count);
        }
    }
}
