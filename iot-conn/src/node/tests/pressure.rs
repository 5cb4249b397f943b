use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use iot_core::{message::QoS, time::Monotonic};
use iot_store::{StoreLimits, memory::Memory};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use super::{
    client::{lasting, options, soon, until},
    cloud::Cloud,
};
use crate::mqtt::{
    ReasonCode,
    client::{ClientOptions, Event, Publication},
};

#[tokio::test]
async fn nothing_is_acknowledged_before_the_store_has_it() {
    let cloud = Cloud::start().await;
    let mut subscriber = cloud.offline(lasting("app-b", "sub"));
    subscriber.connect().await;
    subscriber.subscribe("x", QoS::AtLeastOnce).await;
    let mut publisher = cloud.client("app-a", "pub").await;
    cloud.sessions.down.store(true, Ordering::SeqCst);
    publisher.engine.publish(Publication::new("x", "kept", QoS::AtLeastOnce)).unwrap();
    publisher.write().await;
    until("a second attempt", || cloud.sessions.offers.load(Ordering::SeqCst) >= 2).await;
    assert_eq!(publisher.engine.unpublished(), 1);
    let early = tokio::time::timeout(Duration::ZERO, publisher.event()).await;
    assert!(early.is_err(), "{early:?}");
    cloud.sessions.down.store(false, Ordering::SeqCst);
    assert!(matches!(publisher.answer().await, Event::Published { reason: ReasonCode::Success, .. }));
    assert_eq!(subscriber.text().await, "kept");
}

#[tokio::test]
async fn a_client_is_refused_while_its_session_cannot_be_taken() {
    let cloud = Cloud::start().await;
    cloud.sessions.failures.store(1, Ordering::SeqCst);
    let mut client = cloud.offline(lasting("app-a", "c"));
    assert!(matches!(client.try_connect().await, Event::Refused(r) if r.reason == ReasonCode::ServerUnavailable));
    assert_eq!(cloud.node.sessions_len(), 0);
    client.connect().await;
}

#[tokio::test]
async fn a_subscription_that_cannot_be_stored_is_refused() {
    let cloud = Cloud::start().await;
    let mut client = cloud.offline(lasting("app-a", "c"));
    client.connect().await;
    cloud.sessions.failures.store(1, Ordering::SeqCst);
    let subscription = crate::mqtt::packet::Subscription::new("x", QoS::AtLeastOnce);
    assert_eq!(client.subscribe_with(&[subscription], None).await, [ReasonCode::UnspecifiedError]);
    assert!(cloud.node.inner.router.is_empty());
}

/// A queue that is full is told as an error, which frees the packet identifier: a message with the same must not be taken
/// for its repetition, on a later connection either.
#[tokio::test]
async fn a_packet_identifier_is_free_after_an_error() {
    let limits = StoreLimits { queue_messages_max: 0, ..StoreLimits::default() };
    let cloud = Cloud::over(Arc::new(Memory::new(limits))).await;
    let mut full = cloud.offline(lasting("app-b", "full"));
    full.connect().await;
    full.subscribe("x", QoS::ExactlyOnce).await;
    let mut publisher = cloud.offline(lasting("app-a", "pub"));
    publisher.connect().await;
    assert_eq!(publisher.publish("x", "lost", QoS::ExactlyOnce).await, ReasonCode::QuotaExceeded);
    publisher.cut();
    until("it to be gone", || cloud.node.inner.registry.connected().len() == 1).await;
    let opening = iot_core::store::Opening {
        session: iot_core::session::SessionId::token(&super::cloud::tenant(), &"app-a".parse().unwrap(), "pub"),
        clean: false,
        keep: Duration::from_secs(1),
        will: None,
        at: cloud.node.clock().timestamp(),
    };
    let opened = cloud.node.stores().sessions.open(opening).await.unwrap();
    assert_eq!(opened.resumed.unwrap().received, [0u16; 0]);
}

/// More than the sockets hold, so that the subscriber's mailbox fills.
const LARGE: usize = 100 * 1024;

async fn flood(cloud: &Cloud, qos: QoS, count: usize) -> super::client::Client {
    let options =
        ClientOptions { in_flight_max: 256, queue_messages_max: 4_096, keep_alive_s: 0, ..options("app-a", "pub") };
    let mut publisher = cloud.offline(options);
    publisher.connect().await;
    for _ in 0..count {
        publisher.engine.publish(Publication::new("x", vec![b'x'; LARGE], qos)).unwrap();
    }
    publisher
}

#[tokio::test]
async fn a_slow_subscriber_holds_up_its_publishers_and_gets_everything() {
    let cloud = Cloud::start().await;
    let mut subscriber = cloud.client("app-b", "sub").await;
    subscriber.subscribe("x", QoS::AtLeastOnce).await;
    let mut publisher = flood(&cloud, QoS::AtLeastOnce, 150).await;
    publisher.write().await;
    let mailbox = cloud.node.inner.registry.connected();
    let slow = |link: &&Arc<crate::node::endpoint::Link>| link.mailbox.is_congested();
    soon("senders to wait", async {
        while mailbox.iter().filter(slow).count() == 0 {
            tokio::select! {
                _ = publisher.event() => {}
                () = tokio::task::yield_now() => {}
            }
        }
    })
    .await;
    assert!(publisher.engine.unpublished() > 0);
    let reading = async {
        for _ in 0..150 {
            assert_eq!(subscriber.message().await.payload.len(), LARGE);
        }
    };
    let publishing = async {
        while publisher.engine.unpublished() > 0 {
            assert!(matches!(publisher.event().await, Event::Published { reason: ReasonCode::Success, .. }));
        }
    };
    tokio::join!(reading, publishing);
}

