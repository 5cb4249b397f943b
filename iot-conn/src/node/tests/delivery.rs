use std::sync::atomic::Ordering;

use iot_core::message::QoS;

use super::{
    client::{lasting, options},
    cloud::Cloud,
};
use crate::mqtt::{
    ReasonCode, RetainHandling,
    client::{ClientOptions, Event, Publication},
    packet::Subscription,
};

const ALL: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[tokio::test]
async fn each_quality_of_service_reaches_each_subscription() {
    let cloud = Cloud::start().await;
    let mut publisher = cloud.client("app-a", "pub").await;
    for persistent in [false, true] {
        for granted in ALL {
            let options = if persistent { lasting("app-b", "sub") } else { options("app-b", "sub") };
            let mut subscriber = cloud.offline(options);
            subscriber.connect().await;
            subscriber.subscribe("x/+", granted).await;
            for published in ALL {
                assert!(!publisher.publish("x/y", "hello", published).await.is_error());
                let message = subscriber.message().await;
                assert_eq!((&message.payload[..], message.qos), (&b"hello"[..], granted.min(published)));
                assert!(!message.retain);
            }
        }
    }
    cloud.stop().await;
}

#[tokio::test]
async fn nobody_is_named_when_nobody_is_subscribed() {
    let cloud = Cloud::start().await;
    let mut publisher = cloud.client("app-a", "pub").await;
    assert_eq!(publisher.publish("x", "hello", QoS::AtLeastOnce).await, ReasonCode::NoMatchingSubscribers);
}

#[tokio::test]
async fn retained_messages_are_set_cleared_and_sent_as_handling_says() {
    let cloud = Cloud::start().await;
    let mut publisher = cloud.client("app-a", "pub").await;
    publisher.retain("x", "kept").await;
    let mut subscriber = cloud.client("app-b", "sub").await;
    subscriber.subscribe("own", QoS::AtLeastOnce).await;
    let handling =
        [RetainHandling::SendIfNew, RetainHandling::SendIfNew, RetainHandling::DoNotSend, RetainHandling::Send];
    let mut came = Vec::new();
    for retain_handling in handling {
        let subscription = Subscription { retain_handling, ..Subscription::new("x", QoS::AtLeastOnce) };
        subscriber.subscribe_with(&[subscription], None).await;
        came.push(subscriber.texts_until_own("own").await.len());
    }
    assert_eq!(came, [1, 0, 0, 1]);
    publisher.retain("x", "").await;
    assert_eq!(subscriber.texts_until_own("own").await, [""]);
    subscriber.subscribe("x", QoS::AtLeastOnce).await;
    assert!(subscriber.texts_until_own("own").await.is_empty());
}

/// Who asks for everything, in several ways, and reads nothing costs a page; who then reads gets all of it, in each way.
#[tokio::test]
async fn retained_messages_are_read_as_the_client_takes_them() {
    const COUNT: usize = 150;
    let cloud = Cloud::start().await;
    let mut publisher = cloud.client("app-a", "pub").await;
    let text = "x".repeat(100_000);
    for n in 0..COUNT {
        publisher.retain(&format!("x/{n}"), &text).await;
    }
    let mut subscriber = cloud.client("app-b", "sub").await;
    for filter in ["x/#", "x/+"] {
        subscriber.subscribe_with(&[Subscription::new(filter, QoS::AtMostOnce)], None).await;
    }
    // The answer to the second came behind the first page.
    let read = cloud.sessions.retained.load(Ordering::SeqCst);
    assert!(read > 0 && read < COUNT, "{read} were read");
    assert_eq!(subscriber.texts(2 * COUNT).await, vec![text; 2 * COUNT]);
    assert_eq!(cloud.sessions.retained.load(Ordering::SeqCst), 2 * COUNT);
}

