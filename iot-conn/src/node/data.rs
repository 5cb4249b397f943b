//! What is kept of what a device reported and was told, and its end (GDPR Art. 17 and 20).

use iot_core::{
    access::Principal,
    command::{DurableCommand, Receipt},
    device::Device,
    event::StoredEvent,
    id::OwnershipEpoch,
    message::QoS,
    problem::Cursor,
    store::{
        Audit, Batch, Document, INDEX_PAGE_MAX, Key, MetaStoreExt, Page, Publication, Range, Series, StoreError, Write,
    },
    time::Timestamp,
    twin::Twin,
};

use super::{Alarm, Node, Presence};

/// How many messages are looked at or removed at once.
const RETAINED_PAGE: u32 = 500;

/// Whose data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "an owner has the one, the vendor the other")]
pub enum Epochs {
    /// Of the present owner.
    Present,
    /// Of all owners, and of nobody.
    All,
}

/// How much was erased.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Erased {
    /// Reports and named events.
    pub events: u64,
    /// Alarms, commands, former twins, and days of its connections.
    pub records: u64,
    /// Retained messages.
    pub retained: u64,
}

/// What is kept of a device in one epoch, but for its reports.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeviceRecords {
    /// Its twin, if it has one.
    pub twin: Option<Twin>,
    /// Raised and cleared.
    pub alarms: Vec<Alarm>,
    /// Those that wait for it or did.
    pub commands: Vec<DurableCommand>,
    /// What this node remembers of others, which are not stored; the newest first.
    pub receipts: Vec<Receipt>,
    /// When it came and went, the newest first.
    pub connections: Vec<Presence>,
}

impl Node {
    /// Erases what a device reported and was told: telemetry, events and newest values, alarms, closed commands, when it was connected, what it left as
    /// retained messages; with [`Epochs::All`] also the twins of former owners. The present twin stays, since it is the device's
    /// state and not its past, as do commands under way, messages that wait for
    /// clients, and receipts that are only in memory. Goes in steps: ask again after an
    /// error. Leaves an audit entry, before anything else.
    pub async fn erase_data(&self, by: &Principal, device: &Device, epochs: Epochs) -> Result<Erased, StoreError> {
        let action = match epochs {
            Epochs::Present => "device_data_erase",
            Epochs::All => "device_history_erase",
        };
        let entry = Audit::done(self.clock().timestamp(), &device.tenant, by, action, device.key());
        // Without checks and writes nothing can conflict.
        self.stores().meta.commit_or_conflict(Batch::default().audited(entry)).await?;
        let first = if epochs == Epochs::All { 0 } else { device.epoch.0 };
        let mut erased = Erased::default();
        for epoch in first..=device.epoch.0 {
            erased.events += self.stores().telemetry.erase(&series(device, OwnershipEpoch(epoch))).await?;
        }
        let is_meant = |epoch: OwnershipEpoch| (first..=device.epoch.0).contains(&epoch.0);
        let mut keys: Vec<Key> = self.alarms(device, is_meant).await?.iter().map(Document::key).collect();
        let commands = self.commands(device, is_meant).await?;
        keys.extend(commands.iter().filter(|one| one.receipt.state.is_final()).map(Document::key));
        let former = |twin: &Twin| twin.epoch != device.epoch && is_meant(twin.epoch);
        keys.extend(self.twins(device).await?.iter().filter(|twin| former(twin)).map(Document::key));
        // Those that are to be written would come back.
        self.inner.write_history().await?;
        let history = self.inner.connection_days(&device.tenant, &device.id).await?;
        keys.extend(history.iter().filter(|day| is_meant(day.owner)).map(Document::key));
        for some in keys.chunks(INDEX_PAGE_MAX as usize) {
            let writes = some.iter().cloned().map(Write::Delete).collect();
            self.stores().meta.commit_or_conflict(Batch { writes, ..Batch::default() }).await?;
            erased.records += some.len() as u64;
        }
        erased.retained = self.erase_retained(device, is_meant).await?;
        Ok(erased)
    }

