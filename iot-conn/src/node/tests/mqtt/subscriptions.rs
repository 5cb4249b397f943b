//! Subscriptions: what they grant, what they match, what they bring.

use super::*;

/// A client that can be asked what has come, by messages to itself on `own`.
async fn client(cloud: &Cloud, connect: Connect<'_>) -> Raw {
    let (mut client, _) = Raw::connect(cloud, connect).await;
    client.listen("own", QoS::AtLeastOnce).await;
    client
}

async fn publisher(cloud: &Cloud, version: Version) -> Raw {
    Raw::connect(cloud, brief(version, "app-a", "p")).await.0
}

#[tokio::test]
async fn mqtt_5_3_8_3_3_no_local_keeps_a_clients_messages_from_itself() {
    for connect in [brief, lasting] {
        let cloud = Cloud::start().await;
        let mut one = client(&cloud, connect(V5, "app-b", "one")).await;
        let quiet = Subscription { no_local: true, ..Subscription::new("x", QoS::AtLeastOnce) };
        one.subscribe(&[quiet, Subscription::new("y", QoS::AtLeastOnce)], None).await;
        one.publish(message("x", "mine", QoS::AtLeastOnce)).await;
        one.publish(message("y", "mine too", QoS::AtLeastOnce)).await;
        // The same principal with another client identifier is another client.
        let mut two = client(&cloud, brief(V5, "app-b", "two")).await;
        two.publish(message("x", "theirs", QoS::AtLeastOnce)).await;
        assert_eq!(one.texts_until("own").await, ["mine too", "theirs"]);
    }
}

#[tokio::test]
async fn mqtt_5_3_8_4_3_a_subscription_with_the_same_filter_replaces_the_first() {
    for version in BOTH {
        for connect in [brief, lasting] {
            let cloud = Cloud::start().await;
            let mut publisher = publisher(&cloud, version).await;
            let mut client = client(&cloud, connect(version, "app-b", "s")).await;
            client.subscribe(&[Subscription::new("x", QoS::ExactlyOnce)], Some(1)).await;
            let codes = client.subscribe(&[Subscription::new("x", QoS::AtLeastOnce)], Some(2)).await;
            assert_eq!(codes, [ReasonCode::GrantedQoS1]);
            publisher.publish(message("x", "once", QoS::ExactlyOnce)).await;
            let came = client.messages_until("own").await;
            assert_eq!((came.len(), came[0].qos), (1, QoS::AtLeastOnce));
            let identifiers: Vec<_> = came[0].properties.subscription_identifiers().collect();
            assert_eq!(identifiers, if version == V5 { &[2][..] } else { &[] });
            assert_eq!(
                client.unsubscribe(&["x"]).await.first().copied().unwrap_or(ReasonCode::Success),
                ReasonCode::Success
            );
            publisher.publish(message("x", "never", QoS::AtLeastOnce)).await;
            assert!(client.texts_until("own").await.is_empty());
        }
    }
}

#[tokio::test]
async fn mqtt_5_3_8_4_7_a_code_says_what_is_granted_or_that_it_failed() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let (mut client, _) = Raw::connect(&cloud, brief(version, "app-b", "s")).await;
        let asked = [
            Subscription::new("a", QoS::ExactlyOnce),
            Subscription::new("b", QoS::AtMostOnce),
            Subscription::new("c", QoS::AtLeastOnce),
        ];
        let granted = [ReasonCode::GrantedQoS2, ReasonCode::Success, ReasonCode::GrantedQoS1];
        assert_eq!(client.subscribe(&asked, None).await, granted);
        // A device is not granted what is not its own.
        let (mut device, _) = Raw::connect(&cloud, brief(version, "dev-lamp", "lamp")).await;
        let shared = [Subscription::new("$share/g/x", QoS::AtLeastOnce)];
        let expected = if version == V5 { ReasonCode::NotAuthorized } else { ReasonCode::UnspecifiedError };
        assert_eq!(device.subscribe(&shared, None).await, [expected]);
    }
}

#[tokio::test]
async fn mqtt_5_3_8_4_8_a_message_comes_with_the_lower_quality_of_service() {
    for version in BOTH {
        for connect in [brief, lasting] {
            let cloud = Cloud::start().await;
            let mut publisher = publisher(&cloud, version).await;
            let mut client = client(&cloud, connect(version, "app-b", "s")).await;
            for granted in ALL {
                client.listen("x", granted).await;
                for published in ALL {
                    publisher.publish(message("x", "m", published)).await;
                    assert_eq!(client.message().await.qos, granted.min(published));
                }
            }
        }
    }
}

