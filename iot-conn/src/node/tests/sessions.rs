use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use iot_core::{
    limits::Limits,
    message::{Properties, QoS},
};
use iot_store::{StoreLimits, memory::Memory};

use super::{
    client::{lasting, options, until},
    cloud::Cloud,
};
use crate::mqtt::{
    ReasonCode,
    client::{ClientOptions, Event, LastWill, Publication},
    packet::{Subscription, Version},
};

fn will(topic: &str, delay_s: u32) -> Option<LastWill> {
    Some(LastWill {
        topic: topic.to_owned(),
        payload: Bytes::from_static(b"will"),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_s,
        properties: Properties::default(),
    })
}

#[tokio::test]
async fn nothing_is_left_when_all_have_left() {
    let cloud = Cloud::start().await;
    for round in 0..3 {
        for id in ["a", "b"] {
            let mut first = cloud.offline(lasting("app-a", id));
            first.connect().await;
            first.subscribe("x/#", QoS::AtLeastOnce).await;
            let mut second = cloud.client("app-a", id).await;
            second.subscribe("y", QoS::AtLeastOnce).await;
            if round == 0 {
                second.cut();
            } else {
                second.leave(ReasonCode::Success).await;
            }
        }
    }
    let _first_key = cloud.client("dev-lamp", "lamp").await;
    cloud.client("dev-lamp.second", "lamp").await.leave(ReasonCode::Success).await;
    let inner = &cloud.node.inner;
    until("all to be gone", || cloud.node.sessions_len() == 0 && inner.router.is_empty()).await;
    assert!(inner.registry.has_no_dependants());
    cloud.stop().await;
}

#[tokio::test]
async fn sessions_that_nobody_comes_back_to_do_not_fill_the_node() {
    let limits = Limits { sessions_max: 2, ..Limits::default() };
    let cloud = Cloud::with(Arc::new(Memory::new(StoreLimits::default())), |builder| builder.limits(limits)).await;
    for id in ["a", "b"] {
        let mut kept = cloud.offline(lasting("app-a", id));
        kept.connect().await;
        kept.cut();
    }
    let mut third = cloud.offline(lasting("app-a", "c"));
    let Event::Refused(refused) = third.try_connect().await else { panic!("there is room for two") };
    assert_eq!(refused.reason, ReasonCode::QuotaExceeded);
    assert!(refused.retry_after.is_some_and(|after| after >= Duration::from_secs(30)));
    assert_eq!(cloud.node.sessions_len(), 2, "who is refused leaves nothing behind");
    let mut known = cloud.offline(ClientOptions { clean_start: true, session_expiry_s: 0, ..lasting("app-a", "a") });
    known.connect().await;
    known.leave(ReasonCode::Success).await;
    until("its session to be gone", || cloud.node.sessions_len() == 1).await;
    third.connect().await;
    cloud.stop().await;
}

#[tokio::test]
async fn a_client_that_is_refused_leaves_no_session() {
    let cloud = Cloud::start().await;
    let forbidden = ClientOptions { will: will("d/lamp/up/telemetry", 0), ..options("app-a", "c") };
    let mut client = cloud.offline(forbidden);
    assert!(
        matches!(client.try_connect().await, Event::Refused(refused) if refused.reason == ReasonCode::NotAuthorized)
    );
    assert_eq!(cloud.node.sessions_len(), 0);
}

#[tokio::test]
async fn a_client_that_is_refused_takes_nothing_over() {
    let cloud = Cloud::start().await;
    let mut present = cloud.client("app-a", "c").await;
    present.subscribe("own", QoS::AtLeastOnce).await;
    let forbidden = ClientOptions { will: will("d/lamp/up/telemetry", 0), ..options("app-a", "c") };
    assert!(matches!(cloud.offline(forbidden).try_connect().await, Event::Refused(_)));
    assert!(present.texts_until_own("own").await.is_empty());
}

#[tokio::test]
async fn a_session_is_taken_over_by_its_principal_only() {
    let cloud = Cloud::start().await;
    let mut first = cloud.client("app-a", "same").await;
    let mut other = cloud.client("app-b", "same").await;
    first.subscribe("own", QoS::AtLeastOnce).await;
    assert!(first.texts_until_own("own").await.is_empty());
    let _second = cloud.client("app-a", "same").await;
    assert_eq!(first.ended().await, ReasonCode::SessionTakenOver);
    other.subscribe("own", QoS::AtLeastOnce).await;
    assert!(other.texts_until_own("own").await.is_empty());
}

