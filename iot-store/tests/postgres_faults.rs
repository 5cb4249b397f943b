//! What happens to a store while its server crashes, cuts connections, is full, or holds what is not ours.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::{collections::BTreeSet, sync::Arc};

use iot_core::{
    event::Sequence,
    message::QoS,
    problem::Cursor,
    session::SessionId,
    store::{
        Audit, Batch, Check, Committed, Index, IndexKey, MetaStore, Offered, Placed, Publication, Revision,
        SessionStore, StoreError, Target, TelemetryStore,
    },
    time::Timestamp,
};
use iot_store::{
    StoreLimits,
    postgres::{OpenError, Postgres, PostgresSettings},
};
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
};

use self::cluster::{Cluster, samples::*};

const TASKS: usize = 24;
const CRASHES: usize = 3;

// === the server's end ===

/// Crashed three times under load. Each acknowledged write is there, each other one wholly or not at all, and the store goes on
/// by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_under_load_loses_nothing_acknowledged() {
    let cluster = Arc::new(tokio::task::spawn_blocking(|| Cluster::start(&[])).await.unwrap());
    let settings = cluster::settings(&cluster.url());
    let store = Postgres::open(&settings, StoreLimits { queue_messages_max: 1_000_000, ..StoreLimits::default() });
    let store = store.await.unwrap();
    let (lives, life) = watch::channel(0_usize);
    let acknowledged = Arc::new(Mutex::new(Vec::<Fact>::new()));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        tasks.spawn(work(store.clone(), task, life.clone(), Arc::clone(&acknowledged)));
    }
    for crash in 1..=CRASHES {
        let enough = acknowledged.lock().await.len() + 1_000;
        while acknowledged.lock().await.len() < enough {
            tokio::task::yield_now().await;
        }
        let cluster = Arc::clone(&cluster);
        tokio::task::spawn_blocking(move || {
            cluster.crash();
            cluster.resume();
        })
        .await
        .unwrap();
        lives.send(crash).unwrap();
    }
    drop(lives);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let acknowledged: BTreeSet<Fact> = std::mem::take(&mut *acknowledged.lock().await).into_iter().collect();
    let lost: Vec<Fact> = acknowledged.difference(&found(&store).await).cloned().collect();
    assert!(lost.is_empty(), "{} of {} are lost: {:?}", lost.len(), acknowledged.len(), lost.first());
    println!("count: {} acknowledged through {CRASHES} crashes, none lost", acknowledged.len());
}

