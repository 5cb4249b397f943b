//! Bytes to packets.

use crate::mqtt::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Item, List, Packet, PacketId, PacketKind, Publish, QoS, Sender, SubAck,
    Subscribe, Subscription, Unsubscribe, Version, Will,
};
use crate::mqtt::property::{Properties, Property, WILL};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::wire::{DecodeError, Reader};

use super::topic::{check_topic_filter, check_topic_name};

/// The length in bytes of the first packet in `bytes`, with its fixed header; `None` while more
/// bytes are needed to tell. The packet is complete when `bytes` has that many.
///
/// # Errors
///
/// [`ReasonCode::MalformedPacket`] for a packet type, flags or a remaining length that no
/// version has, [`ReasonCode::PacketTooLarge`] above `max` bytes. The first byte is judged as
/// soon as it is there.
pub fn frame_length(bytes: &[u8], max: usize) -> Result<Option<usize>, DecodeError> {
    let Some((first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    packet_kind(*first)?;
    let mut reader = Reader(rest);
    let remaining = match reader.variable_integer() {
        Ok(remaining) => remaining as usize,
        Err(_) if rest.len() < 4 && rest.iter().all(|byte| byte & 0x80 != 0) => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = bytes.len() - reader.0.len() + remaining;
    if length > max {
        return Err(DecodeError::new(
            ReasonCode::PacketTooLarge,
            "a packet is not larger than the receiver's maximum packet size [MQTT-3.1.2-24]",
        ));
    }
    Ok(Some(length))
}

/// Reads one packet that is exactly `frame` (see [`frame_length`]), sent by `sender`.
///
/// `version` is that of the connection; a CONNECT brings its own, and any may be given with it.
/// Nothing is allocated; the packet borrows from `frame`.
///
/// # Errors
///
/// Every statement of MQTT 5 §2 and §3 (or 3.1.1) that a packet can break without regard to what
/// was sent before, with the code to answer. Among others: a packet type that is not for this
/// sender, a reserved bit, ill-formed UTF-8, a property where it must not be.
pub fn decode(frame: &[u8], version: Version, sender: Sender) -> Result<Packet<'_>, DecodeError> {
    let mut reader = Reader(frame);
    let first = reader.u8()?;
    let kind = packet_kind(first)?;
    if reader.variable_integer()? as usize != reader.0.len() {
        return Err(DecodeError::malformed("remaining length is the number of bytes that remain (MQTT 5 §2.1.4)"));
    }
    check_sender(kind, version, sender)?;
    let mut body = Body { reader, version, sender };
    let packet = match kind {
        PacketKind::Connect => Packet::Connect(body.connect()?),
        PacketKind::ConnAck => Packet::ConnAck(body.conn_ack()?),
        PacketKind::Publish => Packet::Publish(body.publish(first)?),
        PacketKind::PubAck => Packet::PubAck(body.ack(kind)?),
        PacketKind::PubRec => Packet::PubRec(body.ack(kind)?),
        PacketKind::PubRel => Packet::PubRel(body.ack(kind)?),
        PacketKind::PubComp => Packet::PubComp(body.ack(kind)?),
        PacketKind::Subscribe => Packet::Subscribe(body.subscribe()?),
        PacketKind::SubAck => Packet::SubAck(body.sub_ack()?),
        PacketKind::Unsubscribe => Packet::Unsubscribe(body.unsubscribe()?),
        PacketKind::UnsubAck => Packet::UnsubAck(body.unsub_ack()?),
        PacketKind::PingReq => Packet::PingReq,
        PacketKind::PingResp => Packet::PingResp,
        PacketKind::Disconnect => Packet::Disconnect(body.disconnect()?),
        PacketKind::Auth => Packet::Auth(body.auth()?),
    };
    if body.reader.is_empty() {
        Ok(packet)
    } else {
        Err(DecodeError::malformed("nothing follows the last field of a packet (MQTT 5 §3)"))
    }
}

/// The version in which to refuse a CONNECT that [`decode`] did not take: what its protocol level
/// says, the newest for levels to come. `None` if it is not for MQTT at all.
#[must_use]
pub fn connect_version(frame: &[u8]) -> Option<Version> {
    let mut reader = Reader(frame);
    let kind = packet_kind(reader.u8().ok()?).ok()?;
    reader.variable_integer().ok()?;
    let name = reader.string().ok()?;
    if kind != PacketKind::Connect || !matches!(name, PROTOCOL_NAME | PROTOCOL_NAME_V31) {
        return None;
    }
    Some(if reader.u8().ok()? < 5 { Version::V311 } else { Version::V5 })
}

const PROTOCOL_NAME: &str = "MQTT";
const PROTOCOL_NAME_V31: &str = "MQIsdp";

fn packet_kind(first: u8) -> Result<PacketKind, DecodeError> {
    let kind =
        PacketKind::from_u8(first >> 4).ok_or(DecodeError::malformed("packet type 0 is reserved (MQTT 5 §2.1.2)"))?;
    let expected = match kind {
        PacketKind::Publish => first & 0x0f,
        PacketKind::PubRel | PacketKind::Subscribe | PacketKind::Unsubscribe => 0x02,
        _ => 0,
    };
    if first & 0x0f == expected {
        Ok(kind)
    } else {
        Err(DecodeError::malformed("the flags are those of the packet type [MQTT-2.1.3-1]"))
    }
}

fn check_sender(kind: PacketKind, version: Version, sender: Sender) -> Result<(), DecodeError> {
    use PacketKind::{Auth, ConnAck, Connect, Disconnect, PingReq, PingResp};
    use PacketKind::{SubAck, Subscribe, UnsubAck, Unsubscribe};
    match (kind, version, sender) {
        (Auth, Version::V311, _) => Err(DecodeError::malformed("packet type 15 is reserved (MQTT 3.1.1 §2.2.1)")),
        (Connect | Subscribe | Unsubscribe | PingReq, _, Sender::Server)
        | (ConnAck | SubAck | UnsubAck | PingResp, _, Sender::Client)
        | (Disconnect, Version::V311, Sender::Server) => {
            Err(DecodeError::protocol("a packet type is sent in its direction of flow (MQTT 5 §2.1.2)"))
        }
        _ => Ok(()),
    }
}

/// What follows the fixed header.
struct Body<'a> {
    reader: Reader<'a>,
    version: Version,
    sender: Sender,
}

impl<'a> Body<'a> {
    fn connect(&mut self) -> Result<Connect<'a>, DecodeError> {
        self.version = self.protocol_version()?;
        let flags = ConnectFlags::read(self.reader.u8()?, self.version)?;
        let keep_alive_s = self.reader.u16()?;
        let properties = self.properties(PacketKind::Connect.bit())?;
        check_authentication(properties)?;
        let client_id = self.reader.string()?;
        if client_id.is_empty() && self.version == Version::V311 && !flags.clean_start {
            return Err(DecodeError::new(
                ReasonCode::ClientIdentifierNotValid,
                "an empty client identifier comes with clean session [MQTT-3.1.3-7] of 3.1.1",
            ));
        }
        let will = match flags.will {
            Some((qos, retain)) => Some(self.will(qos, retain)?),
            None => None,
        };
        let username = if flags.username { Some(self.reader.string()?) } else { None };
        let password = if flags.password { Some(self.reader.binary()?) } else { None };
        Ok(Connect {
            version: self.version,
            client_id,
            clean_start: flags.clean_start,
            keep_alive_s,
            will,
            username,
            password,
            properties,
        })
    }

    fn protocol_version(&mut self) -> Result<Version, DecodeError> {
        let unsupported = |statement| Err(DecodeError::new(ReasonCode::UnsupportedProtocolVersion, statement));
        if self.reader.string()? != PROTOCOL_NAME {
            return unsupported("the protocol name is MQTT [MQTT-3.1.2-1]");
        }
        match self.reader.u8()? {
            4 => Ok(Version::V311),
            5 => Ok(Version::V5),
            _ => unsupported("the protocol level is 4 or 5 [MQTT-3.1.2-2]"),
        }
    }

    fn will(&mut self, qos: QoS, retain: bool) -> Result<Will<'a>, DecodeError> {
        let properties = self.properties(WILL)?;
        let topic = self.reader.string()?;
        check_topic_name(topic)?;
        let payload = self.reader.binary()?;
        Ok(Will { topic, payload, qos, retain, properties })
    }

    fn conn_ack(&mut self) -> Result<ConnAck<'a>, DecodeError> {
        let flags = self.reader.u8()?;
        if flags & 0xfe != 0 {
            return Err(DecodeError::malformed("the reserved connect acknowledge flags are 0 [MQTT-3.2.2-1]"));
        }
        let session_present = flags == 1;
        let reason = match self.version {
            Version::V5 => self.reason(PacketKind::ConnAck)?,
            Version::V311 => ReasonCode::from_connack_v311(self.reader.u8()?)
                .ok_or(DecodeError::malformed("return codes 6 to 255 are reserved (MQTT 3.1.1 §3.2.2.3)"))?,
        };
        if session_present && reason.is_error() {
            return Err(DecodeError::protocol("session present is 0 with an error [MQTT-3.2.2-6]"));
        }
        let properties = self.properties(PacketKind::ConnAck.bit())?;
        Ok(ConnAck { session_present, reason, properties })
    }

    fn publish(&mut self, first: u8) -> Result<Publish<'a>, DecodeError> {
        let qos = QoS::from_bits(first >> 1 & 0x03)
            .ok_or(DecodeError::malformed("the QoS bits are not both 1 [MQTT-3.3.1-4]"))?;
        let dup = first & 0x08 != 0;
        if dup && qos == QoS::AtMostOnce {
            return Err(DecodeError::malformed("DUP is 0 with QoS 0 [MQTT-3.3.1-2]"));
        }
        let topic = self.reader.string()?;
        let packet_id = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Some(self.packet_id()?),
        };
        let properties = self.properties(PacketKind::Publish.bit())?;
        if self.sender == Sender::Client && properties.subscription_identifier().is_some() {
            return Err(DecodeError::protocol(
                "a client sends no subscription identifier with a message [MQTT-3.3.4-6]",
            ));
        }
        self.check_published_topic(topic, properties)?;
        let payload = self.rest();
        let retain = first & 0x01 != 0;
        Ok(Publish { dup, qos, retain, topic, packet_id, properties, payload })
    }

    fn check_published_topic(&self, topic: &str, properties: Properties<'_>) -> Result<(), DecodeError> {
        if !topic.is_empty() || self.version == Version::V311 {
            return check_topic_name(topic);
        }
        match properties.topic_alias() {
            Some(_) => Ok(()),
            None => Err(DecodeError::protocol("an empty topic name comes with a topic alias (MQTT 5 §3.3.2.1)")),
        }
    }

    fn ack(&mut self, kind: PacketKind) -> Result<Ack<'a>, DecodeError> {
        let packet_id = self.packet_id()?;
        let reason = self.reason_or_success(kind)?;
        let properties = self.properties_or_none(kind)?;
        Ok(Ack { packet_id, reason, properties })
    }

    fn subscribe(&mut self) -> Result<Subscribe<'a>, DecodeError> {
        let packet_id = self.packet_id()?;
        let properties = self.properties(PacketKind::Subscribe.bit())?;
        let version = self.version;
        let subscriptions = self.list("a SUBSCRIBE has at least one topic filter [MQTT-3.8.3-2]", |subscription| {
            check_subscription(subscription, version)
        })?;
        Ok(Subscribe { packet_id, properties, subscriptions })
    }

    fn sub_ack(&mut self) -> Result<SubAck<'a>, DecodeError> {
        let packet_id = self.packet_id()?;
        let properties = self.properties(PacketKind::SubAck.bit())?;
        let version = self.version;
        let reasons =
            self.list("a SUBACK has a reason code for each topic filter [MQTT-3.8.4-6]", |reason: ReasonCode| {
                match version {
                    Version::V311 if !matches!(reason.value(), 0..=2 | 0x80) => {
                        Err(DecodeError::malformed("a return code is 0, 1, 2 or 128 [MQTT-3.9.3-2]"))
                    }
                    _ => check_reason(reason, PacketKind::SubAck),
                }
            })?;
        Ok(SubAck { packet_id, properties, reasons })
    }

    fn unsubscribe(&mut self) -> Result<Unsubscribe<'a>, DecodeError> {
        let packet_id = self.packet_id()?;
        let properties = self.properties(PacketKind::Unsubscribe.bit())?;
        let filters = self.list("an UNSUBSCRIBE has at least one topic filter [MQTT-3.10.3-2]", check_topic_filter)?;
        Ok(Unsubscribe { packet_id, properties, filters })
    }

    fn unsub_ack(&mut self) -> Result<SubAck<'a>, DecodeError> {
        let packet_id = self.packet_id()?;
        if self.version == Version::V311 {
            return Ok(SubAck { packet_id, properties: List::EMPTY, reasons: List::EMPTY });
        }
        let properties = self.properties(PacketKind::UnsubAck.bit())?;
        let reasons = self.list("an UNSUBACK has a reason code for each topic filter (MQTT 5 §3.11.3)", |reason| {
            check_reason(reason, PacketKind::UnsubAck)
        })?;
        Ok(SubAck { packet_id, properties, reasons })
    }

    fn disconnect(&mut self) -> Result<Disconnect<'a>, DecodeError> {
        let reason = self.reason_or_success(PacketKind::Disconnect)?;
        let properties = self.properties_or_none(PacketKind::Disconnect)?;
        match self.sender {
            Sender::Client if !is_clients(reason) => {
                Err(DecodeError::protocol("a client disconnects with a reason code for clients (MQTT 5 §3.14.2.1)"))
            }
            Sender::Client if properties.server_reference().is_some() => {
                Err(DecodeError::protocol("a server reference comes from the server (MQTT 5 §3.14.2.2.5)"))
            }
            Sender::Server if reason == ReasonCode::DisconnectWithWill => {
                Err(DecodeError::protocol("only a client disconnects with its will (MQTT 5 §3.14.2.1)"))
            }
            Sender::Server if properties.session_expiry_interval().is_some() => {
                Err(DecodeError::protocol("a server sends no session expiry interval [MQTT-3.14.2-2]"))
            }
            _ => Ok(Disconnect { reason, properties }),
        }
    }

    fn auth(&mut self) -> Result<Auth<'a>, DecodeError> {
        if self.reader.is_empty() {
            self.check_auth_sender(ReasonCode::Success)?;
            return Ok(Auth { reason: ReasonCode::Success, properties: List::EMPTY });
        }
        let reason = self.reason(PacketKind::Auth)?;
        self.check_auth_sender(reason)?;
        let properties = self.properties(PacketKind::Auth.bit())?;
        if properties.authentication_method().is_none() {
            return Err(DecodeError::protocol("an AUTH names the authentication method (MQTT 5 §3.15.2.2.2)"));
        }
        Ok(Auth { reason, properties })
    }

    fn check_auth_sender(&self, reason: ReasonCode) -> Result<(), DecodeError> {
        match (self.sender, reason) {
            (Sender::Client, ReasonCode::Success) | (Sender::Server, ReasonCode::ReAuthenticate) => {
                Err(DecodeError::protocol(
                    "success comes from the server, re-authenticate from the client (MQTT 5 §3.15.2.1)",
                ))
            }
            _ => Ok(()),
        }
    }

    fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.reader.u16()?).ok_or(DecodeError::protocol("a packet identifier is not 0 [MQTT-2.2.1-3]"))
    }

    fn reason(&mut self, kind: PacketKind) -> Result<ReasonCode, DecodeError> {
        let reason = ReasonCode::read(&mut self.reader)?;
        check_reason(reason, kind)?;
        Ok(reason)
    }

    fn reason_or_success(&mut self, kind: PacketKind) -> Result<ReasonCode, DecodeError> {
        match self.version {
            Version::V5 if !self.reader.is_empty() => self.reason(kind),
            _ => Ok(ReasonCode::Success),
        }
    }

    fn properties(&mut self, place: u16) -> Result<Properties<'a>, DecodeError> {
        if self.version == Version::V311 {
            return Ok(List::EMPTY);
        }
        let length = self.reader.variable_integer()?;
        Properties::check(self.reader.take(length as usize)?, place)
    }

    fn properties_or_none(&mut self, kind: PacketKind) -> Result<Properties<'a>, DecodeError> {
        if self.reader.is_empty() { Ok(List::EMPTY) } else { self.properties(kind.bit()) }
    }

    fn list<T: Item<'a>>(
        &mut self,
        not_empty: &'static str,
        check: impl Fn(T) -> Result<(), DecodeError>,
    ) -> Result<List<'a, T>, DecodeError> {
        if self.reader.is_empty() {
            return Err(DecodeError::protocol(not_empty));
        }
        let wire = self.rest();
        let mut items = Reader(wire);
        while !items.is_empty() {
            check(T::read(&mut items)?)?;
        }
        Ok(List::checked(wire))
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.reader.0)
    }
}

