//! WebSocket (RFC 6455), used otherwise.

use tokio::time::{Instant, sleep_until};

use super::{
    behaviours,
    bytes::{Hello, V5, frame, frame_head, publish},
    field::{Field, Hostile, SOON, UPGRADE, Verdict, Wrong, wrong},
};

behaviours! {
    /// Another subprotocol
    ws_wrong_subprotocol,
    /// No subprotocol
    ws_no_subprotocol,
    /// Another path
    ws_wrong_path,
    /// A request that is no upgrade
    ws_no_upgrade,
    /// Headers of a megabyte
    ws_headers_1_mb,
    /// Ten thousand headers
    ws_headers_10k,
    /// MQTT without WebSocket
    ws_plain_mqtt,
    /// A text frame
    ws_text_frame,
    /// A frame that is not masked
    ws_unmasked,
    /// The bit of a compression that was not agreed on
    ws_compressed_bit,
    /// An opcode that is not there
    ws_reserved_opcode,
    /// A fragment of nothing
    ws_continuation_first,
    /// A ping of more than 125 bytes
    ws_large_ping,
    /// A frame of an exabyte is announced
    ws_giant_frame,
    /// A message in fragments without an end
    ws_endless_fragments,
    /// Empty fragments without an end
    ws_empty_fragments,
    /// Pings, and the answers are not read
    ws_ping_flood,
    /// A frame for each byte of MQTT
    ws_byte_frames,
    /// A flood to a WebSocket that does not read
    ws_deaf,
    /// Data after a close frame
    ws_data_after_close,
}

/// Asks again and again; each answer must have this status.
async fn refused(field: &Field, request: &str, status: &str) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    while count == 0 || (Instant::now() < until && count < 2_000) {
        let mut hostile = Hostile::new(Field::tcp_to(&field.ws).await?);
        hostile.send(request.as_bytes()).await?;
        let head = hostile.head().await?;
        if !head.starts_with(&format!("HTTP/1.1 {status}")) {
            return wrong(head.lines().next().unwrap_or_default());
        }
        count += 1;
    }
    Ok(format!("HTTP {status}, {count} times"))
}

async fn ws_wrong_subprotocol(field: &Field) -> Verdict {
    refused(field, &UPGRADE.replace("Protocol: mqtt", "Protocol: soap"), "400").await
}

async fn ws_no_subprotocol(field: &Field) -> Verdict {
    refused(field, &UPGRADE.replace("Sec-WebSocket-Protocol: mqtt\r\n", ""), "400").await
}

async fn ws_wrong_path(field: &Field) -> Verdict {
    refused(field, &UPGRADE.replace("/mqtt", "/../etc/passwd"), "404").await
}

/// Sends it on a new connection, again and again; each must be closed.
async fn closed(field: &Field, bytes: &[u8]) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    while count == 0 || (Instant::now() < until && count < 2_000) {
        let mut hostile = Hostile::new(Field::tcp_to(&field.ws).await?);
        // The end may come before all is written.
        let _cut = hostile.send(bytes).await;
        hostile.rest(SOON).await?;
        count += 1;
    }
    Ok(format!("closed, {count} times"))
}

async fn ws_no_upgrade(field: &Field) -> Verdict {
    closed(field, b"POST /mqtt HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n").await
}

async fn ws_headers_1_mb(field: &Field) -> Verdict {
    let header = format!("X-Long: {}\r\n", "x".repeat(1_000_000));
    closed(field, UPGRADE.replace("Host:", &format!("{header}Host:")).as_bytes()).await
}

async fn ws_headers_10k(field: &Field) -> Verdict {
    let headers: String = (0..10_000).map(|n| format!("X-{n}: x\r\n")).collect();
    closed(field, UPGRADE.replace("Host:", &format!("{headers}Host:")).as_bytes()).await
}

async fn ws_plain_mqtt(field: &Field) -> Verdict {
    closed(field, &Hello::new(V5, "plain").packet()).await
}

/// Sends it after the handshake, again and again; each must be closed.
async fn ended(field: &Field, bytes: &[u8]) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    while count == 0 || (Instant::now() < until && count < 2_000) {
        let mut hostile = field.websocket_online().await?;
        hostile.send(bytes).await?;
        hostile.rest(SOON).await?;
        count += 1;
    }
    Ok(format!("closed, {count} times"))
}

