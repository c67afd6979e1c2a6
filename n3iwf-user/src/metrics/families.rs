//! Every family the N3IWF exports. `docs/metrics.md` is checked against this list.

use metrics::{Kind, buckets, families};

use Kind::{Counter, Gauge, Histogram};

families! {
    /// What the N3IWF alone exports.
    pub OWN;
    BUILD: Gauge, "n3iwf_build_info", ["version" = "version of the daemon"],
        "1, with the version as label.";
    READY: Gauge, "n3iwf_ready", [],
        "Whether a UE could attach now: some AMF is ready.";
    ATTACHES: Counter, "n3iwf_attaches_total", ["outcome" = "`established`, or the reason word of the end"],
        "Attaches that ended: IKE SAs that were established, or closed before that.";
    PHASE: Histogram(buckets::ATTACH), "n3iwf_attach_phase_duration_seconds", ["phase" = "`init`, `auth`, `child`"],
        "Wall clock of the phases of attaches: IKE_SA_INIT, IKE_AUTH with EAP-5G, and from there to the first PDU session.";
    PHASE_WAIT: Counter, "n3iwf_attach_phase_spent_seconds_total",
        ["phase" = "`init`, `auth`, `child`", "party" = "`own` (processor time here), `kms`, `core`"],
        "Where the time of those phases went; the rest is the UE, the network and the kernel.";
    HALF_OPEN: Gauge, "n3iwf_ike_half_open_sas", [],
        "IKE SAs that have not reached their final IKE_AUTH.";
    ESTABLISHED: Counter, "n3iwf_ike_sas_established_total", ["mode" = "key mode"],
        "IKE SAs established.";
    CLOSED: Counter, "n3iwf_ike_sas_closed_total", ["reason" = "reason word, such as `peer_deleted`, `peer_dead`, `local`"],
        "Established IKE SAs that ended.";
    REKEYS: Counter, "n3iwf_rekeys_total", ["sa" = "`ike`, `child`", "outcome" = "`done`, `failed`"],
        "Rekeys of IKE SAs and Child SAs.";
    REPEATED: Counter, "n3iwf_ike_init_repeated_total", [],
        "IKE_SA_INIT requests that were taken up before: answered again without a key.";
    COOKIES: Counter, "n3iwf_ike_cookies_total", ["event" = "`sent`, `accepted`"],
        "IKE_SA_INIT requests answered with COOKIE, and those that came back with a good one.";
    INIT_REFUSED: Counter, "n3iwf_ike_init_refused_total", ["reason" = "`half_open_limit` (dropped), `error` (answered with an error notify), `source_rate` (dropped by eBPF, with `ikeInitPerSource`)"],
        "IKE_SA_INIT requests refused.";
    BUCKET: Counter, "n3iwf_ike_bucket_total", ["event" = "`cookie`, `quota` (QKD_UNAVAILABLE)"],
        "IKE_SA_INIT requests that the bucket of their SAE ID had no key for: part of the cookies sent, and of the errors.";
    TAGS: Counter, "n3iwf_ike_tags_total", ["event" = "`accepted`, `ignored` (forged, replayed, too old, of another SAE, bucket spent)"],
        "IKE_SA_INIT requests with an admission tag.";
    RECOGNISED: Gauge, "n3iwf_ike_recognised_ues", [],
        "Attaches whose UE is recognised by a tag at its next one.";
    BUCKETS: Gauge, "n3iwf_ike_buckets", [],
        "SAE IDs with a bucket that was not full.";
    KEYS_AHEAD: Gauge, "n3iwf_qkd_keys_ahead", [],
        "Those of them that were fetched ahead and wait for somebody to need them.";
    KEYS_AGED: Counter, "n3iwf_qkd_keys_aged_total", [],
        "QKD keys fetched ahead that nobody needed in time: part of the lost ones.";
    KEY_REQUESTS: Counter, "n3iwf_qkd_key_requests_total", ["source" = "`ahead` (no request to the KMS), `kms`"],
        "Exchanges that needed QKD keys, by where those came from.";
    ATTACHES_WAITED: Counter, "n3iwf_qkd_attaches_waited_total", [],
        "Attaches that had to wait for QKD keys.";
    ATTACHES_WAITING: Gauge, "n3iwf_qkd_attaches_waiting", [],
        "Attaches that wait for QKD keys now.";
    ATTACHES_UNKEYED: Counter, "n3iwf_qkd_attaches_refused_total", [],
        "Attaches that got no QKD keys: none left, none above the floor, no KMS, or not the KMS's SAE.";
    KMS_STORED: Gauge, "n3iwf_kms_stored_keys", [],
        "Keys the KMS has in store, as its last status said; absent while unknown.";
    KMS_CAPACITY: Gauge, "n3iwf_kms_stored_keys_limit", [],
        "Keys the KMS can store at most.";
    AMF_READY: Gauge, "n3iwf_amf_ready", ["amf" = "address as configured"],
        "Whether NG Setup with this AMF is done.";
    AMF_UES: Gauge, "n3iwf_amf_ues", ["amf" = "address as configured"],
        "UEs this AMF serves here.";
    AMF_OVERLOADED: Gauge, "n3iwf_amf_overloaded", ["amf" = "address as configured"],
        "Whether this AMF has sent OVERLOAD START and no OVERLOAD STOP.";
    AMF_TURNED_AWAY: Counter, "n3iwf_amf_turned_away_total", ["amf" = "address as configured"],
        "Attaches this AMF did not get because of that.";
    NG_SETUPS: Counter, "n3iwf_ng_setups_total", ["amf" = "address as configured"],
        "NG Setup procedures done.";
    NG_LOSSES: Counter, "n3iwf_ng_losses_total", ["amf" = "address as configured"],
        "Associations with this AMF that were lost or did not come about.";
    NGAP: Counter, "n3iwf_ngap_messages_total", ["direction" = "`in`, `out`"],
        "NGAP messages.";
    UES: Gauge, "n3iwf_ues", ["state" = "`authenticating`, `finishing`, `up`, `releasing`, `closing`, `closed`"],
        "UEs now.";
    SESSIONS: Gauge, "n3iwf_pdu_sessions", ["state" = "`creating`, `relaying`, `up`, `releasing`"],
        "PDU sessions now.";
    SESSION_SETUPS: Counter, "n3iwf_pdu_session_setups_total", ["outcome" = "`up`, `failed`"],
        "PDU sessions the core asked for.";
    ADDRESSES: Gauge, "n3iwf_inner_addresses_taken", [],
        "Inner addresses given out.";
}

nwu_metrics::shared_families!("n3iwf");

/// All families but those of the process.
pub static ALL: [&[&dyn metrics::Described]; 2] = [OWN, SHARED];
