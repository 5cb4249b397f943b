//! MQTT 3.1.1 and 5.0: packets, codec and the engines of both ends.
//!
//! * [`packet`], [`property`], [`reason`]: what the standards talk about, as borrowed types.
//!   The two versions share every type; where they differ, a packet says in its documentation
//!   what 3.1.1 leaves out.
//! * [`codec`]: bytes to packets and back.
//! * [`server`]: the server's end of one connection.
//! * `client`: the device's end, with feature `device`.

#[cfg(feature = "device")]
pub mod client;
pub mod codec;
pub mod packet;
pub mod property;
pub mod reason;
pub mod server;
mod wire;

pub use packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, List, Packet, PacketId, PacketKind, Publish, QoS, RetainHandling, Sender,
    SubAck, Subscribe, Subscription, Unsubscribe, Version, Will,
};
pub use property::{Properties, Property, RETRY_AFTER};
pub use reason::ReasonCode;
pub use wire::{DecodeError, EncodeError};
