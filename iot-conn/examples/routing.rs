//! Measures the router: memory and time per match with a million subscriptions, nine in ten of them exact.
//!
//! `cargo run --release -p iot-conn --example routing [subscriptions]`
#![allow(clippy::print_stdout, reason = "it is a program for the terminal")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use iot_conn::router::{Route, Router, SubscriberId, Subscription};

const TENANT: &str = "acme";
const TOPICS: u64 = 1_000_000;
const SUBSCRIPTIONS: u64 = 1_000_000;

fn main() {
    let count = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(SUBSCRIPTIONS);
    let router: Router<Arc<u64>> = Router::default();
    let handles: Vec<Arc<u64>> = (0..count).map(Arc::new).collect();

    let before = resident_kib();
    let took = timed(|| handles.iter().for_each(|handle| subscribe(&router, handle)));
    report("subscribe", took, count);
    if let (Some(before), Some(after)) = (before, resident_kib()) {
        println!("memory     {:>8} bytes each", after.saturating_sub(before) * 1024 / count.max(1));
    }

    measure("one thread", &router, &topics(0, count));
    for threads in [2, 4] {
        let topics: Vec<Vec<String>> = (0..threads).map(|seed| topics(seed, count)).collect();
        let took = timed(|| {
            std::thread::scope(|scope| {
                for topics in &topics {
                    scope.spawn(|| walk(&router, topics));
                }
            });
        });
        report(&format!("{threads} threads"), took, threads * TOPICS);
    }

    again(&router, count);
    churn(&router, &topics(9, count), count);

    let took = timed(|| handles.iter().for_each(|handle| unsubscribe(&router, handle)));
    report("unsubscribe", took, count);
    println!("left       {:>8}", router.len());
}

/// Every device listens to its commands; every tenth subscription is an application's, to a whole device.
fn filter(number: u64) -> String {
    match number {
        ..10 => format!("d/+/up/custom/{number}"),
        _ if number.is_multiple_of(10) => format!("d/{}/#", device(number - 1)),
        _ => format!("d/{}/down/command", device(number)),
    }
}

fn device(number: u64) -> String {
    format!("lamp-{number:012}")
}

fn subscribe(router: &Router<Arc<u64>>, handle: &Arc<u64>) {
    let _new = router.subscribe(TENANT, &filter(**handle), SubscriberId(**handle), handle, Subscription::default());
}

fn unsubscribe(router: &Router<Arc<u64>>, handle: &Arc<u64>) {
    router.unsubscribe(TENANT, &filter(**handle), SubscriberId(**handle));
}

/// Topics of devices in a scattered order: commands, telemetry, and what nobody subscribed to.
fn topics(seed: u64, count: u64) -> Vec<String> {
    let scattered = |index: u64| (index + seed * TOPICS).wrapping_mul(0x9E37_79B9_7F4A_7C15) % count.max(1);
    let topic = |index: u64| match index % 3 {
        0 => format!("d/{}/down/command", device(scattered(index))),
        1 => format!("d/{}/up/telemetry", device(scattered(index))),
        _ => format!("d/{}/up/custom/{}", device(scattered(index)), index % 20),
    };
    (0..TOPICS).map(topic).collect()
}

fn measure(name: &str, router: &Router<Arc<u64>>, topics: &[String]) {
    let mut matched = 0;
    let took = timed(|| matched = walk(router, topics));
    report(name, took, TOPICS);
    println!("matched    {matched:>8} of {TOPICS} messages");
}

fn walk(router: &Router<Arc<u64>>, topics: &[String]) -> usize {
    let mut out = Vec::new();
    let mut matched = 0;
    for topic in topics {
        out.clear();
        router.matches(TENANT, topic, None, &|_| true, &mut out);
        matched += usize::from(!black_box(&out).is_empty());
    }
    matched
}

/// Publishers that say much on one topic.
fn again(router: &Router<Arc<u64>>, count: u64) {
    let topic = format!("d/{}/down/command", device(count / 2));
    let mut route = Route::default();
    let took = timed(|| {
        for _ in 0..TOPICS {
            black_box(router.route(TENANT, &topic, None, &|_| true, &mut route));
        }
    });
    report("again", took, TOPICS);
}

/// One thread subscribes and unsubscribes while another matches.
fn churn(router: &Router<Arc<u64>>, topics: &[String], count: u64) {
    let done = AtomicBool::new(false);
    let (changes, matched, took) = std::thread::scope(|scope| {
        let matching = scope.spawn(|| {
            let mut walks = 0;
            let mut out = Vec::new();
            for topic in topics.iter().cycle() {
                out.clear();
                router.matches(TENANT, topic, None, &|_| true, &mut out);
                black_box(&out);
                walks += 1;
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
            walks
        });
        let mut changes = 0;
        let took = timed(|| {
            for number in count..count + TOPICS {
                subscribe(router, &Arc::new(number));
                unsubscribe(router, &Arc::new(number));
                changes += 2;
            }
        });
        done.store(true, Ordering::Relaxed);
        (changes, matching.join().unwrap_or(0), took)
    });
    report("changing", took, changes);
    println!("meanwhile  {:>8} ns for a match", took.as_nanos() / u128::from(u64::max(matched, 1)));
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn report(name: &str, took: Duration, count: u64) {
    println!("{name:<11}{:>8} ns each", took.as_nanos() / u128::from(count.max(1)));
}

/// Resident memory, where the system tells it in `/proc`.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()
}
