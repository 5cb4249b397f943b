//! Presence does not lie: not about silence, not about a node that was lost, not when news comes out of order.

use std::{sync::Arc, time::Duration};

use iot_core::{device::Device, message::QoS, store::MetaStoreExt};
use iot_store::{StoreLimits, memory::Memory};

use super::{
    client::{lasting, options, until},
    cloud::{Cloud, tenant},
};
use crate::{
    mqtt::{ReasonCode, client::ClientOptions},
    node::{Presence, PresenceState},
};

fn presence(cloud: &Cloud, device: &str) -> Option<Presence> {
    cloud.node.presence(&tenant(), &device.parse().unwrap())
}

fn state(cloud: &Cloud, device: &str) -> Option<PresenceState> {
    presence(cloud, device).map(|presence| presence.state)
}

async fn history(cloud: &Cloud, id: &str) -> Vec<Presence> {
    let key = Device::key_of(&tenant(), &id.parse().unwrap());
    let device = cloud.node.stores().meta.find::<Device>(&key).await.unwrap().unwrap().document;
    cloud.node.connections(&device, 10).await.unwrap()
}

#[tokio::test]
async fn a_silent_device_is_suspect_until_it_is_heard_or_gone() {
    let cloud = Cloud::start().await;
    assert_eq!(presence(&cloud, "lamp"), None, "nothing is known of it");
    let mut lamp = cloud.offline(ClientOptions { keep_alive_s: 60, ..options("dev-lamp", "lamp") });
    lamp.connect().await;
    let came = presence(&cloud, "lamp").unwrap();
    assert_eq!((came.state, came.cause.as_deref()), (PresenceState::Online, None));
    until("the connection to rest", || {
        let link = cloud.node.inner.registry.connected().pop().unwrap();
        link.is_suspect(cloud.node.clock().monotonic().plus(Duration::from_secs(60)))
    })
    .await;
    cloud.clock.advance(Duration::from_secs(59));
    assert_eq!(state(&cloud, "lamp"), Some(PresenceState::Online));
    cloud.clock.advance(Duration::from_secs(2));
    let silent = presence(&cloud, "lamp").unwrap();
    assert_eq!((silent.state, silent.is_online(), silent.epoch), (PresenceState::Suspect, true, came.epoch));
    lamp.publish("up/custom/x", "here", QoS::AtLeastOnce).await;
    until("it to be heard", || state(&cloud, "lamp") == Some(PresenceState::Online)).await;
    lamp.leave(ReasonCode::Success).await;
    until("it to be gone", || state(&cloud, "lamp") == Some(PresenceState::Offline)).await;
    let gone = presence(&cloud, "lamp").unwrap();
    assert_eq!((gone.is_online(), gone.cause.as_deref()), (false, Some("disconnected")));
    assert!(gone.epoch > came.epoch);
    cloud.stop().await;
}

#[tokio::test]
async fn a_device_without_keep_alive_is_never_suspect() {
    let cloud = Cloud::start().await;
    let mut lamp = cloud.offline(ClientOptions { keep_alive_s: 0, ..options("dev-lamp", "lamp") });
    lamp.connect().await;
    lamp.publish("up/custom/x", "here", QoS::AtLeastOnce).await;
    cloud.clock.advance(Duration::from_secs(1_000_000));
    assert_eq!(state(&cloud, "lamp"), Some(PresenceState::Online));
    cloud.stop().await;
}

#[tokio::test]
async fn the_history_has_each_coming_and_going_once_and_epochs_grow() {
    let cloud = Cloud::start().await;
    for _ in 0..2 {
        let mut lamp = cloud.client("dev-lamp", "lamp").await;
        lamp.leave(ReasonCode::Success).await;
        until("it to be gone", || state(&cloud, "lamp") == Some(PresenceState::Offline)).await;
    }
    let history = history(&cloud, "lamp").await;
    let states: Vec<_> = history.iter().map(|presence| presence.state).collect();
    let (online, offline) = (PresenceState::Online, PresenceState::Offline);
    assert_eq!(states, [offline, online, offline, online]);
    assert!(history.windows(2).all(|pair| pair[0].epoch > pair[1].epoch), "{history:?}");
    cloud.stop().await;
}

