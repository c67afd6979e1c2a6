//! Packets through a relay between namespaces, GRE in clear: on any processors, and with all work of the
//! relay on one, so that its cost in processor time shows.

use std::{
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use dataplane::relay::{AccessRelay, AccessSession, GtpRelay, KernelRelay, Path, SessionReading};
use serde_json::{Value, json};

use crate::{
    flood,
    net::{PROCESSORS, drop_all, forward, framed, know_neighbours, packets_in, run_on, steer},
    programs,
    support::{self, internet::ipv4},
    tell,
    world::{self, QFI, World, session},
};

/// How long packets are sent at each rate.
const SPAN: Duration = Duration::from_millis(500);
/// Packets per second offered, and at last as many as the sender can. A relay in user space gets
/// less done when it is flooded, so the best of all counts.
const OFFERED: [f64; 6] = [100e3, 150e3, 200e3, 250e3, 300e3, f64::INFINITY];
/// Packets per system call of the sender.
pub(crate) const BATCH: usize = 64;

/// What is between the namespaces.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Way {
    User,
    Kernel,
    /// Plain IPv4 forwarding of packets of the same length.
    Forward,
}

const WAYS: [Way; 3] = [Way::User, Way::Kernel, Way::Forward];

/// Each way, in each direction.
pub(crate) fn rates_of_all() {
    for one in [false, true] {
        for (up, octets) in [(true, 64), (true, 1300), (false, 64), (false, 1300)] {
            let [user, kernel, forward] = WAYS.map(|way| {
                let stream = Stream {
                    way,
                    up,
                    octets: vec![octets],
                    one,
                    sessions: 1,
                };
                stream.measure(&rates)
            });
            tell(
                "stream",
                json!({
                    "direction": direction(up), "octets": octets, "one_processor": one,
                    "user_best": user.best.round(), "user_flood": user.flood.round(),
                    "kernel_flood": kernel.flood.round(), "forward_flood": forward.flood.round(),
                }),
            );
        }
    }
}

pub(crate) const fn direction(up: bool) -> &'static str {
    if up { "uplink" } else { "downlink" }
}

/// Packets per second that came out.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rates {
    /// At the best rate offered.
    pub(crate) best: f64,
    /// While as many were sent as the sender can.
    pub(crate) flood: f64,
}

/// What senders do, with a count of what came out; there is one for each length of PDUs.
pub(crate) type Measure<'a> = &'a (dyn Fn(&[flood::Sender], &dyn Fn() -> u64) -> Rates + Sync);

fn rates(senders: &[flood::Sender], count: &dyn Fn() -> u64) -> Rates {
    let sender = &senders[0];
    let mut rates = Rates::default();
    for offered in OFFERED {
        // The last one is the flood.
        rates.flood = offer(sender, offered, count);
        rates.best = rates.best.max(rates.flood);
    }
    rates
}

/// Where the processor of the relay is under a flood: functions of the kernel and of the relay, by their
/// share of samples.
pub(crate) fn profiles() {
    let file = std::env::temp_dir().join(format!("relay-{}.perf", std::process::id()));
    let profile = |senders: &[flood::Sender], count: &dyn Fn() -> u64| {
        let processor = PROCESSORS[1].to_string();
        let file = file.to_str().unwrap();
        let mut perf = Command::new("perf")
            .args(["record", "-q", "-C", &processor, "-F", "4999", "-o", file])
            .args(["--", "sleep", "3"])
            .spawn()
            .expect("perf");
        let before = count();
        let begin = Instant::now();
        while perf.try_wait().unwrap().is_none() {
            for _ in 0..100 {
                senders[0].send();
            }
        }
        let flood = (count() - before) as f64 / begin.elapsed().as_secs_f64();
        Rates { best: flood, flood }
    };
    for (way, name) in WAYS.into_iter().zip(["user", "kernel", "forwarding"]) {
        for up in [true, false] {
            let stream = Stream {
                way,
                up,
                octets: vec![64],
                one: true,
                sessions: 1,
            };
            let rate = stream.measure(&profile).flood;
            let report = support::run(
                "perf",
                &[
                    "report",
                    "--stdio",
                    "--no-children",
                    "--sort",
                    "symbol",
                    "--percent-limit",
                    "2",
                    "-i",
                    file.to_str().unwrap(),
                ],
            );
            let symbols: Vec<Value> = report.lines().filter_map(symbol).collect();
            tell(
                "profile",
                json!({
                    "way": name, "direction": direction(up), "octets": 64,
                    "rate": rate.round(), "symbols": symbols,
                }),
            );
        }
    }
    let _ = std::fs::remove_file(file);
}

/// A line of perf's: the share of samples, `[k]` or `[.]`, whose they are, and columns with nothing in them.
fn symbol(line: &str) -> Option<Value> {
    let (share, rest) = line.trim().split_once('%')?;
    let share: f64 = share.parse().ok()?;
    let (_, name) = rest.split_once("] ")?;
    let name = name.split("  ").next()?.trim();
    // A program has its tag before its name.
    let program = name
        .strip_prefix("bpf_prog_")
        .and_then(|rest| rest.split_once('_'));
    Some(json!([program.map_or(name, |(_, name)| name), share]))
}

