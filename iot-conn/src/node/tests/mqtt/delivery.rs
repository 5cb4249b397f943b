//! Deliveries: duplicates, expiry, what is sent again and what is not.

use std::time::Duration;

use super::*;
use crate::mqtt::client::{ClientOptions, Event, Publication};

async fn publisher(cloud: &Cloud, version: Version) -> Raw {
    Raw::connect(cloud, brief(version, "app-a", "p")).await.0
}

/// A session that is subscribed to `x`, and to `own`.
async fn subscriber(cloud: &Cloud, version: Version) -> Raw {
    let (mut subscriber, session_present) = Raw::connect(cloud, lasting(version, "app-b", "s")).await;
    if !session_present {
        subscriber.listen("x", QoS::ExactlyOnce).await;
        subscriber.listen("own", QoS::AtLeastOnce).await;
    }
    subscriber
}

/// The same session on another connection.
async fn again(cloud: &Cloud, subscriber: Raw, connected: usize) -> Raw {
    let version = subscriber.version;
    drop(subscriber);
    settled(cloud, connected).await;
    let (subscriber, session_present) = Raw::connect(cloud, lasting(version, "app-b", "s")).await;
    assert!(session_present);
    subscriber
}

#[tokio::test]
async fn mqtt_5_3_3_1_1_what_is_sent_again_is_a_duplicate() {
    for version in BOTH {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let cloud = Cloud::start().await;
            let mut subscriber = subscriber(&cloud, version).await;
            publisher(&cloud, version).await.publish(message("x", "m", qos)).await;
            let first = subscriber.arrival().await;
            assert!(!first.dup);
            let mut subscriber = again(&cloud, subscriber, 0).await;
            let second = subscriber.arrival().await;
            assert_eq!((second.dup, second.packet_id, second.payload), (true, first.packet_id, first.payload));
        }
    }
}

#[tokio::test]
async fn mqtt_5_3_3_1_3_a_publishers_duplicate_is_none_for_subscribers() {
    for version in BOTH {
        for connect in [brief, lasting] {
            let cloud = Cloud::start().await;
            let (mut subscriber, _) = Raw::connect(&cloud, connect(version, "app-b", "s")).await;
            subscriber.listen("x", QoS::ExactlyOnce).await;
            let mut publisher = publisher(&cloud, version).await;
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                publisher.publish(Publish { dup: true, ..message("x", "m", qos) }).await;
                assert!(!subscriber.message().await.dup);
            }
        }
    }
}

