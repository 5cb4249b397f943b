//! Retained messages.

use super::*;
use crate::mqtt::RetainHandling;

async fn publisher(cloud: &Cloud, version: Version) -> Raw {
    Raw::connect(cloud, brief(version, "app-a", "p")).await.0
}

/// A subscriber that can be asked what has come, by messages to itself on `own`.
async fn subscriber(cloud: &Cloud, connect: Connect<'_>) -> Raw {
    let (mut subscriber, _) = Raw::connect(cloud, connect).await;
    subscriber.listen("own", QoS::AtLeastOnce).await;
    subscriber
}

fn retained<'a>(topic: &'a str, payload: &'a str, qos: QoS) -> Publish<'a> {
    Publish { retain: true, ..message(topic, payload, qos) }
}

/// What a new subscriber to `x` gets at once.
async fn kept(cloud: &Cloud, version: Version) -> Vec<String> {
    let mut late = subscriber(cloud, brief(version, "app-late", "l")).await;
    late.listen("x", QoS::ExactlyOnce).await;
    late.texts_until("own").await
}

#[tokio::test]
async fn mqtt_5_3_3_1_5_a_retained_message_replaces_the_one_before() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let mut publisher = publisher(&cloud, version).await;
        for (payload, qos) in [("first", QoS::AtLeastOnce), ("second", QoS::ExactlyOnce), ("third", QoS::AtLeastOnce)] {
            publisher.publish(retained("x", payload, qos)).await;
            assert_eq!(kept(&cloud, version).await, [payload]);
        }
        publisher.publish(retained("y", "elsewhere", QoS::AtLeastOnce)).await;
        assert_eq!(kept(&cloud, version).await, ["third"]);
    }
}

#[tokio::test]
async fn mqtt_5_3_3_1_6_an_empty_retained_message_is_delivered_and_removes() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let mut publisher = publisher(&cloud, version).await;
        publisher.publish(retained("x", "kept", QoS::AtLeastOnce)).await;
        let mut live = subscriber(&cloud, brief(version, "app-b", "s")).await;
        live.listen("x", QoS::AtLeastOnce).await;
        assert_eq!(live.texts(1).await, ["kept"]);
        publisher.publish(retained("x", "", QoS::AtLeastOnce)).await;
        assert_eq!(live.texts_until("own").await, [""]);
        assert!(kept(&cloud, version).await.is_empty());
    }
}

#[tokio::test]
async fn mqtt_5_3_3_1_7_an_empty_message_is_not_retained() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let mut publisher = publisher(&cloud, version).await;
        publisher.publish(retained("x", "", QoS::AtLeastOnce)).await;
        assert!(kept(&cloud, version).await.is_empty());
    }
}

#[tokio::test]
async fn mqtt_5_3_3_1_8_other_messages_leave_the_retained_one_alone() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let mut publisher = publisher(&cloud, version).await;
        publisher.publish(message("x", "passes", QoS::AtLeastOnce)).await;
        assert!(kept(&cloud, version).await.is_empty());
        publisher.publish(retained("x", "kept", QoS::AtLeastOnce)).await;
        publisher.publish(message("x", "passes", QoS::AtLeastOnce)).await;
        publisher.publish(message("x", "", QoS::AtLeastOnce)).await;
        assert_eq!(kept(&cloud, version).await, ["kept"]);
    }
}

/// How many retained messages each of two subscriptions with the same filter brings.
async fn brought(retain_handling: RetainHandling, persistent: bool) -> [usize; 2] {
    let cloud = Cloud::start().await;
    let mut publisher = publisher(&cloud, V5).await;
    publisher.publish(retained("x/1", "a", QoS::AtLeastOnce)).await;
    publisher.publish(retained("x/2", "b", QoS::ExactlyOnce)).await;
    publisher.publish(retained("y", "c", QoS::AtLeastOnce)).await;
    let connect = if persistent { lasting } else { brief };
    let mut client = subscriber(&cloud, connect(V5, "app-b", "s")).await;
    let mut came = [0; 2];
    for count in &mut came {
        let subscription = Subscription { retain_handling, ..Subscription::new("x/#", QoS::AtLeastOnce) };
        client.subscribe(&[subscription], None).await;
        *count = client.texts_until("own").await.len();
    }
    came
}

