//! Hostile behaviours against a server on this machine, and whether anybody else notices.
//!
//! Each behaviour says what the server must do, and is wrong otherwise. After each, the server must be the same process, its
//! memory and its file descriptors must have come back (what its allocator keeps must be used again), and an honest client must
//! have had every answer.

mod bytes;
mod colliding;
mod field;
mod flooding;
mod greedy;
mod honest;
mod lengths;
mod malformed;
mod properties;
mod retained;
mod slow;
mod tcp;
mod tls;
mod watch;
mod websocket;
mod withholding;

use std::{
    io::Write,
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use field::{Field, Verdict};
use honest::Honest;
use serde_json::json;
use tokio::time::{Instant, sleep};
use watch::Watch;

use crate::{BenchError, Outcome, histogram::Histogram, options::Abuse};

type Running = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// One way to be a burden.
pub(crate) struct Behaviour {
    name: &'static str,
    about: &'static str,
    program: Program,
}

enum Program {
    Run(fn(Arc<Field>) -> Running),
    Malformed(&'static malformed::Case),
}

/// Names functions of a file as behaviours; their documentation is what is said about them.
macro_rules! behaviours {
    ($(#[doc = $about:literal] $name:ident,)*) => {
        pub(super) const BEHAVIOURS: &[super::Behaviour] = &[$(super::Behaviour {
            name: stringify!($name),
            about: $about,
            program: super::Program::Run(|field| Box::pin(async move { $name(&field).await })),
        },)*];
    };
}
pub(crate) use behaviours;

/// Every behaviour, with its family.
fn all() -> impl Iterator<Item = (&'static str, Behaviour)> {
    let families: [(&str, &[Behaviour]); 11] = [
        ("lengths", lengths::BEHAVIOURS),
        ("slow", slow::BEHAVIOURS),
        ("greedy", greedy::BEHAVIOURS),
        ("properties", properties::BEHAVIOURS),
        ("retained", retained::BEHAVIOURS),
        ("flooding", flooding::BEHAVIOURS),
        ("withholding", withholding::BEHAVIOURS),
        ("colliding", colliding::BEHAVIOURS),
        ("websocket", websocket::BEHAVIOURS),
        ("tls", tls::BEHAVIOURS),
        ("tcp", tcp::BEHAVIOURS),
    ];
    let malformed = malformed::CASES.iter().map(|case| {
        let program = Program::Malformed(case);
        ("malformed", Behaviour { name: case.name, about: case.about, program })
    });
    let others = families.into_iter().flat_map(|(family, behaviours)| {
        behaviours.iter().map(move |known| {
            let Program::Run(run) = known.program else { unreachable!("only the table has cases") };
            (family, Behaviour { name: known.name, about: known.about, program: Program::Run(run) })
        })
    });
    malformed.chain(others)
}

/// The server may keep so much more than before, or a tenth.
const KEPT_KIB: u64 = 8 * 1_024;
/// What the server's allocator may keep beyond that, if it is used again: it gives back whole pages only.
const POOLED_KIB: u64 = 128 * 1_024;
/// How often a behaviour that left something is done again: what is lost is lost each time.
const REPEATS: u32 = 4;
/// The most that the server may grow while it is attacked.
const GROWTH_KIB: u64 = 256 * 1_024;
/// By when memory and descriptors must be back: the server's longest timeout, and a little.
const BACK_WITHIN: Duration = Duration::from_secs(20);

pub(crate) async fn measure(options: Abuse) -> Result<Outcome, BenchError> {
    let wanted = |family: &str, name: &str| {
        options.only.is_empty() || options.only.iter().any(|only| only == family || only == name)
    };
    let chosen: Vec<_> = all().filter(|(family, behaviour)| wanted(family, behaviour.name)).collect();
    if options.list {
        let lines = chosen.iter().map(|(family, one)| format!("{family} {}: {}", one.name, one.about.trim()));
        let names: Vec<_> = chosen.iter().map(|(_, one)| one.name).collect();
        let text = lines.collect::<Vec<_>>().join("\n");
        return Ok(Outcome { json: json!({"bench": "abuse", "behaviours": names}), text, is_complete: true });
    }
    if chosen.is_empty() {
        return Err(BenchError::Options("--only names no behaviour: see --list".to_owned()));
    }
    run(options, chosen).await
}

async fn run(options: Abuse, chosen: Vec<(&'static str, Behaviour)>) -> Result<Outcome, BenchError> {
    let Some(pid) = options.broker.pid else {
        return Err(BenchError::Options("abuse needs --pid: it looks at what the server holds".to_owned()));
    };
    let tls = options.broker.config()?;
    let field = Arc::new(Field {
        broker: options.broker.clone(),
        mqtts: options.mqtts,
        ws: options.ws,
        http: options.http,
        tls,
        lasts: options.seconds,
        ids: AtomicU64::new(0),
    });
    let honest = Honest::start(options.broker)?;
    let (count, mut failed) = (chosen.len(), Vec::new());
    say(HEAD);
    for (_, behaviour) in chosen {
        let row = one(&field, &honest, &behaviour, pid).await?;
        if row.trouble.is_some() {
            failed.push(behaviour.name);
        }
        say(&row.to_string());
    }
    let is_complete = failed.is_empty();
    let text = format!("abuse: {count} behaviours, {} failed", failed.len());
    Ok(Outcome { json: json!({"bench": "abuse", "behaviours": count, "failed": failed}), text, is_complete })
}

const HEAD: &str = "| behaviour | what the server did | RSS MiB before → most → after | CPU s | honest p50/p99 µs: quiet → meanwhile → after | |\n\
    |---|---|---|---|---|---|";

fn say(line: &str) {
    let _closed = writeln!(std::io::stdout().lock(), "{line}");
}

/// A line of the table.
struct Row {
    name: &'static str,
    did: String,
    rss_kib: [u64; 3],
    cpu: Duration,
    latency: [Histogram; 3],
    trouble: Option<String>,
}

async fn one(field: &Arc<Field>, honest: &Honest, behaviour: &Behaviour, pid: u32) -> Result<Row, BenchError> {
    let _of_others = honest.latency();
    sleep(field.lasts.min(Duration::from_secs(1))).await;
    let by = Instant::now() + honest::ANSWER_WITHIN;
    while !honest.is_served() && Instant::now() < by {
        sleep(Duration::from_millis(10)).await;
    }
    let quiet = honest.latency();
    let watch = Watch::start(pid)?;
    let verdict = behaviour.behave(field).await;
    let meanwhile = honest.latency();
    let may_keep = watch.tenth_or(KEPT_KIB);
    let mut seen = watch.back(may_keep, BACK_WITHIN).await?;
    let trouble = honest.settled().await;
    let after = honest.latency();
    let (mut did, wrong) = match verdict {
        Ok(did) => (did, None),
        Err(wrong) => (wrong.to_string(), Some("not what it should do".to_owned())),
    };
    let is_little = seen.rss_kib[2].saturating_sub(seen.rss_kib[0]) < POOLED_KIB;
    if is_little && wrong.is_none() && seen.memory.is_some() && is_used_again(field, behaviour, pid).await? {
        let kept = seen.memory.take().unwrap_or_default();
        did = format!("{did}; {kept} by its allocator, and used again");
    }
    let grown = seen.rss_kib[1].saturating_sub(seen.rss_kib[0]);
    let greedy = (grown > GROWTH_KIB).then(|| format!("it grew by {} MiB", grown / 1_024));
    let troubles = [wrong, trouble, seen.memory, seen.descriptors, greedy];
    let trouble = troubles.into_iter().flatten().reduce(|all, one| format!("{all}; {one}"));
    let latency = [quiet, meanwhile, after];
    Ok(Row { name: behaviour.name, did, rss_kib: seen.rss_kib, cpu: seen.cpu, latency, trouble })
}

/// Whether there comes a time when the same keeps no more: then what it kept is not lost.
async fn is_used_again(field: &Arc<Field>, behaviour: &Behaviour, pid: u32) -> Result<bool, BenchError> {
    for _ in 0..REPEATS {
        let watch = Watch::start(pid)?;
        let verdict = behaviour.behave(field).await;
        let seen = watch.back(KEPT_KIB, BACK_WITHIN).await?;
        if verdict.is_err() {
            return Ok(false);
        }
        if seen.memory.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Behaviour {
    async fn behave(&self, field: &Arc<Field>) -> Verdict {
        match &self.program {
            Program::Run(run) => run(Arc::clone(field)).await,
            Program::Malformed(case) => malformed::run(case, field).await,
        }
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [before, most, after] = self.rss_kib.map(|kib| kib / 1_024);
        let [quiet, meanwhile, then] = self.latency.each_ref().map(|latency| match latency.count() {
            0 => "–".to_owned(),
            _ => format!("{}/{}", latency.quantile(500), latency.quantile(990)),
        });
        let end = self.trouble.as_ref().map_or_else(|| "ok".to_owned(), |trouble| format!("FAILED: {trouble}"));
        let (name, did, cpu) = (self.name, &self.did, self.cpu.as_secs_f64());
        write!(
            f,
            "| {name} | {did} | {before} → {most} → {after} | {cpu:.2} | {quiet} → {meanwhile} → {then} | {end} |"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_behaviour_has_a_name_of_its_own_and_says_what_it_is() {
        let mut names = HashSet::new();
        for (family, behaviour) in all() {
            assert!(names.insert(behaviour.name), "{} is there twice", behaviour.name);
            assert!(!behaviour.about.trim().is_empty() && !family.is_empty());
        }
        assert!(names.len() >= 60, "{}", names.len());
    }
}
