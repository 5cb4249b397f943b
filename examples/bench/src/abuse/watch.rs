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
    pub(super) memory: Option<String>,
    pub(super) descriptors: Option<String>,
}

impl Watch {
    /// A tenth of what the server has, or this if it is more.
    pub(super) fn tenth_or(&self, kib: u64) -> u64 {
        kib.max(self.before.rss_kib / 10)
    }

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

    /// Waits until the descriptors are back, and the memory but for this.
    pub(super) async fn back(self, kept_kib: u64, within: Duration) -> Result<Seen, BenchError> {
        let limit = self.before.rss_kib + kept_kib;
        let by = Instant::now() + within;
        loop {
            let (now, open) = (present(self.pid)?, descriptors(self.pid)?);
            let late = Instant::now() > by;
            let kept = now.rss_kib.saturating_sub(self.before.rss_kib) / 1_024;
            let memory = (now.rss_kib > limit).then(|| format!("{kept} MiB are kept"));
            let more = open.saturating_sub(self.descriptors);
            let descriptors = (more > FILES).then(|| format!("{more} descriptors are kept"));
            if late || memory.is_none() && descriptors.is_none() {
                self.sampling.abort();
                let most = self.most_kib.load(Ordering::Relaxed).max(now.rss_kib);
                let rss_kib = [self.before.rss_kib, most, now.rss_kib];
                let cpu = now.cpu.saturating_sub(self.before.cpu);
                return Ok(Seen { rss_kib, cpu, memory, descriptors });
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
