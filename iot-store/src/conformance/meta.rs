//! What [`MetaStore`] promises.

use std::sync::Arc;

use iot_core::{
    problem::Cursor,
    store::{Audit, Batch, Check, Committed, Index, IndexKey, Key, MetaStore, Record, Revision, StoreError, Write},
};
use tokio::task::JoinSet;

use super::{
    LIMITS,
    samples::{at, done, key, put, tenant, writes},
};

type Store = Arc<dyn MetaStore>;

/// Versions count the writes of a record and begin anew after a deletion; deleting what is not there is no error.
pub async fn a_record_is_created_replaced_and_deleted(store: &Store) {
    done(store.commit(writes([put(1, "{}", &[])])).await.unwrap());
    let created = Record { key: key(1), version: 1, format: 1, body: "{}".to_owned() };
    assert_eq!(read(store, 1).await, Some(created.clone()));
    let replacing = Write::Put { key: key(1), format: 2, body: "{\"é\":1}".to_owned(), index_keys: Vec::new() };
    done(store.commit(Batch { checks: vec![Check::Version(key(1), 1)], ..writes([replacing]) }).await.unwrap());
    let replaced = Record { version: 2, format: 2, body: "{\"é\":1}".to_owned(), ..created };
    assert_eq!(read(store, 1).await, Some(replaced));
    done(store.commit(writes([Write::Delete(key(1))])).await.unwrap());
    done(store.commit(writes([Write::Delete(key(1))])).await.unwrap());
    assert_eq!(read(store, 1).await, None);
    done(store.commit(Batch { checks: vec![Check::Absent(key(1))], ..writes([put(1, "{}", &[])]) }).await.unwrap());
    assert_eq!(read(store, 1).await.unwrap().version, 1);
}

/// Also where a key is asked for twice, or of another kind.
pub async fn records_are_read_in_the_order_of_the_keys(store: &Store) {
    done(store.commit(writes([put("a", "1", &[]), put("b", "2", &[])])).await.unwrap());
    let keys = [key("b"), key("x"), key("a"), key("b"), Key::new("other", "a")];
    let bodies: Vec<_> = store.get(&keys).await.unwrap().into_iter().map(|found| found.map(|r| r.body)).collect();
    let expected = [Some("2"), None, Some("1"), Some("2"), None];
    assert_eq!(bodies, expected.map(|body| body.map(str::to_owned)));
    assert_eq!(store.get(&[]).await.unwrap(), []);
}

/// All or nothing: also what comes before the failing part in the batch is not there.
pub async fn a_check_that_does_not_hold_writes_nothing(store: &Store) {
    done(store.commit(writes([put(1, "old", &[])])).await.unwrap());
    let revision = store.revision().await.unwrap();
    for check in
        [Check::Version(key(1), 2), Check::Version(key(9), 1), Check::Version(key(1), 0), Check::Absent(key(1))]
    {
        let (Check::Version(failing, _) | Check::Absent(failing)) = check.clone();
        let batch = Batch {
            checks: vec![Check::Version(key(1), 1), check],
            audit: vec![entry("t", "tried")],
            ..writes([put(1, "new", &[]), put(2, "new", &[])])
        };
        assert_eq!(store.commit(batch).await.unwrap(), Committed::Conflict(failing));
    }
    assert_eq!(read(store, 1).await.unwrap().body, "old");
    assert_eq!(read(store, 2).await, None);
    assert_eq!(store.audit(&tenant("t"), None, 10).await.unwrap().items, []);
    assert_eq!(store.revision().await.unwrap(), revision);
    assert_eq!(store.changes(revision, 10).await.unwrap(), []);
}

/// It costs no revision.
pub async fn a_batch_without_writes_only_checks(store: &Store) {
    let revision = done(store.commit(writes([put(1, "{}", &[])])).await.unwrap());
    let holds = Batch { checks: vec![Check::Version(key(1), 1)], ..Batch::default() };
    assert_eq!(store.commit(holds).await.unwrap(), Committed::Done(revision));
    let fails = Batch { checks: vec![Check::Absent(key(1))], ..Batch::default() };
    assert_eq!(store.commit(fails).await.unwrap(), Committed::Conflict(key(1)));
    assert_eq!(store.revision().await.unwrap(), revision);
}