/// What was connected when a node was lost is suspect, until it is back or the grace is over; then that is told.
#[tokio::test]
async fn after_a_node_was_lost_devices_are_suspect_and_then_gone() {
    let memory = Arc::new(Memory::new(StoreLimits::default()));
    let cloud = Cloud::over(memory.clone()).await;
    let (mut lamp, mut door) = (cloud.offline(lasting("dev-lamp", "lamp")), cloud.offline(lasting("dev-door", "door")));
    lamp.connect().await;
    door.connect().await;
    let before = presence(&cloud, "lamp").unwrap();
    cloud.crash().await;

    let cloud = Cloud::over(memory).await;
    let mut watcher = cloud.client("app-w", "watcher").await;
    watcher.subscribe("d/+/status", QoS::AtLeastOnce).await;
    until("the sessions to be known", || cloud.node.sessions_len() == 3).await;
    let lost = presence(&cloud, "lamp").unwrap();
    assert_eq!(
        (lost.state, lost.is_online(), lost.cause.as_deref()),
        (PresenceState::Suspect, false, Some("node_lost"))
    );
    assert!(lost.epoch > before.epoch, "later than what the lost node has told");
    let mut door = cloud.offline(lasting("dev-door", "door"));
    door.connect().await;
    cloud.node.inner.end_suspicion().await.unwrap();
    assert_eq!(state(&cloud, "door"), Some(PresenceState::Online), "it was back in time");
    let gone = presence(&cloud, "lamp").unwrap();
    assert_eq!(
        (gone.state, gone.since, gone.cause.as_deref()),
        (PresenceState::Offline, lost.since, Some("node_lost"))
    );
    let told = async {
        loop {
            let message = watcher.message().await;
            let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            if &*message.topic == "d/lamp/status" && body["state"] == "offline" {
                return body;
            }
        }
    };
    let told = super::client::soon("the status", told).await;
    assert_eq!((&told["cause"], &told["epoch"]), (&"node_lost".into(), &gone.epoch.into()));
    cloud.stop().await;
}

#[tokio::test]
async fn the_history_outlives_the_node_and_ends_after_thirty_days_or_with_the_ownership() {
    let memory = Arc::new(Memory::new(StoreLimits::default()));
    let cloud = Cloud::over(memory.clone()).await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    lamp.leave(ReasonCode::Success).await;
    until("it to be gone", || state(&cloud, "lamp") == Some(PresenceState::Offline)).await;
    cloud.stop().await;

    let cloud = Cloud::over(memory).await;
    let before = history(&cloud, "lamp").await;
    assert_eq!(before.len(), 2, "{before:?}");
    cloud.clock.advance(Duration::from_secs(30 * 24 * 3_600 - 3_600));
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    lamp.leave(ReasonCode::Success).await;
    until("it to be gone", || state(&cloud, "lamp") == Some(PresenceState::Offline)).await;
    let all = history(&cloud, "lamp").await;
    assert_eq!((all.len(), &all[2..]), (4, &before[..]), "also before it is written");
    cloud.node.inner.write_history().await.unwrap();
    assert_eq!(history(&cloud, "lamp").await, all);
    cloud.clock.advance(Duration::from_secs(24 * 3_600));
    cloud.node.inner.sweep_history().await.unwrap();
    assert_eq!(history(&cloud, "lamp").await, all[..2]);
    cloud.change("lamp", |device| device.epoch.0 += 1).await;
    assert_eq!(history(&cloud, "lamp").await, [], "the next owner does not see it");
    cloud.stop().await;
}

#[tokio::test]
async fn a_day_is_bounded() {
    let cloud = Cloud::start().await;
    for _ in 0..300 {
        let mut lamp = cloud.client("dev-lamp", "lamp").await;
        lamp.leave(ReasonCode::Success).await;
        until("it to be gone", || state(&cloud, "lamp") == Some(PresenceState::Offline)).await;
    }
    cloud.node.inner.write_history().await.unwrap();
    let days = cloud.node.inner.connection_days(&tenant(), &"lamp".parse().unwrap()).await.unwrap();
    assert_eq!(days.len(), 1);
    let key = Device::key_of(&tenant(), &"lamp".parse().unwrap());
    let device = cloud.node.stores().meta.find::<Device>(&key).await.unwrap().unwrap().document;
    let all = cloud.node.connections(&device, usize::MAX).await.unwrap();
    assert_eq!(all.len(), 500);
    assert_eq!(all[0].epoch, presence(&cloud, "lamp").unwrap().epoch, "the newest are kept");
    cloud.stop().await;
}
