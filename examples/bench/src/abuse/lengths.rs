//! Much is announced, and little comes.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{
    behaviours,
    bytes::{Hello, V5, V311, length, publish},
    field::{End, Field, Hostile, SOON, Verdict, wrong},
};

behaviours! {
    /// A CONNECT of 256 MB is announced on many connections
    connect_of_256_mb,
    /// A PUBLISH of 256 MB is announced after CONNECT
    publish_of_256_mb,
    /// The same in 3.1.1, where nothing can be told
    publish_of_256_mb_v311,
    /// The largest packet that is taken, on many connections, and the last byte does not come
    almost_whole,
    /// A message byte by byte, in a segment each
    byte_by_byte,
    /// Half a CONNECT, and the connection is cut
    half_a_connect,
}

const HUGE: usize = 268_435_455;

async fn connect_of_256_mb(field: &Field) -> Verdict {
    let head = [&[0x10][..], &length(HUGE)].concat();
    let mut crowd = Vec::new();
    for _ in 0..200 {
        let mut hostile = field.raw().await?;
        hostile.send(&head).await?;
        crowd.push(hostile);
    }
    for hostile in &mut crowd {
        hostile.ends(End::Closed).await?;
    }
    Ok("closed at once, 200 times".to_owned())
}

async fn publish_of_256_mb(field: &Field) -> Verdict {
    announced(field, V5, End::Told(0x95)).await
}

async fn publish_of_256_mb_v311(field: &Field) -> Verdict {
    announced(field, V311, End::Closed).await
}

async fn announced(field: &Field, version: u8, end: End) -> Verdict {
    for _ in 0..200 {
        let mut hostile = field.online(version).await?;
        hostile.send(&[&[0x30][..], &length(HUGE)].concat()).await?;
        hostile.ends(end).await?;
    }
    Ok(format!("{end} at once, 200 times"))
}

async fn almost_whole(field: &Field) -> Verdict {
    let until = field.until();
    let payload = vec![0; 200 * 1_024];
    let bytes = publish("hostile/almost", 0, 0, &[], &payload);
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let mut hostile = field.online(V5).await?;
        hostile.send(&bytes[..bytes.len() - 1]).await?;
        crowd.push(hostile);
    }
    sleep_until(until).await;
    match crowd[0].end(Duration::from_millis(1)).await {
        End::Open => Ok("100 connections wait with 200 KiB each".to_owned()),
        end => wrong(format!("{end}: nothing was wrong yet")),
    }
}

async fn byte_by_byte(field: &Field) -> Verdict {
    let (mut hostile, until, mut count) = (field.online(V5).await?, field.until(), 0_u32);
    let bytes = publish("hostile/bytes", 2, 1, &[], b"a message");
    while count == 0 || Instant::now() < until {
        for byte in &bytes {
            hostile.send(&[*byte]).await?;
        }
        hostile.expect(0x40).await?;
        count += 1;
    }
    Ok(format!("PUBACK, {count} times"))
}

async fn half_a_connect(field: &Field) -> Verdict {
    let (bytes, until, mut count) = (Hello::new(V5, "half").packet(), field.until(), 0_u32);
    while count == 0 || Instant::now() < until {
        let mut hostile: Hostile = field.raw().await?;
        hostile.send(&bytes[..bytes.len() / 2]).await?;
        hostile.shut().await?;
        hostile.ends_somehow(SOON).await?;
        count += 1;
    }
    Ok(format!("closed, {count} times"))
}