/// Within a kind and an index; the same record may write it again.
pub async fn a_unique_value_has_one_record(store: &Store) {
    let unique = [IndexKey::unique("code", "A")];
    done(store.commit(writes([put(1, "{}", &unique)])).await.unwrap());
    assert_eq!(
        store.commit(writes([put(3, "{}", &[]), put(2, "{}", &unique)])).await.unwrap(),
        Committed::Conflict(key(2))
    );
    assert_eq!(read(store, 3).await, None);
    let both = writes([put(4, "{}", &[IndexKey::unique("code", "B")]), put(5, "{}", &[IndexKey::unique("code", "B")])]);
    assert_eq!(store.commit(both).await.unwrap(), Committed::Conflict(key(5)));
    done(store.commit(writes([put(1, "{}", &unique)])).await.unwrap());
    let other_kind =
        Write::Put { key: Key::new("other", "2"), format: 1, body: "{}".to_owned(), index_keys: unique.to_vec() };
    done(store.commit(writes([other_kind, put(2, "{}", &[IndexKey::unique("serial", "A")])])).await.unwrap());
}

/// The value is gone with the record, or when the record is written without it.
pub async fn a_unique_value_is_free_after_deletion_or_replacement(store: &Store) {
    let unique = [IndexKey::unique("code", "A")];
    done(store.commit(writes([put(1, "{}", &unique)])).await.unwrap());
    done(store.commit(writes([Write::Delete(key(1))])).await.unwrap());
    done(store.commit(writes([put(2, "{}", &unique)])).await.unwrap());
    done(store.commit(writes([put(2, "{}", &[])])).await.unwrap());
    done(store.commit(writes([put(3, "{}", &unique)])).await.unwrap());
    assert_eq!(keys(store, "code", "A").await, ["3"]);
}

/// What counts is the state after the batch, in whatever order it names the records.
pub async fn a_unique_value_passes_between_records_of_a_batch(store: &Store) {
    let (a, b) = ([IndexKey::unique("code", "A")], [IndexKey::unique("code", "B")]);
    done(store.commit(writes([put(1, "{}", &a), put(2, "{}", &b)])).await.unwrap());
    done(store.commit(writes([put(1, "{}", &b), put(2, "{}", &a)])).await.unwrap());
    done(store.commit(writes([put(3, "{}", &a), Write::Delete(key(2))])).await.unwrap());
    assert_eq!(keys(store, "code", "A").await, ["3"]);
    assert_eq!(keys(store, "code", "B").await, ["1"]);
}

/// A write names all index keys that the record has from then on.
pub async fn former_index_keys_are_gone(store: &Store) {
    done(
        store.commit(writes([put(1, "{}", &[IndexKey::many("home", "x"), IndexKey::many("tag", "y")])])).await.unwrap(),
    );
    done(
        store
            .commit(writes([put(1, "{}", &[IndexKey::many("home", "z"), IndexKey::many("home", "z")])]))
            .await
            .unwrap(),
    );
    assert_eq!(keys(store, "home", "x").await, [""; 0]);
    assert_eq!(keys(store, "tag", "y").await, [""; 0]);
    assert_eq!(keys(store, "home", "z").await, ["1"]);
    done(store.commit(writes([Write::Delete(key(1))])).await.unwrap());
    assert_eq!(store.count(&Index::new("thing", "home", "z")).await.unwrap(), 0);
}

/// A record that is there during the whole walk is seen exactly once.
pub async fn a_page_goes_on_while_records_are_written(store: &Store) {
    let index_keys = [IndexKey::many("home", "h")];
    let record = |n: u32| put(format!("{n:03}"), "{}", &index_keys);
    done(store.commit(writes((0..100).step_by(2).map(record))).await.unwrap());
    let index = Index::new("thing", "home", "h");
    let (mut seen, mut cursor) = (Vec::new(), None);
    for step in 0.. {
        let page = store.list(&index, cursor.as_ref(), 7).await.unwrap();
        seen.extend(page.items.into_iter().map(|record| record.key.key));
        let odd = record(step * 8 + 1);
        let seen_already = Write::Delete(key(seen.last().unwrap()));
        done(store.commit(writes([odd, seen_already])).await.unwrap());
        cursor = page.next.map(|next| Cursor::decode(&next.encode()).unwrap());
        if cursor.is_none() {
            break;
        }
    }
    let even: Vec<&String> = seen.iter().filter(|key| key.parse::<u32>().unwrap() % 2 == 0).collect();
    assert_eq!(even.len(), 50, "{seen:?}");
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
}

