//! What Prometheus is told agrees with what the control tools show.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::faults::{clean_slate, nothing_stays};
use crate::account::{self, KeyAccount};
use crate::control::{self, number};
use crate::files::{SAE_UE, SUPI};
use crate::report::{Finding, Report};
use crate::scrape::Scrape;
use crate::steps;
use crate::world::{Role, World};

const SCRAPED: [Role; 4] = [Role::N3iwf, Role::Ue, Role::KmeA, Role::KmeB];

pub(super) fn metrics(report: &mut Report, world: &mut World) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    report.step("pages before any UE", || {
        let n3iwf = Scrape::of(world, Role::N3iwf)?;
        n3iwf.expect("n3iwf_ready", &[], 1)?;
        n3iwf.expect("n3iwf_amf_ready", &[], 1)?;
        n3iwf.expect("n3iwf_ues", &[], 0)?;
        n3iwf.expect("n3iwf_attaches_total", &[], 0)?;
        Ok(Finding::new(format!("{} series", n3iwf.series())))
    })?;
    let attached = report.step_with("the UE attaches", || {
        let attached = steps::attach(world)?;
        Ok((Finding::new(attached.address.to_string()), attached))
    })?;
    report.step("traffic", || steps::ping(world, &attached, 5))?;
    report.step("the N3IWF's page is what n3iwfctl shows", || n3iwf(world))?;
    report.step("the UE's page is what uectl shows", || ue(world))?;
    report.step("the KMEs delivered what both ends fetched", || kmes(world))?;
    report.step(
        "promtool accepts every page, and no page names the subscriber",
        || lint(world),
    )?;
    report.step("n3iwfctl top and watch", || top(world))?;
    let relayed = report.step_with("traffic so far", || {
        let relayed = Scrape::of(world, Role::N3iwf)?.sum("n3iwf_relay_packets_total", &[])?;
        Ok((Finding::new(format!("{relayed} packets")), relayed))
    })?;
    report.step("deregistration", || steps::deregister(world))?;
    report.step("afterwards nothing is held, and no counter fell", || {
        // A page is served again for half a second.
        std::thread::sleep(std::time::Duration::from_millis(600));
        let page = Scrape::of(world, Role::N3iwf)?;
        page.expect("n3iwf_ues", &[], 0)?;
        page.expect("n3iwf_qkd_keys_held", &[], 0)?;
        page.expect("n3iwf_ike_sas_closed_total", &[], 1)?;
        page.expect("n3iwf_attaches_total", &[], 1)?;
        let after = page.sum("n3iwf_relay_packets_total", &[])?;
        if after < relayed {
            bail!("{after} packets after the session, {relayed} before");
        }
        let ue = Scrape::of(world, Role::Ue)?;
        ue.expect("ue_state", &["state=\"detached\""], 1)?;
        ue.expect("ue_detaches_total", &["reason=\"requested\""], 1)?;
        Ok(Finding::new(format!("{after} packets")))
    })?;
    nothing_stays(report, world, &before)
}

fn n3iwf(world: &World) -> Result<Finding> {
    let page = Scrape::of(world, Role::N3iwf)?;
    let status = control::n3iwf(world, "status")?;
    page.expect("n3iwf_ues", &["state=\"up\""], 1)?;
    page.expect("n3iwf_ues", &[], number(&status, "/ues")?)?;
    page.expect(
        "n3iwf_ike_sas",
        &["state=\"established\"", "mode=\"qkd-native\""],
        1,
    )?;
    page.expect("n3iwf_ike_sas", &[], number(&status, "/ike_sas")?)?;
    page.expect(
        "n3iwf_ike_half_open_sas",
        &[],
        number(&status, "/half_open")?,
    )?;
    page.expect(
        "n3iwf_inner_addresses_taken",
        &[],
        number(&status, "/addresses_taken")?,
    )?;
    page.expect("n3iwf_attaches_total", &["outcome=\"established\""], 1)?;
    page.expect(
        "n3iwf_ike_sas_established_total",
        &["mode=\"qkd-native\""],
        1,
    )?;
    page.expect("n3iwf_child_sas", &["plane=\"control\""], 1)?;
    page.expect("n3iwf_child_sas", &["plane=\"user\""], 1)?;
    page.expect("n3iwf_pdu_sessions", &["state=\"up\""], 1)?;
    page.expect("n3iwf_pdu_session_setups_total", &["outcome=\"up\""], 1)?;
    page.expect("n3iwf_ng_setups_total", &[], 1)?;
    account::exact(world)?;
    let enc_keys = ["operation=\"enc_keys\"", "outcome=\"ok\""];
    page.expect("n3iwf_kms_request_duration_seconds_count", &enc_keys, 1)?;
    page.expect("n3iwf_kms_endpoint_healthy", &[], 1)?;
    let stored = page.sum("n3iwf_kms_stored_keys", &[])?;
    if stored <= 0.0 {
        bail!("{stored} keys in store");
    }
    // Each phase once, and as long as the timeline of the UE says.
    let ues = control::n3iwf(world, "ues")?;
    for (at, phase) in ["init", "auth", "child"].iter().enumerate() {
        let label = format!("phase=\"{phase}\"");
        page.expect("n3iwf_attach_phase_duration_seconds_count", &[&label], 1)?;
        let sum = page.sum("n3iwf_attach_phase_duration_seconds_sum", &[&label])?;
        let wall = number(&ues, &format!("/ues/0/timeline/{at}/wall_us"))?;
        if (sum * 1e6 - wall as f64).abs() > 2.0 {
            bail!("phase {phase}: {sum} s, timeline {wall} us");
        }
    }
    // Traffic goes on (NAS, keepalives), so the tool is asked first and again: between the two.
    let counters = control::n3iwf(world, "counters")?;
    let later = Scrape::of(world, Role::N3iwf)?;
    let relayed = |value: &Value, way: &str| number(value, &format!("/sessions/0/{way}/packets"));
    for (way, direction) in [("uplink", "up"), ("downlink", "down")] {
        let told = relayed(&counters, way)?;
        let label = format!("direction=\"{direction}\"");
        later.expect("n3iwf_relay_packets_total", &[&label], told)?;
        if told < 5 {
            bail!("{told} packets {way}");
        }
    }
    if !world.options().recording {
        let packets = later.sum("n3iwf_esp_packets_total", &["plane=\"user\""])?;
        let classes = later.sum("n3iwf_nwu_packets_total", &["class=\"esp_user\""])?;
        if packets < 10.0 || packets != classes {
            bail!("{packets} user packets in the kernel, {classes} classified");
        }
    }
    Ok(Finding::new(format!("{} series agree", page.series())))
}