type Fact = (&'static str, String, u64);

/// Writes until the last life is over; after a failure it waits for the next life.
async fn work(store: Postgres, task: usize, mut life: watch::Receiver<usize>, acknowledged: Arc<Mutex<Vec<Fact>>>) {
    let mut after_last = 50;
    for n in 0_u64.. {
        let name = format!("{task}-{n}");
        let facts = match task % 3 {
            0 => commit_two(&store, &name).await,
            1 => append_two(&store, &name).await,
            _ => offer(&store, task, &name).await,
        };
        match facts {
            Ok(facts) => acknowledged.lock().await.extend(facts),
            Err(StoreError::Unavailable { .. }) if *life.borrow_and_update() < CRASHES => {
                // Closed once all crashes are over.
                let _ = life.changed().await;
            }
            Err(StoreError::Unavailable { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
        if *life.borrow() == CRASHES {
            after_last -= 1;
            if after_last == 0 {
                return;
            }
        }
    }
}

async fn commit_two(store: &Postgres, name: &str) -> Result<Vec<Fact>, StoreError> {
    let names = [format!("{name}-a"), format!("{name}-b")];
    let committed = store.commit(batch(names.iter().map(|name| put(name, "{}", &[])))).await?;
    let Committed::Done(revision) = committed else { panic!("{committed:?}") };
    Ok(names.map(|name| ("record", name, revision.0)).to_vec())
}

async fn append_two(store: &Postgres, name: &str) -> Result<Vec<Fact>, StoreError> {
    let events = [event(&format!("{name}-a")), event(&format!("{name}-b"))];
    let placed = store.append(&node(), &events).await?;
    let placed = placed.into_iter().map(|sequence| sequence.unwrap().0);
    Ok(events.iter().zip(placed).map(|(event, sequence)| ("event", event.device.to_string(), sequence)).collect())
}

async fn offer(store: &Postgres, task: usize, name: &str) -> Result<Vec<Fact>, StoreError> {
    let session = session(&task.to_string());
    if store.peek(&session, None, 1, usize::MAX).await?.is_empty() {
        store.open(opening(&session)).await?;
    }
    let target = Target { session, qos: QoS::AtLeastOnce, retain: false, identifiers: Vec::new() };
    let publication = Publication { message: message(name), to: vec![target], received: None };
    let offered: Vec<Offered> = store.offer(&[publication]).await?;
    let [Placed::At(_, position)] = offered[0].placed[..] else { panic!("{offered:?}") };
    Ok(vec![("message", format!("{task} {name}"), position.0)])
}

/// All that is there; both of two that were written together, or neither.
async fn found(store: &Postgres) -> BTreeSet<Fact> {
    let mut found = BTreeSet::new();
    let mut last = Revision(0);
    loop {
        let changes = store.changes(last, 1_000).await.unwrap();
        let Some(newest) = changes.last() else { break };
        last = newest.revision;
        for change in &changes {
            assert_eq!(change.keys.len(), 2);
            assert!(store.get(&change.keys).await.unwrap().iter().all(Option::is_some));
            found.extend(change.keys.iter().map(|key| ("record", key.key.clone(), change.revision.0)));
        }
    }
    let mut last = Sequence(0);
    loop {
        let log = store.after(&node(), last, 1_000).await.unwrap();
        let Some(newest) = log.last() else { break };
        assert_eq!(log[0].sequence.0, last.0 + 1);
        last = newest.sequence;
        found.extend(log.iter().map(|stored| ("event", stored.event.device.to_string(), stored.sequence.0)));
    }
    assert_eq!(found.iter().filter(|(kind, ..)| *kind == "event").count() % 2, 0);
    for task in 0..TASKS {
        for queued in store.peek(&session(&task.to_string()), None, u32::MAX, usize::MAX).await.unwrap() {
            let payload = String::from_utf8(queued.message.payload.to_vec()).unwrap();
            found.insert(("message", format!("{task} {payload}"), queued.position.0));
        }
    }
    found
}

/// While the server waits for a standby that is not there, the commit has happened; while it waits for a lock, it has not. The
/// caller cannot know, and is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_mid_commit_is_unavailable() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(&[])).await.unwrap();
    let settings = cluster::settings(&cluster.url());
    let store = open(&settings).await;
    done(&store, "first").await;

    let mut beside = cluster::connect(&settings).await;
    let lock = beside.transaction().await.unwrap();
    lock.execute("SELECT value FROM counter WHERE name = 'revision' FOR UPDATE", &[]).await.unwrap();
    let cut = cut_while_waiting(&settings, &store, "never", "Lock").await;
    assert!(matches!(cut, StoreError::Unavailable { .. }), "{cut:?}");
    drop(lock);
    assert_eq!(store.get(&[key("never")]).await.unwrap(), [None]);

    let alter = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'";
    beside.batch_execute(alter).await.unwrap();
    beside.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    let cut = cut_while_waiting(&settings, &store, "done", "IPC").await;
    assert!(matches!(cut, StoreError::Unavailable { .. }), "{cut:?}");
    beside.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    beside.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    assert!(store.get(&[key("done")]).await.unwrap()[0].is_some());
    done(&store, "last").await;
}

/// Ends the connection of a commit as soon as the server says that it waits for such a thing.
async fn cut_while_waiting(settings: &PostgresSettings, store: &Postgres, name: &str, wait: &str) -> StoreError {
    let beside = cluster::connect(settings).await;
    let write = put(name, "{}", &[]);
    let store = store.clone();
    let committing = tokio::spawn(async move { store.commit(batch([write])).await });
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'iot-store' AND wait_event_type = $1 AND state <> 'idle'";
    while beside.query(sql, &[&wait]).await.unwrap().is_empty() {}
    committing.await.unwrap().unwrap_err()
}

// === what the server says ===

/// As the server says it, in one statement of a transaction; a trigger says it here.
#[tokio::test]
async fn a_full_disk_is_said_and_nothing_is_written() {
    let settings = cluster::fresh();
    let store = open(&settings).await;
    done(&store, "before").await;
    let beside = cluster::connect(&settings).await;
    let full = "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON change EXECUTE FUNCTION full_disk();";
    beside.batch_execute(full).await.unwrap();
    let refused = store.commit(batch([put("full", "{}", &[])])).await;
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    beside.batch_execute("DROP TRIGGER full_disk ON change").await.unwrap();
    assert_eq!(store.get(&[key("full")]).await.unwrap(), [None]);
    assert_eq!(store.revision().await.unwrap(), Revision(1));
    done(&store, "after").await;
}

/// A deadlock with somebody else's transaction, twice: the group is tried again.
#[tokio::test]
async fn what_another_transaction_spoils_is_tried_again() {
    let settings = cluster::fresh();
    let store = open(&settings).await;
    let beside = cluster::connect(&settings).await;
    let spoil = "CREATE SEQUENCE attempt;
        CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF nextval('attempt') < 3 THEN RAISE EXCEPTION 'spoilt' USING ERRCODE = 'deadlock_detected'; END IF;
            RETURN NEW; END $$;
        CREATE TRIGGER spoil BEFORE INSERT ON record FOR EACH ROW EXECUTE FUNCTION spoil();";
    beside.batch_execute(spoil).await.unwrap();
    done(&store, "a").await;
    let attempts = beside.query_one("SELECT last_value FROM attempt", &[]).await.unwrap();
    assert_eq!(attempts.get::<_, i64>(0), 3);
    // And not for ever.
    beside.batch_execute("ALTER SEQUENCE attempt RESTART MINVALUE -1000 START -1000").await.unwrap();
    let given_up = store.commit(batch([put("b", "{}", &[])])).await;
    assert!(matches!(given_up, Err(StoreError::Unavailable { .. })), "{given_up:?}");
}

/// An index entry has at most some 2,700 bytes; those that are committed with the offender do not suffer.
#[tokio::test]
async fn a_batch_that_the_server_refuses_fails_alone() {
    let settings = cluster::fresh();
    let store = open(&settings).await;
    // Does not compress.
    let mut random = 1_u64;
    let long: String = (0..4_000)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'!' + u8::try_from((random >> 33) % 90).unwrap())
        })
        .collect();
    let mut commits = JoinSet::new();
    for n in 0..40 {
        let store = store.clone();
        let value = if n == 20 { long.clone() } else { n.to_string() };
        commits.spawn(async move {
            (n, store.commit(batch([put(&n.to_string(), "{}", &[IndexKey::unique("code", &value)])])).await)
        });
    }
    for (n, answer) in commits.join_all().await {
        match answer {
            Err(StoreError::Damaged { .. }) if n == 20 => {}
            Ok(Committed::Done(_)) if n != 20 => {}
            other => panic!("{n}: {other:?}"),
        }
    }
    assert_eq!(store.revision().await.unwrap(), Revision(39));
}