/// By bytes, not by any language's rules.
pub async fn a_list_is_ordered_by_bytes_and_counted(store: &Store) {
    let index_keys = [IndexKey::many("home", "h")];
    let names = ["b", "B", "é", "a/b", "a", "ab", "10", "9", "~"];
    done(store.commit(writes(names.map(|name| put(name, "{}", &index_keys)))).await.unwrap());
    let mut expected = names;
    expected.sort_unstable();
    assert_eq!(keys(store, "home", "h").await, expected);
    assert_eq!(store.count(&Index::new("thing", "home", "h")).await.unwrap(), 9);
    assert_eq!(store.count(&Index::new("other", "home", "h")).await.unwrap(), 0);
    let exact = store.list(&Index::new("thing", "home", "h"), None, 9).await.unwrap();
    assert_eq!((exact.items.len(), exact.next), (9, None));
}

/// A cursor comes from a stranger and may hold any bytes.
pub async fn a_foreign_cursor_does_no_harm(store: &Store) {
    let audited = Batch { audit: vec![entry("t", "done")], ..writes([put("m", "{}", &[IndexKey::many("home", "h")])]) };
    done(store.commit(audited).await.unwrap());
    let index = Index::new("thing", "home", "h");
    for (bytes, found) in [(&b"a"[..], 1), (b"m", 0), (b"\xff\xfe", 0), (b"l\xff", 1), (b"", 1)] {
        let page = store.list(&index, Some(&Cursor::after(bytes)), 10).await.unwrap();
        assert_eq!(page.items.len(), found, "{bytes:?}");
    }
    let page = store.audit(&tenant("t"), Some(&Cursor::after(b"odd")), 10).await.unwrap();
    assert_eq!((page.items, page.next), (Vec::new(), None));
}

/// Audit entries alone cost one too.
pub async fn revisions_grow_by_commit(store: &Store) {
    assert_eq!(store.revision().await.unwrap(), Revision(0));
    let first = done(store.commit(writes([put(1, "{}", &[])])).await.unwrap());
    let second = done(store.commit(Batch { audit: vec![entry("t", "tried")], ..Batch::default() }).await.unwrap());
    let third = done(store.commit(writes([Write::Delete(key(1))])).await.unwrap());
    assert!(Revision(0) < first && first < second && second < third);
    assert_eq!(store.revision().await.unwrap(), third);
}

/// With all records of a commit together.
pub async fn changes_tell_every_commit_in_order(store: &Store) {
    let first = done(store.commit(writes([put(1, "{}", &[]), put(2, "{}", &[])])).await.unwrap());
    done(store.commit(Batch { audit: vec![entry("t", "tried")], ..Batch::default() }).await.unwrap());
    let second = done(store.commit(writes([Write::Delete(key(1)), put(3, "{}", &[])])).await.unwrap());
    let changes = store.changes(Revision(0), 10).await.unwrap();
    let told: Vec<_> = changes.iter().map(|change| (change.revision, change.keys.clone())).collect();
    assert_eq!(told, [(first, vec![key(1), key(2)]), (second, vec![key(1), key(3)])]);
    assert_eq!(store.changes(Revision(0), 1).await.unwrap(), changes[..1]);
    assert_eq!(store.changes(first, 10).await.unwrap(), changes[1..]);
    assert_eq!(store.changes(second, 10).await.unwrap(), []);
}

