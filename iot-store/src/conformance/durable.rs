//! What is there again after the stores were dropped and opened.

use std::time::Duration;

use iot_core::{
    event::{Sequence, Value},
    id::ConsumerId,
    message::QoS,
    problem::Cursor,
    session::Position,
    store::{
        Aggregate, Audit, Batch, Closing, Committed, Fenced, Index, IndexKey, Opening, Placed, Policies, Publication,
        Range, Retention, Revision, Settled, Settlement, StoredSession,
    },
    time::Timestamp,
};

use super::{
    Backend,
    maintenance::answers,
    samples::{
        HOUR, at, closing, counted, done, key, message, metric, node, offer, open, opening, payloads, publication, put,
        retain, sample, series, session, subscription, tenant, writes,
    },
};

/// With versions, unique values, revisions, changes and audit entries.
pub async fn records_and_changes_are_there_again(backend: &mut dyn Backend) {
    let stores = backend.open().await;
    let unique = [IndexKey::unique("code", "A"), IndexKey::many("home", "h")];
    let audit = Audit {
        at: at(1),
        tenant: tenant("t"),
        actor: "a".to_owned(),
        action: "b".to_owned(),
        subject: "c".to_owned(),
        refused: None,
    };
    done(stores.meta.commit(writes([put(1, "{}", &unique)])).await.unwrap());
    let batch = Batch { audit: vec![audit.clone()], ..writes([put(1, "{\"a\":1}", &unique)]) };
    let revision = done(stores.meta.commit(batch).await.unwrap());
    let records = stores.meta.get(&[key(1)]).await.unwrap();
    let changes = stores.meta.changes(Revision(0), 10).await.unwrap();
    drop(stores);

    let stores = backend.open().await;
    assert_eq!(stores.meta.get(&[key(1)]).await.unwrap(), records);
    assert_eq!(stores.meta.changes(Revision(0), 10).await.unwrap(), changes);
    assert_eq!(stores.meta.revision().await.unwrap(), revision);
    assert_eq!(stores.meta.audit(&tenant("t"), None, 10).await.unwrap().items, [audit]);
    assert_eq!(stores.meta.count(&Index::new("thing", "home", "h")).await.unwrap(), 1);
    let contested = stores.meta.commit(writes([put(2, "{}", &unique)])).await.unwrap();
    assert_eq!(contested, Committed::Conflict(key(2)));
    assert!(done(stores.meta.commit(writes([put(2, "{}", &[])])).await.unwrap()) > revision);
}

/// All that was answered, however many wrote at once, as often as it is opened.
pub async fn writes_from_many_tasks_are_there_again(backend: &mut dyn Backend) {
    const TASKS: u32 = 8;
    const COMMITS: u32 = 10;
    for round in 0..3 {
        let stores = backend.open().await;
        let mut writers = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let meta = std::sync::Arc::clone(&stores.meta);
            writers.spawn(async move {
                for n in 0..COMMITS {
                    done(meta.commit(writes([put(format!("{round}-{task}-{n}"), "{}", &[])])).await.unwrap());
                }
            });
        }
        writers.join_all().await;
        drop(stores);
        let stores = backend.open().await;
        let changes = stores.meta.changes(Revision(0), 1_000).await.unwrap();
        assert_eq!(changes.len(), ((round + 1) * TASKS * COMMITS) as usize);
        let keys: Vec<_> = changes.into_iter().flat_map(|change| change.keys).collect();
        assert!(stores.meta.get(&keys).await.unwrap().iter().all(Option::is_some));
    }
}

