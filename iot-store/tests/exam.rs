//! The test of the exam: backends with one planted fault each, and the cases that must notice it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use iot_core::{
    id::TenantId,
    problem::Cursor,
    store::{
        Audit, Batch, Change, Committed, Index, Key, MetaStore, Page, Record, Revision, StoreError, Stores, Write,
    },
};
use iot_store::{
    conformance::{Backend, Capability, Case, LIMITS, check_skips, meta, model, races},
    memory::Memory,
};

/// What a backend does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    Nothing,
    ChecksAreIgnored,
    UniqueValuesAreShared,
    AConflictKeepsTheFirstWrite,
    ABatchIsTwoCommits,
    AReadIsRemembered,
    ChangesHaveGaps,
    PagesAreCounted,
    AuditIsForgotten,
    CountsAreOfPages,
}

#[derive(Debug)]
struct Faulted {
    inner: Arc<dyn MetaStore>,
    bug: Bug,
    remembered: Mutex<HashMap<Key, Option<Record>>>,
    asked: AtomicU64,
}

#[async_trait]
impl MetaStore for Faulted {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        let read = self.inner.get(keys).await?;
        if self.bug != Bug::AReadIsRemembered {
            return Ok(read);
        }
        let mut remembered = self.remembered.lock().unwrap();
        Ok(keys.iter().zip(read).map(|(key, read)| remembered.entry(key.clone()).or_insert(read).clone()).collect())
    }

    async fn list(&self, index: &Index, after: Option<&Cursor>, limit: u32) -> Result<Page<Record>, StoreError> {
        if self.bug != Bug::PagesAreCounted {
            return self.inner.list(index, after, limit).await;
        }
        let mut items = self.inner.list(index, None, 1_000).await?.items;
        let place = after.map_or(0, |cursor| cursor.key().try_into().map_or(0, u64::from_be_bytes));
        items = items.into_iter().skip(usize::try_from(place).unwrap()).collect();
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        Ok(Page { items, next: more.then(|| Cursor::after(&(place + u64::from(limit)).to_be_bytes())) })
    }

    async fn count(&self, index: &Index) -> Result<u64, StoreError> {
        let count = self.inner.count(index).await?;
        Ok(if self.bug == Bug::CountsAreOfPages { count.min(2) } else { count })
    }

    async fn commit(&self, mut batch: Batch) -> Result<Committed, StoreError> {
        match self.bug {
            Bug::ChecksAreIgnored => batch.checks.clear(),
            Bug::AuditIsForgotten => batch.audit.clear(),
            Bug::UniqueValuesAreShared => {
                for write in &mut batch.writes {
                    if let Write::Put { index_keys, .. } = write {
                        index_keys.iter_mut().for_each(|key| key.unique = false);
                    }
                }
            }
            Bug::ABatchIsTwoCommits if batch.writes.len() > 1 => {
                let rest = Batch { writes: batch.writes.split_off(1), ..Batch::default() };
                let first = self.inner.commit(batch).await?;
                tokio::task::yield_now().await;
                return if matches!(first, Committed::Done(_)) { self.inner.commit(rest).await } else { Ok(first) };
            }
            _ => {}
        }
        let first = batch.writes.first().cloned();
        let committed = self.inner.commit(batch).await?;
        if let (Bug::AConflictKeepsTheFirstWrite, Committed::Conflict(_), Some(write)) = (self.bug, &committed, first) {
            let _kept = self.inner.commit(Batch { writes: vec![write], ..Batch::default() }).await?;
        }
        Ok(committed)
    }

    async fn changes(&self, after: Revision, limit: u32) -> Result<Vec<Change>, StoreError> {
        let mut changes = self.inner.changes(after, limit).await?;
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        if self.bug == Bug::ChangesHaveGaps && changes.len() > 1 && asked.is_multiple_of(2) {
            changes.remove(0);
        }
        Ok(changes)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    async fn audit(&self, tenant: &TenantId, before: Option<&Cursor>, limit: u32) -> Result<Page<Audit>, StoreError> {
        self.inner.audit(tenant, before, limit).await
    }
}

struct With(Bug);

#[async_trait]
impl Backend for With {
    fn capabilities(&self) -> &'static [Capability] {
        &[Capability::DurableRecords]
    }

    async fn open(&mut self) -> Stores {
        let stores = Stores::new(Memory::new(LIMITS));
        let (remembered, asked) = (Mutex::default(), AtomicU64::new(0));
        let faulted = Faulted { inner: stores.meta.clone(), bug: self.0, remembered, asked };
        Stores { meta: Arc::new(faulted), ..stores }
    }

    fn histories(&self) -> u32 {
        200
    }
}

