//! Wills: when they are published, and when not.

use std::{sync::Arc, time::Duration};

use iot_store::{StoreLimits, memory::Memory};

use super::*;
use crate::mqtt::Will;

const WILL: Will<'_> =
    Will { topic: "will", payload: b"gone", qos: QoS::AtLeastOnce, retain: false, properties: List::EMPTY };

/// Somebody who is told of wills; `own` is its own topic.
async fn watcher(cloud: &Cloud) -> Raw {
    let (mut watcher, _) = Raw::connect(cloud, brief(V5, "app-w", "w")).await;
    watcher.listen("will/#", QoS::AtLeastOnce).await;
    watcher.listen("own", QoS::AtLeastOnce).await;
    watcher
}

async fn mortal(cloud: &Cloud, connect: Connect<'_>, will: Will<'_>) -> Raw {
    Raw::connect(cloud, Connect { will: Some(will), ..connect }).await.0
}

#[tokio::test]
async fn mqtt_5_3_1_2_7_a_will_is_kept_with_its_session() {
    let memory = Arc::new(Memory::new(StoreLimits::default()));
    let cloud = Cloud::over(memory.clone()).await;
    let delay = [Property::WillDelayInterval(10)];
    let will = Will { properties: Properties::from(&delay), ..WILL };
    let _mortal = mortal(&cloud, lasting(V5, "app-a", "m"), will).await;
    cloud.stop().await;
    // Nothing of it is in this node's memory but what was stored.
    let cloud = Cloud::over(memory).await;
    let mut watcher = watcher(&cloud).await;
    cloud.clock.advance(Duration::from_secs(11));
    cloud.sweep().await;
    assert_eq!(watcher.texts(1).await, ["gone"]);
}

#[tokio::test]
async fn mqtt_5_3_1_2_8_a_will_is_published_when_its_connection_is_lost() {
    for version in BOTH {
        for connect in [brief, lasting] {
            let cloud = Cloud::start().await;
            let mut watcher = watcher(&cloud).await;
            // The transport breaks.
            drop(mortal(&cloud, connect(version, "app-a", "m"), WILL).await);
            assert_eq!(watcher.texts(1).await, ["gone"]);
            // The client breaks the protocol.
            let mut broken = mortal(&cloud, connect(version, "app-a", "m"), WILL).await;
            broken.send_bytes(b"\0\0").await;
            assert_eq!(watcher.texts(1).await, ["gone"]);
            // Another connection takes the session.
            let _first = mortal(&cloud, connect(version, "app-a", "m"), WILL).await;
            let second = Raw::connect(&cloud, connect(version, "app-a", "m")).await.0;
            assert_eq!(watcher.texts(1).await, ["gone"]);
            second.leave(ReasonCode::Success).await;
            // The client leaves in order.
            mortal(&cloud, connect(version, "app-a", "m"), WILL).await.leave(ReasonCode::Success).await;
            settled(&cloud, 1).await;
            assert!(watcher.texts_until("own").await.is_empty());
        }
    }
    let cloud = Cloud::start().await;
    let mut watcher = watcher(&cloud).await;
    mortal(&cloud, brief(V5, "app-a", "m"), WILL).await.leave(ReasonCode::DisconnectWithWill).await;
    assert_eq!(watcher.texts(1).await, ["gone"]);
}

/// The keep alive ends a connection as if the network had failed.
#[tokio::test]
async fn mqtt_3_1_1_3_1_2_24_a_silent_clients_will_is_published() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let mut watcher = watcher(&cloud).await;
        let connect = Connect { keep_alive_s: 10, ..brief(version, "app-a", "m") };
        let mut mortal = mortal(&cloud, connect, WILL).await;
        cloud.clock.advance(Duration::from_secs(15));
        // The node's timers ring by real time; looking at it is enough.
        for link in cloud.node.inner.registry.connected() {
            link.mailbox.nudge();
        }
        assert_eq!(mortal.ended().await, (version == V5).then_some(ReasonCode::KeepAliveTimeout));
        assert_eq!(watcher.texts(1).await, ["gone"]);
    }
}

#[tokio::test]
async fn mqtt_5_3_1_2_10_a_will_is_published_once_and_not_after_a_goodbye() {
    let cloud = Cloud::start().await;
    let mut watcher = watcher(&cloud).await;
    let delay = [Property::WillDelayInterval(10)];
    let will = Will { properties: Properties::from(&delay), ..WILL };
    for (leaves, expected) in [(false, &["gone"][..]), (true, &[])] {
        let client = mortal(&cloud, lasting(V5, "app-a", "m"), will).await;
        if leaves {
            client.leave(ReasonCode::Success).await;
        } else {
            drop(client);
        }
        settled(&cloud, 1).await;
        cloud.clock.advance(Duration::from_secs(11));
        cloud.sweep().await;
        cloud.clock.advance(Duration::from_secs(11));
        cloud.sweep().await;
        // Neither when the session is taken again, nor when it ends.
        drop(Raw::connect(&cloud, lasting(V5, "app-a", "m")).await);
        settled(&cloud, 1).await;
        cloud.clock.advance(Duration::from_secs(4_000));
        cloud.sweep().await;
        assert_eq!(watcher.texts_until("own").await, expected);
    }
}

