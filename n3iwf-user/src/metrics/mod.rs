//! What Prometheus is told: one page of the numbers that `n3iwfctl` shows.

mod families;

use std::collections::BTreeMap;

use daemon::timeline::{Phase, PhaseTimes};
use dataplane::{ClassReading, Totals};
use keys::SaeId;
use metrics::{Exporter, Histogram, Page};
use qkd::{Kms, Stock, account, policy::EndpointHealth};

use self::families as f;
pub use self::families::ALL;
use crate::{gateway::Census, tally::phase_name};

/// The daemon's port on loopback (`metrics.listen` names another).
pub const PORT: u16 = 9732;

/// Everything read at one moment.
pub(crate) struct Observed {
    pub(crate) census: Census,
    pub(crate) keys: account::Totals,
    pub(crate) peers: BTreeMap<SaeId, account::Totals>,
    pub(crate) kms: Vec<EndpointHealth>,
    pub(crate) stock: Option<Stock>,
    pub(crate) classes: Option<ClassReading>,
    pub(crate) totals: Totals,
}

/// What is collected between scrapes.
pub(crate) struct Metrics {
    exporter: Exporter,
    phases: Histogram<1>,
    peer_sae: bool,
}

impl Metrics {
    pub(crate) fn new(options: &metrics::Options, kms: Option<&Kms>) -> Self {
        let exporter = Exporter::new();
        let requests = exporter.histogram(&f::KMS_REQUESTS);
        if let Some(kms) = kms {
            kms.observe(move |seen| requests.observe([seen.operation, seen.outcome], seen.took));
        }
        Self {
            phases: exporter.histogram(&f::PHASE),
            exporter,
            peer_sae: options.peer_sae,
        }
    }

    /// Whether peers are named.
    pub(crate) const fn names_peers(&self) -> bool {
        self.peer_sae
    }

    /// A phase of an attach ended.
    pub(crate) fn phase(&self, phase: Phase, times: PhaseTimes) {
        self.phases.observe([phase_name(phase)], times.wall);
    }

    pub(crate) fn page(&self, seen: &Observed) -> String {
        let mut page = Page::new();
        let census = &seen.census;
        page.put(&f::BUILD, [env!("CARGO_PKG_VERSION")], true);
        let ready = census.amfs.iter().any(|amf| amf.state == "ready");
        page.put(&f::READY, [], ready);
        ike(&mut page, census);
        self.keys(&mut page, seen);
        core(&mut page, census);
        f::FAMILIES.traffic(&mut page, seen.classes.as_ref(), &seen.totals);
        if let Some(dropped) = seen.classes.as_ref().and_then(|all| all.init_dropped) {
            page.put(&f::INIT_REFUSED, ["source_rate"], dropped.packets);
        }
        self.exporter.write(page)
    }

    fn keys(&self, page: &mut Page, seen: &Observed) {
        f::FAMILIES.keys(page, &seen.keys, &seen.kms);
        let desk = &seen.census.desk;
        page.put(&f::KEYS_AHEAD, [], desk.held);
        page.put(&f::KEYS_AGED, [], desk.aged);
        page.put(&f::KEY_REQUESTS, ["ahead"], desk.ahead);
        page.put(&f::KEY_REQUESTS, ["kms"], desk.on_demand);
        page.put(&f::ATTACHES_WAITED, [], desk.waited);
        page.put(&f::ATTACHES_WAITING, [], desk.waiting);
        page.put(&f::ATTACHES_UNKEYED, [], desk.refused);
        if let Some(stock) = &seen.stock {
            page.put(&f::KMS_STORED, [], stock.stored);
            page.put(&f::KMS_CAPACITY, [], stock.capacity);
        }
        if self.peer_sae {
            f::FAMILIES.peers(page, &seen.peers);
        }
    }
}

fn ike(page: &mut Page, census: &Census) {
    let tally = &census.tally;
    // Present from the start, so that the first one is an increase.
    let none = [("established".to_owned(), 0)].into();
    for (outcome, count) in with(none, &tally.attaches) {
        page.put(&f::ATTACHES, [&outcome], count);
    }
    for (phase, parties) in &tally.phase_us {
        for (party, us) in parties {
            let spent = std::time::Duration::from_micros(*us);
            page.put(&f::PHASE_WAIT, [phase, party], spent);
        }
    }
    f::FAMILIES.ike(page, &census.ike, &census.messages);
    page.put(&f::HALF_OPEN, [], census.half_open);
    for (mode, count) in &tally.established {
        page.put(&f::ESTABLISHED, [mode], *count);
    }
    for (reason, count) in &tally.closed {
        page.put(&f::CLOSED, [reason], *count);
    }
    for (what, outcomes) in &tally.rekeys {
        for (outcome, count) in outcomes {
            page.put(&f::REKEYS, [what, outcome], *count);
        }
    }
    let counters = &census.messages;
    page.put(&f::REPEATED, [], counters.init_repeated);
    page.put(&f::COOKIES, ["sent"], counters.cookies_sent);
    page.put(&f::COOKIES, ["accepted"], counters.cookies_accepted);
    page.put(
        &f::INIT_REFUSED,
        ["half_open_limit"],
        counters.half_open_refused,
    );
    page.put(&f::INIT_REFUSED, ["error"], counters.init_refused);
    page.put(&f::BUCKET, ["cookie"], counters.bucket_cookies);
    page.put(&f::BUCKET, ["quota"], counters.quota_refused);
    page.put(&f::TAGS, ["accepted"], counters.tags_accepted);
    page.put(&f::TAGS, ["ignored"], counters.tags_ignored);
    page.put(&f::RECOGNISED, [], census.recognised.0);
    page.put(&f::BUCKETS, [], census.recognised.1);
}

fn core(page: &mut Page, census: &Census) {
    for amf in &census.amfs {
        let name = [amf.address.as_str()];
        page.put(&f::AMF_READY, name, amf.state == "ready");
        page.put(&f::AMF_UES, name, amf.ues);
        page.put(&f::AMF_OVERLOADED, name, amf.overload.is_some());
        page.put(&f::AMF_TURNED_AWAY, name, amf.turned_away);
        page.put(&f::NG_SETUPS, name, amf.setups);
        page.put(&f::NG_LOSSES, name, amf.losses);
    }
    page.put(&f::NGAP, ["in"], census.tally.ngap_in);
    page.put(&f::NGAP, ["out"], census.tally.ngap_out);
    for (state, count) in &census.core.ues {
        page.put(&f::UES, [state], *count);
    }
    for (state, count) in &census.core.sessions {
        page.put(&f::SESSIONS, [state], *count);
    }
    page.put(&f::SESSION_SETUPS, ["up"], census.core.sessions_up);
    page.put(&f::SESSION_SETUPS, ["failed"], census.core.sessions_failed);
    page.put(&f::ADDRESSES, [], census.addresses_taken);
}

fn with(mut all: BTreeMap<String, u64>, counts: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    all.extend(counts.iter().map(|(key, count)| (key.clone(), *count)));
    all
}