    /// The records of a device in its present epoch.
    pub async fn records(&self, device: &Device) -> Result<DeviceRecords, StoreError> {
        let is_present = |epoch: OwnershipEpoch| epoch == device.epoch;
        let commands = self.commands(device, is_present).await?;
        Ok(DeviceRecords {
            twin: self.twins(device).await?.into_iter().find(|twin| twin.epoch == device.epoch),
            alarms: self.alarms(device, is_present).await?,
            receipts: self.receipts(device, &commands),
            commands,
            connections: self.connections(device, usize::MAX).await?,
        })
    }

    /// A page of all reports of a device in its present epoch, the oldest first.
    pub async fn reports(
        &self,
        device: &Device,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<StoredEvent>, StoreError> {
        let (from, until) = (Timestamp::from_micros(i64::MIN), Timestamp::MAX);
        let range = Range { series: series(device, device.epoch), metric: None, from, until };
        self.stores().telemetry.range(&range, false, after, limit).await
    }

    fn receipts(&self, device: &Device, stored: &[DurableCommand]) -> Vec<Receipt> {
        let mut recent = self.commander().recent(&device.tenant, &device.id, usize::MAX);
        let is_stored = |receipt: &Receipt| stored.iter().any(|one| one.receipt.id == receipt.id);
        recent.retain(|receipt| receipt.epoch == device.epoch && !is_stored(receipt));
        recent
    }

    async fn twins(&self, device: &Device) -> Result<Vec<Twin>, StoreError> {
        self.all("device", &format!("{}/{}", device.tenant, device.id), |_| true).await
    }

    async fn alarms(
        &self,
        device: &Device,
        is_meant: impl Fn(OwnershipEpoch) -> bool,
    ) -> Result<Vec<Alarm>, StoreError> {
        let own = |alarm: &Alarm| alarm.device == device.id && is_meant(alarm.epoch);
        self.all("tenant", device.tenant.as_str(), own).await
    }

    async fn commands(
        &self,
        device: &Device,
        is_meant: impl Fn(OwnershipEpoch) -> bool,
    ) -> Result<Vec<DurableCommand>, StoreError> {
        let own = |one: &DurableCommand| {
            one.receipt.tenant == device.tenant && one.receipt.device == device.id && is_meant(one.epoch)
        };
        let mut found: Vec<DurableCommand> = self.all("open", "", own).await?;
        found.extend(self.all("closed", "", own).await?);
        Ok(found)
    }

    /// All documents with a value of an index that are wanted.
    async fn all<T: Document>(
        &self,
        index: &'static str,
        value: &str,
        is_wanted: impl Fn(&T) -> bool,
    ) -> Result<Vec<T>, StoreError> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.stores().meta.page::<T>(index, value, after.as_ref(), INDEX_PAGE_MAX).await?;
            found.extend(page.items.into_iter().map(|stored| stored.document).filter(|document| is_wanted(document)));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(found),
            }
        }
    }

    /// An empty retained message takes the place of none, by MQTT 5 §3.3.1.3.
    async fn erase_retained(
        &self,
        device: &Device,
        is_meant: impl Fn(OwnershipEpoch) -> bool,
    ) -> Result<u64, StoreError> {
        let (sessions, now) = (&self.stores().sessions, self.clock().timestamp());
        let filter = format!("d/{}/up/#", device.id);
        let (mut erased, mut after) = (0, None::<String>);
        loop {
            let page = sessions.retained(&device.tenant, &filter, after.as_deref(), RETAINED_PAGE, now).await?;
            let Some(last) = page.last() else { return Ok(erased) };
            after = Some(last.topic.to_string());
            let own =
                page.into_iter().filter(|message| message.device.as_ref().is_none_or(|(_, epoch)| is_meant(*epoch)));
            let empty = own.map(|mut message| {
                (message.payload, message.qos, message.retain) = (bytes::Bytes::new(), QoS::AtMostOnce, true);
                Publication { message, to: vec![], received: None }
            });
            let empty: Vec<_> = empty.collect();
            erased += empty.len() as u64;
            sessions.offer(&empty).await?;
        }
    }
}

fn series(device: &Device, epoch: OwnershipEpoch) -> Series {
    Series { tenant: device.tenant.clone(), device: device.id.clone(), epoch }
}
