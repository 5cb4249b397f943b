//! Any packet that a client or a server may send, in either version.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::mqtt::packet::*;
use crate::mqtt::property::{Properties, Property, WILL};
use crate::mqtt::reason::ReasonCode;

/// Packets borrow; the tests' packets borrow from leaked memory.
pub(super) fn leak<T>(items: Vec<T>) -> &'static [T] {
    Vec::leak(items)
}

fn text() -> impl Strategy<Value = &'static str> {
    "[a-zA-Z0-9/+#$ é漢\u{feff}😀]{0,12}".prop_map(|text| &*String::leak(text))
}

fn topic() -> impl Strategy<Value = &'static str> {
    "[a-z/é漢][a-z0-9$/é漢]{0,11}".prop_map(|text| &*String::leak(text))
}

fn filter() -> impl Strategy<Value = &'static str> {
    prop_oneof![topic(), Just("#"), Just("+/a/#"), Just("/+"), Just("$share/group/+/b"), Just("$sharex/a"),]
}

fn binary() -> impl Strategy<Value = &'static [u8]> {
    vec(any::<u8>(), 0..40).prop_map(leak)
}

/// Long enough for a remaining length of one, two and three bytes.
fn payload() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![3 => 0_usize..200, 1 => 16_000_usize..17_000].prop_map(|length| leak(vec![0xa5; length]))
}

fn property() -> impl Strategy<Value = Property<'static>> {
    use Property::*;
    prop_oneof![
        any::<bool>().prop_map(PayloadFormatIndicator),
        any::<u32>().prop_map(MessageExpiryInterval),
        text().prop_map(ContentType),
        topic().prop_map(ResponseTopic),
        binary().prop_map(CorrelationData),
        (1_u32..=268_435_455).prop_map(SubscriptionIdentifier),
        any::<u32>().prop_map(SessionExpiryInterval),
        text().prop_map(AssignedClientIdentifier),
        any::<u16>().prop_map(ServerKeepAlive),
        text().prop_map(AuthenticationMethod),
        binary().prop_map(AuthenticationData),
        any::<bool>().prop_map(RequestProblemInformation),
        any::<u32>().prop_map(WillDelayInterval),
        any::<bool>().prop_map(RequestResponseInformation),
        text().prop_map(ResponseInformation),
        text().prop_map(ServerReference),
        text().prop_map(ReasonString),
        (1_u16..).prop_map(ReceiveMaximum),
        any::<u16>().prop_map(TopicAliasMaximum),
        (1_u16..).prop_map(TopicAlias),
        prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce)].prop_map(MaximumQoS),
        any::<bool>().prop_map(RetainAvailable),
        (text(), text()).prop_map(|(name, value)| UserProperty(name, value)),
        (1_u32..).prop_map(MaximumPacketSize),
        any::<bool>().prop_map(WildcardSubscriptionAvailable),
        any::<bool>().prop_map(SubscriptionIdentifierAvailable),
        any::<bool>().prop_map(SharedSubscriptionAvailable),
    ]
}

/// Any properties that may stand there, each once except user properties.
pub(super) fn properties(version: Version, place: u16) -> impl Strategy<Value = Properties<'static>> {
    let count = if version == Version::V5 { 60 } else { 1 };
    vec(property(), 0..count).prop_map(move |candidates| {
        let mut kept: Vec<Property<'static>> = Vec::new();
        for property in candidates {
            let is_new = kept.iter().all(|other| other.id() != property.id());
            let is_user = matches!(property, Property::UserProperty(..));
            if property.places() & place != 0 && (is_new || is_user) {
                kept.push(property);
            }
        }
        Properties::from(leak(kept))
    })
}

fn without(properties: Properties<'static>, unwanted: fn(&Property<'_>) -> bool) -> Properties<'static> {
    Properties::from(leak(properties.iter().filter(|property| !unwanted(property)).collect()))
}

fn qos() -> impl Strategy<Value = QoS> {
    (0_u8..3).prop_map(|qos| QoS::from_bits(qos).unwrap())
}

pub(super) fn packet_id() -> impl Strategy<Value = PacketId> {
    (1_u16..).prop_map(|id| PacketId::new(id).unwrap())
}

fn reason(kind: PacketKind) -> impl Strategy<Value = ReasonCode> {
    let valid: Vec<_> = ReasonCode::ALL.iter().copied().filter(|code| code.is_valid_in(kind)).collect();
    prop::sample::select(valid)
}