#[tokio::test]
async fn mqtt_5_3_3_4_2_overlapping_subscriptions_have_the_highest_of_their_qualities() {
    for version in BOTH {
        for connect in [brief, lasting] {
            let cloud = Cloud::start().await;
            let mut publisher = publisher(&cloud, version).await;
            let mut client = client(&cloud, connect(version, "app-b", "s")).await;
            for (filter, qos) in [("x/#", QoS::AtMostOnce), ("x/y", QoS::ExactlyOnce), ("+/y", QoS::AtLeastOnce)] {
                client.listen(filter, qos).await;
            }
            for published in ALL {
                publisher.publish(message("x/y", "m", published)).await;
                let came = client.messages_until("own").await;
                assert_eq!(came.iter().map(|message| message.qos).max(), Some(published));
            }
        }
    }
}

/// The identifiers of each copy of one message, for overlapping subscriptions of which one has none.
async fn identifiers(connect: Connect<'_>) -> Vec<Vec<u32>> {
    let cloud = Cloud::start().await;
    let mut publisher = publisher(&cloud, V5).await;
    let mut client = client(&cloud, connect).await;
    for (filter, identifier) in [("x/#", Some(7)), ("x/y", Some(268_435_455)), ("+/y", None)] {
        client.subscribe(&[Subscription::new(filter, QoS::AtLeastOnce)], identifier).await;
    }
    publisher.publish(message("x/y", "m", QoS::AtLeastOnce)).await;
    let came = client.messages_until("own").await;
    came.iter().map(|message| message.properties.subscription_identifiers().collect()).collect()
}

#[tokio::test]
async fn mqtt_5_3_3_4_3_a_message_holds_the_identifiers_of_its_subscriptions() {
    for connect in [brief, lasting] {
        let mut all = identifiers(connect(V5, "app-b", "s")).await.concat();
        all.sort_unstable();
        assert_eq!(all, [7, 268_435_455]);
    }
}

#[tokio::test]
async fn mqtt_5_3_3_4_4_a_single_copy_holds_all_identifiers() {
    for connect in [brief, lasting] {
        let copies = identifiers(connect(V5, "app-b", "s")).await;
        assert_eq!((copies.len(), copies[0].len()), (1, 2));
    }
}

#[tokio::test]
async fn mqtt_5_3_3_4_5_each_of_several_copies_holds_its_own_identifier() {
    for connect in [brief, lasting] {
        let cloud = Cloud::start().await;
        let mut publisher = publisher(&cloud, V5).await;
        let mut client = client(&cloud, connect(V5, "app-b", "s")).await;
        client.subscribe(&[Subscription::new("x", QoS::AtLeastOnce)], Some(1)).await;
        client.subscribe(&[Subscription::new("$share/g/x", QoS::AtLeastOnce)], Some(2)).await;
        publisher.publish(message("x", "m", QoS::AtLeastOnce)).await;
        let mut copies: Vec<Vec<u32>> = client
            .messages_until("own")
            .await
            .iter()
            .map(|message| message.properties.subscription_identifiers().collect())
            .collect();
        copies.sort();
        assert_eq!(copies, [[1], [2]]);
    }
}

/// The topics, of those published, that come to a subscription with this filter.
async fn matched(version: Version, filter: &str, published: &[&str]) -> Vec<String> {
    let cloud = Cloud::start().await;
    let mut publisher = publisher(&cloud, version).await;
    let mut client = client(&cloud, brief(version, "app-b", "s")).await;
    client.listen(filter, QoS::AtLeastOnce).await;
    for topic in published {
        publisher.publish(message(topic, "m", QoS::AtLeastOnce)).await;
    }
    client.messages_until("own").await.iter().map(|message| message.topic.to_owned()).collect()
}

#[tokio::test]
async fn mqtt_5_3_3_2_3_the_topic_of_a_message_matches_the_subscription() {
    let published = ["x", "x/y", "x/y/z", "x/", "y", "/x", "xy"];
    let cases: [(&str, &[&str]); 6] = [
        ("x", &["x"]),
        ("x/#", &["x", "x/y", "x/y/z", "x/"]),
        ("x/+", &["x/y", "x/"]),
        ("+", &["x", "y", "xy"]),
        ("/+", &["/x"]),
        ("+/+/z", &["x/y/z"]),
    ];
    for version in BOTH {
        for (filter, expected) in cases {
            assert_eq!(matched(version, filter, &published).await, expected, "{filter}");
        }
    }
}

