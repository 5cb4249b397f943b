//! What holds for several that have opened the same stores: processes, or handles in one.

use std::sync::Arc;

use iot_core::{
    event::{Sequence, Value},
    id::ConsumerId,
    message::QoS,
    store::{Check, Committed, Fenced, Index, IndexKey, Placed, Revision, Stores},
};
use tokio::task::JoinSet;

use super::{
    Backend,
    samples::{
        at, counted, done, key, node, offer, open, payloads, publication, put, series, session, subscription, writes,
    },
};

async fn handles(backend: &mut impl Backend, count: usize) -> Vec<Stores> {
    let mut handles = Vec::new();
    for _ in 0..count {
        handles.push(backend.open().await);
    }
    handles
}

/// What has returned at one is read at the other: written, replaced, deleted, and found by index.
pub async fn commits_are_seen_at_once(backend: &mut impl Backend) {
    let handles = handles(backend, 2).await;
    let index = Index::new("thing", "home", "h");
    for round in 0..40_usize {
        let (writer, reader) = (&handles[round % 2].meta, &handles[(round + 1) % 2].meta);
        let body = round.to_string();
        done(writer.commit(writes([put(1, &body, &[IndexKey::many("home", "h")]), put(2, &body, &[])])).await.unwrap());
        let read = reader.get(&[key(1), key(2), key(3)]).await.unwrap();
        let bodies: Vec<_> = read.iter().map(|record| record.as_ref().map(|record| record.body.as_str())).collect();
        assert_eq!(bodies, [Some(body.as_str()), Some(&body), None]);
        assert_eq!(reader.count(&index).await.unwrap(), 1);
        if round % 5 == 4 {
            done(reader.commit(writes([iot_core::store::Write::Delete(key(1))])).await.unwrap());
            assert_eq!(writer.get(&[key(1)]).await.unwrap(), [None]);
            assert_eq!(writer.list(&index, None, 9).await.unwrap().items, []);
        }
        assert_eq!(writer.revision().await.unwrap(), reader.revision().await.unwrap());
    }
}

/// Of claims through several handles at once.
pub async fn one_of_many_handles_wins(backend: &mut impl Backend) {
    let handles = handles(backend, 4).await;
    for round in 0..5 {
        let mut claims = JoinSet::new();
        for claimant in 0..16_usize {
            let meta = Arc::clone(&handles[claimant % 4].meta);
            claims.spawn(async move {
                let unique = [IndexKey::unique("code", &round.to_string())];
                let batch = writes([put(format!("{round}-{claimant}"), "{}", &unique), put("counter", "{}", &[])]);
                let held = meta.get(&[key("counter")]).await.unwrap().remove(0);
                let check =
                    held.map_or(Check::Absent(key("counter")), |held| Check::Version(key("counter"), held.version));
                matches!(
                    meta.commit(iot_core::store::Batch { checks: vec![check], ..batch }).await.unwrap(),
                    Committed::Done(_)
                )
            });
        }
        assert_eq!(claims.join_all().await.into_iter().filter(|won| *won).count(), 1);
    }
    let counter = handles[0].meta.get(&[key("counter")]).await.unwrap().remove(0).unwrap();
    assert_eq!(counter.version, 5);
}

/// A reader at one handle that follows the changes misses none of those committed at the others.
pub async fn changes_are_complete_from_every_handle(backend: &mut impl Backend) {
    const COMMITS: usize = 40;
    let handles = handles(backend, 4).await;
    let mut writers = JoinSet::new();
    for (handle, stores) in handles.iter().enumerate().skip(1) {
        let meta = Arc::clone(&stores.meta);
        writers.spawn(async move {
            for n in 0..COMMITS {
                done(meta.commit(writes([put(format!("{handle}-{n}"), "{}", &[])])).await.unwrap());
            }
        });
    }
    let (mut seen, mut last) = (Vec::new(), Revision(0));
    while seen.len() < 3 * COMMITS {
        for change in handles[0].meta.changes(last, 7).await.unwrap() {
            assert!(change.revision > last);
            last = change.revision;
            seen.extend(change.keys.into_iter().map(|key| key.key));
        }
        tokio::task::yield_now().await;
    }
    writers.join_all().await;
    for handle in 1..4 {
        let own: Vec<_> = seen.iter().filter(|key| key.starts_with(&format!("{handle}-"))).cloned().collect();
        assert_eq!(own, (0..COMMITS).map(|n| format!("{handle}-{n}")).collect::<Vec<_>>());
    }
}

/// With all it has; the node that had it is fenced.
pub async fn a_session_passes_from_node_to_node(backend: &mut impl Backend) {
    let handles = handles(backend, 2).await;
    let mut former = open(&handles[0].sessions, "s").await.epoch;
    for round in 0..6_usize {
        let (old, new) = (&handles[round % 2].sessions, &handles[(round + 1) % 2].sessions);
        let added = [subscription(&round.to_string(), QoS::AtLeastOnce)];
        assert_eq!(old.subscribe(&session("s"), former, &added).await.unwrap(), Fenced::Done);
        let placed = offer(old, publication(&round.to_string(), &["s"])).await.placed;
        assert!(matches!(placed[..], [Placed::At(..)]));
        let opened = open(new, "s").await;
        assert!(opened.epoch > former);
        assert_eq!(opened.resumed.unwrap().subscriptions.len(), round + 1);
        assert_eq!(payloads(new, "s").await.len(), round + 1);
        assert_eq!(old.subscribe(&session("s"), former, &added).await.unwrap(), Fenced::Superseded);
        former = opened.epoch;
    }
    let mut openings = JoinSet::new();
    for n in 0..16_usize {
        let store = Arc::clone(&handles[n % 2].sessions);
        openings.spawn(async move { open(&store, "raced").await.epoch });
    }
    let mut epochs = openings.join_all().await;
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), 16);
    for (n, epoch) in epochs.iter().enumerate() {
        let fenced = handles[n % 2].sessions.subscribe(&session("raced"), *epoch, &[]).await.unwrap();
        assert_eq!(fenced == Fenced::Done, Some(epoch) == epochs.last());
    }
}

/// Each appends to its own log; latest values, repeats and checkpoints are of all.
pub async fn what_one_node_appends_another_reads(backend: &mut impl Backend) {
    let handles = handles(backend, 2).await;
    let (s, consumer) = (series("d", 1), ConsumerId::parse("twin").unwrap());
    for n in 0..10_u32 {
        let (one, other) = (&handles[n as usize % 2].telemetry, &handles[(n as usize + 1) % 2].telemetry);
        let event = counted(&s, at(n.into()), n.into(), Value::Int(n.into()));
        let appended = one.append(&node("n"), std::slice::from_ref(&event)).await.unwrap()[0].unwrap();
        assert_eq!(other.append(&node("m"), &[event]).await.unwrap(), [None], "a repeat");
        assert_eq!(other.latest(&s).await.unwrap()[0].value, Value::Int(n.into()));
        let log = other.after(&node("n"), Sequence(0), 100).await.unwrap();
        assert_eq!((log.len(), log.last().unwrap().sequence), (n as usize + 1, appended));
        one.advance(&node("n"), &consumer, appended).await.unwrap();
        assert_eq!(other.checkpoint(&node("n"), &consumer).await.unwrap(), appended);
    }
}