#[tokio::test]
async fn mqtt_5_3_3_1_9_retain_handling_0_brings_the_retained_messages() {
    for persistent in [false, true] {
        assert_eq!(brought(RetainHandling::Send, persistent).await, [2, 2]);
    }
}

#[tokio::test]
async fn mqtt_5_3_3_1_10_retain_handling_1_brings_them_to_a_new_subscription() {
    for persistent in [false, true] {
        assert_eq!(brought(RetainHandling::SendIfNew, persistent).await, [2, 0]);
    }
}

#[tokio::test]
async fn mqtt_5_3_3_1_11_retain_handling_2_brings_none() {
    for persistent in [false, true] {
        assert_eq!(brought(RetainHandling::DoNotSend, persistent).await, [0, 0]);
    }
}

/// A subscription of an earlier connection is not new.
#[tokio::test]
async fn a_resumed_subscription_is_not_new() {
    let cloud = Cloud::start().await;
    publisher(&cloud, V5).await.publish(retained("x", "a", QoS::AtLeastOnce)).await;
    let subscription =
        Subscription { retain_handling: RetainHandling::SendIfNew, ..Subscription::new("x", QoS::AtLeastOnce) };
    for expected in [1, 0] {
        let mut client = subscriber(&cloud, lasting(V5, "app-b", "s")).await;
        client.subscribe(&[subscription], None).await;
        assert_eq!(client.texts_until("own").await.len(), expected);
        drop(client);
        settled(&cloud, 0).await;
    }
}

/// Messages with and without RETAIN, as they come to a subscriber that was there before.
async fn flags(retain_as_published: bool) -> Vec<(String, bool)> {
    let cloud = Cloud::start().await;
    let mut publisher = publisher(&cloud, V5).await;
    let mut all = Vec::new();
    for connect in [brief, lasting] {
        let mut client = subscriber(&cloud, connect(V5, "app-b", "s")).await;
        let subscription = Subscription {
            retain_as_published,
            retain_handling: RetainHandling::DoNotSend,
            ..Subscription::new("x", QoS::AtLeastOnce)
        };
        client.subscribe(&[subscription], None).await;
        publisher.publish(message("x", "plain", QoS::AtLeastOnce)).await;
        publisher.publish(retained("x", "retained", QoS::AtLeastOnce)).await;
        all.extend(client.messages_until("own").await.iter().map(|message| (text(message), message.retain)));
    }
    all
}

#[tokio::test]
async fn mqtt_5_3_3_1_12_without_retain_as_published_the_flag_is_0() {
    let expected = [("plain", false), ("retained", false)].map(|(text, retain)| (text.to_owned(), retain));
    assert_eq!(flags(false).await, [expected.clone(), expected].concat());
}

#[tokio::test]
async fn mqtt_5_3_3_1_13_with_retain_as_published_the_flag_is_the_publishers() {
    let expected = [("plain", false), ("retained", true)].map(|(text, retain)| (text.to_owned(), retain));
    assert_eq!(flags(true).await, [expected.clone(), expected].concat());
}