/// What is not wanted any more is not read.
#[tokio::test]
async fn an_unsubscription_ends_the_reading_of_retained_messages() {
    let cloud = Cloud::start().await;
    let mut publisher = cloud.client("app-a", "pub").await;
    for n in 0..150 {
        publisher.retain(&format!("x/{n}"), &"x".repeat(100_000)).await;
    }
    let mut subscriber = cloud.client("app-b", "sub").await;
    subscriber.subscribe("x/#", QoS::AtMostOnce).await;
    subscriber.engine.unsubscribe(&["x/#"]).unwrap();
    while !matches!(subscriber.event().await, Event::Unsubscribed { .. }) {}
    subscriber.subscribe("own", QoS::AtMostOnce).await;
    subscriber.texts_until_own("own").await;
    let read = cloud.sessions.retained.load(Ordering::SeqCst);
    assert!(read < 150, "{read} were read");
}

#[tokio::test]
async fn a_retained_message_says_so_and_comes_with_the_new_identifier() {
    let cloud = Cloud::start().await;
    let mut publisher = cloud.client("app-a", "pub").await;
    publisher.retain("x", "kept").await;
    for options in [options("app-b", "sub"), lasting("app-b", "sub")] {
        let mut subscriber = cloud.offline(options);
        subscriber.connect().await;
        subscriber.subscribe_with(&[Subscription::new("#", QoS::AtLeastOnce)], Some(7)).await;
        let message = subscriber.message().await;
        assert!(message.retain);
        assert_eq!((&*message.topic, &message.subscription_ids[..]), ("x", &[7][..]));
    }
}

#[tokio::test]
async fn no_local_and_identifiers_of_overlapping_subscriptions() {
    let cloud = Cloud::start().await;
    let mut client = cloud.client("app-a", "c").await;
    let quiet = Subscription { no_local: true, ..Subscription::new("x/#", QoS::AtLeastOnce) };
    client.subscribe_with(&[quiet], Some(1)).await;
    client.subscribe("own", QoS::AtLeastOnce).await;
    client.publish("x/a", "mine", QoS::AtLeastOnce).await;
    assert!(client.texts_until_own("own").await.is_empty());
    client.subscribe_with(&[Subscription::new("x/+", QoS::AtMostOnce)], Some(2)).await;
    let mut other = cloud.client("app-b", "o").await;
    other.publish("x/a", "theirs", QoS::AtLeastOnce).await;
    let message = client.message().await;
    let mut identifiers = message.subscription_ids.clone();
    identifiers.sort_unstable();
    assert_eq!((identifiers, message.qos), (vec![1, 2], QoS::AtLeastOnce));
    assert!(client.texts_until_own("own").await.is_empty(), "one copy for overlapping subscriptions");
}

#[tokio::test]
async fn members_of_a_share_take_turns_and_those_who_are_away_are_passed_over() {
    let cloud = Cloud::start().await;
    let mut publisher = cloud.client("app-a", "pub").await;
    let mut members = Vec::new();
    for id in ["m1", "m2"] {
        let mut member = cloud.offline(lasting("app-b", id));
        member.connect().await;
        member.subscribe("$share/g/x", QoS::AtLeastOnce).await;
        member.subscribe(id, QoS::AtLeastOnce).await;
        members.push(member);
    }
    for n in 0..10 {
        publisher.publish("x", &n.to_string(), QoS::AtLeastOnce).await;
    }
    for (member, id) in members.iter_mut().zip(["m1", "m2"]) {
        assert_eq!(member.texts_until_own(id).await.len(), 5);
    }
    members[0].leave(ReasonCode::Success).await;
    super::client::until("one to be gone", || cloud.node.inner.registry.connected().len() == 2).await;
    for n in 0..4 {
        publisher.publish("x", &n.to_string(), QoS::AtLeastOnce).await;
    }
    assert_eq!(members[1].texts(4).await, ["0", "1", "2", "3"]);
}