/// A reader that follows the changes never sees an earlier commit appear after a later one.
pub async fn changes_are_complete_under_concurrent_writers(store: &Store) {
    const WRITERS: u32 = 8;
    const COMMITS: u32 = 50;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(store);
        writers.spawn(async move {
            for n in 0..COMMITS {
                done(store.commit(writes([put(format!("{writer}-{n}"), "{}", &[])])).await.unwrap());
            }
        });
    }
    let mut seen: Vec<String> = Vec::new();
    let mut last = Revision(0);
    while seen.len() < (WRITERS * COMMITS) as usize {
        for change in store.changes(last, 16).await.unwrap() {
            assert!(change.revision > last);
            last = change.revision;
            seen.extend(change.keys.into_iter().map(|key| key.key));
        }
        tokio::task::yield_now().await;
    }
    writers.join_all().await;
    for writer in 0..WRITERS {
        let own: Vec<&String> = seen.iter().filter(|key| key.starts_with(&format!("{writer}-"))).collect();
        let expected: Vec<String> = (0..COMMITS).map(|n| format!("{writer}-{n}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>());
    }
}

/// A reader that is too far behind is told so; those within [`StoreLimits::changes_kept`](crate::StoreLimits) go on.
pub async fn forgotten_changes_are_refused(store: &Store) {
    let mut writers = JoinSet::new();
    for n in 0..LIMITS.changes_kept + 300 {
        let store = Arc::clone(store);
        writers.spawn(async move { done(store.commit(writes([put(n % 10, "{}", &[])])).await.unwrap()) });
    }
    writers.join_all().await;
    let newest = store.revision().await.unwrap();
    assert!(matches!(store.changes(Revision(0), 10).await, Err(StoreError::Damaged { .. })));
    let kept = Revision(newest.0 - LIMITS.changes_kept);
    assert_eq!(store.changes(kept, u32::MAX).await.unwrap().len() as u64, LIMITS.changes_kept);
}

/// Of 64 that read the same version and write, one is told that it is done.
pub async fn one_of_many_claims_wins(store: &Store) {
    done(store.commit(writes([put(1, "free", &[])])).await.unwrap());
    let mut claims = JoinSet::new();
    for claimant in 0..64 {
        let store = Arc::clone(store);
        let batch = Batch { checks: vec![Check::Version(key(1), 1)], ..writes([put(1, &format!("{claimant}"), &[])]) };
        claims.spawn(async move { (claimant, store.commit(batch).await.unwrap()) });
    }
    let won: Vec<i32> = claims
        .join_all()
        .await
        .into_iter()
        .filter_map(|(claimant, committed)| matches!(committed, Committed::Done(_)).then_some(claimant))
        .collect();
    let record = read(store, 1).await.unwrap();
    assert_eq!((won.len(), record.version), (1, 2), "{won:?}");
    assert_eq!(record.body, won[0].to_string());
}

/// Read, add one, write if unchanged, else again: none is lost.
pub async fn no_increment_is_lost(store: &Store) {
    const WRITERS: u64 = 8;
    const INCREMENTS: u64 = 12;
    done(store.commit(writes([put(1, "0", &[])])).await.unwrap());
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let store = Arc::clone(store);
        writers.spawn(async move {
            for _ in 0..INCREMENTS {
                while let Committed::Conflict(_) = increment(&store).await {}
            }
        });
    }
    writers.join_all().await;
    let record = read(store, 1).await.unwrap();
    assert_eq!((record.body, record.version), ((WRITERS * INCREMENTS).to_string(), WRITERS * INCREMENTS + 1));
}

async fn increment(store: &Store) -> Committed {
    let record = read(store, 1).await.unwrap();
    let more = record.body.parse::<u64>().unwrap() + 1;
    let batch = writes([put(1, &more.to_string(), &[])]);
    store.commit(Batch { checks: vec![Check::Version(key(1), record.version)], ..batch }).await.unwrap()
}

/// In the order of the commits, whatever the entries say of their time.
pub async fn audit_is_paged_newest_first(store: &Store) {
    for n in 0..25 {
        let entries = [entry("t", &format!("a{n}")), Audit { refused: Some("no".to_owned()), ..entry("t", "b") }];
        done(store.commit(Batch { audit: entries.to_vec(), ..Batch::default() }).await.unwrap());
    }
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.audit(&tenant("t"), cursor.as_ref(), 7).await.unwrap();
        seen.extend(page.items);
        cursor = page.next.map(|next| Cursor::decode(&next.encode()).unwrap());
        if cursor.is_none() {
            break;
        }
        done(store.commit(Batch { audit: vec![entry("t", "later")], ..Batch::default() }).await.unwrap());
    }
    assert_eq!(seen.len(), 50);
    assert_eq!(seen[0], Audit { refused: Some("no".to_owned()), ..entry("t", "b") });
    let done: Vec<&str> = seen.iter().skip(1).step_by(2).map(|entry| entry.action.as_str()).collect();
    assert_eq!(done, (0..25).rev().map(|n| format!("a{n}")).collect::<Vec<_>>());
}

/// Nothing of another tenant is seen.
pub async fn audit_belongs_to_a_tenant(store: &Store) {
    let entries = vec![entry("t", "mine"), entry("u", "theirs"), entry("t", "mine_too")];
    done(store.commit(Batch { audit: entries, ..Batch::default() }).await.unwrap());
    let page = store.audit(&tenant("t"), None, 10).await.unwrap();
    assert_eq!(page.items, [entry("t", "mine_too"), entry("t", "mine")]);
    assert_eq!(store.audit(&tenant("v"), None, 10).await.unwrap().items, []);
}

async fn read(store: &Store, name: u32) -> Option<Record> {
    store.get(&[key(name)]).await.unwrap().remove(0)
}

async fn keys(store: &Store, index: &'static str, value: &str) -> Vec<String> {
    let page = store.list(&Index::new("thing", index, value), None, 1_000).await.unwrap();
    page.items.into_iter().map(|record| record.key.key).collect()
}

fn entry(of: &str, action: &str) -> Audit {
    Audit {
        at: at(1),
        tenant: tenant(of),
        actor: "admin".to_owned(),
        action: action.to_owned(),
        subject: "thing:1".to_owned(),
        refused: None,
    }
}