#[tokio::test]
async fn a_subscriber_that_stops_reading_is_given_up_and_its_publishers_go_on() {
    let cloud = Cloud::start().await;
    let mut subscriber = cloud.client("app-b", "sub").await;
    subscriber.subscribe("x", QoS::AtLeastOnce).await;
    let mut publisher = flood(&cloud, QoS::AtLeastOnce, 150).await;
    // Time stands still for the node's clock until senders wait; then more than the subscriber is given has passed.
    let congested = || cloud.node.inner.registry.connected().iter().any(|link| link.mailbox.is_congested());
    soon("all to be acknowledged", async {
        let mut advanced = false;
        while publisher.engine.unpublished() > 0 {
            if congested() && !advanced {
                advanced = true;
            }
            if advanced {
                cloud.clock.advance(Duration::from_millis(20));
            }
            tokio::select! {
                _ = publisher.event() => {}
                () = tokio::task::yield_now() => {}
            }
        }
    })
    .await;
    until("it to be gone", || cloud.node.sessions_len() == 1).await;
}

#[tokio::test]
async fn a_node_that_stops_keeps_what_it_has_acknowledged() {
    let memory = Arc::new(Memory::new(StoreLimits::default()));
    let cloud = Cloud::over(memory.clone()).await;
    let mut subscriber = cloud.offline(lasting("app-b", "sub"));
    subscriber.connect().await;
    subscriber.subscribe("x", QoS::AtLeastOnce).await;
    subscriber.cut();
    let mut publisher = cloud.client("app-a", "pub").await;
    for n in 0..500 {
        publisher.engine.publish(Publication::new("x", n.to_string(), QoS::AtLeastOnce)).unwrap();
    }
    let acknowledging = async {
        let mut acknowledged = 0;
        while let Event::Published { .. } = publisher.event().await {
            acknowledged += 1;
        }
        acknowledged
    };
    let session = iot_core::session::SessionId::token(&super::cloud::tenant(), &"app-b".parse().unwrap(), "sub");
    let (acknowledged, ()) = tokio::join!(acknowledging, cloud.stop());
    let queued = iot_core::store::SessionStore::peek(&*memory, &session, None, 1_000, usize::MAX).await.unwrap();
    assert!(queued.len() >= acknowledged, "{} of {acknowledged}", queued.len());
}

#[tokio::test]
async fn a_node_ends_although_its_stores_take_nothing() {
    let cloud = Cloud::start().await;
    let mut subscriber = cloud.offline(lasting("app-b", "sub"));
    subscriber.connect().await;
    subscriber.subscribe("x", QoS::AtLeastOnce).await;
    let mut publisher = cloud.client("app-a", "pub").await;
    cloud.sessions.down.store(true, Ordering::SeqCst);
    publisher.engine.publish(Publication::new("x", "never", QoS::AtLeastOnce)).unwrap();
    publisher.write().await;
    until("an attempt", || cloud.sessions.offers.load(Ordering::SeqCst) >= 1).await;
    cloud.stop().await;
}

fn announce(cloud: &Cloud, bytes: usize) {
    cloud.node.inner.announce(&super::cloud::tenant(), "alarm/x", vec![b'x'; bytes].into(), false);
}

/// A burst that comes before the connection's task has run does not find it stalled.
#[tokio::test]
async fn a_burst_after_silence_does_not_end_a_connection() {
    const BURST: usize = 5_000;
    let cloud = Cloud::start().await;
    let mut subscriber = cloud.client("app-b", "sub").await;
    subscriber.subscribe("alarm/x", QoS::AtLeastOnce).await;
    cloud.clock.advance(Duration::from_secs(20));
    (0..BURST).for_each(|_| announce(&cloud, 1));
    assert_eq!(subscriber.texts(BURST).await.len(), BURST);
}

/// What the WebSocket layer has taken and the socket has not goes out as the client reads, without anything else to wake it.
#[tokio::test]
async fn a_slow_websocket_gets_its_last_bytes() {
    const LAST: usize = 9;
    let cloud = Cloud::start().await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let tcp = soon("a connection", socket.connect(cloud.websocket)).await.unwrap();
    let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "mqtt".parse().unwrap());
    let (mut websocket, _) = soon("an upgrade", tokio_tungstenite::client_async(request, tcp)).await.unwrap();
    let mut engine = crate::mqtt::client::Client::new(options("app-b", "sub")).unwrap();
    engine.handle_connected(Monotonic::ZERO);
    let mut came = 0;
    while came < LAST {
        let output = engine.output().split().freeze();
        if !output.is_empty() {
            soon("the server to take bytes", websocket.send(Message::Binary(output))).await.unwrap();
        }
        let frame = soon("bytes of the server", websocket.next()).await.unwrap().unwrap();
        engine.handle_input(Monotonic::ZERO, &mut BytesMut::from(&frame.into_data()[..]));
        while let Some(event) = engine.poll_event() {
            match event {
                Event::Connected(_) => {
                    let all = [crate::mqtt::packet::Subscription::new("alarm/x", QoS::AtLeastOnce)];
                    engine.subscribe(&all, None).unwrap();
                }
                // Each more than the kernel holds for this socket.
                Event::Subscribed { .. } => (0..LAST).for_each(|_| announce(&cloud, LARGE)),
                Event::Message(_) => came += 1,
                other => panic!("{other:?}"),
            }
        }
    }
}
