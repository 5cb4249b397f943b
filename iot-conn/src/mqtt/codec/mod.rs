//! Bytes to packets and back, for both versions.
//!
//! [`frame_length`] finds the end of the first packet in a buffer, [`decode`] checks it against
//! every statement that a packet can break by itself and borrows from it, [`encode`] writes one,
//! and [`EncodedPublish`] writes one message to many connections.
//!
//! The versions share all of it: 3.1.1 has no properties and fewer reason codes, which is said
//! where they are read.
//!
//! ```
//! use iot_conn::mqtt::codec::{decode, encode, frame_length};
//! use iot_conn::mqtt::{Packet, Sender, Version};
//!
//! let mut out = bytes::BytesMut::new();
//! encode(&Packet::PingReq, Version::V5, &mut out)?;
//! let length = frame_length(&out, 1024)?;
//! assert_eq!(length, Some(out.len()));
//! assert_eq!(decode(&out, Version::V5, Sender::Client)?, Packet::PingReq);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod decode;
mod encode;
mod fan_out;
mod topic;

#[cfg(test)]
mod tests;

pub use decode::{connect_version, decode, frame_length};
pub use encode::encode;
pub use fan_out::EncodedPublish;
pub use topic::{check_topic_filter, check_topic_name};
