use std::{
    collections::VecDeque,
    num::NonZeroU32,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
};

use tokio::sync::Notify;

/// A queue between connections and one worker that works in batches.
///
/// A push always succeeds, because what was read from a socket must go somewhere; above the bound the queue is *pressed*
/// and connections stop reading until it is relieved, so it exceeds the bound by at most what each connection has read.
#[derive(Debug)]
pub(crate) struct Plane<T> {
    // Small sections, never across an await.
    items: Mutex<Items<T>>,
    // How many wait; written under the lock.
    len: AtomicUsize,
    // How many of all that were ever pushed the worker is done with.
    done: AtomicU64,
    // Wakes who waits for that in the order in which they came.
    went_on: Notify,
    pressed_len: usize,
    closed: AtomicBool,
    pushed: Notify,
}

#[derive(Debug)]
struct Items<T> {
    waiting: VecDeque<T>,
    // Of all time.
    taken: u64,
    // Counts the batches that were taken.
    round: u32,
    // Who does not read until the next batch is taken.
    held_up: Vec<Waker>,
}

/// Since which batch a connection waits for relief.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Round(Option<NonZeroU32>);

impl<T> Plane<T> {
    pub(crate) fn new(pressed_len: usize) -> Self {
        Self {
            items: Mutex::new(Items { waiting: VecDeque::new(), taken: 0, round: 1, held_up: Vec::new() }),
            len: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            went_on: Notify::new(),
            pressed_len,
            closed: AtomicBool::new(false),
            pushed: Notify::new(),
        }
    }

    fn items(&self) -> std::sync::MutexGuard<'_, Items<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, item: T) {
        let mut items = self.items();
        items.waiting.push_back(item);
        self.len.store(items.waiting.len(), Ordering::Relaxed);
        if items.waiting.len() == 1 {
            self.pushed.notify_one();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether connections must not read.
    pub(crate) fn is_pressed(&self) -> bool {
        self.len() >= self.pressed_len
    }

    /// Whether the connection must not read; if so it is woken when the worker has taken a batch. `round` is the connection's, to
    /// be kept for the next call: it waits once for each batch, however often it asks.
    pub(crate) fn holds_up(&self, round: &mut Round, waker: &Waker) -> bool {
        if !self.is_pressed() {
            return false;
        }
        let mut items = self.items();
        if items.waiting.len() < self.pressed_len {
            return false;
        }
        let present = Round(NonZeroU32::new(items.round));
        if *round != present {
            *round = present;
            items.held_up.push(waker.clone());
        }
        true
    }

    /// Resolves when the worker is done with everything that was pushed before the call.
    pub(crate) async fn flushed(&self) {
        let target = {
            let items = self.items();
            items.taken + items.waiting.len() as u64
        };
        loop {
            // Made before the look, so that what comes after it is not missed.
            let went_on = self.went_on.notified();
            if self.done.load(Ordering::Acquire) >= target {
                return;
            }
            went_on.await;
        }
    }

    /// Takes up to `max`, waiting for the first; `None` once closed and empty. For one worker.
    pub(crate) async fn take(&self, max: usize) -> Option<Vec<T>> {
        loop {
            {
                let mut items = self.items();
                // The worker comes back when it is done with what it took.
                self.done.store(items.taken, Ordering::Release);
                self.went_on.notify_waiters();
                if !items.waiting.is_empty() {
                    let count = items.waiting.len().min(max);
                    items.taken += count as u64;
                    items.round = items.round.checked_add(1).unwrap_or(1);
                    let batch = items.waiting.drain(..count).collect();
                    self.len.store(items.waiting.len(), Ordering::Relaxed);
                    let held_up = std::mem::take(&mut items.held_up);
                    drop(items);
                    held_up.into_iter().for_each(Waker::wake);
                    return Some(batch);
                }
            }
            if self.closed.load(Ordering::Acquire) {
                return None;
            }
            self.pushed.notified().await;
        }
    }

    /// Lets the worker end when it has taken everything.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.pushed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn is_ready(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        let mut future = future;
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await
    }

    #[tokio::test]
    async fn flushed_waits_for_what_was_taken_and_not_for_what_comes_later() {
        let plane = Plane::new(2);
        assert!(is_ready(pin!(plane.flushed())).await);
        plane.push(1);
        let mut flushed = pin!(plane.flushed());
        assert!(!is_ready(flushed.as_mut()).await);
        assert_eq!(plane.take(10).await, Some(vec![1]));
        assert!(!is_ready(flushed.as_mut()).await, "it is being worked on");
        plane.push(2);
        assert_eq!(plane.take(10).await, Some(vec![2]));
        assert!(is_ready(flushed.as_mut()).await);
    }

    #[tokio::test]
    async fn relief_after_the_question_is_not_missed() {
        let plane = Plane::new(2);
        (0..3).for_each(|n| plane.push(n));
        let (woken, mut round) = (Arc::new(Woken::default()), Round::default());
        let waker = Waker::from(woken.clone());
        assert!(plane.holds_up(&mut round, &waker) && plane.holds_up(&mut round, &waker));
        assert_eq!(plane.take(1).await, Some(vec![0]));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "once, however often it asked");
        assert!(plane.holds_up(&mut round, &waker), "there is still too much");
        assert_eq!(plane.take(2).await, Some(vec![1, 2]));
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert!(!plane.holds_up(&mut round, &waker));
    }

    #[tokio::test]
    async fn what_was_pushed_before_the_close_is_taken_in_order() {
        let plane = Plane::new(1);
        (0..5).for_each(|n| plane.push(n));
        plane.close();
        assert_eq!(plane.take(3).await, Some(vec![0, 1, 2]));
        assert_eq!(plane.take(3).await, Some(vec![3, 4]));
        assert_eq!(plane.take(3).await, None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_push_is_missed_by_a_worker_that_falls_asleep() {
        const COUNT: usize = 20_000;
        let plane = Arc::new(Plane::new(usize::MAX));
        let worker = tokio::spawn({
            let plane = plane.clone();
            async move {
                let mut all = Vec::new();
                while let Some(batch) = plane.take(7).await {
                    all.extend(batch);
                }
                all
            }
        });
        for n in 0..COUNT {
            plane.push(n);
            if n % 3 == 0 {
                tokio::task::yield_now().await;
            }
        }
        plane.close();
        let all = tokio::time::timeout(Duration::from_secs(20), worker).await.unwrap().unwrap();
        assert_eq!(all, (0..COUNT).collect::<Vec<_>>());
    }
}