fn connect(version: Version) -> impl Strategy<Value = Packet<'static>> {
    let will = (topic(), binary(), qos(), any::<bool>(), properties(version, WILL))
        .prop_map(|(topic, payload, qos, retain, properties)| Will { topic, payload, qos, retain, properties });
    let credentials = (prop::option::of(text()), prop::option::of(binary()));
    let flags = (any::<bool>(), any::<u16>());
    let properties = properties(version, PacketKind::Connect.bit()).prop_map(|properties| {
        if properties.authentication_method().is_some() {
            return properties;
        }
        without(properties, |property| matches!(property, Property::AuthenticationData(_)))
    });
    (text(), flags, prop::option::of(will), credentials, properties).prop_map(
        move |(client_id, (clean_start, keep_alive_s), will, (username, password), properties)| {
            let is_v5 = version == Version::V5;
            Packet::Connect(Connect {
                version,
                client_id,
                clean_start: clean_start || (!is_v5 && client_id.is_empty()),
                keep_alive_s,
                will,
                username,
                password: password.filter(|_| is_v5 || username.is_some()),
                properties,
            })
        },
    )
}

fn conn_ack(version: Version) -> impl Strategy<Value = Packet<'static>> {
    let reason = reason(PacketKind::ConnAck).prop_map(move |reason| match version {
        Version::V5 => reason,
        Version::V311 => ReasonCode::from_connack_v311(reason.value() % 6).unwrap(),
    });
    (any::<bool>(), reason, properties(version, PacketKind::ConnAck.bit())).prop_map(
        |(session_present, reason, properties)| {
            let session_present = session_present && !reason.is_error();
            Packet::ConnAck(ConnAck { session_present, reason, properties })
        },
    )
}

pub(super) fn publish(version: Version) -> impl Strategy<Value = Publish<'static>> {
    let flags = (any::<bool>(), qos(), any::<bool>());
    let properties = properties(version, PacketKind::Publish.bit());
    (flags, topic(), packet_id(), properties, payload()).prop_map(
        |((dup, qos, retain), topic, packet_id, properties, payload)| {
            let is_qos_0 = qos == QoS::AtMostOnce;
            let topic = if properties.topic_alias().is_some() { "" } else { topic };
            let packet_id = (!is_qos_0).then_some(packet_id);
            Publish { dup: dup && !is_qos_0, qos, retain, topic, packet_id, properties, payload }
        },
    )
}

fn ack(version: Version) -> impl Strategy<Value = Packet<'static>> {
    use PacketKind::{PubAck, PubComp, PubRec, PubRel};
    prop::sample::select(vec![PubAck, PubRec, PubRel, PubComp]).prop_flat_map(move |kind| {
        (packet_id(), reason(kind), properties(version, kind.bit())).prop_map(move |(packet_id, reason, properties)| {
            let is_v5 = version == Version::V5;
            let reason = if is_v5 { reason } else { ReasonCode::Success };
            let ack = Ack { packet_id, reason, properties };
            match kind {
                PubAck => Packet::PubAck(ack),
                PubRec => Packet::PubRec(ack),
                PubRel => Packet::PubRel(ack),
                _ => Packet::PubComp(ack),
            }
        })
    })
}

fn subscription(version: Version) -> impl Strategy<Value = Subscription<'static>> {
    let options = (any::<bool>(), any::<bool>(), 0..3);
    (filter(), qos(), options).prop_map(move |(filter, qos, (no_local, as_published, handling))| {
        if version == Version::V311 {
            return Subscription::new(filter, qos);
        }
        Subscription {
            filter,
            qos,
            no_local: no_local && !filter.starts_with("$share/"),
            retain_as_published: as_published,
            retain_handling: match handling {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                _ => RetainHandling::DoNotSend,
            },
        }
    })
}

fn subscribe(version: Version) -> impl Strategy<Value = Packet<'static>> {
    let properties = properties(version, PacketKind::Subscribe.bit());
    (packet_id(), properties, vec(subscription(version), 1..6)).prop_map(|(packet_id, properties, subscriptions)| {
        let subscriptions = List::from(leak(subscriptions));
        Packet::Subscribe(Subscribe { packet_id, properties, subscriptions })
    })
}

fn unsubscribe(version: Version) -> impl Strategy<Value = Packet<'static>> {
    let properties = properties(version, PacketKind::Unsubscribe.bit());
    (packet_id(), properties, vec(filter(), 1..6)).prop_map(|(packet_id, properties, filters)| {
        Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters: List::from(leak(filters)) })
    })
}

