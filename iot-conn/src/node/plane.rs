use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

/// A queue between connections and one worker that works in batches.
///
/// A push always succeeds, because what was read from a socket must go somewhere; above the bound the queue is *pressed*
/// and connections stop reading until it is relieved, so it exceeds the bound by at most what each connection has read.
#[derive(Debug)]
pub(crate) struct Plane<T> {
    // Small sections, never across an await.
    items: Mutex<VecDeque<T>>,
    pressed_len: usize,
    closed: AtomicBool,
    pushed: Notify,
    relieved: Notify,
}

impl<T> Plane<T> {
    pub(crate) fn new(pressed_len: usize) -> Self {
        Self {
            items: Mutex::new(VecDeque::new()),
            pressed_len,
            closed: AtomicBool::new(false),
            pushed: Notify::new(),
            relieved: Notify::new(),
        }
    }

    fn items(&self) -> std::sync::MutexGuard<'_, VecDeque<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, item: T) {
        let mut items = self.items();
        items.push_back(item);
        if items.len() == 1 {
            self.pushed.notify_one();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.items().len()
    }

    /// Whether connections must not read.
    pub(crate) fn is_pressed(&self) -> bool {
        self.len() >= self.pressed_len
    }

    /// Resolves when the worker has taken a batch.
    pub(crate) fn relieved(&self) -> impl Future<Output = ()> + '_ {
        self.relieved.notified()
    }

    /// Takes up to `max`, waiting for the first; `None` once closed and empty. For one worker.
    pub(crate) async fn take(&self, max: usize) -> Option<Vec<T>> {
        loop {
            {
                let mut items = self.items();
                if !items.is_empty() {
                    let count = items.len().min(max);
                    let batch = items.drain(..count).collect();
                    drop(items);
                    self.relieved.notify_waiters();
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
