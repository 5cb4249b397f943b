//! Accounts, whose grants are about homes, over MQTT.

use std::time::Duration;

use iot_core::{
    access::Relation,
    clock::Clock,
    command::{CommandRequest, CommandSender, CommandState, Offline},
    id::OwnershipEpoch,
    message::QoS,
};

use super::{
    client::{lasting, until},
    cloud::{Cloud, tenant},
};
use crate::{
    mqtt::{ReasonCode, packet::Subscription},
    node::Commanded,
};

const REPORT: &str = r#"{"values":{"n":1}}"#;

/// A cloud in which the lamp stands in the home `h` and ann is a member of it.
async fn home() -> Cloud {
    let cloud = Cloud::start().await;
    cloud.change("lamp", |lamp| lamp.home = Some("h".parse().unwrap())).await;
    cloud.grant("ann", Some(Relation::Member), None).await;
    cloud
}

fn watched(cloud: &Cloud) -> usize {
    cloud.node.inner.registry.all().iter().map(|endpoint| endpoint.subscriptions_len()).sum()
}

#[tokio::test]
async fn sh_7_a_member_watches_the_devices_of_the_home_by_name_and_nothing_else() {
    let cloud = home().await;
    let mut ann = cloud.client("acc-ann", "phone").await;
    ann.subscribe("d/lamp/#", QoS::AtLeastOnce).await;
    for filter in
        ["#", "+/lamp/#", "d/#", "d/+/up/telemetry", "d/door/#", "d/nobody/#", "$share/g/d/+/#", "alarm/#", "x"]
    {
        let codes = ann.subscribe_with(&[Subscription::new(filter, QoS::AtLeastOnce)], None).await;
        assert_eq!(codes, [ReasonCode::NotAuthorized], "{filter}");
    }
    let mut door = cloud.client("dev-door", "door").await;
    door.publish("up/telemetry", REPORT, QoS::AtLeastOnce).await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    lamp.publish("up/telemetry", REPORT, QoS::AtLeastOnce).await;
    assert_eq!(&*ann.message().await.topic, "d/lamp/status");
    assert_eq!(&*ann.message().await.topic, "d/lamp/up/telemetry");
}

#[tokio::test]
async fn a_guest_watches_nothing_and_a_member_publishes_nothing() {
    let cloud = home().await;
    cloud.grant("eve", Some(Relation::Guest), None).await;
    let mut eve = cloud.client("acc-eve", "phone").await;
    let codes = eve.subscribe_with(&[Subscription::new("d/lamp/#", QoS::AtLeastOnce)], None).await;
    assert_eq!(codes, [ReasonCode::NotAuthorized]);
    let mut ann = cloud.client("acc-ann", "phone").await;
    for topic in ["d/lamp/down/custom/x", "d/lamp/up/telemetry", "alarm/lamp", "x"] {
        assert_eq!(ann.publish(topic, "1", QoS::AtLeastOnce).await, ReasonCode::NotAuthorized, "{topic}");
        assert_eq!(ann.retain(topic, "1").await, ReasonCode::NotAuthorized, "{topic}");
    }
}

#[tokio::test]
async fn sh_6_who_is_removed_loses_the_subscription_at_once() {
    let cloud = home().await;
    let mut ann = cloud.client("acc-ann", "phone").await;
    ann.subscribe("d/lamp/up/#", QoS::AtLeastOnce).await;
    assert_eq!(watched(&cloud), 1);
    cloud.grant("ann", None, None).await;
    until("the subscription to end", || watched(&cloud) == 0).await;
    let codes = ann.subscribe_with(&[Subscription::new("d/lamp/up/#", QoS::AtLeastOnce)], None).await;
    assert_eq!(codes, [ReasonCode::NotAuthorized]);
}

