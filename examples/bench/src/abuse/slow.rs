//! Those who take their time, and those who say nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    behaviours,
    bytes::{Hello, V5, publish},
    field::{End, Field, Hostile, UPGRADE, Verdict, Wrong, wrong},
};

behaviours! {
    /// A CONNECT, one byte a second, on many connections
    slow_connect,
    /// A ClientHello, one byte a second
    slow_client_hello,
    /// A WebSocket handshake, one byte a second
    slow_upgrade,
    /// TCP connections that say nothing
    silent_tcp,
    /// TLS connections that say nothing after the handshake
    silent_tls,
    /// WebSockets that say nothing after the handshake
    silent_websocket,
    /// Clients that promised to be heard every second
    silent_after_connect,
    /// Clients that promised nothing, and are idle
    idle_by_the_thousand,
    /// A subscriber that takes a byte now and then of what is a flood
    slow_reader,
}

/// A server's timeout, and what a busy machine adds.
const SLACK: Duration = Duration::from_secs(3);
const SECOND: Duration = Duration::from_secs(1);

/// A byte a second to each of them, until they are closed; how long that took.
async fn drip(mut crowd: Vec<Hostile>, bytes: &[u8], by: Duration) -> Result<Duration, Wrong> {
    let began = Instant::now();
    for byte in bytes {
        for hostile in &mut crowd {
            // Who was closed meanwhile is seen below.
            let _closed = hostile.send(&[*byte]).await;
        }
        if crowd[0].end(SECOND).await != End::Open {
            break;
        }
        if began.elapsed() > by + SLACK {
            return wrong(format!("still open after {:?}", began.elapsed()));
        }
    }
    all_end(&mut crowd, SLACK).await?;
    Ok(began.elapsed())
}

async fn all_end(crowd: &mut [Hostile], within: Duration) -> Result<(), Wrong> {
    let by = Instant::now() + within;
    for hostile in crowd {
        hostile.ends_somehow(by.saturating_duration_since(Instant::now()).max(Duration::from_millis(50))).await?;
    }
    Ok(())
}

fn closed_after(count: usize, took: Duration) -> String {
    format!("{count} closed after {:.1} s", took.as_secs_f64())
}

async fn slow_connect(field: &Field) -> Verdict {
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(field.raw().await?);
    }
    let took = drip(crowd, &Hello::new(V5, "slow-as-slow-can-be").packet(), Duration::from_secs(5)).await?;
    Ok(closed_after(200, took))
}

async fn slow_client_hello(field: &Field) -> Verdict {
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(Hostile::new(Field::tcp_to(&field.mqtts).await?));
    }
    let took = drip(crowd, &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0, 0], Duration::from_secs(2)).await?;
    Ok(closed_after(200, took))
}

async fn slow_upgrade(field: &Field) -> Verdict {
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(Hostile::new(Field::tcp_to(&field.ws).await?));
    }
    let took = drip(crowd, UPGRADE.as_bytes(), Duration::from_secs(10)).await?;
    Ok(closed_after(200, took))
}

async fn silent(mut crowd: Vec<Hostile>, timeout: Duration) -> Verdict {
    let (count, began) = (crowd.len(), Instant::now());
    all_end(&mut crowd, timeout + SLACK).await?;
    Ok(closed_after(count, began.elapsed()))
}

async fn silent_tcp(field: &Field) -> Verdict {
    let mut crowd = Vec::new();
    for _ in 0..2_000 {
        crowd.push(field.raw().await?);
    }
    silent(crowd, Duration::from_secs(5)).await
}

async fn silent_tls(field: &Field) -> Verdict {
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(field.secure().await?);
    }
    silent(crowd, Duration::from_secs(5)).await
}

async fn silent_websocket(field: &Field) -> Verdict {
    let mut crowd = Vec::new();
    for _ in 0..500 {
        crowd.push(field.websocket().await?);
    }
    silent(crowd, Duration::from_secs(5)).await
}

async fn silent_after_connect(field: &Field) -> Verdict {
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(field.admitted(&Hello { keep_alive_s: 1, ..Hello::new(V5, &field.id()) }).await?);
    }
    let began = Instant::now();
    for hostile in &mut crowd {
        hostile.ends(End::Told(0x8d)).await?;
    }
    Ok(format!("DISCONNECT 0x8d, 300 times, after {:.1} s", began.elapsed().as_secs_f64()))
}

async fn idle_by_the_thousand(field: &Field) -> Verdict {
    let mut crowd = Vec::new();
    for _ in 0..3_000 {
        crowd.push(field.online(V5).await?);
    }
    sleep(field.lasts).await;
    match crowd[0].end(Duration::from_millis(1)).await {
        End::Open => Ok("3000 connections are kept, as they may be".to_owned()),
        end => wrong(format!("{end}: nothing was wrong")),
    }
}

async fn slow_reader(field: &Field) -> Verdict {
    let (mut reader, mut writer) = (field.deaf("hostile/slow", 0).await?, field.online(V5).await?);
    let until = field.until();
    let chunk = publish("hostile/slow", 0, 0, &[], &[0; 1_000]).repeat(50);
    let read = async {
        while Instant::now() < until {
            let _byte = reader.some(Duration::from_millis(50)).await;
            sleep(Duration::from_millis(50)).await;
        }
    };
    let ((count, is_ended), ()) = tokio::join!(writer.pump(&chunk, false, until), read);
    if is_ended {
        wrong("the flood was ended")
    } else {
        Ok(format!("bounded at {} messages; the writer goes on", count * 50))
    }
}