/// Rows that this version does not write.
#[tokio::test]
async fn foreign_rows_are_damage() {
    let settings = cluster::fresh();
    let store = open(&settings).await;
    done(&store, "a").await;
    let beside = cluster::connect(&settings).await;
    beside.batch_execute("UPDATE record SET format = 70000").await.unwrap();
    let read = store.get(&[key("a")]).await;
    assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
    beside.batch_execute("ALTER TABLE record RENAME TO gone").await.unwrap();
    let read = store.get(&[key("a")]).await;
    assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
}

/// A server that says otherwise is overruled in the sessions of the store, and one that does not keep what it has written is
/// refused.
#[tokio::test]
async fn commits_are_durable_whatever_the_server_is_set_to() {
    let lax = &["synchronous_commit = off", "default_transaction_isolation = 'serializable'"];
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(lax)).await.unwrap();
    let settings = cluster::settings(&cluster.url());
    let store = open(&settings).await;
    let beside = cluster::connect(&settings).await;
    let note = "CREATE TABLE note (setting TEXT);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO note VALUES (current_setting('synchronous_commit')),
            (current_setting('transaction_isolation')); RETURN NULL; END $$;
        CREATE TRIGGER note AFTER INSERT ON record EXECUTE FUNCTION note();";
    beside.batch_execute(note).await.unwrap();
    done(&store, "a").await;
    let noted = beside.query("SELECT setting FROM note", &[]).await.unwrap();
    assert_eq!(noted.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["on", "read committed"]);

    beside.batch_execute("ALTER SYSTEM SET fsync = off").await.unwrap();
    beside.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    loop {
        match Postgres::open(&settings, StoreLimits::default()).await {
            // The server takes a moment to look at its settings.
            Ok(_) => {}
            Err(error) => return assert!(matches!(&error, OpenError::Unsuitable { what } if what.contains("fsync"))),
        }
    }
}

// === texts ===