fn ue(world: &World) -> Result<Finding> {
    let page = Scrape::of(world, Role::Ue)?;
    page.expect("ue_state", &["state=\"registered\""], 1)?;
    page.expect("ue_state", &[], 1)?;
    page.expect("ue_attaches_total", &[], 1)?;
    page.expect("ue_pdu_sessions", &["state=\"up\""], 1)?;
    page.expect("ue_ike_sas", &["mode=\"qkd-native\""], 1)?;
    page.expect("ue_attach_phase_duration_seconds_count", &[], 3)?;
    let n3iwf = Scrape::of(world, Role::N3iwf)?;
    let first = ["exchange=\"ike_sa_init\"", "type=\"request\""];
    let sent = page.sum(
        "ue_ike_messages_total",
        &[&first[..], &["direction=\"out\""]].concat(),
    )?;
    let came = n3iwf.sum(
        "n3iwf_ike_messages_total",
        &[&first[..], &["direction=\"in\""]].concat(),
    )?;
    if sent < 1.0 || sent != came {
        bail!("{sent} IKE_SA_INIT requests sent, {came} received");
    }
    Ok(Finding::new(format!("{} series agree", page.series())))
}

fn kmes(world: &World) -> Result<Finding> {
    for (role, end, operation) in [
        (Role::KmeA, Role::N3iwf, "operation=\"enc_keys\""),
        (Role::KmeB, Role::Ue, "operation=\"dec_keys\""),
    ] {
        let page = Scrape::of(world, role)?;
        let fetched = KeyAccount::of(world, end)?.fetched;
        page.expect("kme_keys_delivered_total", &[operation], fetched)?;
        page.expect("kme_link_up", &[], 1)?;
        let status = control::ask(world, role, &json!({ "command": "status" }))?;
        page.expect(
            "kme_requests_total",
            &[],
            number(&status, "/0/counters/requests")?,
        )?;
    }
    Ok(Finding::new("enc_keys at one, dec_keys at the other"))
}

fn lint(world: &World) -> Result<Finding> {
    let mut checked = true;
    for role in SCRAPED {
        let page = Scrape::of(world, role)?;
        checked &= page.lint().with_context(|| role.name().to_owned())?;
        let digits = SUPI.trim_start_matches("imsi-");
        for name in [digits, SAE_UE] {
            if page.mentions(name) {
                bail!("the page of {} names {name}", role.name());
            }
        }
    }
    Ok(Finding::new(if checked {
        "four pages"
    } else {
        "four pages name nobody; promtool is not on this machine"
    }))
}

fn top(world: &World) -> Result<Finding> {
    let socket = world.socket(Role::N3iwf).display().to_string();
    let run = |words: &[&str]| world.tool(Role::N3iwf, "n3iwfctl", words);
    let view = run(&["--socket", &socket, "top", "--once", "--interval", "300ms"])?;
    for part in [
        "UEs      1 up",
        "1 established qkd-native",
        "held 0",
        "stock    [",
    ] {
        if !view.contains(part) {
            bail!("no {part:?} in\n{view}");
        }
    }
    let lines = run(&[
        "--socket",
        &socket,
        "--json",
        "watch",
        "--count",
        "2",
        "--interval",
        "300ms",
    ])?;
    let lines: Vec<Value> = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let [first, second] = lines.as_slice() else {
        bail!("{} lines instead of 2", lines.len());
    };
    let rates = [first, second].map(|line| line.get("rates").unwrap_or(&Value::Null));
    let interval = rates[1].get("interval").and_then(Value::as_f64);
    if !rates[0].is_null() || interval < Some(0.2) {
        bail!("rates: {} and {}", rates[0], rates[1]);
    }
    let keys = KeyAccount::of(world, Role::N3iwf)?;
    if number(second, "/overview/keys/used")? != keys.used {
        bail!("{:?} and not {keys}", second.pointer("/overview/keys"));
    }
    Ok(Finding::new("a view, and an object per interval").with_exhibit(view))
}
