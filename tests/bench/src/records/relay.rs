//! Figures of the user plane, as `cargo bench -p dataplane --bench relay` prints them.

use serde::{Deserialize, Serialize};

/// A median, and what it lies between: the least and the most, or quartiles.
pub type Spread = [f64; 3];

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum Relay {
    /// A program alone, one packet a run.
    Single(Single),
    /// A program in a flood.
    Warm(Warm),
    /// What counting adds to a packet.
    Counting(Counting),
    /// Packets per second through a relay.
    Stream(Stream),
    /// Where the processor of a relay is.
    Profile(Profile),
    /// Packets per second through the whole chain.
    Esp(Esp),
}

/// One packet a run (`BPF_PROG_TEST_RUN`), nanoseconds without what an empty run takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Single {
    /// Name of the program.
    pub program: String,
    /// Octets of the IP packet.
    pub octets: u32,
    /// Sessions, where there are many.
    pub sessions: u32,
    /// With one session: median, least and most of the rounds.
    pub one_ns: Spread,
    /// With many.
    pub many_ns: Spread,
    /// Many against one, round by round.
    pub ratio: Spread,
}

/// What the kernel accounts for a run (`BPF_ENABLE_STATS`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warm {
    /// Name of the program.
    pub program: String,
    /// Octets of a PDU.
    pub octets: u32,
    /// Sessions whose packets take turns.
    pub sessions: u32,
    /// Nanoseconds of a run, the clock in it: median and quartiles of rounds.
    pub ns: Spread,
    /// The same of a run that ends at once: the clock, mostly.
    pub clock_ns: f64,
    /// Packets per second that came out.
    pub rate: f64,
}

/// Packets that are forwarded with the programs that count and without, median and quartiles of rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counting {
    /// Name of the program.
    pub program: String,
    /// Octets of a packet.
    pub octets: u32,
    /// Pairs of rounds.
    pub rounds: u32,
    /// Nanoseconds of a packet without the programs.
    pub without_ns: Spread,
    /// With them.
    pub with_ns: Spread,
    /// The difference, round by round.
    pub cost_ns: Spread,
    /// The same of a program that does nothing.
    #[serde(default)]
    pub nothing_ns: Option<Spread>,
    /// What of them is sending the packet.
    pub sending_ns: Spread,
    /// What the kernel accounts for a run of the program, the clock in it.
    pub program_ns: f64,
}

/// Packets per second that come out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// `uplink` or `downlink`.
    pub direction: String,
    /// Octets of a PDU.
    pub octets: u32,
    /// All of the relay is on one processor.
    pub one_processor: bool,
    /// The relay in user space, at the best rate offered.
    pub user_best: f64,
    /// The same, flooded.
    pub user_flood: f64,
    /// The kernel relay, flooded.
    pub kernel_flood: f64,
    /// Plain forwarding of packets of the same length, flooded.
    pub forward_flood: f64,
}

/// Samples of the processor of a relay in a flood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// `user`, `kernel` or `forwarding`.
    pub way: String,
    /// `uplink` or `downlink`.
    pub direction: String,
    /// Octets of a PDU.
    pub octets: u32,
    /// Packets per second meanwhile.
    pub rate: f64,
    /// Functions and their share of samples, per cent, the largest first.
    pub symbols: Vec<(String, f64)>,
}

/// Packets per second that come out on N3 while a UE sends through ESP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Esp {
    /// The way through the N3IWF.
    pub way: String,
    /// Octets of a PDU.
    pub octets: u32,
    /// Of each round.
    pub rates: Vec<f64>,
    /// What the kernel accounts for a run of the program that counts what comes from the UE, nanoseconds,
    /// where it is there.
    pub counting_ns: Option<f64>,
}
