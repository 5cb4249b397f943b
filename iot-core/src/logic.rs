//! The seam to cloud logic: a `tower::Service` from batches of stored events to effects.

use std::sync::Arc;

use crate::{
    command::Offline,
    event::{EventId, StoredEvent},
    id::{DeviceId, NodeId, OwnershipEpoch, TenantId},
};

/// What a logic service fails with; a failed batch is given to it again, later and later.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Logic as a node holds it: erased once, where the node is built.
pub type BoxLogic = tower::util::BoxCloneSyncService<EventBatch, Vec<Effect>, BoxError>;

/// Stored events in the order of a node's log. A batch may come again after a crash: at least once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventBatch {
    /// Whose log.
    pub node: NodeId,
    /// In order.
    pub events: Arc<[StoredEvent]>,
}

impl EventBatch {
    /// The id of one of its events.
    pub fn id_of(&self, event: &StoredEvent) -> EventId {
        EventId { node: self.node.clone(), sequence: event.sequence }
    }
}

/// Something that logic wants done. A value, so that it can be compared, limited and recorded before it is carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// What caused it. With `index` it identifies the effect, so that a repeat is recognised.
    pub cause: EventId,
    /// Tells several effects of one cause apart.
    pub index: u16,
    /// What to do.
    pub action: Action,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// Send a command.
    Command {
        /// Whose device.
        tenant: TenantId,
        /// To which device.
        device: DeviceId,
        /// The device's word for it.
        name: String,
        /// Its arguments.
        args: serde_json::Value,
        /// While it is not connected.
        offline: Offline,
    },
    /// Raise or clear an alarm of a device; the alarm is a record, and a change of it is published on `alarm/<device>`.
    Alarm {
        /// Whose device.
        tenant: TenantId,
        /// Of which device.
        device: DeviceId,
        /// In which of its ownership epochs its cause was. In another one nothing is raised, cleared or told.
        epoch: OwnershipEpoch,
        /// Which alarm of that device.
        name: String,
        /// Raised or cleared.
        active: bool,
        /// For people.
        text: String,
    },
}
