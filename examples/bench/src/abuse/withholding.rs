//! Those who never acknowledge.

use tokio::time::{Instant, sleep};

use super::{
    behaviours,
    bytes::{Hello, V5, expiry, publish, subscribe},
    field::{End, Field, Heard, Hostile, SOON, Verdict, Wrong, wrong},
};

behaviours! {
    /// A subscriber that reads QoS 1 and acknowledges nothing
    never_puback,
    /// A subscriber that reads QoS 2 and never says PUBREC
    never_pubrec,
    /// Messages of a byte, each in a read of 16 KB, for subscribers that acknowledge nothing
    small_messages_in_large_reads,
    /// A subscriber that says PUBREC and never PUBCOMP
    never_pubcomp,
    /// A writer at QoS 2 that never says PUBREL
    never_pubrel,
    /// Stored sessions that acknowledge nothing, and large messages for each
    never_puback_stored,
    /// Stored sessions with messages in their queues, whose clients are gone
    queues_of_the_gone,
    /// A stored session that is taken again and again, to have everything sent again
    sent_again_and_again,
}

/// A writer that waits for its acknowledgements, until then.
async fn write(field: &Field, topic: &str, bytes: usize, until: Instant) -> Result<u32, Wrong> {
    let (mut writer, mut count) = (field.online(V5).await?, 0);
    let packet = publish(topic, 2, 1, &[], &vec![0; bytes]);
    while count < 10 || Instant::now() < until {
        writer.send(&packet).await?;
        loop {
            match writer.hear(until.saturating_duration_since(Instant::now())).await {
                Heard::Packet(0x40, _) => break,
                Heard::Packet(..) => {}
                Heard::Silence => return Ok(count),
                Heard::Closed => return wrong("the writer was ended"),
            }
        }
        count += 1;
    }
    Ok(count)
}

/// How many messages come without an acknowledgement.
async fn unacknowledged(hostile: &mut Hostile) -> Result<u32, Wrong> {
    let mut count = 0;
    loop {
        match hostile.hear(std::time::Duration::from_millis(300)).await {
            Heard::Packet(first, _) if first & 0xf0 == 0x30 => count += 1,
            Heard::Packet(0xe0, body) => return wrong(format!("DISCONNECT {body:02x?}")),
            Heard::Packet(..) => {}
            Heard::Silence => return Ok(count),
            Heard::Closed => return wrong("closed"),
        }
    }
}

const WINDOW: u32 = 64;

async fn withheld(field: &Field, qos: u8) -> Verdict {
    let mut deaf = field.deaf("hostile/withheld", qos).await?;
    let count = write(field, "hostile/withheld", 1_000, field.until()).await?;
    match unacknowledged(&mut deaf).await? {
        came if came <= WINDOW => Ok(format!("{came} of {count} were sent, the others wait")),
        came => wrong(format!("{came} were sent without an acknowledgement")),
    }
}

async fn never_puback(field: &Field) -> Verdict {
    withheld(field, 1).await
}

async fn never_pubrec(field: &Field) -> Verdict {
    let mut deaf = field.deaf("hostile/withheld", 2).await?;
    let (mut writer, until, mut count) = (field.online(V5).await?, field.until(), 0_u16);
    while count < 100 || (Instant::now() < until && count < 4_000) {
        count += 1;
        writer.send(&publish("hostile/withheld", 4, count, &[], &[0; 100])).await?;
        writer.expect(0x50).await?;
        writer.send(&[0x62, 2, (count >> 8) as u8, (count & 0xff) as u8]).await?;
        writer.expect(0x70).await?;
    }
    match unacknowledged(&mut deaf).await? {
        came if came <= WINDOW => Ok(format!("{came} of {count} were sent, the others wait")),
        came => wrong(format!("{came} were sent without an acknowledgement")),
    }
}

/// As many as a mailbox takes: 4,096.
const WAITING: u16 = 4_000;

async fn small_messages_in_large_reads(field: &Field) -> Verdict {
    let topics = ["a", "b", "c", "d"].map(|name| format!("hostile/small/{name}"));
    let (mut crowd, mut writer) = (Vec::new(), field.online(V5).await?);
    for topic in &topics {
        crowd.push(field.deaf(topic, 1).await?);
        // What comes behind a message that is beyond the window waits, at QoS 0 too.
        for id in 1..=65 {
            writer.send(&publish(topic, 2, id, &[], b"x")).await?;
            writer.expect(0x40).await?;
        }
        let filling = publish("hostile/small/nobody", 0, 0, &[], &[0; 15_000]);
        let pair = [publish(topic, 0, 0, &[], b"x"), filling].concat();
        for _ in 0..WAITING {
            writer.send(&pair).await?;
        }
        writer.send(&[0xC0, 0]).await?;
        writer.expect(0xD0).await?;
    }
    Ok(format!("{WAITING} wait for each of {}", crowd.len()))
}