/// PostgreSQL refuses U+0000; here it survives in every text, in its order.
#[tokio::test]
async fn every_text_survives() {
    let settings = cluster::fresh();
    let store = open(&settings).await;
    let odd = ["a", "a\u{0}", "a\u{0}\u{1}", "a\u{1}", "a\u{1}\u{0}", "a\u{2}", "ab"];
    let index_keys = [IndexKey::many("home", "h\u{0}"), IndexKey::many("home", "h\u{0}\u{0}")];
    let audit = |text: &str| Audit {
        at: Timestamp::from_micros(1),
        tenant: tenant(),
        actor: text.to_owned(),
        action: text.to_owned(),
        subject: text.to_owned(),
        refused: Some(text.to_owned()),
    };
    for name in odd {
        let written = Batch { audit: vec![audit(name)], ..batch([put(name, &format!("\"{name}\""), &index_keys)]) };
        assert!(matches!(store.commit(written).await.unwrap(), Committed::Done(_)));
    }
    let index = Index::new("thing", "home", "h\u{0}");
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.list(&index, cursor.as_ref(), 1).await.unwrap();
        seen.extend(page.items);
        cursor = page.next.map(|next| Cursor::decode(&next.encode()).unwrap());
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.iter().map(|record| record.key.key.as_str()).collect::<Vec<_>>(), odd);
    assert!(seen.iter().all(|record| record.body == format!("\"{}\"", record.key.key)));
    let audited = store.audit(&tenant(), None, 100).await.unwrap().items;
    assert_eq!(audited.iter().rev().cloned().collect::<Vec<_>>(), odd.map(audit));
    let changed: Vec<String> =
        store.changes(Revision(0), 100).await.unwrap().into_iter().flat_map(|c| c.keys).map(|key| key.key).collect();
    assert_eq!(changed, odd);
    let checked = Batch { checks: vec![Check::Version(key("a\u{0}"), 1)], ..Batch::default() };
    assert!(matches!(store.commit(checked).await.unwrap(), Committed::Done(_)));
    let session = SessionId::anonymous(&tenant(), "a\u{0}\u{1}");
    store.open(opening(&session)).await.unwrap();
    assert_eq!(store.sessions(None, 9).await.unwrap()[0].session, session);
}

/// Bodies come back to the letter, and an operator can ask for what is in them.
#[tokio::test]
async fn bodies_are_kept_to_the_letter_and_can_be_queried() {
    let settings = cluster::fresh();
    let store = open(&settings).await;
    let bodies = [r#"{"b": 1.0, "a":1e2, "a" : "x"}"#, r#"{"a": "\u0000"}"#, "not json", r#"{"a":"door","n":7}"#];
    for (n, body) in bodies.iter().enumerate() {
        assert!(matches!(store.commit(batch([put(&n.to_string(), body, &[])])).await.unwrap(), Committed::Done(_)));
    }
    for (n, body) in bodies.iter().enumerate() {
        assert_eq!(store.get(&[key(&n.to_string())]).await.unwrap()[0].as_ref().unwrap().body, *body);
    }
    let beside = cluster::connect(&settings).await;
    let sql = "SELECT key, body->>'a' FROM document WHERE kind = 'thing' AND body IS NOT NULL ORDER BY key";
    let rows = beside.query(sql, &[]).await.unwrap();
    let seen: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(seen, [("0", "x"), ("3", "door")].map(|(key, a)| (key.to_owned(), a.to_owned())));
}

// === closing ===

#[tokio::test]
async fn closing_finishes_what_was_begun_and_refuses_the_rest() {
    let settings = cluster::fresh();
    let store = open(&settings).await;
    let clone = store.clone();
    let writes: Vec<_> = (0..100)
        .map(|name| {
            let store = store.clone();
            tokio::spawn(async move { done(&store, &name.to_string()).await })
        })
        .collect();
    for write in writes {
        write.await.unwrap();
    }
    Postgres::close(&store).await;
    Postgres::close(&store).await;
    assert!(matches!(clone.commit(Batch::default()).await, Err(StoreError::Closed { .. })));
    assert!(matches!(clone.revision().await, Err(StoreError::Closed { .. })));
    assert_eq!(open(&settings).await.revision().await.unwrap(), Revision(100));
}

/// A cancelled write has happened wholly or not at all, and the store goes on.
#[tokio::test]
async fn a_cancelled_write_leaves_the_store_whole() {
    let settings = cluster::fresh();
    let store = open(&settings).await;
    for name in 0..20 {
        let name = name.to_string();
        let mut write = std::pin::pin!(done(&store, &name));
        // One poll sends the job or nothing; then the caller is gone.
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(write.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    }
    done(&store, "last").await;
    assert_eq!(store.revision().await.unwrap(), Revision(21));
}
