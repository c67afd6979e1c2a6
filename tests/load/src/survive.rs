//! UEs that are attached when their N3IWF goes away, and attach again by themselves.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use load::fleet::Fleet;
use serde_json::json;
use ue_user::core::ue::State;

use crate::drive;

/// Attaches under way at first.
const AT_ONCE: usize = 16;
/// How often states are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// All attach; `output` then says so. Each is lost at some time and comes back; `output` then has when the first was
/// lost and when each was back. Last, all leave.
pub(crate) async fn survive(fleet: &mut Fleet, output: &Path, patience: Duration) -> Result<()> {
    let limit = Instant::now() + patience;
    let mut begun = 0;
    let mut under_way = 0;
    while begun < fleet.len() || under_way > 0 {
        while begun < fleet.len() && under_way < AT_ONCE {
            fleet.attach(begun);
            begun += 1;
            under_way += 1;
        }
        fleet.turn(Instant::now() + LOOK).await?;
        for ended in fleet.ended() {
            let failure = ended.failure.unwrap_or_default();
            ensure!(failure.is_empty(), "UE {}: {failure}", ended.ue);
            under_way -= 1;
        }
        ensure!(Instant::now() < limit, "{under_way} UEs do not attach");
    }
    drop(fleet.arrivals());
    tell(output, &json!({ "attached": fleet.len() }))?;
    // Whoever registers anew has lost what it had.
    let mut lost: Option<Instant> = None;
    let mut back: Vec<Option<Instant>> = vec![None; fleet.len()];
    while back.contains(&None) {
        fleet.turn(Instant::now() + LOOK).await?;
        drop(fleet.ended());
        let away = (0..fleet.len()).any(|ue| fleet.state(ue) != State::Registered);
        if away {
            lost.get_or_insert_with(Instant::now);
        }
        for (ue, at) in fleet.arrivals() {
            if let Some(back) = back.get_mut(ue) {
                *back = Some(at);
            }
        }
        let absent = back.iter().filter(|at| at.is_none()).count();
        ensure!(Instant::now() < limit, "{absent} UEs do not come back");
    }
    let times: BTreeSet<u64> = back.into_iter().flatten().map(since_epoch).collect();
    let told = json!({
        "attached": fleet.len(),
        "lost_ms": lost.map(since_epoch),
        "first_back_ms": times.first(),
        "last_back_ms": times.last(),
    });
    // The rig looks at the N3IWF before they leave, and takes the file away when it has.
    tell(output, &told)?;
    while output.exists() && Instant::now() < limit {
        fleet.turn(Instant::now() + LOOK).await?;
    }
    drive::all_detached(fleet).await
}

/// Milliseconds since the epoch, which another process on the same machine understands.
fn since_epoch(at: Instant) -> u64 {
    let wall = SystemTime::now().checked_sub(at.elapsed());
    let since = wall.and_then(|wall| wall.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// In one piece: somebody waits for it.
fn tell(output: &Path, what: &serde_json::Value) -> Result<()> {
    let part = output.with_extension("part");
    fs::write(&part, what.to_string())
        .and_then(|()| fs::rename(&part, output))
        .with_context(|| format!("cannot write {}", output.display()))
}