#[tokio::test]
async fn mqtt_3_1_1_3_1_2_12_without_a_will_nothing_is_published() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let (mut watcher, _) = Raw::connect(&cloud, brief(version, "app-w", "w")).await;
        watcher.listen("#", QoS::AtLeastOnce).await;
        for connect in [brief, lasting] {
            drop(Raw::connect(&cloud, connect(version, "app-a", "m")).await);
            settled(&cloud, 1).await;
        }
        assert!(watcher.texts_until("own").await.is_empty());
    }
}

async fn is_retained(version: Version, retain: bool) -> bool {
    let cloud = Cloud::start().await;
    let mut before = watcher(&cloud).await;
    drop(mortal(&cloud, brief(version, "app-a", "m"), Will { retain, ..WILL }).await);
    let live = before.message().await;
    assert_eq!((live.payload, live.retain), (&b"gone"[..], false));
    let (mut after, _) = Raw::connect(&cloud, brief(version, "app-b", "later")).await;
    after.listen("will", QoS::AtLeastOnce).await;
    after.listen("mine", QoS::AtLeastOnce).await;
    match &after.messages_until("mine").await[..] {
        [] => false,
        [kept] => kept.retain && kept.payload == b"gone",
        more => panic!("{more:?}"),
    }
}

#[tokio::test]
async fn mqtt_5_3_1_2_14_a_will_that_is_not_to_be_retained_is_not() {
    for version in BOTH {
        assert!(!is_retained(version, false).await);
    }
}

#[tokio::test]
async fn mqtt_5_3_1_2_15_a_will_that_is_to_be_retained_is() {
    for version in BOTH {
        assert!(is_retained(version, true).await);
    }
}

/// When the will is published, if its client with this session expiry returns after so long or not at all.
async fn published_after(delay_s: u32, expiry_s: u32, returns_s: Option<u64>, clean_start: bool) -> Option<u64> {
    let cloud = Cloud::start().await;
    let mut watcher = watcher(&cloud).await;
    let delay = [Property::WillDelayInterval(delay_s)];
    let expiry = [Property::SessionExpiryInterval(expiry_s)];
    let connect = Connect { properties: Properties::from(&expiry), ..lasting(V5, "app-a", "m") };
    drop(mortal(&cloud, connect, Will { properties: Properties::from(&delay), ..WILL }).await);
    settled(&cloud, 1).await;
    let mut present = None;
    for second in 0..30 {
        if returns_s == Some(second) {
            present = Some(Raw::connect(&cloud, Connect { clean_start, ..connect }).await);
        }
        cloud.sweep().await;
        if !watcher.texts_until("own").await.is_empty() {
            return Some(second);
        }
        cloud.clock.advance(Duration::from_secs(1));
    }
    drop(present);
    None
}

#[tokio::test]
async fn mqtt_5_3_1_3_9_a_return_within_the_delay_prevents_the_will() {
    assert_eq!(published_after(10, 3_600, None, false).await, Some(10));
    assert_eq!(published_after(10, 3_600, Some(9), false).await, None);
    assert_eq!(published_after(0, 3_600, Some(5), false).await, Some(0));
}

/// The end of the session comes before the delay: by its expiry, or by a clean start (MQTT 5 §3.1.3.2.2).
#[tokio::test]
async fn a_delayed_will_waits_no_longer_than_its_session() {
    assert_eq!(published_after(20, 5, None, false).await, Some(5));
    assert_eq!(published_after(20, 3_600, Some(7), true).await, Some(7));
    assert_eq!(published_after(20, 0, None, false).await, Some(0));
}

/// The lifetime of a will begins when it is published (MQTT 5 §3.1.3.2.4).
#[tokio::test]
async fn a_will_lives_from_its_publication() {
    for delay_s in [0, 10] {
        let cloud = Cloud::start().await;
        let mut watcher = watcher(&cloud).await;
        let properties = [Property::WillDelayInterval(delay_s), Property::MessageExpiryInterval(60)];
        let will = Will { properties: Properties::from(&properties), ..WILL };
        let client = mortal(&cloud, lasting(V5, "app-a", "m"), will).await;
        cloud.clock.advance(Duration::from_secs(1_000));
        drop(client);
        settled(&cloud, 1).await;
        cloud.clock.advance(Duration::from_secs(u64::from(delay_s)));
        cloud.sweep().await;
        let came = watcher.message().await;
        assert_eq!((came.payload, came.properties.message_expiry_interval()), (&b"gone"[..], Some(60)));
    }
}
