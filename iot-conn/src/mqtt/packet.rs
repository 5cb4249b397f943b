//! The packets of MQTT 3.1.1 and 5.0, borrowed from the bytes they came in.
//!
//! A packet that came from the decoder is valid by itself (MQTT 5 §2 and §3): what remains for
//! the engines is what depends on the connection's state. Lists are [`List`]s: ranges of checked
//! bytes that are read while one iterates, or slices for packets that are made to be sent.

use std::fmt;
use std::num::NonZeroU16;

pub use iot_core::message::QoS;

use super::property::Properties;
use super::reason::ReasonCode;
use super::wire::{DecodeError, Reader};

/// Identifies a packet until it is acknowledged; never 0 (MQTT 5 §2.2.1).
pub type PacketId = NonZeroU16;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "these are the versions there are")]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// The end of a connection that sent a packet. Some packets and values are for one end only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a connection has two ends")]
pub enum Sender {
    /// The device or application.
    Client,
    /// The server.
    Server,
}

/// The kind of a packet; the number is the packet type (MQTT 5 §2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "MQTT 5 §2.1.2 is a closed list")]
#[expect(missing_docs, reason = "the names are those of the standard")]
#[repr(u8)]
pub enum PacketKind {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketKind {
    /// The kind of this packet type; 0 is reserved.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    pub(super) const fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// A control packet. 3.1.1 has no AUTH, and no DISCONNECT from the server.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "MQTT 5 §2.1.2 is a closed list")]
pub enum Packet<'a> {
    /// The client asks to be connected.
    Connect(Connect<'a>),
    /// The server's answer to a CONNECT.
    ConnAck(ConnAck<'a>),
    /// A message.
    Publish(Publish<'a>),
    /// Acknowledges a message of QoS 1.
    PubAck(Ack<'a>),
    /// QoS 2: received.
    PubRec(Ack<'a>),
    /// QoS 2: the sender forgets the message.
    PubRel(Ack<'a>),
    /// QoS 2: complete.
    PubComp(Ack<'a>),
    /// The client subscribes.
    Subscribe(Subscribe<'a>),
    /// The server's answer to a SUBSCRIBE.
    SubAck(SubAck<'a>),
    /// The client unsubscribes.
    Unsubscribe(Unsubscribe<'a>),
    /// The server's answer to an UNSUBSCRIBE.
    UnsubAck(SubAck<'a>),
    /// Are you there?
    PingReq,
    /// Yes.
    PingResp,
    /// The last packet of a connection.
    Disconnect(Disconnect<'a>),
    /// A step of an extended authentication; MQTT 5 only.
    Auth(Auth<'a>),
}

impl Packet<'_> {
    /// The kind of this packet.
    #[must_use]
    pub const fn kind(&self) -> PacketKind {
        match self {
            Self::Connect(_) => PacketKind::Connect,
            Self::ConnAck(_) => PacketKind::ConnAck,
            Self::Publish(_) => PacketKind::Publish,
            Self::PubAck(_) => PacketKind::PubAck,
            Self::PubRec(_) => PacketKind::PubRec,
            Self::PubRel(_) => PacketKind::PubRel,
            Self::PubComp(_) => PacketKind::PubComp,
            Self::Subscribe(_) => PacketKind::Subscribe,
            Self::SubAck(_) => PacketKind::SubAck,
            Self::Unsubscribe(_) => PacketKind::Unsubscribe,
            Self::UnsubAck(_) => PacketKind::UnsubAck,
            Self::PingReq => PacketKind::PingReq,
            Self::PingResp => PacketKind::PingResp,
            Self::Disconnect(_) => PacketKind::Disconnect,
            Self::Auth(_) => PacketKind::Auth,
        }
    }
}

/// CONNECT (MQTT 5 §3.1). Debug output hides the password.
#[derive(Clone, Copy, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct Connect<'a> {
    /// The version the client speaks; it holds for the whole connection.
    pub version: Version,
    /// The client identifier; empty asks the server to choose one.
    pub client_id: &'a str,
    /// Clean Start; in 3.1.1 Clean Session, which also ends the session with the connection.
    pub clean_start: bool,
    /// Keep alive in seconds, 0 turns it off.
    pub keep_alive_s: u16,
    /// What the server publishes when the client is lost.
    pub will: Option<Will<'a>>,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password; in 3.1.1 only together with a user name.
    pub password: Option<&'a [u8]>,
    /// Empty in 3.1.1.
    pub properties: Properties<'a>,
}

impl fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("clean_start", &self.clean_start)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("will", &self.will)
            .field("username", &self.username)
            .field("password", &self.password.map(|_| "hidden"))
            .finish_non_exhaustive()
    }
}

/// The message a server publishes when it loses a client (MQTT 5 §3.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct Will<'a> {
    /// A topic name, without wildcards.
    pub topic: &'a str,
    /// The payload.
    pub payload: &'a [u8],
    /// The quality of service to publish with.
    pub qos: QoS,
    /// Whether it becomes the topic's retained message.
    pub retain: bool,
    /// Empty in 3.1.1.
    pub properties: Properties<'a>,
}

/// CONNACK (MQTT 5 §3.2).
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct ConnAck<'a> {
    /// Whether the server had a session to go on with; false with every error.
    pub session_present: bool,
    /// In 3.1.1 one of those that [`ReasonCode::to_connack_v311`] maps.
    pub reason: ReasonCode,
    /// Empty in 3.1.1.
    pub properties: Properties<'a>,
}

/// PUBLISH (MQTT 5 §3.3).
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct Publish<'a> {
    /// Whether this may be sent for the second time; false with QoS 0.
    pub dup: bool,
    /// The quality of service.
    pub qos: QoS,
    /// To the server: keep it. From the server: it was kept.
    pub retain: bool,
    /// A topic name without wildcards; empty only in MQTT 5 with a topic alias.
    pub topic: &'a str,
    /// Set if and only if the quality of service is 1 or 2.
    pub packet_id: Option<PacketId>,
    /// Empty in 3.1.1.
    pub properties: Properties<'a>,
    /// The message itself.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (MQTT 5 §3.4 to §3.7).
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct Ack<'a> {
    /// The message that is acknowledged.
    pub packet_id: PacketId,
    /// Not sent in 3.1.1, where it is read as [`ReasonCode::Success`].
    pub reason: ReasonCode,
    /// Empty in 3.1.1.
    pub properties: Properties<'a>,
}

impl Ack<'_> {
    /// A plain acknowledgement with this reason.
    #[must_use]
    pub const fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, properties: List::EMPTY }
    }
}

/// SUBSCRIBE (MQTT 5 §3.8).
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct Subscribe<'a> {
    /// The SUBACK will carry the same.
    pub packet_id: PacketId,
    /// Empty in 3.1.1.
    pub properties: Properties<'a>,
    /// At least one.
    pub subscriptions: List<'a, Subscription<'a>>,
}

/// What a retained message does when a subscription is made (MQTT 5 §3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "MQTT 5 §3.8.3.1 is a closed list")]
#[repr(u8)]
pub enum RetainHandling {
    /// It is sent; always so in 3.1.1.
    #[default]
    Send = 0,
    /// It is sent if the subscription is new.
    SendIfNew = 1,
    /// It is not sent.
    DoNotSend = 2,
}

/// One topic filter of a SUBSCRIBE with its options (MQTT 5 §3.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct Subscription<'a> {
    /// A well-formed topic filter, with `$share/name/` in front of a shared one.
    pub filter: &'a str,
    /// The highest quality of service to be sent.
    pub qos: QoS,
    /// Do not send what this client publishes; never with a shared filter.
    pub no_local: bool,
    /// Keep the publisher's RETAIN flag.
    pub retain_as_published: bool,
    /// What retained messages do.
    pub retain_handling: RetainHandling,
}

impl<'a> Subscription<'a> {
    /// A subscription with the options that 3.1.1 knows.
    #[must_use]
    pub const fn new(filter: &'a str, qos: QoS) -> Self {
        Self { filter, qos, no_local: false, retain_as_published: false, retain_handling: RetainHandling::Send }
    }

