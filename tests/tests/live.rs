//! Live streams as applications open them: server-sent events that go on after a break, and a WebSocket.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use iot_conn::mqtt::{QoS, client::Publication};
use iot_tests::{
    cloud::Cloud,
    stream::Stream,
    unit::Unit,
    wait::{SOON, until},
};

fn sample(n: u32) -> Publication {
    Publication::new("up/telemetry", format!(r#"{{"values":{{"n":{n}}}}}"#), QoS::AtLeastOnce)
}

fn numbers(stream: &Stream) -> Vec<u64> {
    stream.events().iter().filter_map(|event| event.data["values"]["n"].as_u64()).collect()
}

#[test]
fn a_stream_goes_on_where_it_broke_off_also_over_a_restart() {
    let mut cloud = Cloud::start(&[]);
    let mut lamp = Unit::several(&cloud, "lamp", &["a"])[0].online(&cloud);
    let open = |cloud: &Cloud, more: &str| {
        Stream::open(cloud.address("http"), &format!("/v1/live?types=telemetry{more}"), cloud.token())
    };
    let first = open(&cloud, "");
    for n in 0..3 {
        assert!(!lamp.publish(sample(n)).is_error());
    }
    until("three reports", SOON, || (numbers(&first) == [0, 1, 2]).then_some(()));
    let last = first.events().last().unwrap().id.clone().unwrap();
    drop(first);
    assert!(!lamp.publish(sample(3)).is_error());
    cloud.kill();
    cloud.start_again();
    let again = open(&cloud, &format!("&after={last}"));
    lamp.connect().unwrap();
    assert!(!lamp.publish(sample(4)).is_error());
    again.wait("what is new", SOON, |event| (event.data["values"]["n"] == 4).then_some(()));
    assert_eq!(numbers(&again), [3, 4]);
    assert!(cloud.terminate().success());
    again.ends(SOON);
}

#[test]
fn five_wrong_questions_have_their_answers() {
    let cloud = Cloud::start(&[]);
    let admin = cloud.admin();
    admin.get("/v1/live?types=gossip").fails(400, "query_invalid");
    admin.get("/v1/live?device=a%2Fb").fails(400, "query_invalid");
    admin.get("/v1/live?after=elsewhere-5").fails(400, "cursor_invalid");
    admin.get("/v1/live?nonsense=1").fails(400, "query_invalid");
    admin.get("/v1/live/socket").fails(426, "upgrade_required");
    cloud.anyone().get("/v1/live").fails(401, "unauthenticated");
    let elsewhere = [("Origin", "https://evil.example"), ("Upgrade", "websocket"), ("Connection", "Upgrade")];
    admin.send("GET", "/v1/live/socket", &elsewhere, None).fails(403, "cross_site");
}

#[test]
fn a_websocket_tells_the_same() {
    let cloud = Cloud::start(&[]);
    let mut lamp = Unit::several(&cloud, "lamp", &["a"])[0].online(&cloud);
    let server = cloud.address("http");
    let mut socket = TcpStream::connect(server).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let request = format!(
        "GET /v1/live/socket?types=telemetry HTTP/1.1\r\nHost: {server}\r\nAuthorization: Bearer {}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        cloud.token()
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(byte(&mut socket));
    }
    let answer = String::from_utf8(answer).unwrap();
    // RFC 6455 §1.3 has the key and what must be answered to it.
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.to_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    assert!(!lamp.publish(sample(7)).is_error());
    let text = frame(&mut socket);
    let event: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&event["type"], &event["data"]["values"]["n"]), (&"telemetry".into(), &7.into()), "{event}");
    assert!(event["id"].is_string());
}

fn byte(socket: &mut TcpStream) -> u8 {
    let mut byte = [0];
    socket.read_exact(&mut byte).unwrap();
    byte[0]
}

/// The payload of the next text frame (RFC 6455 §5.2), of less than 64 KiB.
fn frame(socket: &mut TcpStream) -> Vec<u8> {
    loop {
        let (kind, length) = (byte(socket) & 0x0f, byte(socket) & 0x7f);
        let length = match length {
            126 => usize::from(byte(socket)) << 8 | usize::from(byte(socket)),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload).unwrap();
        if kind == 1 {
            return payload;
        }
    }
}
