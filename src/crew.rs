//! A few threads for work that would hold up sockets: reading blocks, mapping events.
//!
//! The runtime's own pool starts a thread whenever none is idle at that moment, and each keeps memory of its own; work
//! that goes on all day has a fixed crew instead, which gives way to acceptance.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Niceness of its threads, that of delivery's.
const NICENESS: i32 = 10;

type Work = Box<dyn FnOnce() + Send>;

/// The threads. Cheap to clone; they end with the last clone.
#[derive(Debug, Clone)]
pub struct Crew {
    work: Sender<Work>,
}

/// The work came to no end: it panicked, or no thread could be had.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the work was given up inside aqueduct")]
pub struct GivenUp;

impl Crew {
    /// `threads` of them, at least one, named `name`.
    #[must_use]
    pub fn start(name: &str, threads: usize) -> Self {
        let (work, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            let started = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || serve(&queue));
            if let Err(error) = started {
                tracing::error!(name, %error, "a thread could not be started");
            }
        }
        Self { work }
    }

    /// Does it there. Must not wait for other work of the same crew.
    ///
    /// # Errors
    /// When it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, GivenUp> {
        self.run_and_rest(work, |_| Duration::ZERO).await
    }

    /// Does it there; once its caller has the result, that thread rests as long as `rest` says of the time it stood
    /// ready while others had the processor.
    ///
    /// # Errors
    /// When it panics.
    pub async fn run_and_rest<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        rest: impl FnOnce(Duration) -> Duration + Send + 'static,
    ) -> Result<T, GivenUp> {
        let (reply, answer) = oneshot::channel();
        let work = Box::new(move || {
            let (begun, worked) = (Instant::now(), processor_time());
            let _nobody_waits = reply.send(work());
            let worked = processor_time().saturating_sub(worked);
            let rest = rest(begun.elapsed().saturating_sub(worked));
            if !rest.is_zero() {
                std::thread::sleep(rest);
            }
        });
        self.work.send(work).map_err(|_| GivenUp)?;
        answer.await.map_err(|_| GivenUp)
    }
}

/// What this thread has had of the processor.
fn processor_time() -> Duration {
    let had = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(had).unwrap_or_default()
}

fn serve(queue: &Mutex<Receiver<Work>>) {
    // Refused only in odd containers, and then it merely competes as an equal.
    let _refused = rustix::process::nice(NICENESS);
    loop {
        let next = queue.lock().recv();
        let Ok(work) = next else { return };
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!("work in the background panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_panics_takes_no_thread_with_it() {
        let crew = Crew::start("test", 1);
        assert!(crew.run(|| panic!("on purpose")).await.is_err());
        assert_eq!(crew.run(|| 2).await.unwrap(), 2);
        let many = (0..50).map(|n| crew.run(move || n));
        let done = futures_util::future::join_all(many).await;
        assert_eq!(done.into_iter().flatten().sum::<i32>(), 1_225);
    }

    #[tokio::test]
    async fn a_thread_rests_only_after_its_caller_was_answered() {
        let crew = Crew::start("test", 1);
        let (wake, rest) = channel();
        let rests = move |_| rest.recv().unwrap_or_default();
        assert_eq!(crew.run_and_rest(|| 1, rests).await.unwrap(), 1);
        // The only thread rests until told otherwise.
        let mut next = std::pin::pin!(crew.run(|| 2));
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        wake.send(Duration::ZERO).unwrap();
        assert_eq!(next.await.unwrap(), 2);
    }
}
