//! When devices came and went, for thirty days.
//!
//! A day of a device is one record, so that a device which comes and goes all the time costs no more than its day holds. Changes
//! are written behind: together, up to [`WRITTEN_AFTER`] later. What was not written when a node ends without a word is lost; the
//! next one tells that the device is gone with cause `node_lost`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use iot_core::{
    device::Device,
    id::{DeviceId, OwnershipEpoch, TenantId},
    store::{Batch, Document, INDEX_PAGE_MAX, IndexKey, Key, MetaStoreExt, StoreError},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{
    Inner,
    presence::{Presence, PresenceState},
};

/// For so many days it is kept.
const DAYS_KEPT: i64 = 30;

/// The most changes of a device's day; of more, the oldest are left out and counted.
const CHANGES_MAX: usize = 500;

/// How many changes may wait to be written. A further one is left out of the history, and counted.
const WAITING_MAX: usize = 50_000;

/// How long changes wait for others to be written together.
const WRITTEN_AFTER: Duration = Duration::from_millis(500);

/// How many days are written at once.
const DAYS_AT_ONCE: usize = 256;

const RETRY: Duration = Duration::from_secs(1);

/// So many days before the ones that are kept are looked at when old ones are removed: longer than any node is down.
const DAYS_SWEPT: i64 = 60;

const DAY_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// A device's day (UTC) in one of its ownership epochs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionDay {
    tenant: TenantId,
    device: DeviceId,
    pub(crate) owner: OwnershipEpoch,
    /// Since 1970.
    day: i64,
    /// Oldest first.
    changes: Vec<Change>,
    /// How many older ones of the day were left out.
    #[serde(default)]
    left_out: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    at: Timestamp,
    online: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    epoch: u64,
}

impl ConnectionDay {
    fn key_of(tenant: &TenantId, device: &DeviceId, owner: OwnershipEpoch, day: i64) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{device}/{}/{day}", owner.0))
    }

    fn take(&mut self, change: Change) {
        // A commit whose answer was lost is made again.
        if self.changes.iter().any(|known| known.epoch == change.epoch) {
            return;
        }
        self.changes.push(change);
        if self.changes.len() > CHANGES_MAX {
            self.changes.remove(0);
            self.left_out += 1;
        }
    }

    fn presences(self) -> impl DoubleEndedIterator<Item = Presence> {
        self.changes.into_iter().map(|change| Presence {
            state: if change.online { PresenceState::Online } else { PresenceState::Offline },
            since: change.at,
            cause: change.cause.map(Into::into),
            epoch: change.epoch,
        })
    }
}

impl Document for ConnectionDay {
    const KIND: &'static str = "connection_day";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.device, self.owner, self.day)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        let device = format!("{}/{}", self.tenant, self.device);
        vec![IndexKey::many("device", &device), IndexKey::many("day", &self.day.to_string())]
    }
}

fn day_of(at: Timestamp) -> i64 {
    at.as_micros().div_euclid(DAY_MICROS)
}

/// What is to be written.
#[derive(Debug, Default)]
pub(crate) struct History {
    // Small sections, never across an await.
    waiting: Mutex<VecDeque<Waiting>>,
    news: Notify,
    /// One writes at a time, so that two do not read the same day.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct Waiting {
    tenant: TenantId,
    device: DeviceId,
    owner: OwnershipEpoch,
    presence: Presence,
}

impl History {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a change along.
    pub(crate) fn changed(&self, tenant: &TenantId, device: &DeviceId, owner: OwnershipEpoch, presence: &Presence) {
        if presence.state == PresenceState::Suspect {
            return;
        }
        let mut waiting = self.waiting();
        if waiting.len() >= WAITING_MAX {
            metrics::counter!("iot_connection_changes_left_out_total").increment(1);
            return;
        }
        let (tenant, device, presence) = (tenant.clone(), device.clone(), presence.clone());
        waiting.push_back(Waiting { tenant, device, owner, presence });
        drop(waiting);
        self.news.notify_one();
    }
}

/// Writes what comes, for as long as the node runs.
pub(crate) async fn run(node: std::sync::Arc<Inner>) {
    loop {
        node.history.news.notified().await;
        tokio::time::sleep(WRITTEN_AFTER).await;
        while let Err(error) = node.write_history().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "connections cannot be written yet");
            tokio::time::sleep(RETRY).await;
        }
    }
}

