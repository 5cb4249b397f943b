//! Twins over MQTT, through a node.

use std::sync::{Arc, Mutex};

use iot_core::{
    access::{Principal, Standing, Subject},
    clock::ManualClock,
    device::Device,
    message::QoS,
    store::{MetaStoreExt, Stored},
    time::Timestamp,
    twin::{Object, Written},
};
use iot_store::{StoreLimits, memory::Memory};
use serde_json::{Value, json};

use super::{
    client::{Client, soon},
    cloud::{Cloud, tenant},
};
use crate::{
    mqtt::ReasonCode,
    node::{LiveFilter, LiveKind},
    twin::{Desire, SERVICE, TwinWritten, Twins},
};

async fn cloud() -> (Cloud, Arc<Twins>) {
    let memory = Arc::new(Memory::new(StoreLimits::default()));
    let (kept, meta) = (Arc::new(Mutex::new(None)), memory.clone());
    let made = kept.clone();
    let cloud = Cloud::with(memory, move |builder| {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_763_856_000_000)));
        let twins = Arc::new(Twins::new(meta, clock, builder.downlink()));
        *made.lock().unwrap() = Some(twins.clone());
        builder.service(SERVICE.parse().unwrap(), twins.device_service())
    })
    .await;
    let twins = kept.lock().unwrap().take().unwrap();
    twins.announce_on(cloud.node.live_hub().clone());
    (cloud, twins)
}

fn app() -> Principal {
    Principal { tenant: tenant(), subject: Subject::Token("app-a".parse().unwrap()) }
}

async fn desire(cloud: &Cloud, twins: &Arc<Twins>, on: bool) {
    let key = Device::key_of(&tenant(), &"lamp".parse().unwrap());
    let lamp: Stored<Device> = cloud.node.stores().meta.find(&key).await.unwrap().unwrap();
    let patch: Object = [("on".to_owned(), Value::Bool(on))].into_iter().collect();
    let written = twins.write_desired(&app(), &lamp.document, &Desire { patch, ..Desire::default() }).await;
    assert!(matches!(written, Ok(TwinWritten::Decided(Written::Done { .. }))), "{written:?}");
}

async fn hears(device: &mut Client) -> Value {
    let message = device.message().await;
    assert_eq!(&*message.topic, "down/service/twin");
    serde_json::from_slice(&message.payload).unwrap()
}

#[tokio::test]
async fn a_device_learns_what_is_desired_before_and_while_it_is_connected_and_streams_show_it() {
    let (cloud, twins) = cloud().await;
    let Standing::Current(grants) = cloud.node.inner.access.standing(&app()).await.unwrap() else { panic!("revoked") };
    let filter = LiveFilter { kinds: [LiveKind::Twin].into(), ..LiveFilter::default() };
    let mut live = cloud.node.live(app(), grants, filter, None).await.unwrap();

    desire(&cloud, &twins, true).await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    assert_eq!(hears(&mut lamp).await, json!({"type": "delta", "version": 1, "desired": {"on": true}}));
    let report = r#"{"type": "report", "reported": {"on": true}}"#;
    assert_eq!(lamp.publish("up/service/twin", report, QoS::AtLeastOnce).await, ReasonCode::Success);
    assert_eq!(hears(&mut lamp).await, json!({"type": "accepted", "version": 2}));
    desire(&cloud, &twins, false).await;
    assert_eq!(hears(&mut lamp).await, json!({"type": "delta", "version": 3, "desired": {"on": false}}));

    for (version, desired, reported) in [
        (1, json!({"on": true}), json!({})),
        (2, json!({"on": true}), json!({"on": true})),
        (3, json!({"on": false}), json!({"on": true})),
    ] {
        let event = soon("a twin", live.next()).await.unwrap();
        assert_eq!(event.kind, LiveKind::Twin);
        assert_eq!(event.data, json!({"device": "lamp", "version": version, "desired": desired, "reported": reported}));
    }
}
