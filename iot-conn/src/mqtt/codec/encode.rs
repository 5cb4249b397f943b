//! Packets to bytes.

use bytes::{BufMut, BytesMut};

use crate::mqtt::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketKind, Publish, QoS, SubAck, Subscribe, Unsubscribe, Version,
    Will,
};
use crate::mqtt::property::Properties;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::wire::{EncodeError, Put, VARIABLE_INTEGER_MAX, put_variable_integer, variable_integer_length};

/// Appends `packet` to `out`; a CONNECT is written in its own version.
///
/// What 3.1.1 cannot say is left out: properties, and reason codes except those of CONNACK and
/// SUBACK. The values in the packet are written as they are: one that [`decode`](super::decode)
/// gave is good, one that was made is the maker's to get right.
///
/// # Errors
///
/// If the packet does not fit the format; `out` is unchanged then.
pub fn encode(packet: &Packet<'_>, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
    let start = out.len();
    let result = Writer { out, version }.packet(packet);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

type Written = Result<(), EncodeError>;

struct Writer<'o> {
    out: &'o mut BytesMut,
    version: Version,
}

impl Writer<'_> {
    fn packet(&mut self, packet: &Packet<'_>) -> Written {
        let kind = packet.kind();
        let first = (kind as u8) << 4;
        let mut frame = |flags: u8, body: &dyn Fn(&mut Self) -> Written| {
            self.out.put_u8(first | flags);
            self.prefixed(0, body)
        };
        match packet {
            Packet::Connect(connect) => frame(0, &|w| w.connect(connect)),
            Packet::ConnAck(ack) => frame(0, &|w| w.conn_ack(ack)),
            Packet::Publish(publish) => self.publish(publish),
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => frame(0, &|w| w.ack(ack)),
            Packet::PubRel(ack) => frame(2, &|w| w.ack(ack)),
            Packet::Subscribe(subscribe) => frame(2, &|w| w.subscribe(subscribe)),
            Packet::SubAck(ack) | Packet::UnsubAck(ack) => frame(0, &|w| w.sub_ack(ack, kind)),
            Packet::Unsubscribe(unsubscribe) => frame(2, &|w| w.unsubscribe(unsubscribe)),
            Packet::PingReq | Packet::PingResp => frame(0, &|_| Ok(())),
            Packet::Disconnect(disconnect) => frame(0, &|w| w.disconnect(disconnect)),
            Packet::Auth(auth) => frame(0, &|w| w.auth(auth)),
        }
    }

    fn connect(&mut self, connect: &Connect<'_>) -> Written {
        self.version = connect.version;
        "MQTT".put(self.out)?;
        self.out.put_u8(match connect.version {
            Version::V311 => 4,
            Version::V5 => 5,
        });
        let will_flags = connect.will.map_or(0, |will| 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5);
        let flags = u8::from(connect.clean_start) << 1
            | will_flags
            | u8::from(connect.password.is_some()) << 6
            | u8::from(connect.username.is_some()) << 7;
        self.out.put_u8(flags);
        connect.keep_alive_s.put(self.out)?;
        self.properties(connect.properties)?;
        connect.client_id.put(self.out)?;
        if let Some(will) = &connect.will {
            self.will(will)?;
        }
        if let Some(username) = connect.username {
            username.put(self.out)?;
        }
        if let Some(password) = connect.password {
            password.put(self.out)?;
        }
        Ok(())
    }

    fn will(&mut self, will: &Will<'_>) -> Written {
        self.properties(will.properties)?;
        will.topic.put(self.out)?;
        will.payload.put(self.out)
    }

    fn conn_ack(&mut self, ack: &ConnAck<'_>) -> Written {
        self.out.put_u8(u8::from(ack.session_present));
        self.out.put_u8(match self.version {
            Version::V5 => ack.reason.value(),
            Version::V311 => ack.reason.to_connack_v311().ok_or(EncodeError::NoSuchPacket)?,
        });
        self.properties(ack.properties)
    }

    fn publish(&mut self, publish: &Publish<'_>) -> Written {
        if (publish.qos == QoS::AtMostOnce) == publish.packet_id.is_some() {
            return Err(EncodeError::NoSuchPacket);
        }
        self.out.reserve(publish.topic.len() + publish.payload.len() + PUBLISH_ROOM);
        self.out.put_u8(publish_first_byte(publish.dup, publish.qos, publish.retain));
        self.prefixed(publish.payload.len(), &|w| {
            publish.topic.put(w.out)?;
            if let Some(packet_id) = publish.packet_id {
                w.out.put_u16(packet_id.get());
            }
            w.properties(publish.properties)
        })?;
        self.out.extend_from_slice(publish.payload);
        Ok(())
    }

    fn ack(&mut self, ack: &Ack<'_>) -> Written {
        self.out.put_u16(ack.packet_id.get());
        self.reason_and_properties(ack.reason, ack.properties)
    }

    fn subscribe(&mut self, subscribe: &Subscribe<'_>) -> Written {
        self.out.put_u16(subscribe.packet_id.get());
        self.properties(subscribe.properties)?;
        for subscription in subscribe.subscriptions {
            subscription.filter.put(self.out)?;
            self.out.put_u8(match self.version {
                Version::V5 => subscription.options(),
                Version::V311 => subscription.qos as u8,
            });
        }
        Ok(())
    }

    fn sub_ack(&mut self, ack: &SubAck<'_>, kind: PacketKind) -> Written {
        self.out.put_u16(ack.packet_id.get());
        self.properties(ack.properties)?;
        if self.version == Version::V311 && kind == PacketKind::UnsubAck {
            return Ok(());
        }
        for reason in ack.reasons {
            self.out.put_u8(match self.version {
                Version::V311 if reason.is_error() => ReasonCode::UnspecifiedError.value(),
                _ => reason.value(),
            });
        }
        Ok(())
    }

    fn unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>) -> Written {
        self.out.put_u16(unsubscribe.packet_id.get());
        self.properties(unsubscribe.properties)?;
        unsubscribe.filters.iter().try_for_each(|filter| filter.put(self.out))
    }

    fn disconnect(&mut self, disconnect: &Disconnect<'_>) -> Written {
        self.reason_and_properties(disconnect.reason, disconnect.properties)
    }

    fn auth(&mut self, auth: &Auth<'_>) -> Written {
        if self.version == Version::V311 {
            return Err(EncodeError::NoSuchPacket);
        }
        if auth.reason == ReasonCode::Success && auth.properties.is_empty() {
            return Ok(());
        }
        self.out.put_u8(auth.reason.value());
        self.properties(auth.properties)
    }

    /// Both may be left out from the end (MQTT 5 §3.4.2.1).
    fn reason_and_properties(&mut self, reason: ReasonCode, properties: Properties<'_>) -> Written {
        let has_properties = !properties.is_empty();
        if self.version == Version::V311 || (reason == ReasonCode::Success && !has_properties) {
            return Ok(());
        }
        self.out.put_u8(reason.value());
        if has_properties { self.properties(properties) } else { Ok(()) }
    }

    fn properties(&mut self, properties: Properties<'_>) -> Written {
        if self.version == Version::V311 {
            return Ok(());
        }
        self.prefixed(0, &|w| {
            w.out.extend_from_slice(properties.wire());
            properties.items().iter().try_for_each(|property| property.put(w.out))
        })
    }

    /// Writes what `body` writes behind its length, to which `extra` is added.
    ///
    /// One byte is left for the length, which is enough for most; a longer one moves what `body`
    /// wrote, never a payload.
    fn prefixed(&mut self, extra: usize, body: &dyn Fn(&mut Self) -> Written) -> Written {
        let at = self.out.len();
        self.out.put_u8(0);
        body(self)?;
        let end = self.out.len();
        let length = u32::try_from(end - at - 1 + extra)
            .ok()
            .filter(|length| *length <= VARIABLE_INTEGER_MAX)
            .ok_or(EncodeError::PacketTooLarge)?;
        let size = variable_integer_length(length);
        self.out.put_bytes(0, size - 1);
        if size > 1 {
            self.out.copy_within(at + 1..end, at + size);
        }
        put_variable_integer(&mut &mut self.out[at..at + size], length);
        Ok(())
    }
}

/// The first byte of a PUBLISH (MQTT 5 §3.3.1).
pub(super) const fn publish_first_byte(dup: bool, qos: QoS, retain: bool) -> u8 {
    (PacketKind::Publish as u8) << 4 | (dup as u8) << 3 | (qos as u8) << 1 | retain as u8
}

/// Fixed header, lengths, packet identifier and a few properties.
const PUBLISH_ROOM: usize = 32;
