//! A published message on its way through a node.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    id::{DeviceId, OwnershipEpoch, TenantId},
    time::Timestamp,
};

/// MQTT quality of service (MQTT 5 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[repr(u8)]
pub enum QoS {
    /// Delivered at most once.
    #[default]
    AtMostOnce = 0,
    /// Delivered at least once.
    AtLeastOnce = 1,
    /// Delivered exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// From the two bits of a packet; 3 is not a quality of service.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// The optional properties of a PUBLISH that travel with the message (MQTT 5 §3.3.2.3).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    /// The payload is UTF-8 text (payload format indicator 1).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub utf8_payload: bool,
    /// A MIME type by convention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Where an answer is expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_topic: Option<String>,
    /// What the answer must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_data: Option<Bytes>,
    /// Name and value, in the sender's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user: Vec<(String, String)>,
}

impl Properties {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Bytes in memory, where an empty user property takes more than on the wire.
    fn size(&self) -> usize {
        let texts = [&self.content_type, &self.response_topic].into_iter().flatten().map(String::len);
        let user = self.user.iter().map(|(name, value)| size_of::<(String, String)>() + name.len() + value.len());
        self.correlation_data.as_ref().map_or(0, Bytes::len) + texts.chain(user).sum::<usize>()
    }
}

/// A message as the node routes and stores it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Whose topics these are.
    pub tenant: TenantId,
    /// The full topic: `d/<device>/…` for a device's tree, also when the device itself published `up/…`.
    pub topic: Arc<str>,
    /// The application's bytes.
    pub payload: Bytes,
    /// As published; a subscription may lower it.
    pub qos: QoS,
    /// Replaces the topic's retained message; an empty payload removes it.
    pub retain: bool,
    /// `None` for most.
    pub properties: Option<Arc<Properties>>,
    /// When the node received it.
    pub published: Timestamp,
    /// After this it is not delivered any more.
    pub expires: Option<Timestamp>,
    /// For a topic of a device's tree: the device and the ownership epoch in which this was said. It is delivered only
    /// while the device is still in that epoch.
    pub device: Option<(DeviceId, OwnershipEpoch)>,
}

impl Message {
    /// The bytes of topic, payload and properties: what bounds in bytes count.
    pub fn size(&self) -> usize {
        self.payload.len() + self.topic.len() + self.properties.as_deref().map_or(0, Properties::size)
    }

    /// Whether it must not be delivered at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}