struct ConnectFlags {
    clean_start: bool,
    will: Option<(QoS, bool)>,
    username: bool,
    password: bool,
}

impl ConnectFlags {
    fn read(byte: u8, version: Version) -> Result<Self, DecodeError> {
        let is_set = |bit: u8| byte & (1 << bit) != 0;
        if is_set(0) {
            return Err(DecodeError::malformed("the reserved connect flag is 0 [MQTT-3.1.2-3]"));
        }
        let will_qos = QoS::from_bits(byte >> 3 & 0x03)
            .ok_or(DecodeError::malformed("the will's QoS is 0, 1 or 2 [MQTT-3.1.2-12]"))?;
        let (has_will, will_retain) = (is_set(2), is_set(5));
        if !has_will && (will_retain || will_qos != QoS::AtMostOnce) {
            return Err(DecodeError::malformed(
                "without a will, its QoS and RETAIN are 0 [MQTT-3.1.2-11] [MQTT-3.1.2-13]",
            ));
        }
        let (username, password) = (is_set(7), is_set(6));
        if password && !username && version == Version::V311 {
            return Err(DecodeError::malformed("a password comes with a user name [MQTT-3.1.2-22] of 3.1.1"));
        }
        let will = has_will.then_some((will_qos, will_retain));
        Ok(Self { clean_start: is_set(1), will, username, password })
    }
}