#[tokio::test]
async fn mqtt_5_3_8_4_4_a_new_subscription_in_place_of_an_old_one_loses_nothing() {
    for version in BOTH {
        for connect in [brief, lasting] {
            let cloud = Cloud::start().await;
            let mut publisher = publisher(&cloud, version).await;
            publisher.publish(retained("x", "kept", QoS::AtLeastOnce)).await;
            let mut client = subscriber(&cloud, connect(version, "app-b", "s")).await;
            client.listen("x", QoS::AtLeastOnce).await;
            assert_eq!(client.texts(1).await, ["kept"]);
            // Live messages while the subscription is replaced again and again.
            let mut came = Vec::new();
            for n in 0..20 {
                let packet_id = Some(id(1_000 + n));
                let payload = n.to_string();
                let live = Publish { packet_id, ..message("x", &payload, QoS::AtLeastOnce) };
                publisher.send(&Packet::Publish(live)).await;
                client.listen("x", QoS::AtLeastOnce).await;
            }
            for _ in 0..20 {
                publisher.answer(PacketKind::PubAck).await;
            }
            came.extend(client.messages_until("own").await);
            let again = came.iter().filter(|message| message.retain).count();
            let live: Vec<_> = came.iter().filter(|message| !message.retain).map(text).collect();
            assert_eq!(again, 20, "the retained message came with each");
            assert_eq!(live, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
        }
    }
}

// === In the words of 3.1.1 ===

#[tokio::test]
async fn mqtt_3_1_1_3_1_2_7_retained_messages_outlive_the_session() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        for (connect, payload) in [(brief(version, "app-a", "p"), "one"), (lasting(version, "app-a", "p"), "two")] {
            let (mut publisher, _) = Raw::connect(&cloud, connect).await;
            publisher.publish(retained("x", payload, QoS::AtLeastOnce)).await;
            publisher.leave(ReasonCode::Success).await;
            drop(Raw::connect(&cloud, brief(version, "app-a", "p")).await);
            settled(&cloud, 0).await;
            assert_eq!(cloud.node.sessions_len(), 0);
            assert_eq!(kept(&cloud, version).await, [payload]);
            settled(&cloud, 0).await;
        }
    }
}

#[tokio::test]
async fn mqtt_3_1_1_3_3_1_6_a_new_subscription_gets_the_last_retained_message_of_each_topic() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let mut publisher = publisher(&cloud, version).await;
        for (topic, payload) in [("x/1", "old"), ("x/1", "a"), ("x/2", "b")] {
            publisher.publish(retained(topic, payload, QoS::AtLeastOnce)).await;
        }
        let mut client = subscriber(&cloud, brief(version, "app-b", "s")).await;
        client.listen("x/+", QoS::AtLeastOnce).await;
        let mut texts = client.texts_until("own").await;
        texts.sort();
        assert_eq!(texts, ["a", "b"]);
    }
}

#[tokio::test]
async fn mqtt_3_1_1_3_3_1_7_a_retained_message_of_qos_0_replaces_the_one_before() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let mut publisher = publisher(&cloud, version).await;
        publisher.publish(retained("x", "before", QoS::AtLeastOnce)).await;
        publisher.publish(retained("x", "now", QoS::AtMostOnce)).await;
        // Something that is answered, so that the other has come through.
        publisher.publish(message("y", "", QoS::AtLeastOnce)).await;
        assert_eq!(kept(&cloud, version).await, ["now"]);
    }
}

#[tokio::test]
async fn mqtt_3_1_1_3_3_1_8_what_comes_for_a_new_subscription_is_flagged_as_retained() {
    for version in BOTH {
        for connect in [brief, lasting] {
            let cloud = Cloud::start().await;
            publisher(&cloud, version).await.publish(retained("x", "kept", QoS::ExactlyOnce)).await;
            for qos in ALL {
                let mut client = subscriber(&cloud, connect(version, "app-b", "s")).await;
                client.listen("x", qos).await;
                let came = client.message().await;
                assert_eq!((came.retain, came.qos, came.payload), (true, qos, &b"kept"[..]));
            }
        }
    }
}

#[tokio::test]
async fn mqtt_3_1_1_3_3_1_9_what_comes_for_an_old_subscription_is_not_flagged() {
    for version in BOTH {
        for connect in [brief, lasting] {
            let cloud = Cloud::start().await;
            let mut publisher = publisher(&cloud, version).await;
            let mut client = subscriber(&cloud, connect(version, "app-b", "s")).await;
            client.listen("x", QoS::AtLeastOnce).await;
            for qos in ALL {
                publisher.publish(retained("x", "live", qos)).await;
                assert!(!client.message().await.retain);
            }
        }
    }
}