fn sub_ack(version: Version) -> impl Strategy<Value = Packet<'static>> {
    use ReasonCode::{GrantedQoS1, GrantedQoS2, Success, UnspecifiedError};
    let properties = properties(version, PacketKind::SubAck.bit());
    let reason = match version {
        Version::V5 => reason(PacketKind::SubAck).boxed(),
        Version::V311 => prop::sample::select(vec![Success, GrantedQoS1, GrantedQoS2, UnspecifiedError]).boxed(),
    };
    (packet_id(), properties, vec(reason, 1..6)).prop_map(|(packet_id, properties, reasons)| {
        Packet::SubAck(SubAck { packet_id, properties, reasons: List::from(leak(reasons)) })
    })
}

fn unsub_ack(version: Version) -> impl Strategy<Value = Packet<'static>> {
    let properties = properties(version, PacketKind::UnsubAck.bit());
    let count = if version == Version::V5 { 1..6 } else { 0..1 };
    (packet_id(), properties, vec(reason(PacketKind::UnsubAck), count)).prop_map(|(packet_id, properties, reasons)| {
        Packet::UnsubAck(SubAck { packet_id, properties, reasons: List::from(leak(reasons)) })
    })
}

fn disconnect(version: Version, sender: Sender) -> impl Strategy<Value = Packet<'static>> {
    let properties = properties(version, PacketKind::Disconnect.bit()).prop_map(move |all| match sender {
        Sender::Client => without(all, |p| matches!(p, Property::ServerReference(_))),
        Sender::Server => without(all, |p| matches!(p, Property::SessionExpiryInterval(_))),
    });
    let reason = reason(PacketKind::Disconnect).prop_map(move |reason| match (version, sender) {
        (Version::V311, _) => ReasonCode::Success,
        (_, Sender::Client) if (0x87..0x90).contains(&reason.value()) => ReasonCode::ProtocolError,
        (_, Sender::Client) if reason.value() > 0x99 => ReasonCode::DisconnectWithWill,
        (_, Sender::Server) if reason == ReasonCode::DisconnectWithWill => ReasonCode::Success,
        _ => reason,
    });
    (reason, properties).prop_map(|(reason, properties)| Packet::Disconnect(Disconnect { reason, properties }))
}

fn auth(sender: Sender) -> impl Strategy<Value = Packet<'static>> {
    let own = match sender {
        Sender::Client => ReasonCode::ReAuthenticate,
        Sender::Server => ReasonCode::Success,
    };
    let reason = prop::sample::select(vec![ReasonCode::ContinueAuthentication, own]);
    (reason, text(), properties(Version::V5, PacketKind::Auth.bit())).prop_map(|(reason, method, rest)| {
        let mut all = vec![Property::AuthenticationMethod(method)];
        all.extend(rest.iter().filter(|p| p.id() != all[0].id()).collect::<Vec<_>>());
        Packet::Auth(Auth { reason, properties: Properties::from(leak(all)) })
    })
}

fn packet(version: Version, sender: Sender) -> BoxedStrategy<Packet<'static>> {
    let publish = publish(version).prop_map(move |mut publish| {
        if sender == Sender::Client {
            publish.properties =
                without(publish.properties, |property| matches!(property, Property::SubscriptionIdentifier(_)));
        }
        Packet::Publish(publish)
    });
    let both = prop_oneof![publish, ack(version)];
    match (sender, version) {
        (Sender::Client, Version::V311) => prop_oneof![
            both,
            connect(version),
            subscribe(version),
            unsubscribe(version),
            disconnect(version, sender),
            Just(Packet::PingReq),
        ]
        .boxed(),
        (Sender::Client, Version::V5) => prop_oneof![
            both,
            connect(version),
            subscribe(version),
            unsubscribe(version),
            disconnect(version, sender),
            auth(sender),
            Just(Packet::PingReq),
        ]
        .boxed(),
        (Sender::Server, Version::V311) => {
            prop_oneof![both, conn_ack(version), sub_ack(version), unsub_ack(version), Just(Packet::PingResp),].boxed()
        }
        (Sender::Server, Version::V5) => prop_oneof![
            both,
            conn_ack(version),
            sub_ack(version),
            unsub_ack(version),
            disconnect(version, sender),
            auth(sender),
            Just(Packet::PingResp),
        ]
        .boxed(),
    }
}

pub(super) fn any_packet() -> impl Strategy<Value = (Version, Sender, Packet<'static>)> {
    let versions = prop::sample::select(vec![Version::V311, Version::V5]);
    let senders = prop::sample::select(vec![Sender::Client, Sender::Server]);
    (versions, senders).prop_flat_map(|(version, sender)| (Just(version), Just(sender), packet(version, sender)))
}
