//! What holds when many do the same at once, or stop in the middle.

use std::{collections::BTreeSet, pin::pin, sync::Arc, task::Poll};

use iot_core::{
    id::OwnershipEpoch,
    problem::Cursor,
    session::{Position, SessionEpoch},
    store::{
        Batch, Check, Committed, Contended, Fenced, Index, IndexKey, MetaStore, MetaStoreExt, Placed, Publication,
        Settled, Settlement, Step, StoreError, Stores, Write, settle,
    },
    twin::{Twin, TwinLimits, Written},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::samples::{at, done, key, offer, open, payloads, publication, put, series, session, tenant, writes};

/// Of 64 records that want one unique value, one has it, and only the others are told of a conflict.
pub async fn one_index_value_is_won_once(stores: &Stores) {
    let mut claims = JoinSet::new();
    for claimant in 0..64_u32 {
        let meta = Arc::clone(&stores.meta);
        claims.spawn(async move {
            let claim = writes([put(claimant, "{}", &[IndexKey::unique("code", "A")])]);
            (claimant, meta.commit(claim).await.unwrap())
        });
    }
    let mut won = Vec::new();
    for (claimant, committed) in claims.join_all().await {
        match committed {
            Committed::Done(_) => won.push(claimant.to_string()),
            Committed::Conflict(with) => assert_eq!(with, key(claimant)),
        }
    }
    assert_eq!(won.len(), 1, "{won:?}");
    let page = stores.meta.list(&Index::new("thing", "code", "A"), None, 10).await.unwrap();
    assert_eq!(page.items.iter().map(|record| record.key.key.clone()).collect::<Vec<_>>(), won);
    let there = stores.meta.get(&(0..64).map(key).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(there.iter().flatten().count(), 1);
}

/// By the rules of a twin, decided again after each conflict.
pub async fn no_increment_of_a_twin_is_lost(stores: &Stores) {
    const WRITERS: u64 = 8;
    const INCREMENTS: u64 = 12;
    let of = series("d", 1);
    let twin = Twin::new(of.tenant, of.device, OwnershipEpoch(1));
    done(stores.meta.commit(Batch::default().create(&twin)).await.unwrap());
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (meta, twin) = (Arc::clone(&stores.meta), twin.clone());
        writers.spawn(async move {
            for _ in 0..INCREMENTS {
                while !incremented(&*meta, &twin).await {}
            }
        });
    }
    writers.join_all().await;
    let found = find(&*stores.meta, &twin).await.unwrap();
    let total = WRITERS * INCREMENTS;
    assert_eq!(found.document.desired["count"], json!(total));
    assert_eq!((found.document.version, found.version), (total, total + 1));
}

async fn incremented(meta: &dyn MetaStore, twin: &Twin) -> bool {
    let settled = settle(meta, || async {
        let read = find(meta, twin).await?;
        let mut next = read.document.clone();
        let count = next.desired.get("count").and_then(Value::as_u64).unwrap_or(0) + 1;
        let Value::Object(patch) = json!({ "count": count }) else { unreachable!("it is an object") };
        let written = next.write_desired(at(1), "a", patch, Some(next.version), None, &TwinLimits::default());
        assert!(matches!(written, Written::Done { .. }), "{written:?}");
        Ok::<_, Failed>(Step::Commit(Batch::default().replace(&read, &next), ()))
    });
    match settled.await {
        Ok(()) => true,
        Err(Failed::Contended(_)) => false,
        Err(Failed::Store(error)) => panic!("{error}"),
    }
}

async fn find(meta: &dyn MetaStore, twin: &Twin) -> Result<iot_core::store::Stored<Twin>, StoreError> {
    Ok(meta.find::<Twin>(&iot_core::store::Document::key(twin)).await?.unwrap())
}

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum Failed {
    Store(#[from] StoreError),
    Contended(#[from] Contended),
}

/// While owners come and go, what a former one settles or hands on has no effect, and what waits is not lost.
pub async fn openings_and_offers_are_fenced(stores: &Stores) {
    const OWNERS: u16 = 8;
    const OFFERS: usize = 15;
    let store = &stores.sessions;
    open(store, "s").await;
    let mut tasks = JoinSet::new();
    for owner in 0..OWNERS {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            let epoch = open(&store, "s").await.epoch;
            tokio::task::yield_now().await;
            let sent = Publication { received: Some((session("s"), epoch, owner)), ..publication("from", &["t"]) };
            let placed = offer(&store, sent).await.placed;
            (epoch, owner, placed == [Placed::Gone])
        });
    }
    let sender = Arc::clone(store);
    let offers = tokio::spawn(async move {
        for n in 0..OFFERS {
            assert!(matches!(offer(&sender, publication(&n.to_string(), &["s"])).await.placed[..], [Placed::At(..)]));
        }
    });
    let ended = tasks.join_all().await;
    offers.await.unwrap();
    assert_eq!(payloads(store, "s").await, (0..OFFERS).map(|n| n.to_string()).collect::<Vec<_>>());
    // Nobody is called "t", so that "gone" does not tell who was fenced: the packet ids that are kept do.
    assert!(ended.iter().all(|(.., gone)| *gone));
    let last = ended.iter().map(|(epoch, ..)| *epoch).max().unwrap();
    let all: Vec<SessionEpoch> = ended.iter().map(|(epoch, ..)| *epoch).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), usize::from(OWNERS));
    let step = |epoch| Settlement { session: session("s"), epoch, step: Settled::Finished(Position(1)) };
    let former: Vec<Settlement> = all.iter().filter(|epoch| **epoch != last).map(|epoch| step(*epoch)).collect();
    store.settle(&former).await.unwrap();
    assert_eq!(payloads(store, "s").await.len(), OFFERS);
    assert_eq!(store.subscribe(&session("s"), last, &[]).await.unwrap(), Fenced::Done);
    store.settle(&[step(last)]).await.unwrap();
    assert_eq!(payloads(store, "s").await.len(), OFFERS - 1);
    let resumed = open(store, "s").await.resumed.unwrap();
    let newest = ended.iter().find(|(epoch, ..)| *epoch == last).unwrap().1;
    assert!(resumed.received.contains(&newest), "{resumed:?}");
}

