//! A population that stays the same while each of it leaves and comes back in turn.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::Result;
use load::fleet::Fleet;
use serde_json::{Value, json};
use ue_user::core::ue::State;

use crate::drive;

/// Attaches under way.
const AT_ONCE: usize = 16;

/// Everybody attaches; then, for the rest of `span`, whoever has been attached the longest leaves and comes back,
/// `per_second` times a second; then everybody leaves.
pub(crate) async fn soak(fleet: &mut Fleet, span: Duration, per_second: f64) -> Result<Value> {
    drive::warm_up(fleet).await?;
    let end = Instant::now() + span;
    let mut waiting: VecDeque<usize> = (0..fleet.len()).collect();
    let mut attached: VecDeque<usize> = VecDeque::new();
    let mut leaving: Vec<usize> = Vec::new();
    let (mut attaches, mut failed, mut detaches, mut under_way) = (0_u64, 0_u64, 0_u64, 0);
    let mut why: BTreeMap<String, u64> = BTreeMap::new();
    // From when everybody is there.
    let mut churned: Option<(Instant, usize)> = None;
    while Instant::now() < end {
        while under_way < AT_ONCE
            && let Some(ue) = waiting.pop_front()
        {
            fleet.attach(ue);
            attaches += 1;
            under_way += 1;
        }
        if attached.len() == fleet.len() && churned.is_none() {
            churned = Some((Instant::now(), 0));
        }
        if let Some((since, done)) = &mut churned {
            let due = drive::begun(per_second, since.elapsed());
            while *done < due
                && leaving.len() < AT_ONCE
                && let Some(ue) = attached.pop_front()
            {
                fleet.detach(ue);
                leaving.push(ue);
                detaches += 1;
                *done += 1;
            }
        }
        fleet
            .turn((Instant::now() + Duration::from_millis(5)).min(end))
            .await?;
        for ended in fleet.ended() {
            under_way -= 1;
            match ended.failure {
                None => attached.push_back(ended.ue),
                Some(failure) => {
                    failed += 1;
                    *why.entry(failure).or_default() += 1;
                    leaving.push(ended.ue);
                }
            }
        }
        leaving.retain(|ue| {
            let gone = fleet.state(*ue) == State::Detached;
            if gone {
                waiting.push_back(*ue);
            }
            !gone
        });
    }
    drive::all_detached(fleet).await?;
    Ok(json!({
        "attaches": attaches + 1,
        "failed": failed,
        "detaches": detaches,
        "why": why,
    }))
}