impl Inner {
    /// Writes all that waits.
    pub(crate) async fn write_history(&self) -> Result<(), StoreError> {
        let _alone = self.history.writing.lock().await;
        loop {
            let days = self.next_days();
            if days.is_empty() {
                return Ok(());
            }
            let count: usize = days.values().map(Vec::len).sum();
            let mut batch = Batch::default();
            for (key, changes) in days {
                batch = self.with_day(batch, &key, changes).await?;
            }
            // On a conflict another node has had the device, and the day is read again.
            if self.stores.meta.commit_or_conflict(batch).await? {
                let mut waiting = self.history.waiting();
                waiting.drain(..count);
                if waiting.is_empty() {
                    // A rush has made it large.
                    *waiting = VecDeque::new();
                }
            }
        }
    }

    /// The changes of the next days, from the front of what waits: these stay there until they are written.
    fn next_days(&self) -> BTreeMap<String, Vec<Waiting>> {
        let mut days = BTreeMap::<_, Vec<Waiting>>::new();
        for one in self.history.waiting().iter() {
            let key = ConnectionDay::key_of(&one.tenant, &one.device, one.owner, day_of(one.presence.since)).key;
            if days.len() == DAYS_AT_ONCE && !days.contains_key(&key) {
                break;
            }
            days.entry(key).or_default().push(one.clone());
        }
        days
    }

    async fn with_day(&self, batch: Batch, key: &str, changes: Vec<Waiting>) -> Result<Batch, StoreError> {
        let found = self.stores.meta.find::<ConnectionDay>(&Key::new(ConnectionDay::KIND, key)).await?;
        let mut day = found.as_ref().map(|stored| stored.document.clone());
        for Waiting { tenant, device, owner, presence } in changes {
            let day = day.get_or_insert_with(|| ConnectionDay {
                tenant,
                device,
                owner,
                day: day_of(presence.since),
                changes: Vec::new(),
                left_out: 0,
            });
            let online = presence.is_online();
            let cause = presence.cause.map(Into::into);
            day.take(Change { at: presence.since, online, cause, epoch: presence.epoch });
        }
        Ok(match (found, day) {
            (Some(found), Some(day)) if found.document == day => batch,
            (Some(found), Some(day)) => batch.replace(&found, &day),
            (None, Some(day)) => batch.create(&day),
            (_, None) => batch,
        })
    }

    /// The days of a device that are kept, in all its epochs.
    pub(crate) async fn connection_days(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
    ) -> Result<Vec<ConnectionDay>, StoreError> {
        let (mut days, mut after) = (Vec::new(), None);
        let value = format!("{tenant}/{device}");
        loop {
            let page = self.stores.meta.page::<ConnectionDay>("device", &value, after.as_ref(), INDEX_PAGE_MAX).await?;
            days.extend(page.items.into_iter().map(|stored| stored.document));
            after = page.next;
            if after.is_none() {
                return Ok(days);
            }
        }
    }

    /// How a device came and went in its present epoch, newest first.
    pub(crate) async fn connections(&self, device: &Device, limit: usize) -> Result<Vec<Presence>, StoreError> {
        let (tenant, id) = (&device.tenant, &device.id);
        // What waits is looked at first: meanwhile it may be written, and would be missed.
        let waiting: Vec<_> = {
            let waiting = self.history.waiting();
            let own = waiting.iter().filter(|one| one.tenant == *tenant && one.device == *id);
            own.filter(|one| one.owner == device.epoch).map(|one| one.presence.clone()).collect()
        };
        let days = self.connection_days(tenant, id).await?;
        let first = day_of(self.clock.timestamp()) - DAYS_KEPT;
        let own = days.into_iter().filter(|day| day.owner == device.epoch && day.day >= first);
        let mut all: Vec<_> = own.flat_map(ConnectionDay::presences).chain(waiting).collect();
        all.sort_by_key(|presence| std::cmp::Reverse(presence.epoch));
        all.dedup_by_key(|presence| presence.epoch);
        all.truncate(limit);
        Ok(all)
    }

    /// Removes the days that are over.
    pub(crate) async fn sweep_history(&self) -> Result<(), StoreError> {
        let last = day_of(self.clock.timestamp()) - DAYS_KEPT;
        for day in last - DAYS_SWEPT..last {
            loop {
                let page =
                    self.stores.meta.page::<ConnectionDay>("day", &day.to_string(), None, INDEX_PAGE_MAX).await?;
                if page.items.is_empty() {
                    break;
                }
                let batch = page.items.iter().fold(Batch::default(), |batch, stored| batch.remove(stored));
                let _raced = self.stores.meta.commit(batch).await?;
            }
        }
        Ok(())
    }
}
