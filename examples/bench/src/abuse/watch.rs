//! What the server holds, while it is attacked and after.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    BenchError,
    process::{Usage, usage},
};

const SAMPLE: Duration = Duration::from_millis(20);
/// Descriptors that come and go without anybody: those of files.
const FILES: usize = 8;

/// Looks at a process from its start on.
pub(super) struct Watch {
    pid: u32,
    before: Usage,
    descriptors: usize,
    most_kib: Arc<AtomicU64>,
    sampling: JoinHandle<()>,
}

/// What was seen.
pub(super) struct Seen {
    /// Before, at most, and after.
    pub(super) rss_kib: [u64; 3],
    pub(super) cpu: Duration,
    pub(super) trouble: Option<String>,
}

impl Watch {
    pub(super) fn start(pid: u32) -> Result<Self, BenchError> {
        let before = present(pid)?;
        let most_kib = Arc::new(AtomicU64::new(before.rss_kib));
        let most = Arc::clone(&most_kib);
        let sampling = tokio::spawn(async move {
            while let Ok(usage) = present(pid) {
                most.fetch_max(usage.rss_kib, Ordering::Relaxed);
                sleep(SAMPLE).await;
            }
        });
        Ok(Self { pid, before, descriptors: descriptors(pid)?, most_kib, sampling })
    }

    /// Waits until memory and descriptors are back.
    pub(super) async fn back(self, kept_kib: u64, within: Duration) -> Result<Seen, BenchError> {
        let limit = self.before.rss_kib + kept_kib.max(self.before.rss_kib / 10);
        let by = Instant::now() + within;
        loop {
            let (now, open) = (present(self.pid)?, descriptors(self.pid)?);
            let late = Instant::now() > by;
            let memory =
                (now.rss_kib > limit).then(|| format!("{} MiB are kept", (now.rss_kib - self.before.rss_kib) / 1_024));
            let files =
                (open > self.descriptors + FILES).then(|| format!("{} descriptors are kept", open - self.descriptors));
            let trouble = memory.or(files);
            if trouble.is_none() || late {
                self.sampling.abort();
                let most = self.most_kib.load(Ordering::Relaxed).max(now.rss_kib);
                let rss_kib = [self.before.rss_kib, most, now.rss_kib];
                return Ok(Seen { rss_kib, cpu: now.cpu.saturating_sub(self.before.cpu), trouble });
            }
            sleep(SAMPLE).await;
        }
    }
}

fn present(pid: u32) -> Result<Usage, BenchError> {
    usage(Some(pid))?.ok_or_else(|| BenchError::Target("the server is gone".to_owned()))
}

fn descriptors(pid: u32) -> Result<usize, BenchError> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    entries.map(Iterator::count).map_err(|error| BenchError::Target(format!("the server is gone: {error}")))
}