#[tokio::test]
async fn sh_2_a_share_that_expires_mid_session_is_over_with_the_next_message() {
    let cloud = home().await;
    let end = cloud.clock.timestamp().plus(Duration::from_secs(60));
    cloud.grant("ann", Some(Relation::Member), Some(end)).await;
    let mut ann = cloud.client("acc-ann", "phone").await;
    ann.subscribe("d/lamp/up/#", QoS::AtLeastOnce).await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    lamp.publish("up/telemetry", REPORT, QoS::AtLeastOnce).await;
    assert_eq!(ann.text().await, REPORT);
    cloud.clock.advance(Duration::from_secs(60));
    lamp.publish("up/telemetry", REPORT, QoS::AtLeastOnce).await;
    until("the subscription to end", || watched(&cloud) == 0).await;
    let codes = ann.subscribe_with(&[Subscription::new("d/lamp/up/#", QoS::AtLeastOnce)], None).await;
    assert_eq!(codes, [ReasonCode::NotAuthorized], "and nothing of the second report came before this answer");
}

#[tokio::test]
async fn a_device_that_comes_to_another_owner_connects_anew_and_leaves_its_watchers_behind() {
    let cloud = home().await;
    let mut ann = cloud.client("acc-ann", "phone").await;
    ann.subscribe("d/lamp/up/#", QoS::AtLeastOnce).await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    cloud
        .change("lamp", |lamp| {
            lamp.home = Some("other".parse().unwrap());
            lamp.epoch = OwnershipEpoch(1);
        })
        .await;
    assert_eq!(lamp.ended().await, ReasonCode::AdministrativeAction);
    until("the subscription to end", || watched(&cloud) == 0).await;
}

#[tokio::test]
async fn what_waited_for_somebody_who_was_removed_meanwhile_is_not_delivered() {
    let cloud = home().await;
    let mut ann = cloud.offline(lasting("acc-ann", "phone"));
    ann.connect().await;
    ann.subscribe("d/lamp/up/#", QoS::AtLeastOnce).await;
    ann.cut();
    until("ann to be gone", || cloud.node.inner.registry.connected().is_empty()).await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    assert_eq!(lamp.publish("up/telemetry", REPORT, QoS::AtLeastOnce).await, ReasonCode::Success);
    cloud.grant("ann", None, None).await;
    assert!(ann.connect().await.session_present);
    until("the subscription to end", || watched(&cloud) == 0).await;
    cloud.grant("ann", Some(Relation::Member), None).await;
    let granted = || {
        cloud
            .node
            .inner
            .registry
            .connected()
            .iter()
            .any(|link| link.device.is_none() && !link.grants().tuples.is_empty())
    };
    until("the grant to be seen", granted).await;
    ann.subscribe("d/lamp/up/#", QoS::AtLeastOnce).await;
    let late = r#"{"values":{"n":2}}"#;
    lamp.publish("up/telemetry", late, QoS::AtLeastOnce).await;
    assert_eq!(ann.text().await, late);
}

#[tokio::test]
async fn sh_6_a_command_that_waited_is_not_sent_when_its_sender_was_removed_meanwhile() {
    let cloud = home().await;
    cloud.grant("bob", Some(Relation::Guest), None).await;
    let commander = cloud.node.commander();
    for who in ["ann", "bob"] {
        let by = CommandSender::Account { account: who.parse().unwrap(), login: "login".parse().unwrap() };
        let request = CommandRequest { by: Some(by), ..request(who) };
        assert!(matches!(commander.submit(request).await, Ok(Commanded::Receipt(_))));
    }
    cloud.grant("ann", None, None).await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    assert!(lamp.text().await.contains(r#""id":"bob""#));
    let receipt = commander.receipt(&tenant(), &"ann".parse().unwrap()).await.unwrap().unwrap();
    let wait = commander.wait(&tenant(), &receipt.id, Duration::from_secs(20)).await.unwrap().unwrap();
    assert_eq!(wait.state, CommandState::Cancelled);
}

fn request(id: &str) -> CommandRequest {
    CommandRequest {
        by: None,
        id: id.parse().unwrap(),
        tenant: tenant(),
        device: "lamp".parse().unwrap(),
        name: "set".to_owned(),
        args: serde_json::json!({"on": true}),
        timeout: Duration::from_secs(60),
        offline: Offline::Wait,
        supersede: false,
    }
}
