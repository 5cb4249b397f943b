//! Services that devices ask.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use iot_core::{
    logic::BoxError,
    message::QoS,
    service::{BoxDeviceService, Call, DeviceCall, Downlink, Told},
};
use iot_store::{StoreLimits, memory::Memory};
use tower::{service_fn, util::BoxCloneSyncService};

use super::cloud::{Cloud, tenant};
use crate::mqtt::{ReasonCode, packet::Subscription};

/// Says what it was asked, and by whom; greets while it is told to.
fn echo(greets: Arc<AtomicBool>) -> BoxDeviceService {
    BoxCloneSyncService::new(service_fn(move |DeviceCall { device, call, .. }: DeviceCall| {
        let greets = greets.clone();
        async move {
            Ok::<_, BoxError>(match call {
                Call::Asked(question) if question == "nothing" => None,
                Call::Asked(question) => Some([device.id.as_str().as_bytes(), b" asks ", &question].concat().into()),
                Call::Connected => greets.load(Ordering::SeqCst).then(|| Bytes::from_static(b"welcome")),
                _ => None,
            })
        }
    }))
}

fn broken() -> BoxDeviceService {
    BoxCloneSyncService::new(service_fn(|call: DeviceCall| async move {
        match call.call {
            Call::Asked(_) => Err(BoxError::from("broken")),
            _ => Ok(None),
        }
    }))
}

async fn cloud(greets: bool) -> (Cloud, Arc<dyn Downlink>) {
    let downlink = Arc::new(Mutex::new(None));
    let kept = downlink.clone();
    let memory = Arc::new(Memory::new(StoreLimits::default()));
    let cloud = Cloud::with(memory, move |builder| {
        *kept.lock().unwrap() = Some(builder.downlink());
        let greets = Arc::new(AtomicBool::new(greets));
        builder.service("echo".parse().unwrap(), echo(greets)).service("broken".parse().unwrap(), broken())
    })
    .await;
    let downlink = downlink.lock().unwrap().take().unwrap();
    (cloud, downlink)
}

#[tokio::test]
async fn a_device_asks_and_is_answered_and_nobody_else_hears_it() {
    let (cloud, _) = cloud(false).await;
    let mut app = cloud.client("app-a", "a").await;
    app.subscribe("#", QoS::AtLeastOnce).await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    assert!(app.message().await.topic.ends_with("status"));
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert_eq!(lamp.publish("up/service/echo", "who am I", qos).await, ReasonCode::Success);
        let answer = lamp.message().await;
        assert_eq!((&*answer.topic, &answer.payload[..]), ("down/service/echo", &b"lamp asks who am I"[..]));
    }
    assert_eq!(lamp.publish("up/service/echo", "nothing", QoS::AtLeastOnce).await, ReasonCode::Success);
    assert!(app.texts_until_own("x").await.is_empty());
}

#[tokio::test]
async fn a_service_that_is_not_there_is_refused_and_one_that_fails_says_so() {
    let (cloud, _) = cloud(false).await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    for topic in ["up/service/nobody", "up/service/", "up/service/a/b", "down/service/echo"] {
        assert_eq!(lamp.publish(topic, "1", QoS::AtLeastOnce).await, ReasonCode::NotAuthorized, "{topic}");
    }
    assert_eq!(lamp.publish("up/service/broken", "1", QoS::AtLeastOnce).await, ReasonCode::UnspecifiedError);
    assert!(lamp.text().await.contains(r#""code":"unavailable""#));
}

#[tokio::test]
async fn applications_neither_ask_nor_listen() {
    let (cloud, _) = cloud(false).await;
    let mut app = cloud.client("app-a", "a").await;
    for topic in ["d/lamp/up/service/echo", "d/lamp/down/service/echo", "up/service/echo"] {
        let reason = app.publish(topic, "1", QoS::AtLeastOnce).await;
        let expected =
            if topic.starts_with("d/") { ReasonCode::NotAuthorized } else { ReasonCode::NoMatchingSubscribers };
        assert_eq!(reason, expected, "{topic}");
    }
    app.subscribe_with(&[Subscription::new("d/lamp/down/#", QoS::AtLeastOnce)], None).await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    lamp.publish("up/service/echo", "secret", QoS::AtLeastOnce).await;
    assert_eq!(lamp.text().await, "lamp asks secret");
    app.subscribe("own", QoS::AtLeastOnce).await;
    assert!(app.texts_until_own("own").await.is_empty());
}

#[tokio::test]
async fn a_device_that_connects_is_greeted_and_one_that_is_connected_is_told() {
    let (cloud, downlink) = cloud(true).await;
    let (tenant, lamp_id, echo) = (tenant(), "lamp".parse().unwrap(), "echo".parse().unwrap());
    let tell = || downlink.tell(&tenant, &lamp_id, &echo, Bytes::from_static(b"news"));
    assert_eq!(tell().await, Told::NotConnected);
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    assert_eq!(lamp.text().await, "welcome");
    assert_eq!(tell().await, Told::Sent);
    let news = lamp.message().await;
    assert_eq!((&*news.topic, &news.payload[..]), ("down/service/echo", &b"news"[..]));
}