/// Whatever a reader sees, and whenever its caller goes away.
pub async fn a_cancelled_batch_is_whole_or_absent(stores: &Stores) {
    const RECORDS: u32 = 40;
    let meta = &stores.meta;
    let keys: Vec<_> = (0..RECORDS).map(key).collect();
    for polls in 0..12 {
        let batch = Batch {
            audit: vec![audit(&polls.to_string())],
            ..writes((0..RECORDS).map(|n| put(n, &polls.to_string(), &[IndexKey::many("round", &polls.to_string())])))
        };
        let mut commit = pin!(meta.commit(batch));
        for _ in 0..polls {
            let polled = std::future::poll_fn(|context| Poll::Ready(commit.as_mut().poll(context))).await;
            if polled.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let read = meta.get(&keys).await.unwrap();
        let bodies: BTreeSet<_> = read.iter().map(|record| record.as_ref().map(|record| &record.body)).collect();
        assert_eq!(bodies.len(), 1, "a part of a batch: {bodies:?}");
    }
    // What was begun and not waited for is over once later commits, of the same records, are.
    done(meta.commit(writes((0..RECORDS).map(|n| put(n, "last", &[])))).await.unwrap());
    let changes = meta.changes(iot_core::store::Revision(0), 1_000).await.unwrap();
    assert!(changes.iter().all(|change| change.keys.len() == RECORDS as usize));
    let audits = meta.audit(&tenant("t"), None, 1_000).await.unwrap().items;
    assert!(changes.len() > audits.len(), "{} changes, {} entries", changes.len(), audits.len());
}

/// The last record of a batch, and the last of several checks, are as good as the first.
pub async fn a_conflict_at_the_end_undoes_the_beginning(stores: &Stores) {
    const RECORDS: u32 = 200;
    let meta = &stores.meta;
    let taken = [IndexKey::unique("code", "taken")];
    let before = done(meta.commit(writes([put("holder", "{}", &taken)])).await.unwrap());
    let many = || (0..RECORDS).map(|n| put(n, "{}", &[IndexKey::many("home", "h")]));
    let unique = Batch { audit: vec![audit("x")], ..writes(many().chain([put("late", "{}", &taken)])) };
    assert_eq!(meta.commit(unique).await.unwrap(), Committed::Conflict(key("late")));
    let checks = (0..RECORDS).map(|n| Check::Absent(key(n))).chain([Check::Version(key("holder"), 2)]).collect();
    let checked = Batch { checks, audit: vec![audit("x")], ..writes(many().chain([Write::Delete(key("holder"))])) };
    assert_eq!(meta.commit(checked).await.unwrap(), Committed::Conflict(key("holder")));
    assert_eq!(meta.count(&Index::new("thing", "home", "h")).await.unwrap(), 0);
    assert_eq!(meta.revision().await.unwrap(), before);
    assert_eq!(meta.audit(&tenant("t"), None, 10).await.unwrap().items, []);
    assert_eq!(meta.changes(before, 10).await.unwrap(), []);
}

/// One before the cursor is not met any more, one after it is, and one that is there all the time is met once.
pub async fn records_inserted_around_the_cursor_are_met_once(stores: &Stores) {
    let index = Index::new("thing", "home", "h");
    let record = |name: &str| put(name, "{}", &[IndexKey::many("home", "h")]);
    for limit in [1, 2, 3] {
        done(stores.meta.commit(writes(["b", "d", "f", "h"].map(record))).await.unwrap());
        let first = stores.meta.list(&index, None, limit).await.unwrap();
        let mut seen: Vec<String> = first.items.iter().map(|record| record.key.key.clone()).collect();
        done(stores.meta.commit(writes(["a", "g", "i"].map(record))).await.unwrap());
        let mut cursor = first.next;
        while let Some(after) = cursor {
            let page = stores.meta.list(&index, Some(&Cursor::decode(&after.encode()).unwrap()), limit).await.unwrap();
            seen.extend(page.items.iter().map(|record| record.key.key.clone()));
            cursor = page.next;
        }
        assert_eq!(seen, ["b", "d", "f", "g", "h", "i"], "{limit}");
        done(stores.meta.commit(writes(["a", "g", "i"].map(|name| Write::Delete(key(name))))).await.unwrap());
    }
}

/// A reader that pages while others offer meets every message once, in the order of the positions.
pub async fn a_queue_is_read_on_while_it_grows(stores: &Stores) {
    const MESSAGES: usize = 18;
    let store = &stores.sessions;
    open(store, "s").await;
    let sender = Arc::clone(store);
    let offers = tokio::spawn(async move {
        for n in 0..MESSAGES {
            offer(&sender, publication(&n.to_string(), &["s"])).await;
        }
    });
    let (mut seen, mut last) = (Vec::new(), None);
    while seen.len() < MESSAGES {
        for queued in store.peek(&session("s"), last, 4, usize::MAX).await.unwrap() {
            assert!(Some(queued.position) > last);
            last = Some(queued.position);
            seen.push(String::from_utf8(queued.message.payload.to_vec()).unwrap());
        }
        tokio::task::yield_now().await;
    }
    offers.await.unwrap();
    assert_eq!(seen, (0..MESSAGES).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// Also while others are at work: what has returned is told by the changes and the revision from then on.
pub async fn what_has_returned_is_told(stores: &Stores) {
    const WRITERS: u32 = 8;
    const COMMITS: u32 = 20;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let meta = Arc::clone(&stores.meta);
        writers.spawn(async move {
            for n in 0..COMMITS {
                let revision = done(meta.commit(writes([put(format!("{writer}-{n}"), "{}", &[])])).await.unwrap());
                let before = iot_core::store::Revision(revision.0 - 1);
                let told = meta.changes(before, 1).await.unwrap();
                assert_eq!(told.first().map(|change| change.revision), Some(revision));
                assert!(meta.revision().await.unwrap() >= revision);
            }
        });
    }
    writers.join_all().await;
}

fn audit(action: &str) -> iot_core::store::Audit {
    iot_core::store::Audit {
        at: at(1),
        tenant: tenant("t"),
        actor: "a".to_owned(),
        action: action.to_owned(),
        subject: "thing:1".to_owned(),
        refused: None,
    }
}
