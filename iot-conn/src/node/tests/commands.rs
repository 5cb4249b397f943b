use std::{sync::Arc, time::Duration};

use iot_core::{
    command::{CommandRequest, CommandState, Offline},
    message::QoS,
};

use super::{
    client::{soon, until},
    cloud::{Cloud, tenant},
};
use crate::{command::Cancelled, node::Commanded};

fn request(id: &str, offline: Offline) -> CommandRequest {
    CommandRequest {
        by: None,
        id: id.parse().unwrap(),
        tenant: tenant(),
        device: "lamp".parse().unwrap(),
        name: "blink".to_owned(),
        args: serde_json::json!({}),
        timeout: Duration::from_secs(60),
        offline,
        supersede: false,
    }
}

#[tokio::test]
async fn a_command_waits_for_its_device_and_its_end_for_the_reply() {
    let cloud = Cloud::start().await;
    let commander = cloud.node.commander();
    assert_eq!(commander.submit(request("c1", Offline::Fail)).await.unwrap(), Commanded::DeviceOffline);
    let taken = commander.submit(request("c2", Offline::Wait)).await.unwrap();
    assert!(matches!(taken, Commanded::Receipt(receipt) if receipt.state == CommandState::Queued));
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    let message = lamp.message().await;
    assert_eq!(&*message.topic, "down/command");
    let (tenant, id) = (tenant(), "c2".parse().unwrap());
    let reply = r#"{"id":"c2","status":"applied"}"#;
    let (ended, code) = tokio::join!(
        soon("the end", commander.wait(&tenant, &id, Duration::from_secs(15))),
        lamp.publish("up/reply", reply, QoS::AtLeastOnce),
    );
    assert!(!code.is_error(), "{code:?}");
    assert!(ended.unwrap().unwrap().state.is_final());
    until("nothing to be under way", || commander.open_len() == 0).await;
}

#[tokio::test]
async fn a_command_that_was_taken_back_is_not_sent() {
    let cloud = Cloud::start().await;
    let commander = Arc::new(cloud.node.commander());
    let _taken = commander.submit(request("c1", Offline::Wait)).await.unwrap();
    let cancelled = soon("the end", commander.cancel(&tenant(), &"c1".parse().unwrap())).await.unwrap();
    assert!(matches!(cancelled, Cancelled::Done(_)), "{cancelled:?}");
    let _taken = commander.submit(request("c2", Offline::Wait)).await.unwrap();
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    let text = lamp.text().await;
    assert!(text.contains("c2"), "{text}");
}
