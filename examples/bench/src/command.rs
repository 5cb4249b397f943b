//! Commands over HTTP at a fixed rate, until the device's answer, measured from the time at which each was to be sent.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use ureq::Agent;

use crate::{
    BenchError, Outcome, fleet,
    histogram::Histogram,
    options::CommandLatency,
    process::{cost, cost_text, usage},
};

/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Bounds the memory for outcomes, whose names come from the server.
const OUTCOMES_MAX: usize = 32;

struct Plan {
    agent: Agent,
    urls: Vec<String>,
    authorization: String,
    next: AtomicU64,
    commands: u64,
    began: Instant,
    period: Duration,
}

#[derive(Default)]
struct Report {
    /// Of the commands that were applied.
    latency: Histogram,
    /// How many ended how.
    outcomes: BTreeMap<String, u64>,
    /// How late the requests began: if this is long, the measurement itself is short of workers.
    lateness: Histogram,
}

pub(crate) async fn measure(options: CommandLatency) -> Result<Outcome, BenchError> {
    let identities = fleet::identities(&options.state, options.devices)?;
    let urls = identities.iter().map(|identity| {
        options.http.route(&format!("/v1/devices/{}/commands?wait_ms={}", identity.device_id, options.wait_ms))
    });
    let workers = options.workers as usize;
    let agent = Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_millis(u64::from(options.wait_ms) + 10_000)))
        .max_idle_connections(workers)
        .max_idle_connections_per_host(workers)
        .build()
        .new_agent();
    let before = usage(options.pid)?;
    let plan = Arc::new(Plan {
        agent,
        urls: urls.collect(),
        authorization: format!("Bearer {}", options.token.expose()),
        next: AtomicU64::new(0),
        commands: u64::from(options.rate) * u64::from(options.seconds),
        began: Instant::now(),
        period: Duration::from_secs(1) / options.rate,
    });
    let working = Arc::clone(&plan);
    let total = tokio::task::spawn_blocking(move || {
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                thread::spawn({
                    let plan = Arc::clone(&working);
                    move || work(&plan)
                })
            })
            .collect();
        let mut total = Report::default();
        for thread in threads {
            if let Ok(report) = thread.join() {
                total.add(report);
            }
        }
        total
    })
    .await
    .map_err(|error| BenchError::Target(error.to_string()))?;
    let after = usage(options.pid)?;
    Ok(report(&options, &plan, &total, (before, after)))
}

fn work(plan: &Plan) -> Report {
    let mut report = Report::default();
    loop {
        let number = plan.next.fetch_add(1, Relaxed);
        if number >= plan.commands {
            return report;
        }
        let due = plan.began + plan.period.mul_f64(f64::from(u32::try_from(number).unwrap_or(u32::MAX)));
        thread::sleep(due.saturating_duration_since(Instant::now()));
        report.lateness.record(due.elapsed());
        let outcome = plan.ask(number);
        if outcome == "applied" {
            report.latency.record(due.elapsed());
        }
        report.count(outcome, 1);
    }
}

impl Plan {
    /// The state of the receipt, or what came instead of it.
    fn ask(&self, number: u64) -> String {
        let index = usize::try_from(number % self.urls.len() as u64).unwrap_or(0);
        let request = self.agent.post(&self.urls[index]).header("authorization", &self.authorization);
        let mut response = match request.send_json(json!({"name": "echo", "args": {"n": number}})) {
            Ok(response) => response,
            Err(error) => return format!("no answer: {error}"),
        };
        let status = response.status().as_u16();
        let body: Value = match response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_json() {
            Ok(body) => body,
            Err(error) => return format!("status {status}: {error}"),
        };
        let is_own = body["result"]["n"] == json!(number);
        match (body["state"].as_str(), body["code"].as_str()) {
            (Some("applied"), _) if !is_own => "applied with another's result".to_owned(),
            (Some(state), _) => state.to_owned(),
            (None, Some(code)) => format!("{status} {code}"),
            (None, None) => format!("status {status}"),
        }
    }
}

impl Report {
    fn count(&mut self, outcome: String, count: u64) {
        if self.outcomes.len() < OUTCOMES_MAX || self.outcomes.contains_key(&outcome) {
            *self.outcomes.entry(outcome).or_default() += count;
        } else {
            *self.outcomes.entry("others".to_owned()).or_default() += count;
        }
    }

    fn add(&mut self, other: Self) {
        self.latency.add(&other.latency);
        self.lateness.add(&other.lateness);
        other.outcomes.into_iter().for_each(|(outcome, count)| self.count(outcome, count));
    }
}

fn report(
    options: &CommandLatency,
    plan: &Plan,
    total: &Report,
    (before, after): (Option<crate::process::Usage>, Option<crate::process::Usage>),
) -> Outcome {
    let applied = total.latency.count();
    let json = json!({"bench": "command-latency", "devices": options.devices, "rate_per_s": options.rate,
        "seconds": options.seconds, "commands": plan.commands, "applied": applied, "outcomes": total.outcomes,
        "latency": total.latency.to_json(), "lateness": total.lateness.to_json(),
        "server": cost(before, after, plan.commands)});
    let others: Vec<_> = total.outcomes.iter().filter(|(name, _)| *name != "applied").collect();
    let others = if others.is_empty() { String::new() } else { format!("; others {others:?}") };
    let text = format!(
        "command-latency: {} devices at {}/s: {} ({applied} of {} applied){others}{}",
        options.devices,
        options.rate,
        total.latency,
        plan.commands,
        cost_text(before, after, plan.commands)
    );
    Outcome { json, text, is_complete: applied == plan.commands }
}