async fn ws_text_frame(field: &Field) -> Verdict {
    ended(field, &frame(0x81, true, b"hello")).await
}

async fn ws_unmasked(field: &Field) -> Verdict {
    ended(field, &frame(0x82, false, &[0xC0, 0])).await
}

async fn ws_compressed_bit(field: &Field) -> Verdict {
    ended(field, &frame(0xC2, true, &[0xC0, 0])).await
}

async fn ws_reserved_opcode(field: &Field) -> Verdict {
    ended(field, &frame(0x83, true, &[0xC0, 0])).await
}

async fn ws_continuation_first(field: &Field) -> Verdict {
    ended(field, &frame(0x80, true, &[0xC0, 0])).await
}

async fn ws_large_ping(field: &Field) -> Verdict {
    ended(field, &frame(0x89, true, &[0; 1_000])).await
}

async fn ws_giant_frame(field: &Field) -> Verdict {
    ended(field, &frame_head(0x82, true, 1 << 60)).await
}

async fn ws_endless_fragments(field: &Field) -> Verdict {
    let mut hostile = field.websocket_online().await?;
    hostile.send(&frame(0x02, true, &[0x30])).await?;
    let (count, is_ended) = hostile.pump(&frame(0x00, true, &[0; 60_000]), false, Instant::now() + SOON).await;
    if is_ended {
        Ok(format!("closed after {count} fragments of 60 KB"))
    } else {
        wrong("fragments are taken without an end")
    }
}

async fn ws_empty_fragments(field: &Field) -> Verdict {
    let mut hostile = field.websocket_online().await?;
    hostile.send(&frame(0x02, true, &[0xC0])).await?;
    let (count, is_ended) = hostile.pump(&frame(0x00, true, &[]).repeat(1_000), false, field.until()).await;
    Ok(format!("{} empty fragments, {}", count * 1_000, if is_ended { "then closed" } else { "bounded" }))
}

async fn ws_ping_flood(field: &Field) -> Verdict {
    let mut hostile = field.websocket_online().await?;
    let (count, is_ended) = hostile.pump(&frame(0x89, true, &[0; 100]).repeat(100), false, field.until()).await;
    Ok(format!("{} pings, {}", count * 100, if is_ended { "then closed" } else { "bounded" }))
}

async fn ws_byte_frames(field: &Field) -> Verdict {
    let (mut hostile, until, mut count) = (field.websocket_online().await?, field.until(), 0_u32);
    let bytes: Vec<_> =
        publish("hostile/frames", 2, 1, &[], b"x").iter().flat_map(|byte| frame(0x82, true, &[*byte])).collect();
    while count == 0 || Instant::now() < until {
        hostile.send(&bytes).await?;
        if hostile.some(SOON).await? == 0 {
            return wrong("closed");
        }
        count += 1;
    }
    Ok(format!("{count} messages"))
}

async fn ws_deaf(field: &Field) -> Verdict {
    let mut deaf = field.websocket_online().await?;
    deaf.send(&frame(0x82, true, &super::bytes::subscribe(1, &[], [("hostile/ws", 0)]))).await?;
    deaf.some(SOON).await?;
    let mut writer = field.online(V5).await?;
    let chunk = publish("hostile/ws", 0, 0, &[], &[0; 1_000]).repeat(20);
    let (count, is_ended) = writer.pump(&chunk, false, field.until()).await;
    if is_ended { wrong("the writer was ended") } else { Ok(format!("{} messages, bounded", count * 20)) }
}

async fn ws_data_after_close(field: &Field) -> Verdict {
    let until = field.until();
    let result: Result<(), Wrong> = async {
        let mut hostile = field.websocket_online().await?;
        hostile.send(&frame(0x88, true, &[0x03, 0xe8])).await?;
        // It may be closed by now.
        let _closed = hostile.pump(&frame(0x82, true, &[0xC0, 0]).repeat(100), false, until).await;
        hostile.rest(SOON).await.map(drop)
    }
    .await;
    sleep_until(until).await;
    result.map(|()| "closed".to_owned())
}
