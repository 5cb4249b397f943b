//! Random histories give the same answers from memory, the reference model, and from a backend, also after a restart.

use std::time::Duration;

use bytes::Bytes;
use iot_core::{
    event::{Event, Report, Sequence, Value},
    id::{DeviceId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    message::{Message, QoS},
    session::{Position, SessionEpoch, SessionId},
    store::{
        Aggregate, Audit, Batch, Check, Closing, Index, IndexKey, Key, Opening, Policies, Publication, Range,
        Retention, Revision, Series, Settled, Settlement, StoredSubscription, Stores, Target, Write,
    },
    time::Timestamp,
};
use proptest::{prelude::*, test_runner::TestRunner};

use super::{Backend, Capability, LIMITS};
use crate::memory::Memory;

/// A history begins with this many messages in one queue and retained ones, so that the bounds are near.
const WAITING: u8 = 16;

/// Names are few, so that histories meet.
#[derive(Debug, Clone)]
enum Step {
    Commit { checks: Vec<(u8, u8)>, writes: Vec<(u8, Option<(u8, bool)>)>, audit: bool },
    Open { session: u8, clean: bool, persistent: bool, will_s: Option<u8> },
    Close { session: u8, stale: bool, keep_s: u8, will: bool, sent_through: u8 },
    Subscribe { session: u8, stale: bool, filter: u8, qos: u8 },
    Unsubscribe { session: u8, stale: bool, filter: u8 },
    Offer { publications: Vec<(u8, Vec<u8>, Option<u8>)> },
    Settle { steps: Vec<(u8, bool, u8, u8)> },
    Discharge,
    Append { events: Vec<(u8, i8, Option<u8>, u8)> },
    Maintain { days: i64 },
    Wait { seconds: u8 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let session = 0..4_u8;
    prop_oneof![
        8 => (
            prop_oneof![
                3 => Just(Vec::new()),
                1 => prop::collection::vec((0..5_u8, 0..4_u8), 1..3),
            ],
            prop::collection::vec((0..5_u8, prop::option::of((0..3_u8, any::<bool>()))), 0..4),
            any::<bool>(),
        ).prop_map(|(checks, writes, audit)| Step::Commit { checks, writes, audit }),
        4 => (session.clone(), prop::bool::weighted(0.2), prop::bool::weighted(0.8), prop::option::of(0..9_u8))
            .prop_map(|(session, clean, persistent, will_s)| Step::Open { session, clean, persistent, will_s }),
        3 => (session.clone(), prop::bool::weighted(0.2), 0..12_u8, any::<bool>(), 0..6_u8).prop_map(
            |(session, stale, keep_s, will, sent_through)| Step::Close { session, stale, keep_s, will, sent_through }
        ),
        1 => (session.clone(), prop::bool::weighted(0.2), 0..3_u8, 0..3_u8)
            .prop_map(|(session, stale, filter, qos)| Step::Subscribe { session, stale, filter, qos }),
        1 => (session.clone(), prop::bool::weighted(0.2), 0..3_u8)
            .prop_map(|(session, stale, filter)| Step::Unsubscribe { session, stale, filter }),
        6 => prop::collection::vec(
            (0..64_u8, prop::collection::vec(session.clone(), 0..4), prop::option::weighted(0.3, 0..4_u8)), 0..4
        ).prop_map(|publications| Step::Offer { publications }),
        3 => prop::collection::vec((session, prop::bool::weighted(0.2), 0..3_u8, 0..8_u8), 0..4)
            .prop_map(|steps| Step::Settle { steps }),
        2 => Just(Step::Discharge),
        4 => prop::collection::vec((0..3_u8, any::<i8>(), prop::option::of(0..6_u8), 0..8_u8), 0..5)
            .prop_map(|events| Step::Append { events }),
        2 => prop::sample::select(vec![0, 0, 0, 3, 500]).prop_map(|days| Step::Maintain { days }),
        2 => (0..6_u8).prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Restart),
    ]
}

/// Carries out random histories on new backends and on memory, as many as [`Backend::histories`] says. Those that keep
/// everything are dropped and opened in between.
///
/// # Panics
/// At the shortest history found after which an answer, or anything that can be read, differs.
pub fn compare_histories<B: Backend>(backend: impl Fn() -> B) {
    compare_all(backend, Just(false));
}

/// The same with steps that are taken together. Not for every backend: what is asked for at once must be answered as if it had
/// come one after the other, in its order.
///
/// # Panics
/// Likewise.
pub fn compare_histories_together<B: Backend>(backend: impl Fn() -> B) {
    compare_all(backend, prop::bool::weighted(0.4));
}

fn compare_all<B: Backend>(backend: impl Fn() -> B, together: impl Strategy<Value = bool>) {
    let cases = backend().histories();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let steps = prop::collection::vec((step(), together), 1..60);
    let compared = TestRunner::new(config).run(&steps, |steps| runtime.block_on(compare(&mut backend(), &steps)));
    if let Err(difference) = compared {
        panic!("{difference}");
    }
}

/// Steps, each with whether it is taken together with the one before it.
type Steps = [(Step, bool)];

async fn compare(backend: &mut impl Backend, steps: &Steps) -> Result<(), TestCaseError> {
    let everything = [Capability::DurableRecords, Capability::DurableTelemetry, Capability::DurableSessions];
    let durable = everything.iter().all(|capability| backend.capabilities().contains(capability));
    let rolls = backend.capabilities().contains(&Capability::Rollups);
    let mut world = World::default();
    let model = Stores::new(Memory::new(LIMITS));
    let mut stores = backend.open().await;
    // For its sake the log is kept.
    for telemetry in [&model.telemetry, &stores.telemetry] {
        telemetry.checkpoint(&node(), &"slow".parse().unwrap()).await.unwrap();
    }
    let steps = [&world.beginning().map(|step| (step, false)), steps].concat();
    for group in steps.chunk_by(|(one, _), (other, together)| *together && one.can_share() && other.can_share()) {
        if !rolls && matches!(group, [(Step::Maintain { .. }, _)]) {
            continue;
        }
        if durable && matches!(group, [(Step::Restart, _)]) {
            drop(stores);
            stores = backend.open().await;
        }
        let expected = world.clone().carry_out(&model, group).await;
        let answer = world.carry_out(&stores, group).await;
        prop_assert_eq!(answer, expected, "after {:?}", group);
        prop_assert_eq!(observe(&stores, world.now).await, observe(&model, world.now).await, "after {:?}", group);
    }
    backend.inspect().await;
    Ok(())
}

impl Step {
    /// Whether others may be under way at the same time. Not what depends on their answers or makes the backend anew, and not
    /// steps of deliveries, which a backend may carry out before what else waits.
    fn can_share(&self) -> bool {
        !matches!(
            self,
            Self::Settle { .. } | Self::Discharge | Self::Maintain { .. } | Self::Wait { .. } | Self::Restart
        )
    }
}

/// What the client of the stores knows.
#[derive(Clone, Default)]
struct World {
    now: i64,
    epochs: [u64; 4],
}

impl World {
    fn beginning(&self) -> [Step; 3] {
        let full = (0..WAITING).map(|n| (n * 4 + 1, vec![0], None)).collect();
        let retained = [1, 2, 3, 4].map(|n| (n, Vec::new(), None)).to_vec();
        [
            Step::Open { session: 0, clean: false, persistent: true, will_s: None },
            Step::Offer { publications: full },
            Step::Offer { publications: retained },
        ]
    }

    /// Takes steps at once, each knowing what was known before.
    async fn carry_out(&mut self, stores: &Stores, steps: &Steps) -> Vec<String> {
        let before = self.clone();
        let mut worlds: Vec<Self> = steps.iter().map(|_| before.clone()).collect();
        let under_way = worlds.iter_mut().zip(steps).map(|(world, (step, _))| world.take(stores, step));
        let answers = futures_util::future::join_all(under_way).await;
        for world in worlds {
            self.now = self.now.max(world.now);
            for (epoch, (known, new)) in self.epochs.iter_mut().zip(before.epochs.into_iter().zip(world.epochs)) {
                *epoch = if new == known { *epoch } else { new };
            }
        }
        answers
    }

    async fn take(&mut self, stores: &Stores, step: &Step) -> String {
        let now = at(self.now);
        match step.clone() {
            Step::Commit { checks, writes, audit } => {
                let batch = batch(&checks, &writes, audit);
                format!("{:?}", stores.meta.commit(batch).await.unwrap())
            }
            Step::Open { session: name, clean, persistent, will_s } => {
                let will = will_s.map(|delay| (message(40, now), Duration::from_secs(delay.into())));
                let keep = Duration::from_secs(if persistent { 5 } else { 0 });
                let opening = Opening { session: session(name), clean, keep, will, at: now };
                let opened = stores.sessions.open(opening).await.unwrap();
                self.epochs[usize::from(name)] = opened.epoch.0;
                format!("{opened:?}")
            }
            Step::Close { session: name, stale, keep_s, will, sent_through } => {
                let closing = Closing {
                    session: session(name),
                    epoch: self.epoch(name, stale),
                    at: now,
                    keep: Duration::from_secs(keep_s.into()),
                    will,
                    sent_through: Position(sent_through.into()),
                };
                format!("{:?}", stores.sessions.close(closing).await.unwrap())
            }
            Step::Subscribe { session: name, stale, filter, qos } => {
                let subscription = StoredSubscription {
                    filter: format!("f{filter}"),
                    qos: QoS::from_bits(qos).unwrap(),
                    no_local: qos == 1,
                    retain_as_published: qos == 2,
                    identifier: (qos > 0).then_some(qos.into()),
                };
                let epoch = self.epoch(name, stale);
                format!("{:?}", stores.sessions.subscribe(&session(name), epoch, &[subscription]).await.unwrap())
            }
            Step::Unsubscribe { session: name, stale, filter } => {
                let epoch = self.epoch(name, stale);
                let filters = [format!("f{filter}")];
                format!("{:?}", stores.sessions.unsubscribe(&session(name), epoch, &filters).await.unwrap())
            }
            Step::Offer { publications } => {
                let publications: Vec<Publication> =
                    publications.iter().map(|(kind, to, received)| self.publication(*kind, to, *received)).collect();
                format!("{:?}", stores.sessions.offer(&publications).await.unwrap())
            }
            Step::Settle { steps } => {
                let settlements: Vec<Settlement> = steps
                    .iter()
                    .map(|(name, stale, kind, place)| Settlement {
                        session: session(*name),
                        epoch: self.epoch(*name, *stale),
                        step: match kind {
                            0 => Settled::Finished(Position(u64::from(*place))),
                            1 => Settled::Released(Position(u64::from(*place))),
                            _ => Settled::Forgotten(u16::from(*place)),
                        },
                    })
                    .collect();
                format!("{:?}", stores.sessions.settle(&settlements).await.unwrap())
            }
            Step::Discharge => {
                let Some(due) = stores.sessions.due(now, 1).await.unwrap().pop() else { return String::new() };
                format!("{due:?} {:?}", stores.sessions.discharge(&due).await.unwrap())
            }
            Step::Append { events } => {
                let events: Vec<Event> = events.iter().map(|event| sample(*event)).collect();
                format!("{:?}", stores.telemetry.append(&node(), &events).await.unwrap())
            }
            Step::Maintain { days } => {
                // Two hours after the last receipt everything is sealed.
                let now = at(days * 86_400 + 7_400);
                let default = Retention::new(1, 2, 600, 10_000).unwrap();
                let longer = Retention::new(2, 2, 600, 10_000).unwrap();
                let mut policies = Policies { default, ..Policies::default() };
                policies
                    .metrics
                    .insert((tenant(), ProductId::parse("p").unwrap(), Metric::parse("m1").unwrap()), longer);
                format!("{:?}", stores.telemetry.maintain(now, &policies).await.unwrap())
            }
            Step::Wait { seconds } => {
                self.now += i64::from(seconds);
                String::new()
            }
            Step::Restart => String::new(),
        }
    }

    fn epoch(&self, name: u8, stale: bool) -> SessionEpoch {
        SessionEpoch(self.epochs[usize::from(name)].saturating_sub(stale.into()))
    }

    fn publication(&self, kind: u8, to: &[u8], received: Option<u8>) -> Publication {
        let target = |name: &u8| Target {
            session: session(*name),
            qos: QoS::from_bits(kind % 2 + 1).unwrap(),
            retain: kind.is_multiple_of(3),
            identifiers: vec![kind.into(); usize::from(kind % 3)],
        };
        Publication {
            message: message(kind, at(self.now)),
            to: to.iter().map(target).collect(),
            received: received
                .map(|name| (session(name), self.epoch(name, kind.is_multiple_of(7)), u16::from(kind % 8))),
        }
    }
}

/// All that can be read.
async fn observe(stores: &Stores, now: i64) -> Vec<String> {
    let mut seen = Vec::new();
    let keys: Vec<Key> = (0..5).map(key).collect();
    seen.push(format!("{:?}", stores.meta.get(&keys).await.unwrap()));
    for value in 0..3_u8 {
        let index = Index::new("thing", "value", value.to_string());
        seen.push(format!("{:?}", stores.meta.list(&index, None, 2).await.unwrap()));
        seen.push(format!("{:?}", stores.meta.count(&index).await.unwrap()));
    }
    seen.push(format!("{:?}", stores.meta.changes(Revision(0), 100).await.unwrap()));
    seen.push(format!("{:?}", stores.meta.revision().await.unwrap()));
    seen.push(format!("{:?}", stores.meta.audit(&tenant(), None, 3).await.unwrap().items));
    seen.push(format!("{:?}", stores.sessions.sessions(None, 100).await.unwrap()));
    for name in 0..4 {
        seen.push(format!(
            "{:?}",
            stores.sessions.peek(&session(name), Some(Position(1)), 3, usize::MAX).await.unwrap()
        ));
        seen.push(format!("{:?}", stores.sessions.peek(&session(name), None, 100, usize::MAX).await.unwrap()));
    }
    for filter in ["#", "+/1", "a/#", "$a/+"] {
        seen.push(format!("{:?}", stores.sessions.retained(&tenant(), filter, None, 9, at(now)).await.unwrap()));
    }
    seen.push(format!("{:?}", stores.sessions.due(at(now), 100).await.unwrap()));
    seen.push(format!("{:?}", stores.telemetry.after(&node(), Sequence(0), 100).await.unwrap()));
    for device in 0..3 {
        let series = series(device);
        seen.push(format!("{:?}", stores.telemetry.latest(&series).await.unwrap()));
        let range = Range { series: series.clone(), metric: None, from: at(-50), until: at(50) };
        for newest_first in [false, true] {
            seen.push(format!("{:?}", stores.telemetry.range(&range, newest_first, None, 100).await.unwrap()));
        }
        for (bucket, from, until) in
            [(7, -100, 100), (60, -120, 120), (60, -90, 61), (3_600, -3_600, 90), (86_400, -90_000, 90_000)]
        {
            let (metric, bucket) = (Metric::parse("m0").unwrap(), Duration::from_secs(bucket));
            let aggregate = Aggregate { series: series.clone(), metric, from: at(from), until: at(until), bucket };
            seen.push(format!("{:?}", stores.telemetry.aggregate(&aggregate, 5).await.unwrap()));
        }
    }
    seen
}

fn batch(checks: &[(u8, u8)], writes: &[(u8, Option<(u8, bool)>)], audit: bool) -> Batch {
    let check = |(name, version): &(u8, u8)| match version {
        0 => Check::Absent(key(*name)),
        version => Check::Version(key(*name), u64::from(*version)),
    };
    let write = |(name, put): &(u8, Option<(u8, bool)>)| match put {
        None => Write::Delete(key(*name)),
        Some((value, unique)) => {
            let index_key = IndexKey { index: "value", value: value.to_string(), unique: *unique };
            Write::Put { key: key(*name), format: 1, body: value.to_string(), index_keys: vec![index_key] }
        }
    };
    let entry = Audit {
        at: at(1),
        tenant: tenant(),
        actor: "a".to_owned(),
        action: format!("{writes:?}"),
        subject: "s".to_owned(),
        refused: None,
    };
    Batch {
        checks: checks.iter().map(check).collect(),
        writes: writes.iter().map(write).collect(),
        audit: audit.then_some(entry).into_iter().collect(),
    }
}

fn message(kind: u8, now: Timestamp) -> Message {
    let topics = ["a", "a/1", "b/1", "$a/1", "a/2/x", "c", "d"];
    Message {
        tenant: tenant(),
        topic: topics[usize::from(kind) % topics.len()].into(),
        payload: match kind % 7 {
            _ if kind.is_multiple_of(5) => Bytes::new(),
            // A few of these fill a queue.
            3 => vec![kind; 600].into(),
            _ => Bytes::copy_from_slice(&[kind]),
        },
        qos: QoS::from_bits(kind % 3).unwrap(),
        retain: (kind / 7).is_multiple_of(2),
        properties: None,
        published: now,
        expires: (kind.is_multiple_of(4)).then(|| now.plus(Duration::from_secs(u64::from(kind) / 8))),
        device: None,
    }
}

fn sample((device, seconds, device_sequence, value): (u8, i8, Option<u8>, u8)) -> Event {
    let series = series(device);
    let value = match value {
        0 => Value::Float(f64::NAN),
        1 => Value::Text("x".to_owned()),
        2 => Value::Bool(true),
        // Exact in whatever order they are added.
        value => Value::Float(f64::from(value) / 4.0),
    };
    Event {
        tenant: series.tenant,
        product: ProductId::parse("p").unwrap(),
        device: series.device,
        epoch: series.epoch,
        home: None,
        at: at(seconds.into()),
        received: at(i64::from(seconds / 2)),
        device_sequence: device_sequence.map(u64::from),
        report: Report::Telemetry(vec![(Metric::parse(&format!("m{}", seconds.unsigned_abs() % 2)).unwrap(), value)]),
    }
}

fn key(name: u8) -> Key {
    Key::new("thing", name.to_string())
}

fn session(name: u8) -> SessionId {
    SessionId::anonymous(&tenant(), &name.to_string())
}

fn series(device: u8) -> Series {
    let name = DeviceId::parse(&format!("d{}", device / 2)).unwrap();
    Series { tenant: tenant(), device: name, epoch: OwnershipEpoch(u64::from(device % 2)) }
}

fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

fn node() -> NodeId {
    NodeId::parse("n").unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}
