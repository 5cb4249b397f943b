//! Too many clients at once, two for one session, and a node that hands its clients away.

use std::{sync::Arc, time::Duration};

use iot_core::{
    device::Product,
    message::{Properties, QoS},
    store::{Batch, MetaStoreExt},
};
use iot_store::{StoreLimits, memory::Memory};

use super::{
    client::{Client, lasting, options, soon, until},
    cloud::{Cloud, tenant},
};
use crate::{
    mqtt::{
        ReasonCode,
        client::{Cause, ClientOptions, Event, LastWill, Publication, Refused},
        packet::Version,
    },
    node::{Drain, storm::RETRY_AFTER_MAX},
    transport::{AcceptorLimits, Rate},
};

fn memory() -> Arc<Memory> {
    Arc::new(Memory::new(StoreLimits::default()))
}

async fn limited(limits: AcceptorLimits) -> Cloud {
    Cloud::with(memory(), |builder| builder.acceptor_limits(limits)).await
}

async fn refused(client: &mut Client) -> Refused {
    match client.try_connect().await {
        Event::Refused(refused) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_crowd_is_told_when_to_come_back_and_finds_room_then() {
    let cloud = limited(AcceptorLimits { connects: Rate { per_s: 10, burst: 5 }, ..AcceptorLimits::default() }).await;
    let mut inside = Vec::new();
    let mut outside = Vec::new();
    for n in 0..12 {
        let mut client = cloud.offline(options("app-a", &n.to_string()));
        match client.try_connect().await {
            Event::Connected(_) => inside.push(client),
            Event::Refused(refused) => {
                assert_eq!(refused.reason, ReasonCode::ConnectionRateExceeded);
                outside.push((refused.retry_after.expect("a time to come back"), client));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((inside.len(), outside.len()), (4, 8));
    assert_eq!(cloud.node.sessions_len(), 4, "a refused client leaves nothing behind");
    assert!(outside.windows(2).all(|pair| pair[0].0 < pair[1].0), "each has a time of its own");
    let mut passed = Duration::ZERO;
    for (wait, client) in &mut outside {
        cloud.clock.advance(*wait - passed);
        passed = *wait;
        client.connect().await;
    }
    cloud.stop().await;
}

#[tokio::test]
async fn devices_of_critical_products_come_first() {
    let memory = memory();
    let product = Product { critical: true, ..Product::new(tenant(), "p".parse().unwrap(), "Lock") };
    assert!(memory.commit_or_conflict(Batch::default().create(&product)).await.unwrap());
    let limits = AcceptorLimits { connects: Rate { per_s: 1, burst: 9 }, ..AcceptorLimits::default() };
    let cloud = Cloud::with(memory, |builder| builder.acceptor_limits(limits)).await;
    let mut crowd = Vec::new();
    loop {
        let mut client = cloud.offline(options("app-a", &crowd.len().to_string()));
        match client.try_connect().await {
            Event::Connected(_) => crowd.push(client),
            Event::Refused(_) => break,
            other => panic!("{other:?}"),
        }
    }
    cloud.client("dev-lamp", "lamp").await;
    cloud.stop().await;
}

#[tokio::test]
async fn beyond_the_most_connections_a_client_is_told_that_the_server_is_busy() {
    let limits = AcceptorLimits { connections_max: 1, refusals_max: 1, ..AcceptorLimits::default() };
    let cloud = limited(limits).await;
    let mut first = cloud.client("app-a", "first").await;
    let mut second = cloud.offline(options("app-a", "second"));
    let told = refused(&mut second).await;
    assert_eq!(told.reason, ReasonCode::ServerBusy);
    assert!(told.retry_after.is_some());
    let mut old = cloud.offline(ClientOptions {
        version: Version::V311,
        username: Some("app".into()),
        ..options("app-a", "old")
    });
    until_told(&mut old).await;
    first.engine.disconnect(ReasonCode::Success);
    first.write().await;
    drop(first);
    until("the first to be gone", || cloud.node.sessions_len() == 0).await;
    // The place is given back a moment after the session.
    soon("a place", async { while !matches!(second.try_connect().await, Event::Connected(_)) {} }).await;
}

/// The place for refusals is given back a moment after the refusal: a client that comes earlier is closed without a word.
async fn until_told(client: &mut Client) {
    let told = async {
        loop {
            if let Some(Event::Refused(refused)) = client.connects_or_ends().await {
                return refused;
            }
        }
    };
    assert_eq!(soon("a word", told).await.reason, ReasonCode::ServerUnavailable);
}

#[tokio::test]
async fn two_that_take_one_session_from_each_other_are_slowed_down() {
    let cloud = Cloud::start().await;
    let mut first = cloud.client("app-a", "same").await;
    for _ in 0..3 {
        let second = cloud.client("app-a", "same").await;
        assert_eq!(first.ended().await, ReasonCode::SessionTakenOver);
        first = second;
    }
    // The real time passes here: a quarter of a second is the first that is waited.
    let mut gone = cloud.offline(options("app-a", "same"));
    gone.begin().await;
    gone.cut();
    let before = std::time::Instant::now();
    let _second = cloud.client("app-a", "same").await;
    assert!(before.elapsed() >= Duration::from_millis(250), "{:?}", before.elapsed());
    assert_eq!(first.ended().await, ReasonCode::SessionTakenOver, "taken by one that was there to take it");
    cloud.stop().await;
}

#[tokio::test]
async fn a_draining_node_hands_clients_to_another_at_a_rate_and_publishes_no_will() {
    let memory = memory();
    let drain = Drain { per_s: 20, within: Duration::from_secs(60), server_reference: Some("b.example:8883".into()) };
    // Times that are apart in milliseconds.
    let limits = AcceptorLimits { connects: Rate { per_s: 100, burst: 100 }, ..AcceptorLimits::default() };
    let cloud = Cloud::with(memory.clone(), |builder| builder.drain(drain).acceptor_limits(limits)).await;
    let mut watcher = cloud.offline(lasting("app-w", "watcher"));
    watcher.connect().await;
    watcher.subscribe("will/#", QoS::AtLeastOnce).await;
    let mut clients = Vec::new();
    for n in 0..10 {
        let mut options = lasting("app-a", &n.to_string());
        options.will = Some(LastWill {
            topic: format!("will/{n}"),
            payload: "gone".into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_s: 0,
            properties: Properties::default(),
        });
        let mut client = cloud.offline(options);
        client.connect().await;
        clients.push(client);
    }
    let stopping = tokio::spawn(cloud.stop());
    let mut waits = Vec::new();
    for client in &mut clients {
        match client.answer().await {
            Event::Disconnected(Cause::Server { reason, server_reference, retry_after, .. }) => {
                assert_eq!(reason, ReasonCode::UseAnotherServer);
                assert_eq!(server_reference.as_deref(), Some("b.example:8883"));
                waits.push(retry_after.expect("a time to come back"));
            }
            other => panic!("{other:?}"),
        }
    }
    waits.sort();
    waits.dedup();
    assert_eq!(waits.len(), 10, "each has a time of its own");
    assert!(waits.iter().all(|wait| *wait <= RETRY_AFTER_MAX));
    stopping.await.unwrap();
    let cloud = Cloud::over(memory).await;
    let mut watcher = cloud.offline(lasting("app-w", "watcher"));
    watcher.connect().await;
    let mut publisher = cloud.client("app-a", "publisher").await;
    publisher.engine.publish(Publication::new("will/none", "after", QoS::AtLeastOnce)).unwrap();
    publisher.write().await;
    assert_eq!(watcher.text().await, "after", "no will came before it");
}

#[tokio::test]
async fn what_is_acknowledged_while_a_node_drains_is_not_lost() {
    let memory = memory();
    let drain = Drain { per_s: 10, within: Duration::from_secs(60), server_reference: None };
    let cloud = Cloud::with(memory.clone(), |builder| builder.drain(drain)).await;
    let mut subscriber = cloud.offline(lasting("app-w", "subscriber"));
    subscriber.connect().await;
    subscriber.subscribe("x", QoS::AtLeastOnce).await;
    subscriber.cut();
    let mut publishers = Vec::new();
    for n in 0..5 {
        publishers.push(cloud.client("app-a", &n.to_string()).await);
    }
    let stopping = tokio::spawn(cloud.stop());
    let mut acknowledged = 0;
    'publishers: for publisher in &mut publishers {
        loop {
            publisher.engine.publish(Publication::new("x", "m", QoS::AtLeastOnce)).unwrap();
            match publisher.answer().await {
                Event::Published { reason: ReasonCode::Success, .. } => acknowledged += 1,
                Event::Disconnected(_) => continue 'publishers,
                other => panic!("{other:?}"),
            }
        }
    }
    stopping.await.unwrap();
    assert!(acknowledged > 0, "clients are served until they are handed away");
    let cloud = Cloud::over(memory).await;
    let mut subscriber = cloud.offline(lasting("app-w", "subscriber"));
    subscriber.connect().await;
    for _ in 0..acknowledged {
        assert_eq!(subscriber.text().await, "m");
    }
    cloud.stop().await;
}