/// With latest values, what was seen of a device's count, and checkpoints; cursors go on.
pub async fn telemetry_is_there_again(backend: &mut dyn Backend) {
    let (s, consumer) = (series("d", 1), ConsumerId::parse("twin").unwrap());
    let whole = Range { series: s.clone(), metric: None, from: at(0), until: at(9) };
    let events = [counted(&s, at(1), 1, Value::Float(0.1)), sample(&s, at(2), "m", Value::Bool(true))];
    let stores = backend.open().await;
    stores.telemetry.append(&node("n"), &events).await.unwrap();
    stores.telemetry.advance(&node("n"), &consumer, Sequence(2)).await.unwrap();
    let log = stores.telemetry.after(&node("n"), Sequence(0), 10).await.unwrap();
    let latest = stores.telemetry.latest(&s).await.unwrap();
    let cursor = stores.telemetry.range(&whole, false, None, 1).await.unwrap().next.unwrap();
    drop(stores);

    let stores = backend.open().await;
    assert_eq!(stores.telemetry.after(&node("n"), Sequence(0), 10).await.unwrap(), log);
    assert_eq!(stores.telemetry.latest(&s).await.unwrap(), latest);
    assert_eq!(stores.telemetry.checkpoint(&node("n"), &consumer).await.unwrap(), Sequence(2));
    let cursor = Cursor::decode(&cursor.encode()).unwrap();
    assert_eq!(stores.telemetry.range(&whole, false, Some(&cursor), 9).await.unwrap().items, log[1..]);
    let placed = stores.telemetry.append(&node("n"), &events).await.unwrap();
    assert_eq!(placed[0], None);
    assert!(placed[1] > Some(log[1].sequence));
}

/// What is sealed and what is not, the rollups of what is forgotten, and the counts of devices.
pub async fn maintained_telemetry_is_there_again(backend: &mut dyn Backend) {
    let s = series("d", 1);
    let days = |days: i64| at(days * 86_400);
    let policies = Policies { default: Retention::new(3, 90, 90, 90).unwrap(), ..Policies::default() };
    let telemetry = backend.open().await.telemetry;
    let mut before = None;
    for day in 0..6 {
        let count = |n: i64| counted(&s, at(day * 86_400 + n), (day * 100 + n).unsigned_abs(), Value::Int(n));
        telemetry.append(&node("n"), &(0..100).map(count).collect::<Vec<_>>()).await.unwrap();
        if day < 5 {
            let _ = telemetry.maintain(days(day + 1), &policies).await.unwrap();
        }
        before = Some(answers(&telemetry, &s).await);
    }
    drop(telemetry);

    let telemetry = backend.open().await.telemetry;
    assert_eq!(Some(answers(&telemetry, &s).await), before);
    let again = counted(&s, days(5), 510, Value::Int(0));
    assert_eq!(telemetry.append(&node("n"), &[again]).await.unwrap(), [None]);
    let _ = telemetry.maintain(days(6), &policies).await.unwrap();
    drop(telemetry);

    let telemetry = backend.open().await.telemetry;
    let day = Aggregate {
        series: s,
        metric: metric("m"),
        from: days(0),
        until: days(9),
        bucket: Duration::from_secs(86_400),
    };
    let counts: Vec<u64> = telemetry.aggregate(&day, 9).await.unwrap().iter().map(|bucket| bucket.count).collect();
    assert_eq!(counts, [100; 6]);
}

/// Open ones as open ones, closed ones with their wills and their end.
pub async fn sessions_are_there_again(backend: &mut dyn Backend) {
    let sessions = backend.open().await.sessions;
    let crashed = open(&sessions, "crashed").await.epoch;
    assert_eq!(
        sessions.subscribe(&session("crashed"), crashed, &[subscription("a", QoS::ExactlyOnce)]).await.unwrap(),
        Fenced::Done
    );
    let will = Some((message("w", "bye"), Duration::from_secs(5)));
    let left = sessions.open(Opening { will, ..opening("left", at(0)) }).await.unwrap().epoch;
    let leaving = Closing { sent_through: Position(3), ..closing("left", left, at(10), HOUR) };
    assert_eq!(sessions.close(leaving).await.unwrap(), Fenced::Done);
    drop(sessions);

    let sessions = backend.open().await.sessions;
    let subscriptions = vec![subscription("a", QoS::ExactlyOnce)];
    let expected = [
        StoredSession { session: session("crashed"), epoch: crashed, subscriptions, open: true, keep: HOUR },
        StoredSession { session: session("left"), epoch: left, subscriptions: Vec::new(), open: false, keep: HOUR },
    ];
    assert_eq!(sessions.sessions(None, 10).await.unwrap(), expected);
    assert_eq!(sessions.due(at(15), 10).await.unwrap()[0].will, Some(message("w", "bye")));
    assert!(sessions.due(Timestamp::MAX, 10).await.unwrap()[0].expired);
    let resumed = sessions.open(opening("left", at(20))).await.unwrap().resumed.unwrap();
    assert_eq!(resumed.sent_through, Position(3));
}