fn lasting_for(properties: &[Property<'static>]) -> Publish<'static> {
    let properties: &'static [Property<'static>] = Vec::leak(properties.to_vec());
    Publish { properties: List::from(properties), ..message("x", "m", QoS::ExactlyOnce) }
}

#[tokio::test]
async fn mqtt_5_3_3_2_5_a_message_whose_time_has_passed_is_not_delivered() {
    for (seconds, arrives) in [(9, true), (11, false)] {
        let cloud = Cloud::start().await;
        let subscriber = subscriber(&cloud, V5).await;
        drop(subscriber);
        settled(&cloud, 0).await;
        publisher(&cloud, V5).await.publish(lasting_for(&[Property::MessageExpiryInterval(10)])).await;
        cloud.clock.advance(Duration::from_secs(seconds));
        let (mut subscriber, _) = Raw::connect(&cloud, lasting(V5, "app-b", "s")).await;
        assert_eq!(subscriber.texts_until("own").await.len(), usize::from(arrives), "after {seconds} s");
    }
}

/// A retained message has a lifetime, too.
#[tokio::test]
async fn a_retained_message_whose_time_has_passed_is_not_sent() {
    for (seconds, arrives) in [(9, true), (11, false)] {
        let cloud = Cloud::start().await;
        let kept = Publish { retain: true, ..lasting_for(&[Property::MessageExpiryInterval(10)]) };
        publisher(&cloud, V5).await.publish(kept).await;
        cloud.clock.advance(Duration::from_secs(seconds));
        let (mut late, _) = Raw::connect(&cloud, brief(V5, "app-b", "s")).await;
        late.listen("own", QoS::AtLeastOnce).await;
        late.listen("x", QoS::AtLeastOnce).await;
        let came = late.messages_until("own").await;
        assert_eq!(came.len(), usize::from(arrives), "after {seconds} s");
        assert!(came.iter().all(|message| message.properties.message_expiry_interval() == Some(1)));
    }
}

#[tokio::test]
async fn mqtt_5_3_3_2_6_what_is_left_of_its_time_goes_with_a_message() {
    let cloud = Cloud::start().await;
    let mut subscriber = subscriber(&cloud, V5).await;
    let mut publisher = publisher(&cloud, V5).await;
    publisher.publish(lasting_for(&[Property::MessageExpiryInterval(100)])).await;
    assert_eq!(subscriber.message().await.properties.message_expiry_interval(), Some(100));
    drop(subscriber);
    settled(&cloud, 1).await;
    publisher.publish(lasting_for(&[Property::MessageExpiryInterval(100)])).await;
    publisher.publish(lasting_for(&[])).await;
    cloud.clock.advance(Duration::from_secs(30));
    let (mut subscriber, _) = Raw::connect(&cloud, lasting(V5, "app-b", "s")).await;
    assert_eq!(subscriber.message().await.properties.message_expiry_interval(), Some(70));
    assert_eq!(subscriber.message().await.properties.message_expiry_interval(), None);
}

/// Nor on a connection that would take it: to the session it is sent.
#[tokio::test]
async fn mqtt_5_3_1_2_25_what_was_too_large_does_not_come_later() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let cloud = Cloud::start().await;
        let small = [Property::MaximumPacketSize(60), Property::SessionExpiryInterval(3_600)];
        let connect = Connect { properties: Properties::from(&small), ..lasting(V5, "app-b", "s") };
        let (mut subscriber, _) = Raw::connect(&cloud, connect).await;
        subscriber.listen("x", QoS::ExactlyOnce).await;
        subscriber.listen("own", QoS::AtLeastOnce).await;
        let mut publisher = publisher(&cloud, V5).await;
        publisher.publish(message("x", &"m".repeat(60), qos)).await;
        publisher.publish(message("x", "small", qos)).await;
        assert_eq!(subscriber.texts_until("own").await, ["small"]);
        let mut subscriber = again(&cloud, subscriber, 1).await;
        assert!(subscriber.texts_until("own").await.is_empty());
    }
}

#[tokio::test]
async fn mqtt_5_4_3_3_6_a_message_is_not_sent_again_after_its_pubrel() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let mut subscriber = subscriber(&cloud, version).await;
        publisher(&cloud, version).await.publish(message("x", "m", QoS::ExactlyOnce)).await;
        let packet_id = subscriber.arrival().await.packet_id.unwrap();
        let ack = Ack::new(packet_id, ReasonCode::Success);
        subscriber.send(&Packet::PubRec(ack)).await;
        assert_eq!(subscriber.answer(PacketKind::PubRel).await, Packet::PubRel(ack));
        let mut subscriber = again(&cloud, subscriber, 0).await;
        assert_eq!(subscriber.packet().await, Packet::PubRel(ack), "the PUBREL, and not the PUBLISH");
        subscriber.send(&Packet::PubComp(ack)).await;
        assert!(subscriber.texts_until("own").await.is_empty());
        let mut subscriber = again(&cloud, subscriber, 0).await;
        assert!(subscriber.texts_until("own").await.is_empty(), "it ended with the PUBCOMP");
    }
}

#[tokio::test]
async fn mqtt_5_4_3_3_7_a_message_that_was_sent_does_not_expire() {
    let cloud = Cloud::start().await;
    let mut subscriber = subscriber(&cloud, V5).await;
    publisher(&cloud, V5).await.publish(lasting_for(&[Property::MessageExpiryInterval(10)])).await;
    let first = subscriber.arrival().await;
    cloud.clock.advance(Duration::from_secs(100));
    let mut subscriber = again(&cloud, subscriber, 0).await;
    let second = subscriber.message().await;
    assert_eq!((second.dup, second.packet_id, second.payload), (true, first.packet_id, first.payload));
    assert!(subscriber.texts_until("own").await.is_empty());
}