/// Which of a few cases fail with a bug.
async fn failing(bug: Bug) -> Vec<&'static str> {
    macro_rules! cases {
        ($($module:ident::$case:ident($stores:ident $(.$store:ident)?)),* $(,)?) => {{
            let mut failing = Vec::new();
            $(
                let $stores = With(bug).open().await;
                if tokio::spawn(async move { $module::$case(&$stores $(.$store)?).await }).await.is_err() {
                    failing.push(stringify!($case));
                }
            )*
            failing
        }};
    }
    cases![
        meta::a_record_is_created_replaced_and_deleted(stores.meta),
        meta::a_check_that_does_not_hold_writes_nothing(stores.meta),
        meta::a_unique_value_has_one_record(stores.meta),
        meta::a_page_goes_on_while_records_are_written(stores.meta),
        meta::a_list_is_ordered_by_bytes_and_counted(stores.meta),
        meta::changes_tell_every_commit_in_order(stores.meta),
        meta::audit_is_paged_newest_first(stores.meta),
        races::one_index_value_is_won_once(stores),
        races::a_cancelled_batch_is_whole_or_absent(stores),
        races::a_conflict_at_the_end_undoes_the_beginning(stores),
        races::records_inserted_around_the_cursor_are_met_once(stores),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_planted_fault_fails_a_case() {
    assert_eq!(failing(Bug::Nothing).await, [""; 0]);
    for (bug, noticed_by) in [
        (Bug::ChecksAreIgnored, "a_check_that_does_not_hold_writes_nothing"),
        (Bug::UniqueValuesAreShared, "one_index_value_is_won_once"),
        (Bug::AConflictKeepsTheFirstWrite, "a_conflict_at_the_end_undoes_the_beginning"),
        (Bug::ABatchIsTwoCommits, "a_cancelled_batch_is_whole_or_absent"),
        (Bug::AReadIsRemembered, "a_record_is_created_replaced_and_deleted"),
        (Bug::ChangesHaveGaps, "changes_tell_every_commit_in_order"),
        (Bug::PagesAreCounted, "records_inserted_around_the_cursor_are_met_once"),
        (Bug::AuditIsForgotten, "audit_is_paged_newest_first"),
        (Bug::CountsAreOfPages, "a_list_is_ordered_by_bytes_and_counted"),
    ] {
        let failing = failing(bug).await;
        println!("{bug:?}: {failing:?}");
        assert!(failing.contains(&noticed_by), "{bug:?} is noticed by {failing:?} only");
    }
}

#[test]
fn every_planted_fault_makes_a_history_differ() {
    model::compare_histories(|| With(Bug::Nothing));
    // Not those that only a race, or a walk over pages, can show.
    for bug in [
        Bug::ChecksAreIgnored,
        Bug::UniqueValuesAreShared,
        Bug::AConflictKeepsTheFirstWrite,
        Bug::ABatchIsTwoCommits,
        Bug::AReadIsRemembered,
        Bug::ChangesHaveGaps,
        Bug::AuditIsForgotten,
    ] {
        let compared = catch_unwind(AssertUnwindSafe(|| model::compare_histories(|| With(bug))));
        assert!(compared.is_err(), "{bug:?} was not noticed");
    }
}

const CASES: [Case; 3] = [
    Case { module: "meta", name: "one", needs: &[] },
    Case { module: "durable", name: "two", needs: &[Capability::DurableRecords] },
    Case { module: "shared", name: "three", needs: &[Capability::DurableRecords, Capability::Shared] },
];

#[test]
fn the_list_of_skips_is_compared_both_ways() {
    let said = |listed: &[&str]| {
        let checked = catch_unwind(AssertUnwindSafe(|| check_skips(&With(Bug::Nothing), &CASES, listed)));
        checked.map_err(|panic| panic.downcast_ref::<String>().unwrap().clone())
    };
    assert_eq!(said(&["shared::three"]), Ok(()));
    assert_eq!(said(&[]).unwrap_err(), "skipped, but not in the list of skips: [\"shared::three\"]");
    let one_too_many = said(&["shared::three", "durable::two"]).unwrap_err();
    assert_eq!(one_too_many, "in the list of skips, but not skipped: [\"durable::two\"]");
}
