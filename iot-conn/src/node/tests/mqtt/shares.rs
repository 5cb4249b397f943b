//! Shared subscriptions (MQTT 5 §4.8.2).

use super::*;

/// Two members of a share of `x`, who each listen to a topic of their own name.
async fn members(cloud: &Cloud, qos: [QoS; 2]) -> [Raw; 2] {
    let mut members = Vec::new();
    for (client_id, qos) in ["one", "two"].into_iter().zip(qos) {
        let (mut member, _) = Raw::connect(cloud, lasting(V5, "app-b", client_id)).await;
        member.listen("$share/g/x", qos).await;
        member.listen(client_id, QoS::AtLeastOnce).await;
        members.push(member);
    }
    members.try_into().unwrap_or_else(|_| panic!("two"))
}

async fn publisher(cloud: &Cloud) -> Raw {
    Raw::connect(cloud, brief(V5, "app-a", "p")).await.0
}

/// The first of two members that gets a message, with it, unacknowledged; and the other.
async fn chosen(cloud: &Cloud, qos: QoS) -> (Raw, Publish<'static>, Raw, &'static str) {
    let [mut one, mut two] = members(cloud, [qos; 2]).await;
    publisher(cloud).await.publish(message("x", "one's", qos)).await;
    tokio::select! {
        begun = one.arrival() => (one, begun, two, "one"),
        begun = two.arrival() => (two, begun, one, "two"),
    }
}

fn other(name: &str) -> &'static str {
    if name == "one" { "two" } else { "one" }
}

fn connect(name: &'static str) -> Connect<'static> {
    lasting(V5, "app-b", name)
}

#[tokio::test]
async fn mqtt_5_4_8_2_3_a_member_gets_messages_with_the_quality_of_its_own_subscription() {
    let cloud = Cloud::start().await;
    let [mut one, mut two] = members(&cloud, [QoS::AtMostOnce, QoS::ExactlyOnce]).await;
    let mut publisher = publisher(&cloud).await;
    for _ in 0..4 {
        publisher.publish(message("x", "m", QoS::ExactlyOnce)).await;
    }
    let ones: Vec<_> = one.messages_until("one").await.iter().map(|message| message.qos).collect();
    let twos: Vec<_> = two.messages_until("two").await.iter().map(|message| message.qos).collect();
    assert_eq!((ones, twos), (vec![QoS::AtMostOnce; 2], vec![QoS::ExactlyOnce; 2]));
}

#[tokio::test]
async fn mqtt_5_4_8_2_4_a_broken_delivery_of_qos_2_is_completed_to_the_same_member() {
    let cloud = Cloud::start().await;
    let (chosen, begun, mut rest, name) = chosen(&cloud, QoS::ExactlyOnce).await;
    drop(chosen);
    settled(&cloud, 1).await;
    let (mut again, session_present) = Raw::connect(&cloud, connect(name)).await;
    assert!(session_present);
    let repeated = again.message().await;
    assert_eq!((repeated.packet_id, repeated.dup, repeated.payload), (begun.packet_id, true, begun.payload));
    assert!(rest.texts_until(other(name)).await.is_empty());
    assert!(again.texts_until(name).await.is_empty());
}

#[tokio::test]
async fn mqtt_5_4_8_2_5_a_delivery_of_qos_2_ends_with_the_members_session() {
    let cloud = Cloud::start().await;
    let (chosen, _, mut rest, name) = chosen(&cloud, QoS::ExactlyOnce).await;
    drop(chosen);
    settled(&cloud, 1).await;
    let (clean, session_present) =
        Raw::connect(&cloud, Connect { clean_start: true, ..brief(V5, "app-b", name) }).await;
    assert!(!session_present);
    clean.leave(ReasonCode::Success).await;
    settled(&cloud, 1).await;
    assert!(rest.texts_until(other(name)).await.is_empty());
}

#[tokio::test]
async fn mqtt_5_4_8_2_6_what_a_member_refuses_goes_to_no_other() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let cloud = Cloud::start().await;
        let (mut chosen, begun, mut rest, name) = chosen(&cloud, qos).await;
        let refusal = Ack::new(begun.packet_id.unwrap(), ReasonCode::QuotaExceeded);
        let refusal = if qos == QoS::AtLeastOnce { Packet::PubAck(refusal) } else { Packet::PubRec(refusal) };
        chosen.send(&refusal).await;
        assert!(chosen.texts_until(name).await.is_empty());
        assert!(rest.texts_until(other(name)).await.is_empty());
        drop(chosen);
        settled(&cloud, 1).await;
        let (mut again, _) = Raw::connect(&cloud, connect(name)).await;
        assert!(again.texts_until(name).await.is_empty());
        assert!(rest.texts_until(other(name)).await.is_empty());
    }
}