    /// The subscription options byte.
    pub(super) const fn options(&self) -> u8 {
        self.qos as u8
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }
}

/// SUBACK or UNSUBACK (MQTT 5 §3.9 and §3.11).
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct SubAck<'a> {
    /// The SUBSCRIBE or UNSUBSCRIBE that is answered.
    pub packet_id: PacketId,
    /// Empty in 3.1.1.
    pub properties: Properties<'a>,
    /// One per topic filter, in order. A 3.1.1 SUBACK says 0x80 for every error, and a 3.1.1
    /// UNSUBACK has none.
    pub reasons: List<'a, ReasonCode>,
}

/// UNSUBSCRIBE (MQTT 5 §3.10).
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct Unsubscribe<'a> {
    /// The UNSUBACK will carry the same.
    pub packet_id: PacketId,
    /// Empty in 3.1.1.
    pub properties: Properties<'a>,
    /// At least one.
    pub filters: List<'a, &'a str>,
}

/// DISCONNECT (MQTT 5 §3.14).
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct Disconnect<'a> {
    /// Not sent in 3.1.1, where it is read as [`ReasonCode::Success`].
    pub reason: ReasonCode,
    /// Empty in 3.1.1.
    pub properties: Properties<'a>,
}

/// AUTH (MQTT 5 §3.15).
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct Auth<'a> {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// With an Authentication Method, unless the reason is Success and there are none at all.
    pub properties: Properties<'a>,
}

