//! The vendor's people: who is the first administrator, and who can take the last one away.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use iot_auth::{
    Auth,
    account::{Deleted, StaffCreated, StaffSet},
    token::{Role, SignIn},
};
use iot_core::{
    access::{Permission, Principal},
    id::{AccountId, TenantId},
    problem::Cursor,
    secret::Secret,
    store::{Audit, Batch, Change, Committed, Index, Key, MetaStore, Page, Record, Revision, StoreError, Stores},
};
use support::{Cloud, PASSWORD, accepted, email, ip, may, operator, password};
use tokio::sync::Barrier;

const ANN: &str = "ann@example.org";

/// A store whose first two commits wait for each other: both were decided by the same records.
#[derive(Debug)]
struct BothDecided {
    store: Arc<dyn MetaStore>,
    commits: AtomicU32,
    both: Barrier,
}

#[async_trait]
impl MetaStore for BothDecided {
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        if self.commits.fetch_add(1, Ordering::Relaxed) < 2 {
            self.both.wait().await;
        }
        self.store.commit(batch).await
    }

    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        self.store.get(keys).await
    }

    async fn list(&self, index: &Index, after: Option<&Cursor>, limit: u32) -> Result<Page<Record>, StoreError> {
        self.store.list(index, after, limit).await
    }

    async fn count(&self, index: &Index) -> Result<u64, StoreError> {
        self.store.count(index).await
    }

    async fn changes(&self, after: Revision, limit: u32) -> Result<Vec<Change>, StoreError> {
        self.store.changes(after, limit).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }

    async fn audit(&self, tenant: &TenantId, before: Option<&Cursor>, limit: u32) -> Result<Page<Audit>, StoreError> {
        self.store.audit(tenant, before, limit).await
    }
}

async fn admin(cloud: &Cloud, address: &str) -> (AccountId, Principal) {
    let id = cloud.person(address).await;
    assert_eq!(cloud.auth.set_staff(&operator("default"), &id, Some(Role::Admin)).await.unwrap(), StaffSet::Done);
    (id, accepted(cloud.by_access(&cloud.signed_in(address).await.access).await))
}

#[tokio::test]
async fn the_first_administrator_comes_from_the_one_time_password() {
    let cloud = Cloud::new().await;
    let one_time = cloud.auth.first_start().await.unwrap().unwrap();
    let create = async |shown: &Secret, address: &str| {
        cloud.auth.create_staff(shown, &email(address), &password(PASSWORD), "Ann", ip()).await.unwrap()
    };
    let hashes = cloud.auth.password_work().hashes;
    assert_eq!(create(&Secret::new("guess"), ANN).await, StaffCreated::Refused);
    assert_eq!(cloud.auth.password_work().hashes, hashes, "a guess costs no hash");
    cloud.person("taken@example.org").await;
    assert_eq!(create(&one_time, "taken@example.org").await, StaffCreated::EmailTaken);
    assert!(matches!(create(&one_time, ANN).await, StaffCreated::Done(_)));
    assert_eq!(create(&one_time, "second@example.org").await, StaffCreated::Refused);
    assert!(matches!(cloud.auth.sign_in("admin", &one_time, ip()).await.unwrap(), SignIn::Refused));
    let answer = cloud.by_access(&cloud.signed_in(ANN).await.access).await;
    assert!(may(&answer, &cloud, Permission::ManageAccounts));
}

#[tokio::test]
async fn no_administrator_takes_the_last_one_away() {
    let cloud = Cloud::new().await;
    let (a, as_a) = admin(&cloud, ANN).await;
    let (b, as_b) = admin(&cloud, "bob@example.org").await;
    for role in [None, Some(Role::Operator)] {
        assert_eq!(cloud.auth.set_staff(&as_a, &a, role).await.unwrap(), StaffSet::OwnHand);
    }
    assert_eq!(cloud.auth.set_disabled(&as_a, &a, true).await.unwrap(), StaffSet::OwnHand);
    assert_eq!(cloud.auth.set_staff(&as_a, &a, Some(Role::Admin)).await.unwrap(), StaffSet::Done);
    assert_eq!(cloud.auth.delete_account(&as_a, &a).await.unwrap(), Deleted::IsAdmin);
    let nobody = AccountId::parse("nobody").unwrap();
    assert_eq!(cloud.auth.set_staff(&as_a, &nobody, None).await.unwrap(), StaffSet::NoSuchAccount);
    let both_decided = BothDecided { store: cloud.meta.clone(), commits: AtomicU32::new(0), both: Barrier::new(2) };
    let stores = Stores { meta: Arc::new(both_decided), ..cloud.stores.clone() };
    let node = Auth::new(&stores, cloud.keys.clone(), cloud.ca().await, cloud.clock.clone());
    let (one, other) = tokio::join!(node.set_staff(&as_a, &b, None), node.set_staff(&as_b, &a, None));
    let mut answers = [one.unwrap(), other.unwrap()];
    answers.sort_by_key(|answer| *answer == StaffSet::Done);
    assert_eq!(answers, [StaffSet::NotPermitted, StaffSet::Done], "of two who dismiss each other one remains");
    let left = [cloud.account(&a).await, cloud.account(&b).await];
    assert_eq!(left.iter().filter(|account| account.staff == Some(Role::Admin)).count(), 1);
}
