//! Sessions: clean start, client identifiers, what is kept and how long.

use std::{sync::atomic::Ordering, time::Duration};

use super::*;

#[tokio::test]
async fn mqtt_5_3_1_2_4_clean_start_discards_the_session() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let (mut publisher, _) = Raw::connect(&cloud, brief(version, "app-a", "p")).await;
        let (mut first, _) = Raw::connect(&cloud, lasting(version, "app-b", "c")).await;
        first.listen("x", QoS::AtLeastOnce).await;
        drop(first);
        settled(&cloud, 1).await;
        publisher.publish(message("x", "waits", QoS::AtLeastOnce)).await;
        let clean = Connect { clean_start: true, ..lasting(version, "app-b", "c") };
        let (mut second, session_present) = Raw::connect(&cloud, clean).await;
        assert!(!session_present);
        second.listen("own", QoS::AtLeastOnce).await;
        publisher.publish(message("x", "nobody's", QoS::AtLeastOnce)).await;
        assert!(second.texts_until("own").await.is_empty(), "neither the queue nor the subscription is left");
    }
}

#[tokio::test]
async fn mqtt_5_3_1_2_5_a_session_is_resumed() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let (mut publisher, _) = Raw::connect(&cloud, brief(version, "app-a", "p")).await;
        let (mut first, _) = Raw::connect(&cloud, lasting(version, "app-b", "c")).await;
        first.listen("x", QoS::AtLeastOnce).await;
        drop(first);
        settled(&cloud, 1).await;
        publisher.publish(message("x", "waits", QoS::AtLeastOnce)).await;
        let (mut second, session_present) = Raw::connect(&cloud, lasting(version, "app-b", "c")).await;
        assert!(session_present);
        assert_eq!(second.texts(1).await, ["waits"]);
        publisher.publish(message("x", "live", QoS::AtLeastOnce)).await;
        assert_eq!(second.texts(1).await, ["live"], "its subscription is there");
    }
}

#[tokio::test]
async fn mqtt_5_3_1_2_6_without_a_session_one_is_made() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let (first, session_present) = Raw::connect(&cloud, lasting(version, "app-b", "c")).await;
        assert!(!session_present);
        drop(first);
        settled(&cloud, 0).await;
        assert!(Raw::connect(&cloud, lasting(version, "app-b", "c")).await.1);
    }
}

#[tokio::test]
async fn mqtt_5_3_1_2_23_a_session_is_kept_if_its_expiry_is_not_0() {
    for (expiry_s, is_kept) in [(None, false), (Some(0), false), (Some(1), true), (Some(u32::MAX), true)] {
        let cloud = Cloud::start().await;
        let properties: Vec<_> = expiry_s.map(Property::SessionExpiryInterval).into_iter().collect();
        let connect = Connect { properties: Properties::from(&properties[..]), ..lasting(V5, "app-b", "c") };
        let (mut first, _) = Raw::connect(&cloud, connect).await;
        first.listen("x", QoS::AtLeastOnce).await;
        drop(first);
        settled(&cloud, 0).await;
        assert_eq!(Raw::connect(&cloud, lasting(V5, "app-b", "c")).await.1, is_kept, "{expiry_s:?}");
    }
}

#[tokio::test]
async fn mqtt_5_4_1_0_2_a_session_ends_when_its_expiry_has_passed() {
    for (seconds, is_kept) in [(3_599, true), (3_600, false)] {
        let cloud = Cloud::start().await;
        let (first, _) = Raw::connect(&cloud, lasting(V5, "app-b", "c")).await;
        drop(first);
        settled(&cloud, 0).await;
        cloud.clock.advance(Duration::from_secs(seconds));
        cloud.sweep().await;
        assert_eq!(cloud.node.sessions_len(), usize::from(is_kept));
        assert_eq!(Raw::connect(&cloud, lasting(V5, "app-b", "c")).await.1, is_kept);
    }
}

/// Whether or not the sweep has come: the interval counts.
#[tokio::test]
async fn an_expired_session_is_not_resumed_before_it_is_swept() {
    let cloud = Cloud::start().await;
    drop(Raw::connect(&cloud, lasting(V5, "app-b", "c")).await);
    settled(&cloud, 0).await;
    cloud.clock.advance(Duration::from_secs(3_600));
    assert!(!Raw::connect(&cloud, lasting(V5, "app-b", "c")).await.1);
}

#[tokio::test]
async fn mqtt_5_4_1_0_1_a_session_lasts_at_least_as_long_as_its_connection() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let (mut client, _) = Raw::connect(&cloud, lasting(version, "app-b", "c")).await;
        client.listen("own", QoS::ExactlyOnce).await;
        cloud.clock.advance(Duration::from_secs(100 * 24 * 3_600));
        cloud.sweep().await;
        assert!(client.texts_until("own").await.is_empty());
        drop(client);
        settled(&cloud, 0).await;
        assert!(Raw::connect(&cloud, lasting(version, "app-b", "c")).await.1);
    }
}

