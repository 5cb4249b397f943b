//! What carries the packets: TCP, and WebSocket (MQTT 5 §6).

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest, http::header::SEC_WEBSOCKET_PROTOCOL},
};

use super::*;

type Socket = WebSocketStream<TcpStream>;

/// An upgrade that offers these subprotocols; the one that was selected, or the status of the refusal.
async fn upgrade(cloud: &Cloud, offered: Option<&str>) -> Result<(Socket, Option<String>), u16> {
    let tcp = TcpStream::connect(cloud.websocket).await.unwrap();
    let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
    if let Some(offered) = offered {
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, offered.parse().unwrap());
    }
    match soon("an answer", tokio_tungstenite::client_async(request, tcp)).await {
        Ok((socket, response)) => {
            let selected = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
            Ok((socket, selected.map(|name| name.to_str().unwrap().to_owned())))
        }
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(other) => panic!("the server answers with HTTP: {other}"),
    }
}

fn bytes(version: Version, packets: &[Packet<'_>]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    packets.iter().for_each(|packet| encode(packet, version, &mut bytes).unwrap());
    bytes.to_vec()
}

/// The packets in the binary frames that come, until there are so many.
async fn packets(socket: &mut Socket, version: Version, count: usize) -> Vec<PacketKind> {
    let mut input = BytesMut::new();
    let mut kinds = Vec::new();
    while kinds.len() < count {
        match soon("a frame", socket.next()).await {
            Some(Ok(Message::Binary(frame))) => input.extend_from_slice(&frame),
            other => panic!("not a binary frame: {other:?}"),
        }
        while let Some(length) = frame_length(&input, usize::MAX).unwrap()
            && length <= input.len()
        {
            kinds.push(decode(&input.split_to(length), version, Sender::Server).unwrap().kind());
        }
    }
    kinds
}

#[tokio::test]
async fn mqtt_5_6_0_0_1_packets_are_in_binary_frames_and_others_end_the_connection() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let (mut socket, _) = upgrade(&cloud, Some("mqtt")).await.unwrap();
        let hello = bytes(version, &[Packet::Connect(brief(version, "app-b", "s"))]);
        soon("bytes to go", socket.send(Message::Binary(hello.into()))).await.unwrap();
        assert_eq!(packets(&mut socket, version, 1).await, [PacketKind::ConnAck]);
        // A ping of WebSocket is not data.
        soon("bytes to go", socket.send(Message::Ping(b"?"[..].into()))).await.unwrap();
        assert!(matches!(soon("a pong", socket.next()).await, Some(Ok(Message::Pong(_)))));
        // What would be a packet in another frame.
        let text = String::from_utf8(bytes(version, &[Packet::Publish(message("x", "m", QoS::AtMostOnce))])).unwrap();
        soon("bytes to go", socket.send(Message::Text(text.into()))).await.unwrap();
        settled(&cloud, 0).await;
        let end = soon("the end", async { while let Some(Ok(_)) = socket.next().await {} }).await;
        assert_eq!(end, ());
    }
}

#[tokio::test]
async fn mqtt_5_6_0_0_2_packets_need_not_be_aligned_with_frames() {
    for version in BOTH {
        for size in [1, 3, 1_000] {
            let cloud = Cloud::start().await;
            let (mut socket, _) = upgrade(&cloud, Some("mqtt")).await.unwrap();
            let filter = [Subscription::new("x", QoS::AtMostOnce)];
            let (packet_id, properties) = (id(1), List::EMPTY);
            let subscribe = Subscribe { packet_id, properties, subscriptions: List::from(&filter) };
            let all = bytes(
                version,
                &[
                    Packet::Connect(brief(version, "app-b", "s")),
                    Packet::Subscribe(subscribe),
                    Packet::Publish(message("x", "hello", QoS::AtMostOnce)),
                    Packet::PingReq,
                ],
            );
            for piece in all.chunks(size) {
                soon("bytes to go", socket.send(Message::Binary(piece.to_vec().into()))).await.unwrap();
            }
            let mut came = packets(&mut socket, version, 4).await;
            // The message takes a way of its own.
            came.sort_by_key(|kind| *kind as u8);
            let expected = [PacketKind::ConnAck, PacketKind::Publish, PacketKind::SubAck, PacketKind::PingResp];
            assert_eq!(came, expected);
        }
    }
}

#[tokio::test]
async fn mqtt_5_6_0_0_3_a_client_that_does_not_offer_mqtt_is_refused() {
    let cloud = Cloud::start().await;
    for offered in [None, Some("mqttv3.1"), Some("MQTT"), Some("chat, soap")] {
        assert_eq!(upgrade(&cloud, offered).await.err(), Some(400), "{offered:?}");
    }
}

#[tokio::test]
async fn mqtt_5_6_0_0_4_the_subprotocol_that_is_selected_is_mqtt() {
    let cloud = Cloud::start().await;
    for offered in ["mqtt", "mqttv3.1, mqtt", "mqtt,chat"] {
        let (_, selected) = upgrade(&cloud, Some(offered)).await.unwrap();
        assert_eq!(selected.as_deref(), Some("mqtt"), "{offered}");
    }
}

#[tokio::test]
async fn mqtt_5_4_2_0_1_packets_come_over_tcp_in_pieces_of_any_size() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let mut raw = Raw::open(&cloud, version).await;
        let hello = Packet::Connect(brief(version, "app-b", "s"));
        for byte in bytes(version, &[hello]) {
            raw.send_bytes(&[byte]).await;
        }
        assert!(matches!(raw.packet().await, Packet::ConnAck(_)));
        raw.send_bytes(&bytes(version, &[Packet::PingReq, Packet::PingReq, Packet::PingReq])).await;
        for _ in 0..3 {
            assert_eq!(raw.packet().await, Packet::PingResp);
        }
    }
}

/// No property, no user name, nothing that the standards leave open: connected, subscribed, reached.
#[tokio::test]
async fn mqtt_3_1_1_7_0_0_2_a_client_needs_nothing_beyond_the_standard() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let bare = Connect { username: None, password: None, ..brief(version, "", "bare") };
        let (mut client, _) = Raw::connect(&cloud, bare).await;
        client.listen("x", QoS::ExactlyOnce).await;
        for qos in ALL {
            assert!(!client.publish(message("x", "hello", qos)).await.is_error());
            assert_eq!(client.texts(1).await, ["hello"]);
        }
        client.leave(ReasonCode::Success).await;
    }
}