#[tokio::test]
async fn what_waits_for_a_session_comes_in_order() {
    let cloud = Cloud::start().await;
    let mut publisher = cloud.client("app-a", "pub").await;
    let mut subscriber = cloud.offline(lasting("app-b", "sub"));
    subscriber.connect().await;
    subscriber.subscribe("x", QoS::AtLeastOnce).await;
    subscriber.cut();
    let sent: Vec<String> = (0..600).map(|n| n.to_string()).collect();
    for text in &sent {
        publisher.publish("x", text, QoS::AtLeastOnce).await;
    }
    assert!(subscriber.connect().await.session_present);
    assert_eq!(subscriber.texts(600).await, sent);
}

#[tokio::test]
async fn a_page_of_expired_messages_does_not_hold_up_what_follows() {
    let cloud = Cloud::start().await;
    let mut publisher = cloud.offline(ClientOptions { queue_messages_max: 3_000, ..options("app-a", "pub") });
    publisher.connect().await;
    let mut subscriber = cloud.offline(lasting("app-b", "sub"));
    subscriber.connect().await;
    subscriber.subscribe("x", QoS::AtLeastOnce).await;
    subscriber.cut();
    // Several pages, more than what else happens on a new connection would wake it for.
    for n in 0..3_000 {
        let message = Publication::new("x", n.to_string(), QoS::AtLeastOnce);
        publisher.engine.publish(Publication { expiry_s: Some(1), ..message }).unwrap();
    }
    while publisher.engine.unpublished() > 0 {
        publisher.answer().await;
    }
    publisher.publish("x", "fresh", QoS::AtLeastOnce).await;
    cloud.clock.advance(std::time::Duration::from_secs(5));
    subscriber.connect().await;
    assert_eq!(subscriber.text().await, "fresh");
}

/// Breaks the publisher's connection after `step` of its exchange; the message arrives once.
#[tokio::test]
async fn exactly_once_from_the_publisher_over_a_break_at_each_step() {
    for step in 0..4 {
        let cloud = Cloud::start().await;
        let mut subscriber = cloud.offline(lasting("app-b", "sub"));
        subscriber.connect().await;
        subscriber.subscribe("x", QoS::ExactlyOnce).await;
        subscriber.subscribe("own", QoS::AtLeastOnce).await;
        let mut publisher = cloud.offline(lasting("app-a", "pub"));
        publisher.connect().await;
        publisher.engine.publish(Publication::new("x", "once", QoS::ExactlyOnce)).unwrap();
        if step > 0 {
            publisher.write().await;
        }
        if step > 1 {
            publisher.read().await;
        }
        if step > 2 {
            publisher.write().await;
        }
        assert!(publisher.connect().await.session_present);
        match publisher.answer().await {
            // A PUBREL that came through already names nothing when it comes again (MQTT 5 §3.7.2.1).
            Event::Published { reason: ReasonCode::PacketIdentifierNotFound, .. } if step == 3 => {}
            Event::Published { reason, .. } => assert!(!reason.is_error(), "step {step}: {reason:?}"),
            other => panic!("step {step}: {other:?}"),
        }
        assert_eq!(subscriber.texts_until_own("own").await, ["once"], "step {step}");
        cloud.stop().await;
    }
}

#[tokio::test]
async fn exactly_once_to_the_subscriber_over_a_break_at_each_step() {
    for step in 0..4 {
        let cloud = Cloud::start().await;
        let mut subscriber = cloud.offline(lasting("app-b", "sub"));
        subscriber.connect().await;
        subscriber.subscribe("x", QoS::ExactlyOnce).await;
        subscriber.subscribe("own", QoS::AtLeastOnce).await;
        let mut publisher = cloud.client("app-a", "pub").await;
        publisher.publish("x", "once", QoS::ExactlyOnce).await;
        let mut came = 0;
        if step > 0 {
            subscriber.read().await;
            came += usize::from(matches!(subscriber.engine.poll_event(), Some(Event::Message(_))));
        }
        if step > 1 {
            subscriber.write().await;
        }
        if step > 2 {
            subscriber.read().await;
        }
        assert!(subscriber.connect().await.session_present);
        came += subscriber.texts_until_own("own").await.len();
        assert_eq!(came, 1, "step {step}");
        cloud.stop().await;
    }
}