fn check_authentication(properties: Properties<'_>) -> Result<(), DecodeError> {
    let has_data = properties.iter().any(|p| matches!(p, Property::AuthenticationData(_)));
    if has_data && properties.authentication_method().is_none() {
        return Err(DecodeError::protocol("authentication data comes with a method (MQTT 5 §3.1.2.11.10)"));
    }
    Ok(())
}

fn check_subscription(subscription: Subscription<'_>, version: Version) -> Result<(), DecodeError> {
    check_topic_filter(subscription.filter)?;
    if version == Version::V311 && subscription.options() > 2 {
        return Err(DecodeError::malformed("the upper six bits of a requested QoS are 0 [MQTT-3-8.3-4] of 3.1.1"));
    }
    if subscription.no_local && subscription.filter.starts_with("$share/") {
        return Err(DecodeError::protocol("no local is 0 on a shared subscription [MQTT-3.8.3-4]"));
    }
    Ok(())
}

fn check_reason(reason: ReasonCode, kind: PacketKind) -> Result<(), DecodeError> {
    if reason.is_valid_in(kind) {
        Ok(())
    } else {
        Err(DecodeError::protocol("a reason code is one of the packet's (MQTT 5 §2.4)"))
    }
}

/// The codes of MQTT 5 §3.14.2.1 that a client may send.
const fn is_clients(reason: ReasonCode) -> bool {
    matches!(reason.value(), 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99)
}