#[tokio::test]
async fn mqtt_5_4_3_3_13_an_exchange_goes_on_although_the_message_has_expired() {
    let cloud = Cloud::start().await;
    let (mut publisher, _) = Raw::connect(&cloud, lasting(V5, "app-a", "p")).await;
    let packet_id = Some(id(5));
    let message = Publish { packet_id, ..lasting_for(&[Property::MessageExpiryInterval(1)]) };
    publisher.send(&Packet::Publish(message)).await;
    assert!(matches!(publisher.packet().await, Packet::PubRec(ack) if ack.packet_id == id(5)));
    cloud.clock.advance(Duration::from_secs(100));
    // The client has not seen the PUBREC, and sends again.
    publisher.send(&Packet::Publish(Publish { dup: true, ..message })).await;
    assert!(matches!(publisher.packet().await, Packet::PubRec(ack) if ack.packet_id == id(5)));
    publisher.send(&Packet::PubRel(Ack::new(id(5), ReasonCode::Success))).await;
    assert_eq!(publisher.packet().await, Packet::PubComp(Ack::new(id(5), ReasonCode::Success)));
}

/// On a new connection; and on the same one, whatever the client says, nothing is sent again.
#[tokio::test]
async fn mqtt_5_4_4_0_1_a_new_connection_gets_again_what_was_not_acknowledged() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let mut subscriber = subscriber(&cloud, version).await;
        let mut publisher = publisher(&cloud, version).await;
        for (payload, qos) in [("a", QoS::AtLeastOnce), ("b", QoS::ExactlyOnce), ("c", QoS::AtLeastOnce)] {
            publisher.publish(message("x", payload, qos)).await;
        }
        let mut first = Vec::new();
        for _ in 0..3 {
            first.push(subscriber.arrival().await);
        }
        // Time alone does not make it send again.
        cloud.clock.advance(Duration::from_secs(1_000));
        subscriber.send(&Packet::PingReq).await;
        assert_eq!(subscriber.packet().await, Packet::PingResp);
        subscriber.send(&Packet::PubAck(Ack::new(first[0].packet_id.unwrap(), ReasonCode::Success))).await;
        subscriber.send(&Packet::PubRec(Ack::new(first[1].packet_id.unwrap(), ReasonCode::Success))).await;
        subscriber.answer(PacketKind::PubRel).await;
        let mut subscriber = again(&cloud, subscriber, 1).await;
        let release = Packet::PubRel(Ack::new(first[1].packet_id.unwrap(), ReasonCode::Success));
        assert_eq!(subscriber.packet().await, release);
        let last = subscriber.arrival().await;
        assert_eq!((last.packet_id, last.payload, last.dup), (first[2].packet_id, first[2].payload, true));
        subscriber.send(&Packet::PingReq).await;
        assert_eq!(subscriber.packet().await, Packet::PingResp);
    }
}

#[tokio::test]
async fn mqtt_5_4_4_0_2_a_message_that_was_refused_is_not_sent_again() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let cloud = Cloud::start().await;
        let mut subscriber = subscriber(&cloud, V5).await;
        publisher(&cloud, V5).await.publish(message("x", "m", qos)).await;
        let refusal = Ack::new(subscriber.arrival().await.packet_id.unwrap(), ReasonCode::ImplementationSpecificError);
        let refusal = if qos == QoS::AtLeastOnce { Packet::PubAck(refusal) } else { Packet::PubRec(refusal) };
        subscriber.send(&refusal).await;
        assert!(subscriber.texts_until("own").await.is_empty());
        let mut subscriber = again(&cloud, subscriber, 0).await;
        assert!(subscriber.texts_until("own").await.is_empty());
    }
}

/// The client's engine against the node: what it was not told about is sent again, and arrives once at QoS 2.
#[tokio::test]
async fn mqtt_3_1_1_4_4_0_1_the_client_sends_again_what_the_server_did_not_acknowledge() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let mut subscriber = subscriber(&cloud, version).await;
        let options = super::super::client::lasting("app-a", "p");
        let mut client = cloud.offline(ClientOptions { version, username: Some("u".to_owned()), ..options });
        client.connect().await;
        client.engine.publish(Publication::new("x", "m", QoS::ExactlyOnce)).unwrap();
        client.write().await;
        assert!(client.connect().await.session_present);
        assert!(matches!(client.answer().await, Event::Published { reason, .. } if !reason.is_error()));
        assert_eq!(subscriber.texts_until("own").await, ["m"]);
    }
}