/// A relay under packets.
pub(crate) struct Stream {
    pub(crate) way: Way,
    pub(crate) up: bool,
    /// Octets of PDUs, a sender for each.
    pub(crate) octets: Vec<usize>,
    /// All of the relay is on one processor.
    pub(crate) one: bool,
    /// Sessions whose packets take turns.
    pub(crate) sessions: u32,
}

/// Where inner addresses but the first are.
const INNER: u32 = u32::from_be_bytes([10, 1, 0, 0]);

/// Session `number` of those that take turns.
fn nth(number: u32) -> AccessSession {
    let mut own = session("access");
    own.dl_teid += number;
    own.ul_teid += number;
    if number > 0 {
        own.ue_inner = (INNER + number).into();
    }
    own
}

impl Stream {
    /// What `measure` makes of senders in front of the relay and of a count behind it.
    pub(crate) fn measure(&self, measure: Measure<'_>) -> Rates {
        let world = World::new();
        let mut config = world.relay_config();
        config.max_sessions = self.sessions.max(64);
        let path = if self.way == Way::Kernel {
            Path::Kernel
        } else {
            Path::User
        };
        let relay: Arc<dyn AccessRelay> = world.n3iwf.run(|| -> Arc<dyn AccessRelay> {
            if self.one {
                run_on(&PROCESSORS[1..]);
            }
            let relay: Arc<dyn AccessRelay> = match path {
                Path::User => Arc::new(GtpRelay::start(config.user).unwrap()),
                Path::Kernel => Arc::new(KernelRelay::start(config).unwrap()),
            };
            // Which starts the threads of the sockets.
            for number in 0..self.sessions {
                relay.add(nth(number)).unwrap();
            }
            run_on(&PROCESSORS);
            relay
        });
        assert!(relay.readings().iter().all(|reading| reading.path == path));
        // Receiving is work of the second processor, sending of the first.
        let (from, device, to, out) = if self.up {
            (&world.ue, "access", &world.core, "n3")
        } else {
            (&world.core, "n3", &world.ue, "access")
        };
        drop_all(to, out);
        steer(&world.n3iwf, device);
        if self.way == Way::Forward {
            forward(&world);
        }
        if self.sessions > 1 {
            let (inner, gateway) = ("10.1.0.0/16", world::UE_INNER.to_string());
            let route = ["route", "add", inner, "via", &gateway, "dev", "access"];
            world.n3iwf.ip(&route);
        }
        know_neighbours(&world);
        let frames = |octets: &usize| -> Vec<Vec<u8>> {
            (0..self.sessions)
                .map(|number| self.packet(&nth(number), *octets))
                .map(|packet| framed(&world.n3iwf, device, &packet))
                .collect()
        };
        let frames: Vec<Vec<Vec<u8>>> = self.octets.iter().map(frames).collect();
        let received = from.run(|| {
            run_on(&PROCESSORS[..1]);
            let senders: Vec<flood::Sender> = frames
                .into_iter()
                .map(|frames| flood::Sender::new(device, frames, BATCH))
                .collect();
            measure(&senders, &|| packets_in(to, out))
        });
        assert!(received.flood > 0.0);
        let readings = relay.readings();
        let relayed = |reading: &SessionReading| reading.uplink.packets + reading.downlink.packets;
        let all = readings.iter().all(|reading| relayed(reading) > 0);
        assert_eq!(all, self.way != Way::Forward);
        received
    }

    fn packet(&self, session: &AccessSession, octets: usize) -> Vec<u8> {
        let pdu = programs::pdu(octets);
        if self.way == Way::Forward {
            let (sender, receiver) = if self.up {
                (world::UE_INNER, world::UPF)
            } else {
                (world::UPF, world::UE_INNER)
            };
            // GRE is 28 octets in front of the PDU, GTP-U 44.
            let length = octets + if self.up { 28 } else { 44 };
            let payload = programs::pdu(length - 20);
            ipv4(17, sender.octets(), receiver.octets(), &payload)
        } else if self.up {
            let to = world::N3IWF_INNER.octets();
            let gre = world::uplink(QFI, &pdu);
            ipv4(47, session.ue_inner.octets(), to, &gre)
        } else {
            let gtp = world::downlink(session.dl_teid, QFI, &pdu);
            programs::unsummed(programs::n3(programs::UPF, &gtp))
        }
    }
}

/// Packets per second that came out while `rate` were sent.
fn offer(sender: &flood::Sender, rate: f64, count: &dyn Fn() -> u64) -> f64 {
    let before = count();
    let begin = Instant::now();
    let mut sent = 0;
    loop {
        let elapsed = begin.elapsed();
        if elapsed >= SPAN {
            break;
        }
        if sent as f64 <= rate * elapsed.as_secs_f64() {
            sent += sender.send();
        }
    }
    let received = count() - before;
    let seconds = begin.elapsed().as_secs_f64();
    // What is still queued is not the next rate's.
    thread::sleep(Duration::from_millis(200));
    received as f64 / seconds
}
