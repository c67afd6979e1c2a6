//! Stacks that keep nothing of what was computed on them.
//!
//! A function that used a key leaves copies of it where its frame was: the octets a cipher was made of, a value that
//! was moved. They stay until something is written over them, on an idle daemon's stack for hours. So work with keys
//! is done in frames of its own, and those are overwritten when it is done. What is not ours to put into such frames,
//! the TLS and HTTP of a KMS connection, is overwritten before the daemon sleeps: and where that is certain, the frames
//! are too, since whoever waits for an answer need not wait for that.

use std::{
    cell::Cell,
    future::Future,
    hint::black_box,
    pin::Pin,
    task::{Context, Poll},
};

/// Octets overwritten: more than the deepest calls of a daemon's core take.
const DEPTH: usize = 128 * 1024;

thread_local! {
    /// Whether this thread's stack is overwritten whenever it goes to sleep.
    static WIPED_ASLEEP: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, and overwrites the stack that it has used: before the thread sleeps, where its runtime sees to that
/// ([`wipe_when_idle`]), and at once everywhere else.
#[inline(never)]
pub fn sheltered<R>(work: impl FnOnce() -> R) -> R {
    let result = apart(work);
    if !WIPED_ASLEEP.get() {
        wipe();
    }
    result
}

/// A future whose every step is [`sheltered`]: its own state is on the heap, which [`Wiping`](super::Wiping) wipes.
pub fn sheltered_steps<F: Future>(future: F) -> impl Future<Output = F::Output> {
    Steps(Box::pin(future))
}

/// Overwrites the stack whenever `runtime` has nothing more to do: of whatever its tasks did, libraries' among them,
/// nothing is left while the thread sleeps.
pub fn wipe_when_idle(runtime: &mut tokio::runtime::Builder) {
    runtime.on_thread_park(|| {
        WIPED_ASLEEP.set(true);
        wipe();
    });
}

struct Steps<F>(Pin<Box<F>>);

impl<F: Future> Future for Steps<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let future = self.0.as_mut();
        sheltered(|| future.poll(cx))
    }
}

/// Not part of the caller's frame, so that all of it is in reach of [`wipe`].
#[inline(never)]
fn apart<R>(work: impl FnOnce() -> R) -> R {
    black_box(work())
}

/// Its frame begins where that of [`apart`] began.
#[inline(never)]
fn wipe() {
    let mut below = [0_u8; DEPTH];
    // Whoever might look at it keeps the compiler from leaving it out.
    black_box(&mut below);
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::FileExt,
    };

    use super::*;

    const LEN: usize = 64;

    /// Octets that are nowhere else in this process: only ever computed one at a time.
    fn octet(at: usize) -> u8 {
        let at = black_box(at) as u64 + 1;
        at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[3]
    }

    /// Leaves its octets on the stack, some calls down.
    #[inline(never)]
    fn careless(depth: usize) -> u8 {
        let mut octets = [0_u8; LEN];
        if depth > 0 {
            return black_box(careless(depth - 1));
        }
        for (at, to) in octets.iter_mut().enumerate() {
            *to = octet(at);
        }
        black_box(&octets)[LEN - 1]
    }

    /// An address on the stack of this thread.
    fn here() -> u64 {
        let here = 0_u8;
        std::ptr::from_ref(black_box(&here)) as u64
    }

    /// How often the octets are on the stack of this thread.
    fn left_behind() -> usize {
        left_behind_at(here())
    }

    /// The same of the stack with this address.
    fn left_behind_at(here: u64) -> usize {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let range = maps
            .lines()
            .filter_map(|line| {
                let (from, to) = line.split_whitespace().next()?.split_once('-')?;
                let bound = |text| u64::from_str_radix(text, 16).ok();
                Some(bound(from)?..bound(to)?)
            })
            .find(|range| range.contains(&here))
            .unwrap();
        let mut stack = vec![0; usize::try_from(range.end - range.start).unwrap()];
        let memory = File::open("/proc/self/mem").unwrap();
        memory.read_exact_at(&mut stack, range.start).unwrap();
        stack
            .windows(LEN)
            .filter(|window| {
                let mut octets = window.iter().enumerate();
                octets.all(|(at, found)| *found == octet(at))
            })
            .count()
    }

    #[test]
    fn what_is_sheltered_leaves_nothing_behind() {
        assert_eq!(left_behind(), 0);
        let last = careless(20);
        assert!(left_behind() > 0, "or this test sees nothing");
        assert_eq!(sheltered(|| careless(20)), last);
        assert_eq!(left_behind(), 0);
    }

    /// How often the octets are on the stack of a runtime that sleeps, after a task of a library, so to speak. When it
    /// sleeps it does not say: `looks` is how often it is looked at until there is nothing.
    fn left_by_a_task(looks: usize, prepare: fn(&mut tokio::runtime::Builder)) -> usize {
        let (send, receive) = std::sync::mpsc::channel();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            prepare(&mut runtime);
            runtime.build().unwrap().block_on(async move {
                let task = tokio::spawn(async { black_box(careless(20)) });
                assert_eq!(task.await.unwrap(), octet(LEN - 1));
                send.send(here()).unwrap();
                ended.await.unwrap();
            });
        });
        let stack = receive.recv().unwrap();
        let mut found = left_behind_at(stack);
        for _ in 1..looks {
            if found == 0 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(25));
            found = left_behind_at(stack);
        }
        end.send(()).unwrap();
        thread.join().unwrap();
        found
    }

    #[test]
    fn an_idle_runtime_has_nothing_on_its_stack() {
        assert!(left_by_a_task(8, |_| ()) > 0, "or this test sees nothing");
        assert_eq!(left_by_a_task(400, wipe_when_idle), 0);
    }

    #[test]
    fn what_is_sheltered_may_wait_for_the_next_sleep_and_no_longer() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        wipe_when_idle(&mut runtime);
        let runtime = runtime.enable_time().build().unwrap();
        let moment = std::time::Duration::from_millis(1);
        runtime.block_on(async {
            tokio::time::sleep(moment).await;
            assert_eq!(sheltered(|| careless(20)), octet(LEN - 1));
            tokio::time::sleep(moment).await;
            assert_eq!(left_behind(), 0);
        });
        // Another thread's stack is overwritten at once.
        let other = std::thread::spawn(|| {
            sheltered(|| careless(20));
            left_behind()
        });
        assert_eq!(other.join().unwrap(), 0);
    }

    #[test]
    fn steps_of_a_future_leave_nothing_behind() {
        let mut future = Box::pin(sheltered_steps(async { careless(20) }));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(future.as_mut().poll(&mut cx), Poll::Ready(octet(LEN - 1)));
        assert_eq!(left_behind(), 0);
    }
}
