use serde::{Deserialize, Serialize};

use super::{Notification, Push, PushError};
use crate::store::{Batch, Document, IndexKey, Key, MetaStore, MetaStoreExt, Page, StoreError, Stored, Write};

/// How many announcements are read at once.
pub const RELAY_PAGE: u32 = 200;

/// A notification that was stored in the batch of the change that it tells of, and that no [`Push`] has taken yet: as durable
/// as its cause.
///
/// Who changes something writes it with [`Batch::announced`] and needs no [`Push`]; who has one carries the records over with
/// [`relay`], which removes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Announcement {
    /// What is to be told.
    pub notification: Notification,
}

impl Announcement {
    /// The value of index `waiting`, of all tenants.
    pub const WAITING: &'static str = "";
}

impl Document for Announcement {
    const KIND: &'static str = "announcement";
    const FORMAT: u16 = 1;

    /// `<tenant>/<notification>`: a repeat takes the place of the one before.
    fn key(&self) -> Key {
        Key::new(Self::KIND, format!("{}/{}", self.notification.tenant, self.notification.id))
    }

    /// `waiting`: [`WAITING`](Self::WAITING), all of them.
    fn index_keys(&self) -> Vec<IndexKey> {
        vec![IndexKey::many("waiting", Self::WAITING)]
    }
}

impl Batch {
    /// Tells of what the batch changes: when it is committed the notification cannot be lost any more.
    #[must_use]
    pub fn announced(mut self, notification: Notification) -> Self {
        self.writes.push(Write::put(&Announcement { notification }));
        self
    }
}

/// What one pass of [`relay`] has come to.
#[must_use]
#[derive(Debug, Default)]
pub struct Relayed {
    /// So many were taken, or nobody wanted them.
    pub done: usize,
    /// So many were not taken: relay again later.
    pub left: usize,
    /// Why the first of those was not.
    pub why: Option<PushError>,
}

/// Gives every stored announcement to `push` and removes it once it was taken; without a `push` nobody wants any.
///
/// At least once: a crash between the two, or another node that does the same, gives the same notification again, under the
/// same id. One that is not taken holds no other up; it stays.
pub async fn relay(meta: &dyn MetaStore, push: Option<&dyn Push>) -> Result<Relayed, StoreError> {
    let mut relayed = Relayed::default();
    let mut after = None;
    loop {
        let page: Page<Stored<Announcement>> =
            meta.page("waiting", Announcement::WAITING, after.as_ref(), RELAY_PAGE).await?;
        for read in &page.items {
            match taken(push, &read.document.notification).await {
                Ok(()) => {
                    // One that was written again meanwhile stays: it is told again.
                    meta.commit_or_conflict(Batch::default().remove(read)).await?;
                    relayed.done += 1;
                }
                Err(error) => {
                    relayed.left += 1;
                    relayed.why.get_or_insert(error);
                }
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(relayed);
        }
    }
}

async fn taken(push: Option<&dyn Push>, notification: &Notification) -> Result<(), PushError> {
    if let Some(push) = push {
        let _taken_or_unwanted = push.push(notification).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        device::{Device, Stage},
        id::{DeviceId, OwnershipEpoch, RolloutId},
        push::{FieldMismatch, Kind},
        time::Timestamp,
    };

    fn lamp() -> Device {
        Device {
            tenant: "t".parse().unwrap(),
            product: "p".parse().unwrap(),
            id: DeviceId::parse("lamp").unwrap(),
            p_code: "LAMP".parse().unwrap(),
            stage: Stage::Activated,
            epoch: OwnershipEpoch(3),
            home: Some("h".parse().unwrap()),
            keys: vec![],
            created: Timestamp::EPOCH,
        }
    }

    fn failed() -> Notification {
        let rollout = RolloutId::parse("r").unwrap();
        Notification::update_failed(&lamp(), &rollout, "1.2.0", "no_progress", Timestamp::EPOCH)
    }

    #[test]
    fn an_announcement_reads_back_as_it_was_written() {
        for notification in
            [failed(), Notification::bound(&lamp(), Timestamp::EPOCH), Notification::unbound(&lamp(), Timestamp::EPOCH)]
        {
            let written = Announcement { notification };
            let text = serde_json::to_string(&written).unwrap();
            assert_eq!(serde_json::from_str::<Announcement>(&text).unwrap(), written, "{text}");
        }
    }

    #[test]
    fn what_its_kind_does_not_list_is_not_read() {
        let written = serde_json::to_value(failed()).unwrap();
        for (field, value) in [("reason", serde_json::json!(7)), ("mood", serde_json::json!("bad"))] {
            let mut changed = written.clone();
            changed["fields"][field] = value;
            let error = serde_json::from_value::<Notification>(changed).unwrap_err().to_string();
            let expected = FieldMismatch { kind: Kind::UpdateFailed, field: field.to_owned() };
            assert!(error.contains(&expected.to_string()), "{error}");
        }
    }

    #[test]
    fn a_repeat_of_a_cause_has_the_same_key_and_another_epoch_another() {
        let key = |device: &Device| {
            let notification = Notification::bound(device, Timestamp::EPOCH);
            Announcement { notification }.key()
        };
        assert_eq!(key(&lamp()), key(&lamp()));
        assert_ne!(key(&lamp()), key(&Device { epoch: OwnershipEpoch(4), ..lamp() }));
    }

    #[test]
    fn the_longest_ids_still_make_an_id() {
        let long = "x".repeat(crate::id::ID_BYTES_MAX);
        let device = Device { id: long.parse().unwrap(), epoch: OwnershipEpoch(u64::MAX), ..lamp() };
        let rollout = RolloutId::parse(&long).unwrap();
        let made = Notification::update_confirmed(&device, &rollout, "1", Timestamp::EPOCH);
        assert_eq!(made.id.as_str(), format!("update-confirmed-{long}-{long}"));
        assert!(Notification::unbound(&device, Timestamp::EPOCH).id.as_str().ends_with(&u64::MAX.to_string()));
    }
}
