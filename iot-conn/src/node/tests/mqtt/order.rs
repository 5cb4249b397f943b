//! The order of messages and of what answers them (MQTT 5 §4.6).

use super::*;

const COUNT: u16 = 40;

async fn publisher(cloud: &Cloud, version: Version) -> Raw {
    Raw::connect(cloud, brief(version, "app-a", "p")).await.0
}

/// Publishes 0, 1, 2 … without waiting for anything, then for every acknowledgement.
async fn publish_all(publisher: &mut Raw, topics: &[&str], qos: QoS) {
    for n in 0..COUNT {
        let payload = n.to_string();
        let topic = topics[usize::from(n) % topics.len()];
        let packet_id = (qos != QoS::AtMostOnce).then(|| id(100 + n));
        publisher.send(&Packet::Publish(Publish { packet_id, ..message(topic, &payload, qos) })).await;
    }
    let kind = if qos == QoS::AtLeastOnce { PacketKind::PubAck } else { PacketKind::PubRec };
    for n in 0..COUNT {
        if qos == QoS::AtMostOnce {
            break;
        }
        let (Packet::PubAck(ack) | Packet::PubRec(ack)) = publisher.answer(kind).await else { panic!() };
        assert_eq!(ack.packet_id, id(100 + n), "acknowledgements come in the order of the messages");
    }
}

fn numbers() -> Vec<String> {
    (0..COUNT).map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn mqtt_5_4_6_0_5_messages_of_a_topic_come_in_the_order_in_which_they_were_published() {
    for version in BOTH {
        for qos in ALL {
            for connect in [brief, lasting] {
                let cloud = Cloud::start().await;
                let (mut subscriber, _) = Raw::connect(&cloud, connect(version, "app-b", "s")).await;
                subscriber.listen("x", qos).await;
                publish_all(&mut publisher(&cloud, version).await, &["x"], qos).await;
                assert_eq!(subscriber.texts(COUNT.into()).await, numbers());
            }
        }
    }
}

#[tokio::test]
async fn mqtt_5_4_6_0_6_every_topic_is_in_order() {
    for version in BOTH {
        for connect in [brief, lasting] {
            let cloud = Cloud::start().await;
            let (mut subscriber, _) = Raw::connect(&cloud, connect(version, "app-b", "s")).await;
            subscriber.listen("x/#", QoS::AtLeastOnce).await;
            publish_all(&mut publisher(&cloud, version).await, &["x/a", "x/b/c", "x"], QoS::AtLeastOnce).await;
            let mut by_topic = std::collections::BTreeMap::<_, Vec<u16>>::new();
            for _ in 0..COUNT {
                let came = subscriber.message().await;
                by_topic.entry(came.topic).or_default().push(text(&came).parse().unwrap());
            }
            assert_eq!(by_topic.len(), 3);
            assert!(by_topic.values().all(|numbers| numbers.is_sorted()), "{by_topic:?}");
        }
    }
}

/// The server's half of what binds a client, which 3.1.1 asks of both.
#[tokio::test]
async fn mqtt_3_1_1_4_6_0_1_what_is_sent_again_comes_in_its_first_order() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let (mut subscriber, _) = Raw::connect(&cloud, lasting(version, "app-b", "s")).await;
        subscriber.listen("x", QoS::ExactlyOnce).await;
        let mut publisher = publisher(&cloud, version).await;
        for (payload, qos) in [("a", QoS::AtLeastOnce), ("b", QoS::ExactlyOnce), ("c", QoS::AtLeastOnce)] {
            publisher.publish(message("x", payload, qos)).await;
        }
        let mut first = Vec::new();
        for _ in 0..3 {
            first.push(subscriber.arrival().await);
        }
        drop(subscriber);
        settled(&cloud, 1).await;
        publisher.publish(message("x", "new", QoS::AtLeastOnce)).await;
        let (mut subscriber, _) = Raw::connect(&cloud, lasting(version, "app-b", "s")).await;
        for before in first {
            let now = subscriber.arrival().await;
            assert_eq!((now.payload, now.packet_id, now.dup), (before.payload, before.packet_id, true));
        }
        let new = subscriber.arrival().await;
        assert_eq!((text(&new), new.dup), ("new".to_owned(), false));
    }
}

#[tokio::test]
async fn mqtt_5_4_6_0_4_pubrels_come_in_the_order_of_the_pubrecs() {
    for version in BOTH {
        for connect in [brief, lasting] {
            let cloud = Cloud::start().await;
            let (mut subscriber, _) = Raw::connect(&cloud, connect(version, "app-b", "s")).await;
            subscriber.listen("x", QoS::ExactlyOnce).await;
            let mut publisher = publisher(&cloud, version).await;
            let mut came = Vec::new();
            for n in 0..6 {
                publisher.publish(message("x", &n.to_string(), QoS::ExactlyOnce)).await;
                came.push(subscriber.arrival().await.packet_id.unwrap());
            }
            for at in [4, 1, 5, 0, 3, 2] {
                subscriber.send(&Packet::PubRec(Ack::new(came[at], ReasonCode::Success))).await;
            }
            for at in [4, 1, 5, 0, 3, 2] {
                assert_eq!(subscriber.packet().await, Packet::PubRel(Ack::new(came[at], ReasonCode::Success)));
            }
        }
    }
}