#[tokio::test]
async fn a_will_is_published_when_its_client_vanishes_and_not_when_it_leaves() {
    let cloud = Cloud::start().await;
    let mut watcher = cloud.client("app-b", "w").await;
    watcher.subscribe("will", QoS::AtLeastOnce).await;
    watcher.subscribe("own", QoS::AtLeastOnce).await;
    let mut mortal = cloud.offline(ClientOptions { will: will("will", 0), ..options("app-a", "m") });
    mortal.connect().await;
    mortal.leave(ReasonCode::Success).await;
    until("it to be gone", || cloud.node.sessions_len() == 1).await;
    assert!(watcher.texts_until_own("own").await.is_empty());
    mortal.connect().await;
    mortal.cut();
    assert_eq!(watcher.text().await, "will");
    mortal.connect().await;
    mortal.leave(ReasonCode::DisconnectWithWill).await;
    assert_eq!(watcher.text().await, "will");
}

#[tokio::test]
async fn a_delayed_will_is_cancelled_by_a_return_and_published_without_one() {
    let cloud = Cloud::start().await;
    let mut watcher = cloud.client("app-b", "w").await;
    watcher.subscribe("will", QoS::AtLeastOnce).await;
    watcher.subscribe("own", QoS::AtLeastOnce).await;
    let connected = || cloud.node.inner.registry.connected().len();
    let mut mortal = cloud.offline(ClientOptions { will: will("will", 10), ..lasting("app-a", "m") });
    mortal.connect().await;
    for returns in [true, false] {
        mortal.cut();
        until("it to be gone", || connected() == 1).await;
        // The link goes first; the session is closed when nobody holds it.
        let session = cloud.node.inner.registry.all().into_iter().find(|endpoint| !endpoint.is_connected()).unwrap();
        drop(session.opening.lock().await);
        cloud.clock.advance(Duration::from_secs(5));
        cloud.sweep().await;
        if returns {
            mortal.connect().await;
        }
        cloud.clock.advance(Duration::from_secs(6));
        cloud.sweep().await;
        let expected: &[&str] = if returns { &[] } else { &["will"] };
        assert_eq!(watcher.texts_until_own("own").await, expected);
    }
}

#[tokio::test]
async fn a_session_ends_when_it_expires() {
    let cloud = Cloud::start().await;
    let mut client = cloud.offline(lasting("app-a", "c"));
    client.connect().await;
    client.subscribe("x", QoS::AtLeastOnce).await;
    client.cut();
    let inner = &cloud.node.inner;
    until("it to be gone", || inner.registry.connected().is_empty()).await;
    drop(inner.registry.all()[0].opening.lock().await);
    cloud.clock.advance(Duration::from_secs(3_599));
    cloud.sweep().await;
    assert_eq!(cloud.node.sessions_len(), 1);
    cloud.clock.advance(Duration::from_secs(1));
    cloud.sweep().await;
    assert_eq!((cloud.node.sessions_len(), inner.router.is_empty()), (0, true));
    assert!(!client.connect().await.session_present);
}

#[tokio::test]
async fn a_session_that_is_resumed_without_expiry_ends_with_its_connection() {
    let cloud = Cloud::start().await;
    let mut client = cloud.offline(lasting("app-a", "c"));
    client.connect().await;
    client.subscribe("x", QoS::AtLeastOnce).await;
    client.cut();
    let mut publisher = cloud.client("app-b", "p").await;
    publisher.publish("x", "waits", QoS::AtLeastOnce).await;
    let mut brief = cloud.offline(ClientOptions { clean_start: false, ..options("app-a", "c") });
    assert!(brief.connect().await.session_present);
    assert_eq!(brief.text().await, "waits");
    brief.leave(ReasonCode::Success).await;
    until("it to be gone", || cloud.node.sessions_len() == 1).await;
    assert!(!client.connect().await.session_present);
}

#[tokio::test]
async fn a_session_holds_so_many_subscriptions_and_no_more() {
    let cloud = Cloud::start().await;
    let mut client = cloud.client("app-a", "c").await;
    let filters: Vec<String> = (0..9).map(|n| format!("x/{n}")).collect();
    let subscriptions: Vec<_> = filters.iter().map(|filter| Subscription::new(filter, QoS::AtMostOnce)).collect();
    let codes = client.subscribe_with(&subscriptions, None).await;
    assert!(codes[..8].iter().all(|code| !code.is_error()), "{codes:?}");
    assert_eq!(codes[8], ReasonCode::QuotaExceeded);
    assert_eq!(client.subscribe_with(&subscriptions[..1], None).await, [ReasonCode::Success]);
}