#[tokio::test]
async fn mqtt_5_4_7_3_4_topics_are_compared_as_they_are() {
    let published = ["caf\u{e9}", "cafe\u{301}", "CAFÉ", "café ", "café/", "\u{feff}café", "x//y", "x/y"];
    for version in BOTH {
        assert_eq!(matched(version, "caf\u{e9}", &published).await, ["caf\u{e9}"]);
        assert_eq!(matched(version, "x//y", &published).await, ["x//y"]);
    }
}

#[tokio::test]
async fn mqtt_5_4_7_2_1_wildcards_at_the_beginning_do_not_match_topics_that_begin_with_a_dollar() {
    for version in BOTH {
        for retain in [false, true] {
            let cloud = Cloud::start().await;
            let say = |topic| cloud.node.inner.announce(&super::super::cloud::tenant(), topic, "m".into(), retain);
            let mut client = client(&cloud, brief(version, "app-b", "s")).await;
            if retain {
                say("$SYS/load");
            }
            for filter in ["#", "+/load", "+/#"] {
                client.listen(filter, QoS::AtLeastOnce).await;
            }
            if !retain {
                say("$SYS/load");
            }
            assert!(client.texts_until("own").await.is_empty());
            client.listen("$SYS/#", QoS::AtLeastOnce).await;
            if !retain {
                say("$SYS/load");
            }
            assert_eq!(client.texts_until("own").await, ["m"]);
        }
    }
}

// === UNSUBSCRIBE ===

#[tokio::test]
async fn mqtt_5_3_10_4_1_a_filter_is_removed_that_is_the_same_character_by_character() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let mut publisher = publisher(&cloud, version).await;
        let mut client = client(&cloud, lasting(version, "app-b", "s")).await;
        client.listen("x/+", QoS::AtLeastOnce).await;
        let others = ["x/y", "x/#", "X/+", "x/+/", "#"];
        let codes = client.unsubscribe(&others).await;
        assert!(codes.iter().all(|code| *code == ReasonCode::NoSubscriptionExisted), "{codes:?}");
        publisher.publish(message("x/y", "there", QoS::AtLeastOnce)).await;
        assert_eq!(client.texts(1).await, ["there"]);
        let codes = client.unsubscribe(&["x/+"]).await;
        assert!(codes.iter().all(|code| *code == ReasonCode::Success), "{codes:?}");
        publisher.publish(message("x/y", "gone", QoS::AtLeastOnce)).await;
        assert!(client.texts_until("own").await.is_empty());
        drop(client);
        settled(&cloud, 1).await;
        publisher.publish(message("x/y", "gone", QoS::AtLeastOnce)).await;
        let (mut again, _) = Raw::connect(&cloud, lasting(version, "app-b", "s")).await;
        assert!(again.texts_until("own").await.is_empty(), "also from the stored session");
    }
}

#[tokio::test]
async fn mqtt_5_3_10_4_2_after_an_unsuback_nothing_new_comes() {
    for version in BOTH {
        for connect in [brief, lasting] {
            let cloud = Cloud::start().await;
            let mut publisher = publisher(&cloud, version).await;
            let mut client = client(&cloud, connect(version, "app-b", "s")).await;
            client.listen("x", QoS::ExactlyOnce).await;
            client.unsubscribe(&["x"]).await;
            for qos in ALL {
                publisher.publish(message("x", "late", qos)).await;
            }
            assert!(client.texts_until("own").await.is_empty());
        }
    }
}

#[tokio::test]
async fn mqtt_5_3_10_4_3_a_delivery_that_has_begun_is_completed() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let mut publisher = publisher(&cloud, version).await;
        let mut client = client(&cloud, lasting(version, "app-b", "s")).await;
        client.listen("x", QoS::ExactlyOnce).await;
        publisher.publish(message("x", "begun", QoS::ExactlyOnce)).await;
        let begun = client.arrival().await;
        client.unsubscribe(&["x"]).await;
        let ack = Ack::new(begun.packet_id.unwrap(), ReasonCode::Success);
        client.send(&Packet::PubRec(ack)).await;
        assert_eq!(client.answer(PacketKind::PubRel).await, Packet::PubRel(ack));
        client.send(&Packet::PubComp(ack)).await;
        assert!(client.texts_until("own").await.is_empty());
        // And over a break: what was sent and not acknowledged comes again.
        client.listen("y", QoS::AtLeastOnce).await;
        publisher.publish(message("y", "unacknowledged", QoS::AtLeastOnce)).await;
        assert_eq!(text(&client.arrival().await), "unacknowledged");
        client.unsubscribe(&["y"]).await;
        drop(client);
        settled(&cloud, 1).await;
        let (mut again, _) = Raw::connect(&cloud, lasting(version, "app-b", "s")).await;
        assert_eq!(again.texts(1).await, ["unacknowledged"]);
    }
}