/// With what was released and received.
pub async fn queues_are_there_again(backend: &mut dyn Backend) {
    let sessions = backend.open().await.sessions;
    let epoch = open(&sessions, "s").await.epoch;
    open(&sessions, "t").await;
    for payload in ["1", "2", "3"] {
        offer(&sessions, publication(payload, &["s", "t"])).await;
    }
    offer(&sessions, Publication { received: Some((session("s"), epoch, 9)), ..publication("in", &[]) }).await;
    let steps = [Settled::Finished(Position(1)), Settled::Released(Position(2))];
    let steps = steps.map(|step| Settlement { session: session("s"), epoch, step });
    sessions.settle(&steps).await.unwrap();
    let queue = sessions.peek(&session("s"), None, 9, usize::MAX).await.unwrap();
    assert!(queue[0].released && queue.len() == 2);
    drop(sessions);

    let sessions = backend.open().await.sessions;
    assert_eq!(sessions.peek(&session("s"), None, 9, usize::MAX).await.unwrap(), queue);
    assert_eq!(payloads(&sessions, "t").await, ["1", "2", "3"]);
    assert_eq!(open(&sessions, "s").await.resumed.unwrap().received, [9]);
}

/// And their number.
pub async fn retained_messages_are_there_again(backend: &mut dyn Backend) {
    let sessions = backend.open().await.sessions;
    for topic in ["a", "b", "c", "d", "e"] {
        assert!(retain(&sessions, message(topic, "x")).await);
    }
    let before = sessions.retained(&tenant("t"), "#", None, 9, at(0)).await.unwrap();
    assert_eq!(before.len(), 5);
    drop(sessions);

    let sessions = backend.open().await.sessions;
    assert_eq!(sessions.retained(&tenant("t"), "#", None, 9, at(0)).await.unwrap(), before);
    assert!(!retain(&sessions, message("f", "x")).await);
}

/// No sequence, position or epoch is given twice, also when nothing is left that had it.
pub async fn counters_go_on(backend: &mut dyn Backend) {
    let stores = backend.open().await;
    let s = series("d", 1);
    let sequence = stores.telemetry.append(&node("n"), &[sample(&s, at(1), "m", Value::Int(1))]).await.unwrap()[0];
    let _ = stores.telemetry.maintain(Timestamp::MAX, &Policies::default()).await.unwrap();
    let epoch = open(&stores.sessions, "s").await.epoch;
    let placed = offer(&stores.sessions, publication("x", &["s"])).await.placed[0];
    let Placed::At(_, position) = placed else { panic!("{placed:?}") };
    let finished = Settlement { session: session("s"), epoch, step: Settled::Finished(position) };
    stores.sessions.settle(&[finished]).await.unwrap();
    let gone = open(&stores.sessions, "gone").await.epoch;
    assert_eq!(stores.sessions.close(closing("gone", gone, at(1), Duration::ZERO)).await.unwrap(), Fenced::Done);
    drop(stores);

    let stores = backend.open().await;
    let later = stores.telemetry.append(&node("n"), &[sample(&s, at(1), "m", Value::Int(1))]).await.unwrap()[0];
    assert!(later > sequence);
    let next = Placed::At(epoch, Position(position.0 + 1));
    assert_eq!(offer(&stores.sessions, publication("x", &["s"])).await.placed, [next]);
    assert!(open(&stores.sessions, "gone").await.epoch > gone);
}