#[tokio::test]
async fn a_disconnect_may_end_its_session_or_prolong_it() {
    for (told_s, waits_s, is_kept) in [(0, 0, false), (7_200, 7_199, true), (10, 10, false)] {
        let cloud = Cloud::start().await;
        let (mut client, _) = Raw::connect(&cloud, lasting(V5, "app-b", "c")).await;
        let properties = [Property::SessionExpiryInterval(told_s)];
        let properties = Properties::from(&properties);
        client.send(&Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties })).await;
        client.ended().await;
        settled(&cloud, 0).await;
        cloud.clock.advance(Duration::from_secs(waits_s));
        assert_eq!(Raw::connect(&cloud, lasting(V5, "app-b", "c")).await.1, is_kept, "{told_s}");
    }
}

#[tokio::test]
async fn mqtt_3_1_1_3_1_2_6_a_clean_session_lasts_as_long_as_its_connection() {
    let cloud = Cloud::start().await;
    let (mut first, _) = Raw::connect(&cloud, brief(V311, "app-b", "c")).await;
    first.listen("x", QoS::AtLeastOnce).await;
    drop(first);
    settled(&cloud, 0).await;
    assert_eq!(cloud.node.sessions_len(), 0);
    assert!(!Raw::connect(&cloud, lasting(V311, "app-b", "c")).await.1);
}

// === Client identifiers ===

#[tokio::test]
async fn mqtt_5_3_1_3_2_the_client_identifier_names_the_session() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        for client_id in ["one", "two"] {
            let (mut client, session_present) = Raw::connect(&cloud, lasting(version, "app-b", client_id)).await;
            assert!(!session_present);
            client.listen(client_id, QoS::AtLeastOnce).await;
        }
        settled(&cloud, 0).await;
        let (mut publisher, _) = Raw::connect(&cloud, brief(version, "app-a", "p")).await;
        for client_id in ["one", "two"] {
            publisher.publish(message(client_id, client_id, QoS::AtLeastOnce)).await;
        }
        for client_id in ["two", "one"] {
            let (mut client, session_present) = Raw::connect(&cloud, lasting(version, "app-b", client_id)).await;
            assert!(session_present);
            assert_eq!(client.texts(1).await, [client_id]);
        }
    }
}

#[tokio::test]
async fn mqtt_5_3_1_3_5_client_identifiers_of_23_letters_and_digits_are_taken() {
    let cloud = Cloud::start().await;
    for version in BOTH {
        for client_id in ["0", "z", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"] {
            Raw::connect(&cloud, brief(version, "app-b", client_id)).await;
        }
    }
}

/// The identifier that a client gets which has none.
async fn assigned(cloud: &Cloud) -> (Raw, &'static str) {
    let (raw, ack) = Raw::try_connect(cloud, lasting(V5, "app-b", "")).await;
    assert_eq!((ack.reason, ack.session_present), (ReasonCode::Success, false));
    (raw, ack.properties.assigned_client_identifier().expect("an identifier"))
}

#[tokio::test]
async fn mqtt_5_3_1_3_6_a_client_without_an_identifier_gets_one_of_its_own() {
    let cloud = Cloud::start().await;
    let (mut first, one) = assigned(&cloud).await;
    let (_second, two) = assigned(&cloud).await;
    assert!(!one.is_empty() && one != two);
    first.listen("own", QoS::AtLeastOnce).await;
    assert!(first.texts_until("own").await.is_empty(), "the second has not taken over the first");
    // 3.1.1 cannot tell it, and keeps nothing under it.
    let (mut old, _) = Raw::connect(&cloud, brief(V311, "app-b", "")).await;
    let (_older, _) = Raw::connect(&cloud, brief(V311, "app-b", "")).await;
    old.listen("own", QoS::AtLeastOnce).await;
    assert!(old.texts_until("own").await.is_empty());
}

#[tokio::test]
async fn mqtt_5_3_1_3_7_an_assigned_identifier_is_as_good_as_the_clients() {
    let cloud = Cloud::start().await;
    let (mut first, client_id) = assigned(&cloud).await;
    first.listen("x", QoS::AtLeastOnce).await;
    drop(first);
    settled(&cloud, 0).await;
    let (mut publisher, _) = Raw::connect(&cloud, brief(V5, "app-a", "p")).await;
    publisher.publish(message("x", "waits", QoS::AtLeastOnce)).await;
    let (mut again, session_present) = Raw::connect(&cloud, lasting(V5, "app-b", client_id)).await;
    assert!(session_present);
    assert_eq!(again.texts(1).await, ["waits"]);
}

