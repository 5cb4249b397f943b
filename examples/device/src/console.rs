//! What people see on standard output: a line per event, or only totals where there are many devices.

use std::{
    io::Write,
    sync::Mutex,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use iot_core::{id::DeviceId, payload::ReplyStatus};

/// With more devices than this there are only totals.
const LINES_MAX: u32 = 20;

/// Counts what happens, and says it.
#[derive(Debug)]
pub(crate) struct Console {
    has_lines: bool,
    devices: u32,
    claimed: AtomicU64,
    connected: AtomicU64,
    lost: AtomicU64,
    failed: AtomicU64,
    reports: AtomicU64,
    refused: AtomicU64,
    commands: AtomicU64,
    /// Small sections, never across an await.
    last_failure: Mutex<String>,
}

impl Console {
    pub(crate) fn new(devices: u32) -> Self {
        Self {
            has_lines: devices <= LINES_MAX,
            devices,
            claimed: AtomicU64::new(0),
            connected: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            reports: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            last_failure: Mutex::default(),
        }
    }

    pub(crate) fn claimed(&self, device: &DeviceId) {
        self.claimed.fetch_add(1, Relaxed);
        self.line(|| format!("{device} claimed"));
    }

    /// Something that happened to a device.
    pub(crate) fn note(&self, device: &DeviceId, text: &str) {
        self.line(|| format!("{device} {}", text.escape_debug()));
    }

    /// A device that had claimed before.
    pub(crate) fn known(&self) {
        self.claimed.fetch_add(1, Relaxed);
    }

    pub(crate) fn connected(&self, device: &DeviceId, session_present: bool) {
        self.connected.fetch_add(1, Relaxed);
        let session = if session_present { "session resumed" } else { "new session" };
        self.line(|| format!("{device} connected ({session})"));
    }

    /// A connection that was made has ended.
    pub(crate) fn disconnected(&self) {
        self.connected.fetch_sub(1, Relaxed);
    }

    pub(crate) fn retries(&self, who: &str, why: &str, wait: Duration) {
        self.lost.fetch_add(1, Relaxed);
        self.line(|| format!("{who} not connected: {why}; next attempt in {:.1} s", wait.as_secs_f64()));
    }

    pub(crate) fn failed(&self, who: &str, why: &str) {
        self.failed.fetch_add(1, Relaxed);
        self.line(|| format!("{who} gives up: {why}"));
        if let Ok(mut last) = self.last_failure.lock() {
            *last = format!("{who}: {why}");
        }
    }

    pub(crate) fn command(&self, device: &DeviceId, name: &str, status: ReplyStatus, is_repeat: bool) {
        self.commands.fetch_add(1, Relaxed);
        let status = match status {
            ReplyStatus::Applied => "applied",
            ReplyStatus::Rejected => "rejected",
        };
        let repeat = if is_repeat { ", repeated" } else { "" };
        self.line(|| format!("{device} command {} {status}{repeat}", name.escape_debug()));
    }

    pub(crate) fn acknowledged(&self, is_error: bool) {
        let counter = if is_error { &self.refused } else { &self.reports };
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn has_totals(&self) -> bool {
        !self.has_lines
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    pub(crate) fn last_failure(&self) -> String {
        self.last_failure.lock().map(|last| last.clone()).unwrap_or_default()
    }

    pub(crate) fn totals(&self) -> String {
        format!(
            "{} devices: {} claimed, {} connected, {} lost connections or attempts, {} gave up, {} messages acknowledged, {} refused, {} commands",
            self.devices,
            self.claimed.load(Relaxed),
            self.connected.load(Relaxed),
            self.lost.load(Relaxed),
            self.failures(),
            self.reports.load(Relaxed),
            self.refused.load(Relaxed),
            self.commands.load(Relaxed),
        )
    }

    fn line(&self, text: impl FnOnce() -> String) {
        if self.has_lines {
            say(&text());
        }
    }
}

/// Writes a line to standard output. That nobody reads it is no reason to stop.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
