//! One message, written to many connections.

use bytes::{Bytes, BytesMut};

use crate::mqtt::packet::{Packet, PacketId, Publish, QoS, Version};
use crate::mqtt::wire::EncodeError;

use super::encode::{encode, publish_first_byte};

/// A PUBLISH that is encoded once and shared by the connections that get it.
///
/// What differs between them is patched while the bytes are copied out: the packet identifier
/// and the flags DUP and RETAIN. Topic, properties, payload, version and quality of service are
/// fixed. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub struct EncodedPublish {
    bytes: Bytes,
    qos: QoS,
    packet_id_at: usize,
}

impl EncodedPublish {
    /// Encodes `publish`; its `dup`, `retain` and `packet_id` do not matter.
    ///
    /// # Errors
    ///
    /// If the packet does not fit the format.
    pub fn new(publish: &Publish<'_>, version: Version) -> Result<Self, EncodeError> {
        let packet_id = (publish.qos != QoS::AtMostOnce).then_some(PacketId::MIN);
        let publish = Publish { packet_id, dup: false, ..*publish };
        let mut out = BytesMut::new();
        encode(&Packet::Publish(publish), version, &mut out)?;
        let last_length_byte = out.iter().skip(1).position(|byte| byte & 0x80 == 0).unwrap_or(0);
        let packet_id_at = 2 + last_length_byte + 2 + publish.topic.len();
        Ok(Self { bytes: out.freeze(), qos: publish.qos, packet_id_at })
    }

    /// The quality of service it is encoded for.
    #[must_use]
    pub const fn qos(&self) -> QoS {
        self.qos
    }

    /// The size of the packet in bytes, for the receiver's maximum packet size.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a packet is never empty")]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the packet to `out` with these flags and this packet identifier.
    ///
    /// # Errors
    ///
    /// [`EncodeError::NoSuchPacket`] if there is a packet identifier with QoS 0 or none with
    /// QoS 1 or 2, or DUP with QoS 0; `out` is unchanged then.
    pub fn write(
        &self,
        packet_id: Option<PacketId>,
        dup: bool,
        retain: bool,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let is_qos_0 = self.qos == QoS::AtMostOnce;
        if is_qos_0 == packet_id.is_some() || (is_qos_0 && dup) {
            return Err(EncodeError::NoSuchPacket);
        }
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        out[start] = publish_first_byte(dup, self.qos, retain);
        if let Some(packet_id) = packet_id {
            let at = start + self.packet_id_at;
            out[at..at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
        }
        Ok(())
    }
}
