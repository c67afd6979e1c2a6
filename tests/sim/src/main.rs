//! `sim`: runs scenarios by their seeds, and replays the ones that failed.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool"
)]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use clap::Parser;
use sim::{Summary, plan::Plan};

/// The control plane in virtual time, with seeded faults.
///
/// Exit code 0: everything held; 1: a seed failed (it is printed; `--seed N --trace` replays it).
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Scenarios to run.
    #[arg(long, default_value_t = 300, conflicts_with = "hours")]
    scenarios: u64,
    /// Run for so long instead.
    #[arg(long)]
    hours: Option<f64>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Only this seed.
    #[arg(long, conflicts_with_all = ["scenarios", "hours"])]
    seed: Option<u64>,
    /// Log lines of the parts (with --seed).
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Threads; all processors unless given.
    #[arg(long)]
    threads: Option<usize>,
    /// The result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// What all runs together did.
#[derive(Default)]
struct Total {
    scenarios: u64,
    sum: Summary,
    failed: Vec<(u64, String)>,
}

impl Total {
    fn add(&mut self, seed: u64, outcome: Result<Summary, String>) {
        self.scenarios += 1;
        match outcome {
            Ok(one) => {
                self.sum.events += one.events;
                self.sum.lasted += one.lasted;
                self.sum.attaches += one.attaches;
                self.sum.detaches += one.detaches;
                self.sum.keys += one.keys;
                self.sum.lost += one.lost;
                self.sum.converged = self.sum.converged.max(one.converged);
            }
            Err(what) => {
                eprintln!("seed {seed}: {what}");
                self.failed.push((seed, what));
            }
        }
    }

    fn join(mut self, other: Self) -> Self {
        self.scenarios += other.scenarios;
        self.sum.events += other.sum.events;
        self.sum.lasted += other.sum.lasted;
        self.sum.attaches += other.sum.attaches;
        self.sum.detaches += other.sum.detaches;
        self.sum.keys += other.sum.keys;
        self.sum.lost += other.sum.lost;
        self.sum.converged = self.sum.converged.max(other.sum.converged);
        self.failed.extend(other.failed);
        self
    }
}

/// A panic of a part is a failure of its seed, not of the run.
fn one(seed: u64) -> Result<Summary, String> {
    catch_unwind(AssertUnwindSafe(|| sim::run(&Plan::new(seed))))
        .unwrap_or_else(|_| {
            Err(sim::Violation {
                what: "a part panicked".to_owned(),
            })
        })
        .map_err(|violation| violation.what)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = if args.trace {
        "debug,sim=trace,oxirush_nas=warn,oxirush_ngap=warn"
    } else {
        "off"
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr);
    subscriber.init();
    let begun = Instant::now();
    let total = match args.seed {
        Some(seed) => {
            println!("{:#?}", Plan::new(seed));
            let mut total = Total::default();
            total.add(seed, one(seed));
            total
        }
        None => many(&args, begun),
    };
    report(&args, &total, begun.elapsed());
    if total.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}

fn many(args: &Args, begun: Instant) -> Total {
    let threads = args
        .threads
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1)
        .max(1);
    let end = args
        .hours
        .map(|hours| Duration::from_secs_f64(hours.clamp(0.0, 10_000.0) * 3600.0));
    let next = AtomicU64::new(0);
    let work = &|first_thread: bool| {
        let mut total = Total::default();
        let mut said = Instant::now();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let over = match end {
                Some(end) => begun.elapsed() >= end,
                None => number >= args.scenarios,
            };
            if over {
                return total;
            }
            let seed = args.first + number;
            total.add(seed, one(seed));
            if first_thread && said.elapsed() > Duration::from_secs(5) {
                said = Instant::now();
                eprintln!(
                    "{} scenarios, {:.0} s",
                    number + 1,
                    begun.elapsed().as_secs_f64()
                );
            }
        }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|index| scope.spawn(move || work(index == 0)))
            .collect();
        running
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .fold(Total::default(), Total::join)
    })
}

fn report(args: &Args, total: &Total, took: Duration) {
    let sum = &total.sum;
    if args.json {
        let failed: Vec<_> = total
            .failed
            .iter()
            .map(|(seed, what)| serde_json::json!({"seed": seed, "what": what}))
            .collect();
        println!(
            "{}",
            serde_json::json!({
                "scenarios": total.scenarios,
                "seconds": took.as_secs_f64(),
                "events": sum.events,
                "virtualSeconds": sum.lasted.as_secs_f64(),
                "attaches": sum.attaches,
                "detaches": sum.detaches,
                "keysFetched": sum.keys,
                "keysLost": sum.lost,
                "slowestConvergenceSeconds": sum.converged.as_secs_f64(),
                "failed": failed,
            })
        );
        return;
    }
    println!(
        "{} scenarios in {:.1} s: {} failed; {} events in {:.1} h of virtual time, {} attaches, \
         {} detaches, {} keys ({} lost), slowest recovery {:.0} s",
        total.scenarios,
        took.as_secs_f64(),
        total.failed.len(),
        sum.events,
        sum.lasted.as_secs_f64() / 3600.0,
        sum.attaches,
        sum.detaches,
        sum.keys,
        sum.lost,
        sum.converged.as_secs_f64(),
    );
}
