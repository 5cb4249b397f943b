//! What a server costs, from `/proc`.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use crate::BenchError;

/// `USER_HZ`, which Linux fixes at 100 for everything it shows in `/proc` (proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// CPU time and memory of a process at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) rss_kib: u64,
}

/// Reads the process that was asked for, if any.
pub(crate) fn usage(pid: Option<u32>) -> Result<Option<Usage>, BenchError> {
    let Some(pid) = pid else { return Ok(None) };
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/{pid}/{name}"))
            .map_err(|error| BenchError::Options(format!("--pid {pid}: {error}")))
    };
    let (stat, status) = (read("stat")?, read("status")?);
    match (cpu(&stat), rss_kib(&status)) {
        (Some(cpu), Some(rss_kib)) => Ok(Some(Usage { cpu, rss_kib })),
        _ => Err(BenchError::Target(format!("process {pid} has ended"))),
    }
}

/// What happened between two moments, shared out over `count` things.
pub(crate) fn cost(before: Option<Usage>, after: Option<Usage>, count: u64) -> Value {
    let (Some(before), Some(after)) = (before, after) else { return Value::Null };
    let cpu = after.cpu.saturating_sub(before.cpu);
    json!({"cpu_s": cpu.as_secs_f64(), "cpu_us_per_message": per(cpu, count),
        "rss_kib_before": before.rss_kib, "rss_kib_after": after.rss_kib})
}

/// For people: the same in a few words, or nothing.
pub(crate) fn cost_text(before: Option<Usage>, after: Option<Usage>, count: u64) -> String {
    let (Some(before), Some(after)) = (before, after) else { return String::new() };
    let cpu = after.cpu.saturating_sub(before.cpu);
    format!("; server {:.2} µs CPU per message, {} MiB", per(cpu, count), after.rss_kib / 1024)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn per(cpu: Duration, count: u64) -> f64 {
    let micros = cpu.as_micros() as f64 / count.max(1) as f64;
    (micros * 100.0).round() / 100.0
}

/// The name of a program may hold spaces and parentheses: fields are counted from the last one.
fn cpu(stat: &str) -> Option<Duration> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u32>().ok();
    Some(TICK * (ticks(11)? + ticks(12)?))
}

fn rss_kib(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_whatever_the_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 100 1000 200";
        assert_eq!(cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu("7 (a) S"), None);
        assert_eq!(rss_kib("Name:\ta\nVmRSS:\t   1234 kB\n"), Some(1_234));
    }

    #[test]
    fn this_process_uses_something() {
        let usage = usage(Some(std::process::id())).unwrap().unwrap();
        assert!(usage.rss_kib > 100);
    }
}
