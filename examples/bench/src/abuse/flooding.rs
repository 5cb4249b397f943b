//! More than anybody can use, as fast as it is taken.

use iot_conn::mqtt::{
    QoS,
    client::{Publication, PublishError},
};
use iot_device::link::Clock;
use tokio::time::{Instant, timeout_at};

use super::{
    behaviours,
    bytes::{CLEAN, Hello, V5, V311, packet, publish, publish_v311, subscribe, unsubscribe},
    field::{End, Field, Hostile, SOON, Verdict, Wrong, wrong},
};
use crate::peer::Peer;

behaviours! {
    /// QoS 0 to a subscriber that does not read
    flood_qos_0,
    /// QoS 1 to a subscriber that does not read
    flood_qos_1,
    /// QoS 2 to a subscriber that does not read
    flood_qos_2,
    /// The largest messages to a subscriber that does not read
    flood_large,
    /// One writer, and two hundred subscribers that do not read
    flood_to_many,
    /// QoS 1 by a writer that does not read its acknowledgements
    flood_deaf_writer,
    /// A client that floods itself
    flood_to_oneself,
    /// PINGREQ, and the answers are not read
    pingreq_flood,
    /// SUBSCRIBE and UNSUBSCRIBE in turn
    subscribe_churn,
    /// UNSUBSCRIBE from what was never subscribed, and the answers are not read
    unsubscribe_flood,
    /// CONNECT and DISCONNECT in turn
    connect_churn,
    /// CONNECT in turn, and the connection is cut
    connect_and_cut,
    /// Connections that take the session from each other
    takeover_loop,
    /// AUTH after AUTH
    auth_flood,
    /// PUBREL for messages that are not known
    pubrel_unknown,
    /// PUBACK for messages that were never sent
    puback_unknown,
    /// PUBREC for messages that were never sent
    pubrec_unknown,
    /// CONNECT without an identifier again and again: each gets a new one
    nameless_churn,
    /// Messages that nobody has subscribed to
    flood_to_nobody,
    /// Empty messages
    flood_empty,
}

fn bounded(what: &str, (count, is_ended): (u64, bool), each: u64) -> Verdict {
    if is_ended { wrong(format!("{what} was ended")) } else { Ok(format!("{} taken, bounded", count * each)) }
}

async fn flood_qos_0(field: &Field) -> Verdict {
    let (_deaf, mut hostile) = (field.deaf("hostile/flood", 0).await?, field.online(V5).await?);
    let chunk = publish("hostile/flood", 0, 0, &[], &[0; 100]).repeat(100);
    bounded("the writer", hostile.pump(&chunk, false, field.until()).await, 100)
}

async fn flood_qos_1(field: &Field) -> Verdict {
    flood(field, QoS::AtLeastOnce, 1, 1_000).await
}

async fn flood_qos_2(field: &Field) -> Verdict {
    flood(field, QoS::ExactlyOnce, 2, 1_000).await
}

async fn flood_large(field: &Field) -> Verdict {
    flood(field, QoS::AtLeastOnce, 1, 200_000).await
}

/// A writer that keeps to the rules, and a subscriber that does not read.
async fn flood(field: &Field, qos: QoS, granted: u8, bytes: usize) -> Verdict {
    let _deaf = field.deaf("hostile/flood", granted).await?;
    let gone = |error: crate::BenchError| Wrong::Server(format!("the writer was ended: {error}"));
    let options = field.broker.client(field.id(), 256);
    let mut writer = Peer::connect(&field.broker, options, Clock::start()).await.map_err(gone)?;
    let (until, mut count) = (field.until(), 0_u64);
    while Instant::now() < until {
        loop {
            match writer.client.publish(Publication::new("hostile/flood", vec![0; bytes], qos)) {
                Ok(_) => count += 1,
                Err(PublishError::Full) => break,
                Err(error) => return wrong(error.to_string()),
            }
        }
        match timeout_at(until, writer.step()).await {
            Ok(step) => step.map_err(gone)?,
            Err(_) => break,
        }
        while writer.event().map_err(gone)?.is_some() {}
    }
    Ok(format!("{count} messages, then the writer waits"))
}

async fn flood_to_many(field: &Field) -> Verdict {
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(field.deaf("hostile/many", 0).await?);
    }
    let mut hostile = field.online(V5).await?;
    let chunk = publish("hostile/many", 0, 0, &[], &[0; 1_000]).repeat(10);
    bounded("the writer", hostile.pump(&chunk, false, field.until()).await, 10)
}

async fn flood_deaf_writer(field: &Field) -> Verdict {
    let mut hostile = field.online(V311).await?;
    let chunk: Vec<_> = (1..=100).flat_map(|id| publish_v311("hostile/deaf", 2, id, b"x")).collect();
    bounded("the writer", hostile.pump(&chunk, false, field.until()).await, 100)
}

async fn flood_to_oneself(field: &Field) -> Verdict {
    let mut hostile = field.deaf("hostile/self", 0).await?;
    let chunk = publish("hostile/self", 0, 0, &[], &[0; 100]).repeat(100);
    bounded("the client", hostile.pump(&chunk, false, field.until()).await, 100)
}

async fn pingreq_flood(field: &Field) -> Verdict {
    let mut hostile = field.online(V5).await?;
    bounded("the client", hostile.pump(&[0xC0, 0].repeat(1_000), false, field.until()).await, 1_000)
}

