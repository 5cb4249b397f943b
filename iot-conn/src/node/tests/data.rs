//! What is kept of a device, by owner, and its end.

use std::sync::Arc;

use bytes::Bytes;
use iot_core::{
    access::{Principal, Subject},
    command::{CommandState, DurableCommand, Receipt},
    device::Device,
    event::{Event, Report, Value},
    id::{NodeId, OwnershipEpoch},
    message::{Message, QoS},
    store::{Batch, Document, MetaStore, MetaStoreExt, Publication, SessionStore, TelemetryStore},
    time::Timestamp,
    twin::Twin,
};
use iot_store::{StoreLimits, memory::Memory};

use super::cloud::{Cloud, tenant};
use crate::node::{Alarm, Epochs, Erased};

const OWNERS: [OwnershipEpoch; 2] = [OwnershipEpoch(0), OwnershipEpoch(1)];

fn event(device: &Device, epoch: OwnershipEpoch, n: i64) -> Event {
    Event {
        tenant: tenant(),
        product: device.product.clone(),
        device: device.id.clone(),
        epoch,
        home: None,
        at: Timestamp::from_micros(n),
        received: Timestamp::from_micros(n),
        device_sequence: None,
        report: Report::Telemetry(vec![("n".parse().unwrap(), Value::Int(n))]),
    }
}

fn alarm(device: &Device, epoch: OwnershipEpoch) -> Alarm {
    Alarm {
        tenant: tenant(),
        device: device.id.clone(),
        epoch,
        name: format!("hot-{}", epoch.0),
        active: true,
        since: Timestamp::EPOCH,
        text: String::new(),
        cause: String::new(),
    }
}

fn command(device: &Device, epoch: OwnershipEpoch, state: CommandState) -> DurableCommand {
    let receipt = Receipt {
        id: format!("{}-{}-{state:?}", device.id, epoch.0).parse().unwrap(),
        tenant: tenant(),
        device: device.id.clone(),
        name: "set".to_owned(),
        state,
        history: vec![],
        deadline: Timestamp::MAX,
        result: None,
        error: None,
        by: None,
        epoch,
    };
    DurableCommand { epoch, args: serde_json::Value::Null, receipt }
}

fn retained(device: &Device, epoch: OwnershipEpoch) -> Publication {
    let message = Message {
        tenant: tenant(),
        topic: format!("d/{}/up/custom/{}", device.id, epoch.0).into(),
        payload: Bytes::from_static(b"was here"),
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: None,
        published: Timestamp::EPOCH,
        expires: None,
        device: Some((device.id.clone(), epoch)),
    };
    Publication { message, to: vec![], received: None }
}

/// Two devices, each with a past owner and a present one.
async fn past(memory: &Memory) -> [Device; 2] {
    let node = NodeId::parse("n").unwrap();
    let mut devices = Vec::new();
    for id in ["lamp", "door"] {
        let key = Device::key_of(&tenant(), &id.parse().unwrap());
        let read = memory.find::<Device>(&key).await.unwrap().unwrap();
        let device = Device { epoch: OWNERS[1], ..read.document.clone() };
        let mut batch = Batch::default().replace(&read, &device);
        for epoch in OWNERS {
            memory.append(&node, &(0..10).map(|n| event(&device, epoch, n)).collect::<Vec<_>>()).await.unwrap();
            batch = batch.create(&alarm(&device, epoch)).create(&Twin::new(tenant(), device.id.clone(), epoch));
            batch = batch.create(&command(&device, epoch, CommandState::Applied));
            memory.offer(&[retained(&device, epoch)]).await.unwrap();
        }
        batch = batch.create(&command(&device, OWNERS[1], CommandState::Accepted));
        assert!(memory.commit_or_conflict(batch).await.unwrap());
        devices.push(device);
    }
    devices.try_into().unwrap()
}

fn by() -> Principal {
    Principal { tenant: tenant(), subject: Subject::Token("app-a".parse().unwrap()) }
}

async fn kept(cloud: &Cloud, memory: &Memory, device: &Device) -> (usize, usize, usize, usize, bool) {
    let records = cloud.node.records(device).await.unwrap();
    let reports = cloud.node.reports(device, None, 100).await.unwrap().items.len();
    let filter = format!("d/{}/up/#", device.id);
    let retained = memory.retained(&tenant(), &filter, None, 10, Timestamp::EPOCH).await.unwrap().len();
    (reports, records.alarms.len(), records.commands.len(), retained, records.twin.is_some())
}

fn erased(events: u64, records: u64, retained: u64) -> Erased {
    Erased { events, records, retained }
}

#[tokio::test]
async fn an_owner_erases_their_own_and_the_vendor_what_was_before() {
    let memory = Arc::new(Memory::new(StoreLimits::default()));
    let cloud = Cloud::over(memory.clone()).await;
    let [lamp, door] = past(&memory).await;
    let former = Device { epoch: OWNERS[0], ..lamp.clone() };
    assert_eq!(kept(&cloud, &memory, &lamp).await, (10, 1, 2, 2, true));

    assert_eq!(cloud.node.erase_data(&by(), &lamp, Epochs::Present).await.unwrap(), erased(10, 2, 1));
    // The twin is the present state, and one command is under way.
    assert_eq!(kept(&cloud, &memory, &lamp).await, (0, 0, 1, 1, true));
    assert_eq!(kept(&cloud, &memory, &former).await, (10, 1, 1, 1, true), "of the owner before");
    assert_eq!(cloud.node.erase_data(&by(), &lamp, Epochs::Present).await.unwrap(), erased(0, 0, 0));

    assert_eq!(cloud.node.erase_data(&by(), &lamp, Epochs::All).await.unwrap(), erased(10, 3, 1));
    assert_eq!(kept(&cloud, &memory, &former).await, (0, 0, 0, 0, false));
    assert_eq!(kept(&cloud, &memory, &lamp).await, (0, 0, 1, 0, true));
    assert_eq!(kept(&cloud, &memory, &door).await, (10, 1, 2, 2, true), "another device");

    let audit = MetaStore::audit(&*memory, &tenant(), None, 10).await.unwrap().items;
    let told: Vec<_> = audit.iter().map(|entry| (entry.action.as_str(), entry.subject.clone())).collect();
    let of = lamp.key().to_string();
    assert_eq!(told[0], ("device_history_erase", of.clone()));
    assert_eq!(told[1], ("device_data_erase", of));
    cloud.stop().await;
}
