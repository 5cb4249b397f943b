use iot_core::message::QoS;

use super::{client::soon, cloud::Cloud};
use crate::mqtt::{ReasonCode, packet::Subscription};

#[tokio::test]
async fn what_may_not_be_published_is_refused() {
    let cloud = Cloud::start().await;
    let refusals = [
        ("", "d/lamp/down/custom/x"),
        ("", "$SYS/x"),
        ("", "alarm/lamp"),
        ("view-a", "x"),
        ("view-a", "d/lamp/down/custom/x"),
        ("app-a", "d/lamp/up/telemetry"),
        ("app-a", "d/nobody/down/custom/x"),
        ("dev-lamp", "down/custom/x"),
        ("dev-lamp", "d/door/up/telemetry"),
        ("dev-lamp", "status"),
    ];
    for (token, topic) in refusals {
        let mut client = cloud.client(token, if token == "dev-lamp" { "lamp" } else { "c" }).await;
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert_eq!(client.publish(topic, "1", qos).await, ReasonCode::NotAuthorized, "{token} {topic}");
        }
    }
}

#[tokio::test]
async fn an_anonymous_client_sees_nothing_of_devices() {
    let cloud = Cloud::start().await;
    let mut watcher = cloud.client("app-a", "w").await;
    watcher.subscribe("d/+/up/telemetry", QoS::AtLeastOnce).await;
    let mut anonymous = cloud.client("", "c").await;
    for filter in ["#", "+/+/up/telemetry", "own"] {
        anonymous.subscribe(filter, QoS::AtLeastOnce).await;
    }
    let codes = anonymous.subscribe_with(&[Subscription::new("d/#", QoS::AtLeastOnce)], None).await;
    assert_eq!(codes, [ReasonCode::NotAuthorized]);
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    assert_eq!(lamp.publish("up/telemetry", r#"{"values":{"n":1}}"#, QoS::AtLeastOnce).await, ReasonCode::Success);
    assert_eq!(&*watcher.message().await.topic, "d/lamp/up/telemetry");
    assert!(anonymous.texts_until_own("own").await.is_empty());
}

#[tokio::test]
async fn a_device_sees_only_what_is_sent_to_it() {
    let cloud = Cloud::start().await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    lamp.subscribe("#", QoS::AtLeastOnce).await;
    let mut door = cloud.client("dev-door", "door").await;
    door.subscribe("#", QoS::AtLeastOnce).await;
    let mut app = cloud.client("app-a", "a").await;
    lamp.publish("up/telemetry", r#"{"values":{"n":1}}"#, QoS::AtLeastOnce).await;
    app.publish("x", "free", QoS::AtLeastOnce).await;
    app.publish("d/door/down/custom/x", "to the door", QoS::AtLeastOnce).await;
    app.publish("d/lamp/down/custom/x", "to the lamp", QoS::AtLeastOnce).await;
    for (device, text) in [(&mut lamp, "to the lamp"), (&mut door, "to the door")] {
        let message = device.message().await;
        assert_eq!((&*message.topic, &message.payload[..]), ("down/custom/x", text.as_bytes()));
    }
}

#[tokio::test]
async fn whether_a_device_is_connected_is_told_at_once_and_to_who_comes_later() {
    let cloud = Cloud::start().await;
    let mut early = cloud.client("app-a", "early").await;
    early.subscribe("d/+/status", QoS::AtLeastOnce).await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    assert!(early.text().await.contains(r#""online":true"#));
    let mut late = cloud.client("app-a", "late").await;
    late.subscribe("d/+/status", QoS::AtLeastOnce).await;
    let message = late.message().await;
    assert!(message.retain);
    assert_eq!(&*message.topic, "d/lamp/status");
    lamp.cut();
    assert!(early.text().await.contains(r#""online":false"#));
    assert!(late.text().await.contains(r#""online":false"#));
}

#[tokio::test]
async fn a_revoked_credential_ends_its_connection() {
    let cloud = Cloud::start().await;
    let mut revoked = cloud.client("app-revoked", "c").await;
    let mut other = cloud.client("app-other", "c").await;
    cloud.revoke("app-revoked").await;
    assert_eq!(soon("the end", revoked.ended()).await, ReasonCode::NotAuthorized);
    other.subscribe("own", QoS::AtLeastOnce).await;
    assert!(other.texts_until_own("own").await.is_empty());
}