async fn subscribe_churn(field: &Field) -> Verdict {
    let mut hostile = field.online(V5).await?;
    let filters: Vec<_> = (0..100).map(|n| format!("hostile/churn/{n}/+/#")).collect();
    let names = || filters.iter().map(String::as_str);
    let chunk = [subscribe(1, &[], names().map(|name| (name, 0))), unsubscribe(2, names())].concat();
    bounded("the client", hostile.pump(&chunk, true, field.until()).await, 100)
}

async fn unsubscribe_flood(field: &Field) -> Verdict {
    let mut hostile = field.online(V5).await?;
    let filters: Vec<_> = (0..100).map(|n| format!("hostile/never/{n}")).collect();
    let chunk = unsubscribe(2, filters.iter().map(String::as_str));
    bounded("the client", hostile.pump(&chunk, false, field.until()).await, 100)
}

/// One after the other in several tasks' stead: ports are finite.
const CONNECTS_MAX: u32 = 20_000;

async fn connects(field: &Field, bytes: &[u8], and_then: Option<&[u8]>) -> Result<u32, Wrong> {
    let (until, mut count) = (field.until(), 0);
    while count == 0 || (Instant::now() < until && count < CONNECTS_MAX) {
        let mut hostile = field.raw().await?;
        hostile.send(bytes).await?;
        hostile.connack().await?;
        if let Some(last) = and_then {
            hostile.send(last).await?;
            hostile.ends(End::Closed).await?;
        }
        count += 1;
    }
    Ok(count)
}

async fn connect_churn(field: &Field) -> Verdict {
    let hello = Hello::new(V5, &field.id()).packet();
    Ok(format!("{} connections", connects(field, &hello, Some(&[0xE0, 0])).await?))
}

async fn connect_and_cut(field: &Field) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    while count == 0 || (Instant::now() < until && count < CONNECTS_MAX) {
        let mut hostile = field.raw().await?;
        hostile.send(&Hello::new(V5, &field.id()).packet()).await?;
        count += 1;
    }
    Ok(format!("{count} connections"))
}

async fn takeover_loop(field: &Field) -> Verdict {
    let (until, id, mut count) = (field.until(), field.id(), 0_u32);
    let mut former: Option<Hostile> = None;
    while count < 2 || (Instant::now() < until && count < CONNECTS_MAX) {
        let next = field.admitted(&Hello::new(V5, &id)).await?;
        if let Some(mut former) = former.replace(next) {
            former.ends(End::Told(0x8e)).await?;
        }
        count += 1;
    }
    Ok(format!("DISCONNECT 0x8e, {count} times"))
}

async fn auth_flood(field: &Field) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    let bytes = packet(0xF0, &[0x19, 0]).repeat(1_000);
    while count == 0 || (Instant::now() < until && count < CONNECTS_MAX) {
        let mut hostile = field.online(V5).await?;
        // The end may come before all is written.
        let _cut = hostile.send(&bytes).await;
        match hostile.ends_somehow(SOON).await? {
            End::Closed | End::Told(0x82) => count += 1,
            end => return wrong(end.to_string()),
        }
    }
    Ok(format!("ended at the first, {count} times"))
}

async fn pubrel_unknown(field: &Field) -> Verdict {
    let mut hostile = field.online(V5).await?;
    hostile.send(&packet(0x62, &[0, 7])).await?;
    let answer = hostile.expect(0x70).await?;
    if answer.get(2) != Some(&0x92) {
        return wrong(format!("PUBCOMP {answer:02x?}"));
    }
    let chunk = packet(0x62, &[0, 7]).repeat(500);
    bounded("the client", hostile.pump(&chunk, false, field.until()).await, 500)
}

async fn puback_unknown(field: &Field) -> Verdict {
    let mut hostile = field.online(V5).await?;
    let chunk = packet(0x40, &[0, 7]).repeat(500);
    bounded("the client", hostile.pump(&chunk, true, field.until()).await, 500)
}

async fn pubrec_unknown(field: &Field) -> Verdict {
    let mut hostile = field.online(V5).await?;
    hostile.send(&packet(0x50, &[0, 7])).await?;
    let answer = hostile.expect(0x60).await?;
    if answer.get(2) != Some(&0x92) {
        return wrong(format!("PUBREL {answer:02x?}"));
    }
    let chunk = packet(0x50, &[0, 7]).repeat(500);
    bounded("the client", hostile.pump(&chunk, false, field.until()).await, 500)
}

async fn nameless_churn(field: &Field) -> Verdict {
    let hello = Hello { flags: CLEAN, ..Hello::new(V5, "") }.packet();
    Ok(format!("{} connections", connects(field, &hello, Some(&[0xE0, 0])).await?))
}

async fn flood_to_nobody(field: &Field) -> Verdict {
    let mut hostile = field.online(V5).await?;
    let chunk = publish("hostile/nobody", 0, 0, &[], &[0; 1_000]).repeat(100);
    bounded("the writer", hostile.pump(&chunk, false, field.until()).await, 100)
}

async fn flood_empty(field: &Field) -> Verdict {
    let mut hostile = field.online(V311).await?;
    let chunk = publish_v311("e", 0, 0, &[]).repeat(2_000);
    let sent = hostile.pump(&chunk, false, field.until()).await;
    bounded("the writer", sent, 2_000)
}
