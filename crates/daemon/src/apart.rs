//! Work that blocks on the kernel, away from the one thread of a daemon's runtime.

use std::{future::Future, panic::resume_unwind};

use tokio::{
    runtime::Handle,
    task::{JoinHandle, spawn_blocking},
};

/// Runs `work` on a thread of its own until it is done; timers and sockets it waits for are the
/// runtime's as before.
pub fn spawn_apart<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let runtime = Handle::current();
    spawn_blocking(move || runtime.block_on(work))
}

/// The same, and waits for what comes of it.
///
/// # Panics
/// When `work` does.
pub async fn apart<F>(work: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    match spawn_apart(work).await {
        Ok(output) => output,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends, and with it whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    #[tokio::test]
    async fn others_go_on_meanwhile() {
        let here = thread::current().id();
        let begun = Instant::now();
        let mut turns = 0_u32;
        let work = apart(async {
            thread::sleep(Duration::from_millis(200));
            tokio::time::sleep(Duration::from_millis(1)).await;
            thread::current().id()
        });
        let mut work = Box::pin(work);
        let there = loop {
            tokio::select! {
                there = &mut work => break there,
                () = tokio::time::sleep(Duration::from_millis(5)) => turns += 1,
            }
        };
        assert_ne!(here, there);
        assert!(begun.elapsed() >= Duration::from_millis(200));
        assert!(turns >= 5, "{turns} turns in 200 ms");
    }

    #[tokio::test]
    #[should_panic(expected = "as it is")]
    async fn a_panic_comes_through() {
        apart(async { panic!("as it is") }).await;
    }
}
