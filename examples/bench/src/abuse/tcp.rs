//! TCP, and HTTP at its own door.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{
    behaviours,
    bytes::{Hello, V5, publish},
    field::{End, Field, Hostile, SOON, Verdict, wrong},
};

behaviours! {
    /// Connections that are reset in the middle of a packet
    tcp_reset_in_a_packet,
    /// Connections that are closed at once
    tcp_connect_and_close,
    /// The writing half is closed after CONNECT
    tcp_half_closed,
    /// A flood that is reset while it is answered
    tcp_reset_in_a_flood,
    /// Two thousand connections that come and go at once
    tcp_burst,
    /// HTTP with headers of a megabyte
    http_headers_1_mb,
    /// HTTP with a body that is announced and does not come
    http_silent_body,
    /// HTTP with a body that is much too long
    http_endless_body,
    /// HTTP connections that say nothing
    http_silent,
    /// MQTT at the door for HTTP
    http_is_asked_for_mqtt,
}

async fn tcp_reset_in_a_packet(field: &Field) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    let bytes = publish("hostile/reset", 0, 0, &[], &[0; 10_000]);
    while count == 0 || Instant::now() < until {
        let mut hostile = field.online(V5).await?;
        hostile.send(&bytes[..5_000]).await?;
        count += 1;
    }
    Ok(format!("{count} resets"))
}

async fn tcp_connect_and_close(field: &Field) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    while count == 0 || Instant::now() < until {
        drop(field.tcp().await?);
        count += 1;
    }
    Ok(format!("{count} connections"))
}

async fn tcp_half_closed(field: &Field) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    while count == 0 || (Instant::now() < until && count < 5_000) {
        let mut hostile = field.online(V5).await?;
        hostile.shut().await?;
        hostile.ends(End::Closed).await?;
        count += 1;
    }
    Ok(format!("closed, {count} times"))
}

async fn tcp_reset_in_a_flood(field: &Field) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    let bytes: Vec<_> = (1..=200).flat_map(|id| publish("hostile/reset", 2, id, &[], &[0; 100])).collect();
    while count == 0 || Instant::now() < until {
        let mut hostile = field.online(V5).await?;
        hostile.send(&bytes).await?;
        count += 1;
    }
    Ok(format!("{count} resets"))
}

async fn tcp_burst(field: &Field) -> Verdict {
    let (until, mut crowd) = (field.until(), Vec::new());
    for _ in 0..2_000 {
        crowd.push(field.tcp().await?);
    }
    drop(crowd);
    sleep_until(until).await;
    Ok("2000 came and went".to_owned())
}

/// Sends it on new connections, again and again; each must be answered with an error, or closed.
async fn refused(field: &Field, bytes: &[u8]) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    while count == 0 || (Instant::now() < until && count < 500) {
        let mut hostile = Hostile::new(Field::tcp_to(&field.http).await?);
        // The end may come before all is written.
        let _cut = hostile.send(bytes).await;
        let _closed = hostile.shut().await;
        let answer = hostile.rest(SOON).await?;
        if answer.starts_with(b"HTTP/1.1 2") {
            return wrong(String::from_utf8_lossy(&answer[..answer.len().min(60)]));
        }
        count += 1;
    }
    Ok(format!("refused, {count} times"))
}

async fn http_headers_1_mb(field: &Field) -> Verdict {
    refused(field, format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1_000_000)).as_bytes()).await
}

async fn http_silent_body(field: &Field) -> Verdict {
    let head =
        b"POST /v1/sign-in HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{";
    let (until, mut crowd) = (field.until(), Vec::new());
    for _ in 0..300 {
        let mut hostile = Hostile::new(Field::tcp_to(&field.http).await?);
        hostile.send(head).await?;
        crowd.push(hostile);
    }
    sleep_until(until).await;
    Ok("300 requests wait".to_owned())
}

async fn http_endless_body(field: &Field) -> Verdict {
    let head =
        "POST /v1/sign-in HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let mut hostile = Hostile::new(Field::tcp_to(&field.http).await?);
    hostile.send(head.as_bytes()).await?;
    let (count, is_ended) = hostile.pump(chunk.as_bytes(), false, Instant::now() + SOON).await;
    if is_ended {
        Ok(format!("closed after {count} × 64 KiB"))
    } else {
        wrong(format!("{count} × 64 KiB were taken"))
    }
}

async fn http_silent(field: &Field) -> Verdict {
    let (until, mut crowd) = (field.until(), Vec::new());
    for _ in 0..500 {
        crowd.push(Hostile::new(Field::tcp_to(&field.http).await?));
    }
    sleep_until(until).await;
    let open = crowd[0].end(Duration::from_millis(1)).await == End::Open;
    Ok(format!("500 connections, {}", if open { "left open" } else { "closed" }))
}

async fn http_is_asked_for_mqtt(field: &Field) -> Verdict {
    refused(field, &Hello::new(V5, "http").packet()).await
}