/// A list of a packet: checked bytes that are read while one iterates (as decoded), or a slice (to
/// be encoded).
///
/// ```
/// use iot_conn::mqtt::{List, ReasonCode};
///
/// let codes = [ReasonCode::GrantedQoS1, ReasonCode::NotAuthorized];
/// let list = List::from(&codes[..]);
/// assert_eq!(list.iter().count(), 2);
/// ```
pub struct List<'a, T> {
    wire: &'a [u8],
    items: &'a [T],
}

impl<'a, T> List<'a, T> {
    /// The list of nothing.
    pub const EMPTY: Self = Self { wire: &[], items: &[] };

    /// Bytes that the decoder has read once from end to end.
    pub(super) const fn checked(wire: &'a [u8]) -> Self {
        Self { wire, items: &[] }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.wire.is_empty() && self.items.is_empty()
    }

    pub(super) const fn wire(&self) -> &'a [u8] {
        self.wire
    }

    pub(super) const fn items(&self) -> &'a [T] {
        self.items
    }
}

#[expect(private_bounds, reason = "only the items of packets can be in a list")]
impl<'a, T: Item<'a>> List<'a, T> {
    /// Goes through the items in the order of the packet.
    #[must_use]
    pub fn iter(&self) -> Iter<'a, T> {
        Iter { reader: Reader(self.wire), items: self.items.iter() }
    }
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<'_, T> {}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<'a, T> From<&'a [T]> for List<'a, T> {
    fn from(items: &'a [T]) -> Self {
        Self { wire: &[], items }
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for List<'a, T> {
    fn from(items: &'a [T; N]) -> Self {
        Self { wire: &[], items }
    }
}

impl<'a, T: Item<'a>> IntoIterator for List<'a, T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<'a, T: Item<'a> + PartialEq> PartialEq for List<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a, T: Item<'a> + fmt::Debug> fmt::Debug for List<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Goes through a [`List`].
#[derive(Clone, Debug)]
pub struct Iter<'a, T> {
    reader: Reader<'a>,
    items: std::slice::Iter<'a, T>,
}

impl<'a, T: Item<'a>> Iterator for Iter<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.reader.is_empty() {
            return self.items.next().copied();
        }
        T::read(&mut self.reader).ok()
    }
}

/// What a [`List`] can hold: the way to read one from the wire.
pub(super) trait Item<'a>: Copy {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;
}

impl<'a> Item<'a> for &'a str {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.string()
    }
}

impl<'a> Item<'a> for ReasonCode {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Self::from_u8(reader.u8()?)
            .ok_or(DecodeError::malformed("a reason code is one of the standard's (MQTT 5 §2.4)"))
    }
}

impl<'a> Item<'a> for Subscription<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let filter = reader.string()?;
        let options = reader.u8()?;
        if options & 0xc0 != 0 {
            return Err(DecodeError::malformed("the reserved bits of the subscription options are 0 [MQTT-3.8.3-5]"));
        }
        let qos = QoS::from_bits(options & 0x03)
            .ok_or(DecodeError::protocol("the maximum QoS is 0, 1 or 2 (MQTT 5 §3.8.3.1)"))?;
        let retain_handling = match options >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => {
                return Err(DecodeError::protocol("retain handling is not 3 (MQTT 5 §3.8.3.1)"));
            }
        };
        let (no_local, retain_as_published) = (options & 0x04 != 0, options & 0x08 != 0);
        Ok(Self { filter, qos, no_local, retain_as_published, retain_handling })
    }
}
