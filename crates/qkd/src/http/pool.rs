//! Connections between two requests.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use super::{
    IDLE, KEPT,
    lines::{Line, Site},
};

/// A connection that nobody uses, of which site, and since when.
struct Idle {
    site: Arc<Site>,
    line: Line,
    since: Instant,
}

/// The connections to all endpoints that nobody uses.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Idle>>,
    /// Whether somebody closes those that are idle for too long.
    swept: AtomicBool,
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one used last: the others have a chance to grow old.
    pub(super) fn take(&self, site: &Arc<Site>) -> Option<Line> {
        let mut idle = self.idle();
        let at = idle.iter().rposition(|one| Arc::ptr_eq(&one.site, site))?;
        Some(idle.remove(at).line)
    }

    pub(super) fn keep(self: &Arc<Self>, site: &Arc<Site>, line: Line) {
        let mut idle = self.idle();
        if idle
            .iter()
            .filter(|one| Arc::ptr_eq(&one.site, site))
            .count()
            >= KEPT
        {
            return;
        }
        idle.push(Idle {
            site: Arc::clone(site),
            line,
            since: Instant::now(),
        });
        site.freed.notify_one();
        if !self.swept.swap(true, Ordering::Relaxed) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }
}

/// Closes connections that are idle for too long, until there is none.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.idle();
        idle.retain(|one| one.since.elapsed() < IDLE);
        if idle.is_empty() {
            // Under the lock, so that nobody keeps one now and counts on us.
            pool.swept.store(false, Ordering::Relaxed);
            return;
        }
    }
}