#[tokio::test]
async fn a_session_that_could_not_be_closed_expires_all_the_same() {
    let cloud = Cloud::start().await;
    let mut client = cloud.offline(lasting("app-a", "c"));
    client.connect().await;
    cloud.sessions.down.store(true, Ordering::SeqCst);
    client.cut();
    until("the client to be gone", || !cloud.node.inner.unclosed.lock().unwrap().is_empty()).await;
    cloud.sessions.down.store(false, Ordering::SeqCst);
    cloud.clock.advance(Duration::from_secs(3_601));
    cloud.sweep().await;
    assert_eq!(cloud.node.sessions_len(), 0);
    cloud.stop().await;
}

#[tokio::test]
async fn qos_2_is_handed_on_when_it_is_stored_and_once_whoever_comes_back_meanwhile() {
    let cloud = Cloud::start().await;
    let mut subscriber = cloud.client("app-b", "sub").await;
    subscriber.subscribe("x", QoS::ExactlyOnce).await;
    subscriber.subscribe("own", QoS::AtLeastOnce).await;
    let mut publisher = cloud.offline(lasting("app-a", "pub"));
    publisher.connect().await;
    cloud.sessions.down.store(true, Ordering::SeqCst);
    publisher.engine.publish(Publication::new("x", "once", QoS::ExactlyOnce)).unwrap();
    publisher.write().await;
    until("the store to be tried", || cloud.sessions.offers.load(Ordering::SeqCst) >= 3).await;
    // If the node ended here it would come again, and nobody has it yet.
    assert!(tokio::time::timeout(Duration::from_millis(50), subscriber.message()).await.is_err());
    publisher.cut();
    cloud.sessions.down.store(false, Ordering::SeqCst);
    assert!(publisher.connect().await.session_present);
    assert!(matches!(publisher.answer().await, Event::Published { reason: ReasonCode::Success, .. }));
    assert_eq!(subscriber.texts_until_own("own").await, ["once"]);
    cloud.stop().await;
}

#[tokio::test]
async fn what_was_on_its_way_to_a_session_is_not_given_to_the_clean_one_after_it() {
    let cloud = Cloud::start().await;
    let mut former = cloud.offline(lasting("app-b", "sub"));
    former.connect().await;
    former.subscribe("x", QoS::AtLeastOnce).await;
    former.cut();
    let mut publisher = cloud.client("app-a", "pub").await;
    cloud.sessions.down.store(true, Ordering::SeqCst);
    publisher.engine.publish(Publication::new("x", "late", QoS::AtLeastOnce)).unwrap();
    publisher.write().await;
    until("the store to be tried", || cloud.sessions.offers.load(Ordering::SeqCst) >= 2).await;
    let mut clean = cloud.offline(ClientOptions { clean_start: true, ..lasting("app-b", "sub") });
    let connecting = clean.connect();
    let mending = async {
        // By then the session is being opened.
        tokio::time::sleep(Duration::from_millis(100)).await;
        cloud.sessions.down.store(false, Ordering::SeqCst);
    };
    assert!(!tokio::join!(connecting, mending).0.session_present);
    assert!(matches!(publisher.answer().await, Event::Published { reason: ReasonCode::Success, .. }));
    clean.subscribe("own", QoS::AtLeastOnce).await;
    assert_eq!(clean.texts_until_own("own").await, Vec::<String>::new());
    cloud.stop().await;
}

#[tokio::test]
async fn a_client_of_3_1_1_is_not_told_of_an_unsubscription_that_failed() {
    let cloud = Cloud::start().await;
    let options = ClientOptions { version: Version::V311, username: Some("app".into()), ..lasting("app-a", "c") };
    let mut client = cloud.offline(options);
    client.connect().await;
    client.subscribe("x", QoS::AtLeastOnce).await;
    cloud.sessions.down.store(true, Ordering::SeqCst);
    client.engine.unsubscribe(&["x"]).unwrap();
    client.write().await;
    while client.read().await {}
    assert!(client.engine.poll_event().is_none(), "its UNSUBACK has no reason code");
    cloud.sessions.down.store(false, Ordering::SeqCst);
    cloud.stop().await;
}
