//! Why two codecs may differ on a packet.

use bytes::BytesMut;

use super::Refusal;
use crate::mqtt::codec::encode;
use crate::mqtt::packet::*;
use crate::mqtt::property::Property;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::wire::DecodeError;

/// A packet, as we and as an oracle read it.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) frame: &'a [u8],
    pub(super) version: Version,
    pub(super) sender: Sender,
    pub(super) ours: Result<Packet<'static>, DecodeError>,
    pub(super) theirs: Result<Packet<'static>, Refusal>,
}

macro_rules! differences {
    ($($(#[doc = $why:literal])+ $name:ident: $who:ident, $statement:expr, $holds:expr;)+) => {
        /// A reason why an oracle takes what we refuse, or refuses what we take. Each says in its first lines which clause
        /// rules; where it names a statement, that is what we refuse with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Difference {
            $($(#[doc = $why])+ $name,)+
        }

        impl Difference {
            pub(super) const ALL: &[Self] = &[$(Self::$name),+];

            /// The reason of this case with this oracle: our statement is that of the row, and the packet does break it.
            pub(super) fn of(case: &Case<'_>, oracle: &str) -> Option<Self> {
                $({
                    let holds: fn(&Case<'_>) -> bool = $holds;
                    if Self::$name.is_of(oracle) && says(case, $statement) && holds(case) {
                        return Some(Self::$name);
                    }
                })+
                None
            }

            /// Whether it is one of this oracle.
            pub(super) fn is_of(self, oracle: &str) -> bool {
                let who = match self {
                    $(Self::$name => Who::$who,)+
                };
                match who {
                    Who::Both => true,
                    Who::Proto => oracle == "mqtt-proto",
                    Who::Core => oracle == "mqtt-protocol-core",
                }
            }
        }
    };
}

enum Who {
    Both,
    Proto,
    Core,
}

/// For rows in which we take the packet.
const WE_TAKE_IT: &str = "";

differences! {
    // --- They take it ---

    /// `+` and `#` are for filters (MQTT 5 §4.7.1).
    WildcardInTopicName: Core, "a topic name holds no wildcards", |case| {
        names(case).iter().any(|name| name.contains(['+', '#']))
    };
    /// A topic has at least one character (MQTT 5 §4.7.3).
    EmptyTopicName: Both, "a topic has at least one character", |case| names(case).contains(&"");
    /// An empty topic name needs an alias (MQTT 5 §3.3.2.1).
    EmptyTopicNameWithoutAlias: Both, "an empty topic name comes with a topic alias", |case| {
        names(case) == [""] && !properties(case).iter().any(|p| matches!(p, Property::TopicAlias(_)))
    };
    /// Filters have a syntax (MQTT 5 §4.7.1, §4.8.2).
    MalformedFilter: Both, "a wildcard is a whole level", |case| filters(case).iter().any(|filter| is_malformed(filter));
    /// An empty filter (MQTT 5 §4.7.3).
    EmptyFilter: Core, "a topic has at least one character", |case| filters(case).contains(&"");
    /// `$share` without a name or a filter (MQTT 5 §4.8.2). 3.1.1 does not know them; we hold it to the same.
    MalformedShare: Both, "a shared subscription has a name and a filter", |case| {
        filters(case).iter().any(|filter| is_half_a_share(filter))
    };
    /// A string holds no U+0000 (MQTT 5 §1.5.4).
    NullInString: Both, "a string holds no U+0000", |case| strings(case).iter().any(|text| text.contains('\0'));
    /// A packet identifier is not 0 (MQTT 5 §2.2.1).
    PacketIdZero: Core, "a packet identifier is not 0", |case| case.theirs == Err(Refusal::PacketIdZero);
    /// DUP is 0 with QoS 0 (MQTT 5 §3.3.1.1).
    DupWithQos0: Both, "DUP is 0 with QoS 0", |case| {
        matches!(case.theirs, Ok(Packet::Publish(Publish { dup: true, qos: QoS::AtMostOnce, .. })))
    };
    /// Bytes behind the last field belong to nothing (MQTT 5 §2.1.4).
    TrailingBytes: Both, "nothing follows the last field", |case| rewritten(case).len() < case.frame.len();
    /// Bit 0 of the connect flags is reserved (MQTT 5 §3.1.2.3).
    ReservedConnectFlag: Core, "the reserved connect flag is 0", |case| body(case)[7] & 0x01 != 0;
    /// A will has QoS 0, 1 or 2 (MQTT 5 §3.1.2.6).
    WillQos3: Core, "the will's QoS is 0, 1 or 2", |case| body(case)[7] & 0x18 == 0x18;
    /// Without a will, its flags are 0 (MQTT 5 §3.1.2.6, §3.1.2.7).
    WillFlagsWithoutWill: Both, "without a will, its QoS and RETAIN are 0", |case| {
        body(case)[7] & 0x04 == 0 && body(case)[7] & 0x38 != 0
    };
    /// Bits 1 to 7 of the connect acknowledge flags are reserved (MQTT 5 §3.2.2.1).
    ReservedConnAckFlags: Core, "the reserved connect acknowledge flags are 0", |case| body(case)[0] > 1;
    /// A password comes with a user name in 3.1.1 (3.1.1 §3.1.2.9).
    PasswordAlone: Proto, "a password comes with a user name", |case| {
        matches!(case.theirs, Ok(Packet::Connect(Connect { version: Version::V311, username: None, password: Some(_), .. })))
    };
    /// An empty client identifier comes with Clean Session in 3.1.1 (3.1.1 §3.1.3.1).
    EmptyClientId: Both, "an empty client identifier comes with clean session", |case| {
        matches!(
            case.theirs,
            Ok(Packet::Connect(Connect { version: Version::V311, client_id: "", clean_start: false, .. }))
        )
    };
    /// MQTT 3.1, which we do not speak (3.1.1 §3.1.2.1 lets us refuse it).
    OldProtocol: Proto, "the protocol name is MQTT", |case| case.theirs == Err(Refusal::OldProtocol);
    /// No Local is 0 on a shared subscription (MQTT 5 §3.8.3.1).
    NoLocalOnShare: Both, "no local is 0 on a shared subscription", |case| {
        subscriptions(case).iter().any(|one| one.no_local && one.filter.starts_with("$share/"))
    };
    /// The options of MQTT 5 are reserved bits in 3.1.1 (3.1.1 §3.8.3).
    OptionsOf5: Core, "the upper six bits of a requested QoS are 0", |case| {
        case.version == Version::V311 && subscriptions(case).iter().any(|one| one.options() > 2)
    };
    /// A variable byte integer has the fewest bytes (MQTT 5 §1.5.5).
    LongVariableInteger: Both, "a variable byte integer uses the fewest bytes", |case| {
        let length = case.frame[1..].iter().position(|byte| byte & 0x80 == 0);
        length.is_some_and(|last| last > 0 && case.frame[1 + last] == 0) || rewritten(case).len() < case.frame.len()
    };
    /// There is no session with an error (MQTT 5 §3.2.2.1.1).
    SessionPresentWithError: Both, "session present is 0 with an error", |case| {
        matches!(case.theirs, Ok(Packet::ConnAck(ConnAck { session_present: true, reason, .. })) if reason.is_error())
    };
    /// They do not know who sends (MQTT 5 §2.1.2).
    DirectionOfFlow: Both, "a packet type is sent in its direction of flow", |case| {
        use PacketKind::{ConnAck, Connect, Disconnect, PingReq, PingResp, SubAck, Subscribe, UnsubAck, Unsubscribe};
        case.theirs.as_ref().map_or(true, |packet| match case.sender {
            Sender::Client => matches!(packet.kind(), ConnAck | SubAck | UnsubAck | PingResp),
            Sender::Server => matches!(packet.kind(), Connect | Subscribe | Unsubscribe | PingReq | Disconnect),
        })
    };
    /// Some reasons to disconnect are the server's (MQTT 5 §3.14.2.1).
    ReasonOfTheServer: Both, "a client disconnects with a reason code for clients", |case| {
        matches!(
            (case.sender, &case.theirs),
            (Sender::Client, Ok(Packet::Disconnect(Disconnect { reason, .. })))
                if matches!(reason.value(), 0x87 | 0x89 | 0x8b | 0x8d..=0x8f | 0x9a..)
        )
    };
    /// Only a client leaves a will (MQTT 5 §3.14.2.1).
    ReasonOfTheClient: Both, "only a client disconnects with its will", |case| {
        matches!(
            (case.sender, &case.theirs),
            (Sender::Server, Ok(Packet::Disconnect(Disconnect { reason: ReasonCode::DisconnectWithWill, .. })))
        )
    };
    /// Only a server names another (MQTT 5 §3.14.2.2.5).
    ServerReferenceOfAClient: Both, "a server reference comes from the server", |case| {
        case.sender == Sender::Client && properties(case).iter().any(|p| matches!(p, Property::ServerReference(_)))
    };
    /// Only a client changes its session's expiry (MQTT 5 §3.14.2.2.2).
    SessionExpiryOfTheServer: Both, "a server sends no session expiry interval", |case| {
        case.sender == Sender::Server && properties(case).iter().any(|p| matches!(p, Property::SessionExpiryInterval(_)))
    };
    /// A response topic is a topic name (MQTT 5 §3.3.2.3.5).
    ResponseTopic: Both, "a response topic is a topic name without wildcards", |case| {
        properties(case).iter().any(|p| matches!(p, Property::ResponseTopic(t) if t.is_empty() || t.contains(['+', '#'])))
    };
    /// Subscription identifiers come from the server (MQTT 5 §3.3.4).
    SubscriptionIdOfAClient: Both, "a client sends no subscription identifier", |case| {
        case.sender == Sender::Client && properties(case).iter().any(|p| matches!(p, Property::SubscriptionIdentifier(_)))
    };
    /// A subscription identifier is not 0 (MQTT 5 §3.8.2.1.2).
    SubscriptionIdZero: Proto, "a subscription identifier is not 0", |case| {
        properties(case).contains(&Property::SubscriptionIdentifier(0))
    };
    /// A topic alias is not 0 (MQTT 5 §3.3.2.3.4).
    TopicAliasZero: Proto, "a topic alias is not 0", |case| properties(case).contains(&Property::TopicAlias(0));
    /// Receive maximum is not 0 (MQTT 5 §3.1.2.11.3).
    ReceiveMaximumZero: Proto, "receive maximum is not 0", |case| properties(case).contains(&Property::ReceiveMaximum(0));
    /// Maximum packet size is not 0 (MQTT 5 §3.1.2.11.4).
    MaximumPacketSizeZero: Proto, "maximum packet size is not 0", |case| {
        properties(case).contains(&Property::MaximumPacketSize(0))
    };
    /// Authentication data without a method (MQTT 5 §3.1.2.11.10).
    AuthenticationDataAlone: Both, "authentication data comes with a method", has_no_method;
    /// An AUTH names its method (MQTT 5 §3.15.2.2.2).
    AuthWithoutMethod: Both, "an AUTH names the authentication method", has_no_method;
    /// Success comes from the server, re-authenticate from the client (MQTT 5 §3.15.2.1).
    AuthOfTheOtherEnd: Both, "success comes from the server", |case| {
        matches!(
            (case.sender, &case.theirs),
            (Sender::Client, Ok(Packet::Auth(Auth { reason: ReasonCode::Success, .. })))
                | (Sender::Server, Ok(Packet::Auth(Auth { reason: ReasonCode::ReAuthenticate, .. })))
        )
    };
    /// A SUBSCRIBE has one identifier (MQTT 5 §3.8.2.1.2).
    TwoSubscriptionIds: Core, "a property is not included more than once", |case| {
        let ids = |p: &&Property<'_>| matches!(p, Property::SubscriptionIdentifier(_));
        matches!(case.theirs, Ok(Packet::Subscribe(_))) && properties(case).iter().filter(ids).count() > 1
    };
    /// A SUBACK has a reason for each filter, of which there was one at least (MQTT 5 §3.9.3).
    NoReasons: Proto, "a SUBACK has a reason code for each topic filter", |case| {
        matches!(case.theirs, Ok(Packet::SubAck(ack)) if ack.reasons.is_empty())
    };
    /// The same for UNSUBACK (MQTT 5 §3.11.3).
    NoReasonsToUnsubscribe: Proto, "an UNSUBACK has a reason code for each topic filter", |case| {
        matches!(case.theirs, Ok(Packet::UnsubAck(ack)) if ack.reasons.is_empty())
    };
    /// The property length of a PUBLISH is always there (MQTT 5 §3.3.2.3.1).
    NoPropertyLength: Core, "a field ends within the packet", |case| {
        rewritten(case).len() == case.frame.len() + 1 && case.version == Version::V5 && !names(case).is_empty()
    };
    /// An AUTH leaves out both, reason and property length, or none (MQTT 5 §3.15.2.1).
    AuthWithoutPropertyLength: Core, "a field ends within the packet", |case| {
        case.frame.len() == 3
            && matches!(case.theirs, Ok(Packet::Auth(auth)) if auth.reason == ReasonCode::Success && auth.properties.is_empty())
    };
    /// Written as 3; the standard has 0x80 (3.1.1 §3.9.3).
    FailureAs3: Proto, "a reason code is one of the standard's", |case| {
        matches!(case.theirs, Ok(Packet::SubAck(ack)) if ack.reasons.iter().any(|reason| reason.is_error()))
            && case.version == Version::V311
    };

    // --- They refuse it ---

    /// MQTT 5 has a password without a user name (MQTT 5 §3.1.2.9).
    PasswordAloneIn5: Core, WE_TAKE_IT, |case| {
        matches!(case.ours, Ok(Packet::Connect(Connect { version: Version::V5, username: None, password: Some(_), .. })))
    };
    /// It is one for DISCONNECT in MQTT 5 §2.4, and not in §3.14.2.1.
    BadAuthenticationMethod: Both, WE_TAKE_IT, |case| {
        matches!(
            case.ours,
            Ok(Packet::Disconnect(Disconnect { reason: ReasonCode::BadAuthenticationMethod, .. }))
        )
    };
    /// A message that came by several subscriptions may have the identifiers of all (MQTT 5 §3.3.4).
    SeveralSubscriptionIds: Proto, WE_TAKE_IT, |case| {
        matches!(case.ours, Ok(Packet::Publish(publish)) if publish.properties.subscription_identifiers().count() > 1)
    };
    /// A receiver may look whether the payload is what its indicator says; we leave it to who reads it (MQTT 5 §3.3.2.3.2).
    PayloadNotText: Proto, WE_TAKE_IT, |case| match case.ours {
        Ok(Packet::Publish(publish)) => is_no_text(publish.properties.payload_format_indicator(), publish.payload),
        Ok(Packet::Connect(Connect { will: Some(will), .. })) => {
            is_no_text(will.properties.payload_format_indicator(), will.payload)
        }
        _ => false,
    };
}

/// Whether we refuse with this statement, or take it, and the oracle does the opposite.
fn says(case: &Case<'_>, statement: &str) -> bool {
    match &case.ours {
        Ok(_) => statement == WE_TAKE_IT && matches!(case.theirs, Err(Refusal::Refused(_))),
        Err(error) => {
            statement != WE_TAKE_IT
                && error.statement.starts_with(statement)
                && !matches!(case.theirs, Err(Refusal::Refused(_)))
        }
    }
}

// === What an oracle read ===

/// What follows the fixed header.
fn body<'a>(case: &Case<'a>) -> &'a [u8] {
    let length = 1 + case.frame[1..].iter().position(|byte| byte & 0x80 == 0).unwrap();
    &case.frame[1 + length..]
}

/// How we would have written what it read.
fn rewritten(case: &Case<'_>) -> BytesMut {
    let mut out = BytesMut::new();
    if let Ok(packet) = &case.theirs {
        encode(packet, case.version, &mut out).unwrap();
    }
    out
}

fn names(case: &Case<'_>) -> Vec<&'static str> {
    match case.theirs {
        Ok(Packet::Publish(publish)) => vec![publish.topic],
        Ok(Packet::Connect(Connect { will: Some(will), .. })) => vec![will.topic],
        _ => Vec::new(),
    }
}

fn subscriptions(case: &Case<'_>) -> Vec<Subscription<'static>> {
    match case.theirs {
        Ok(Packet::Subscribe(subscribe)) => subscribe.subscriptions.iter().collect(),
        _ => Vec::new(),
    }
}

fn filters(case: &Case<'_>) -> Vec<&'static str> {
    match case.theirs {
        Ok(Packet::Unsubscribe(unsubscribe)) => unsubscribe.filters.iter().collect(),
        _ => subscriptions(case).iter().map(|subscription| subscription.filter).collect(),
    }
}

fn properties(case: &Case<'_>) -> Vec<Property<'static>> {
    let Ok(packet) = case.theirs else { return Vec::new() };
    match packet {
        Packet::Connect(connect) => {
            let of_will = connect.will.map(|will| will.properties).unwrap_or_default();
            connect.properties.iter().chain(of_will.iter()).collect()
        }
        Packet::ConnAck(ack) => ack.properties.iter().collect(),
        Packet::Publish(publish) => publish.properties.iter().collect(),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack.properties.iter().collect()
        }
        Packet::Subscribe(subscribe) => subscribe.properties.iter().collect(),
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => ack.properties.iter().collect(),
        Packet::Unsubscribe(unsubscribe) => unsubscribe.properties.iter().collect(),
        Packet::PingReq | Packet::PingResp => Vec::new(),
        Packet::Disconnect(disconnect) => disconnect.properties.iter().collect(),
        Packet::Auth(auth) => auth.properties.iter().collect(),
    }
}

fn strings(case: &Case<'_>) -> Vec<&'static str> {
    let mut all = [names(case), filters(case)].concat();
    if let Ok(Packet::Connect(connect)) = case.theirs {
        all.push(connect.client_id);
        all.extend(connect.username);
    }
    for property in properties(case) {
        match property {
            Property::ContentType(text)
            | Property::ResponseTopic(text)
            | Property::AssignedClientIdentifier(text)
            | Property::AuthenticationMethod(text)
            | Property::ResponseInformation(text)
            | Property::ServerReference(text)
            | Property::ReasonString(text) => all.push(text),
            Property::UserProperty(name, value) => all.extend([name, value]),
            _ => {}
        }
    }
    all
}

fn has_no_method(case: &Case<'_>) -> bool {
    !properties(case).iter().any(|property| matches!(property, Property::AuthenticationMethod(_)))
}

/// Whether a wildcard is not a whole level, or `#` not the last.
fn is_malformed(filter: &str) -> bool {
    let misplaced = |level: &str| level.len() > 1 && level.contains(['+', '#']);
    filter.split('/').any(misplaced) || filter.split('/').rev().skip(1).any(|level| level == "#")
}

/// Whether it begins as a shared subscription, and lacks a name or a filter.
fn is_half_a_share(filter: &str) -> bool {
    let mut parts = filter.splitn(3, '/');
    let (prefix, name, shared) = (parts.next(), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    prefix == Some("$share") && (name.is_empty() || name.contains(['+', '#']) || shared.is_empty())
}

fn is_no_text(is_text: Option<bool>, payload: &[u8]) -> bool {
    is_text == Some(true) && str::from_utf8(payload).is_err()
}