async fn never_pubcomp(field: &Field) -> Verdict {
    let mut half = field.deaf("hostile/half", 2).await?;
    let (mut writer, mut came) = (field.online(V5).await?, 0_u32);
    for id in 1..=200 {
        writer.send(&publish("hostile/half", 4, id, &[], b"x")).await?;
    }
    loop {
        match half.hear(field.lasts.max(std::time::Duration::from_millis(300))).await {
            Heard::Packet(first, body) if first & 0xf0 == 0x30 => {
                // The packet identifier stands behind the topic.
                let Some(id) = body.get(14..16) else { return wrong("a short PUBLISH") };
                half.send(&[0x50, 2, id[0], id[1]]).await?;
                came += 1;
            }
            Heard::Packet(..) => {}
            Heard::Silence => break,
            Heard::Closed => return wrong("closed"),
        }
    }
    if came <= WINDOW {
        Ok(format!("{came} of 200 were sent, the others wait"))
    } else {
        wrong(format!("{came} were sent"))
    }
}

async fn never_pubrel(field: &Field) -> Verdict {
    let mut crowd = Vec::new();
    for _ in 0..50 {
        let mut hostile = field.online(V5).await?;
        for id in 1..=256 {
            hostile.send(&publish("hostile/unreleased", 4, id, &[], b"x")).await?;
        }
        for _ in 0..256 {
            hostile.expect(0x50).await?;
        }
        crowd.push(hostile);
    }
    sleep(field.lasts).await;
    for hostile in &mut crowd {
        hostile.send(&publish("hostile/unreleased", 4, 257, &[], b"x")).await?;
        hostile.ends(End::Told(0x93)).await?;
    }
    Ok("50 clients hold 256 each; DISCONNECT 0x93 for one more".to_owned())
}

/// Stored sessions, subscribed to a topic each.
async fn stored(field: &Field, count: u32, topic: &str) -> Result<Vec<(String, Hostile)>, Wrong> {
    let (properties, mut crowd) = (expiry(600), Vec::new());
    for k in 0..count {
        let id = field.id();
        let mut hostile = field.admitted(&Hello { properties: &properties, ..Hello::new(V5, &id) }).await?;
        hostile.send(&subscribe(1, &[], [(format!("{topic}/{k}").as_str(), 1)])).await?;
        hostile.expect(0x90).await?;
        crowd.push((id, hostile));
    }
    Ok(crowd)
}

/// What was stored is given up.
async fn forget(field: &Field, ids: impl IntoIterator<Item = String>) -> Result<(), Wrong> {
    for id in ids {
        let mut hostile = field.admitted(&Hello::new(V5, &id)).await?;
        hostile.send(&[0xE0, 0]).await?;
        hostile.ends_somehow(SOON).await?;
    }
    Ok(())
}

async fn fill(field: &Field, topic: &str, sessions: u32, messages: u16, bytes: usize) -> Result<(), Wrong> {
    let mut writer = field.online(V5).await?;
    for k in 0..sessions {
        let name = format!("{topic}/{k}");
        for id in 1..=messages {
            writer.send(&publish(&name, 2, id, &[], &vec![0; bytes])).await?;
            writer.expect(0x40).await?;
        }
    }
    Ok(())
}

async fn never_puback_stored(field: &Field) -> Verdict {
    let crowd = stored(field, 5, "hostile/stored").await?;
    fill(field, "hostile/stored", 5, 120, 200_000).await?;
    let ids: Vec<_> = crowd.into_iter().map(|(id, _)| id).collect();
    forget(field, ids).await?;
    Ok("5 × 120 messages of 200 KB are stored".to_owned())
}

async fn queues_of_the_gone(field: &Field) -> Verdict {
    let crowd = stored(field, 100, "hostile/gone").await?;
    let ids: Vec<_> = crowd.into_iter().map(|(id, _)| id).collect();
    fill(field, "hostile/gone", 100, 5, 1_000).await?;
    forget(field, ids).await?;
    Ok("100 queues are kept until they are given up".to_owned())
}

async fn sent_again_and_again(field: &Field) -> Verdict {
    let mut crowd = stored(field, 1, "hostile/again").await?;
    fill(field, "hostile/again", 1, 100, 10_000).await?;
    let Some((id, _)) = crowd.pop() else { return wrong("no session") };
    let (until, properties, mut count) = (field.until(), expiry(600), 0_u32);
    while count == 0 || Instant::now() < until {
        let hello = Hello { flags: 0, properties: &properties, ..Hello::new(V5, &id) };
        let mut hostile = field.admitted(&hello).await?;
        hostile.expect(0x30).await?;
        count += 1;
    }
    forget(field, [id]).await?;
    Ok(format!("taken {count} times"))
}