#[tokio::test]
async fn mqtt_5_3_2_2_16_assigned_identifiers_are_new() {
    let cloud = Cloud::start().await;
    let mut known = std::collections::HashSet::new();
    for _ in 0..20 {
        let (raw, client_id) = assigned(&cloud).await;
        drop(raw);
        assert!(known.insert(client_id), "{client_id} is of a session that is still there");
    }
    let (_, ack) = Raw::try_connect(&cloud, brief(V5, "app-b", "mine")).await;
    assert_eq!(ack.properties.assigned_client_identifier(), None);
}

// === Taking over, session present ===

#[tokio::test]
async fn mqtt_5_3_1_4_3_a_second_connection_ends_the_first() {
    for version in BOTH {
        for connect in [brief, lasting] {
            let cloud = Cloud::start().await;
            let (mut first, _) = Raw::connect(&cloud, connect(version, "app-b", "c")).await;
            let (mut second, _) = Raw::connect(&cloud, connect(version, "app-b", "c")).await;
            let told = (version == V5).then_some(ReasonCode::SessionTakenOver);
            assert_eq!(first.ended().await, told);
            second.listen("own", QoS::AtLeastOnce).await;
            assert!(second.texts_until("own").await.is_empty());
        }
    }
}

/// The same while the first connection is there: what is taken over is resumed, or not, as the CONNECT says.
#[tokio::test]
async fn mqtt_5_3_1_4_4_clean_start_counts_also_for_a_session_that_is_taken_over() {
    for version in BOTH {
        for clean_start in [true, false] {
            let cloud = Cloud::start().await;
            let (mut first, _) = Raw::connect(&cloud, lasting(version, "app-b", "c")).await;
            first.listen("own", QoS::AtLeastOnce).await;
            let second = Connect { clean_start, ..lasting(version, "app-b", "c") };
            let (mut second, session_present) = Raw::connect(&cloud, second).await;
            assert_eq!(session_present, !clean_start);
            assert_eq!(cloud.node.inner.router.is_empty(), clean_start);
            if !clean_start {
                assert!(second.texts_until("own").await.is_empty());
            }
        }
    }
}

#[tokio::test]
async fn mqtt_5_3_2_2_2_after_a_clean_start_no_session_is_present() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        for _ in 0..3 {
            let clean = Connect { clean_start: true, ..lasting(version, "app-b", "c") };
            assert!(!Raw::connect(&cloud, clean).await.1);
            settled(&cloud, 0).await;
        }
    }
}

#[tokio::test]
async fn mqtt_5_3_2_2_3_session_present_says_whether_there_was_a_session() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        for was_there in [false, true, true] {
            assert_eq!(Raw::connect(&cloud, lasting(version, "app-b", "c")).await.1, was_there);
            settled(&cloud, 0).await;
        }
        assert!(!Raw::connect(&cloud, lasting(version, "app-b", "another")).await.1);
        assert!(!Raw::connect(&cloud, lasting(version, "app-c", "c")).await.1, "another principal's session");
    }
}

#[tokio::test]
async fn mqtt_5_4_5_0_1_a_message_is_kept_for_every_session_that_is_subscribed() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        for (client_id, filter) in [("one", "x/#"), ("two", "x/+"), ("three", "y")] {
            let (mut client, _) = Raw::connect(&cloud, lasting(version, "app-b", client_id)).await;
            client.listen(filter, QoS::ExactlyOnce).await;
            client.listen(client_id, QoS::AtLeastOnce).await;
        }
        settled(&cloud, 0).await;
        let (mut publisher, _) = Raw::connect(&cloud, brief(version, "app-a", "p")).await;
        publisher.publish(message("x/y", "once", QoS::AtLeastOnce)).await;
        publisher.publish(message("x/y", "exactly", QoS::ExactlyOnce)).await;
        for (client_id, expected) in [("one", &["once", "exactly"][..]), ("two", &["once", "exactly"]), ("three", &[])]
        {
            let (mut client, _) = Raw::connect(&cloud, lasting(version, "app-b", client_id)).await;
            assert_eq!(client.texts_until(client_id).await, expected);
        }
    }
}

/// A store that fails for a moment: the client is told, as far as its version can, and disconnected.
#[tokio::test]
async fn mqtt_3_1_1_4_8_0_2_a_passing_error_ends_the_connection() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        cloud.sessions.failures.store(1, Ordering::SeqCst);
        let (mut client, ack) = Raw::try_connect(&cloud, lasting(version, "app-b", "c")).await;
        assert_eq!(ack.reason, ReasonCode::ServerUnavailable);
        assert_eq!(client.ended().await, None);
        Raw::connect(&cloud, lasting(version, "app-b", "c")).await;
    }
}
