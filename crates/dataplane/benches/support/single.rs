//! Each program alone, one packet a run (`BPF_PROG_TEST_RUN`), which is as cold as a packet can be.

use ebpf_common::relay::{PROGRAM_DOWNLINK, PROGRAM_UPLINK};
use serde_json::json;

use crate::{
    MANY,
    programs::{self, Programs, REDIRECT, Session},
    spread, tell,
    world::QFI,
};

/// Single runs of which the median is taken: each session is visited twice.
const RUNS: usize = 20_000;
/// How often one session and many take turns.
const ROUNDS: usize = 5;

/// Runs each packet once: a program changes its packet, so it cannot run on it again. Packets are
/// made one at a time, or thousands of them would push the maps out of the caches.
fn median(
    programs: &Programs,
    name: &str,
    action: u32,
    round: usize,
    packet: impl Fn(usize) -> Vec<u8>,
) -> f64 {
    let mut times: Vec<u64> = (0..RUNS)
        .map(|n| {
            // A stride that is a prime visits every session.
            let ran = programs.run(name, &packet((round * RUNS + n) * 7919), 1);
            assert_eq!(ran.action, action);
            ran.duration.as_nanos() as u64
        })
        .collect();
    times.sort_unstable();
    times[RUNS / 2] as f64
}

/// One session and many take turns, so that what else the host does costs both the same.
pub(crate) fn packets() {
    let sets = [1, MANY].map(|count| {
        let mut programs = Programs::load(MANY);
        let sessions: Vec<Session> = (0..count)
            .map(|number| Session { number, reqid: 0 })
            .collect();
        for session in &sessions {
            programs.add(*session);
        }
        (programs, sessions)
    });
    // What the kernel takes for a run that ends at once: no IP packet.
    let mut nothing = vec![0; 64];
    nothing[12] = 0x88;
    for (name, octets) in [PROGRAM_UPLINK, PROGRAM_DOWNLINK]
        .into_iter()
        .flat_map(|name| [(name, 64), (name, 1400)])
    {
        let mut costs = [vec![0.0; ROUNDS], vec![0.0; ROUNDS]];
        let mut ratios = vec![0.0; ROUNDS];
        for round in 0..ROUNDS {
            for (cost, (programs, sessions)) in costs.iter_mut().zip(&sets) {
                // `octets` is the length of the IP packet that comes in.
                let whole = median(programs, name, REDIRECT, round, |n| {
                    let session = sessions[n % sessions.len()];
                    programs::frame(&if name == PROGRAM_UPLINK {
                        programs::gre(session, QFI, &programs::pdu(octets - 28))
                    } else {
                        let pdu = programs::pdu(octets - 44);
                        programs::unsummed(programs::downlink(session, QFI, true, &pdu))
                    })
                });
                let harness = median(programs, PROGRAM_UPLINK, programs::PASS, round, |_| {
                    nothing.clone()
                });
                cost[round] = (whole - harness).max(1.0);
            }
            ratios[round] = costs[1][round] / costs[0][round];
        }
        let [one, many] = costs.map(spread);
        tell(
            "single",
            json!({
                "program": name, "octets": octets, "sessions": MANY,
                "one_ns": one, "many_ns": many, "ratio": spread(ratios),
            }),
        );
    }
}
