//! Those who want more than their part.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    behaviours,
    bytes::{Hello, V5, V311, expiry, field, length, publish, publish_v311, subscribe, text, unsubscribe},
    field::{End, Field, Hostile, SOON, Verdict, Wrong, wrong},
};

behaviours! {
    /// A hundred thousand filters on one connection
    filters_100k,
    /// A hundred thousand filters on a hundred connections
    filters_by_crowd,
    /// A hundred thousand topics, once each
    topics_100k,
    /// Topics of thousands of levels
    deep_topics,
    /// Filters of thousands of levels
    deep_filters,
    /// Filters that match everything, in every way, and topics as deep as may be
    wildcards_everywhere,
    /// A thousand overlapping subscriptions that have one identifier each
    overlapping_subscriptions,
    /// A thousand groups that share one topic
    shared_groups,
    /// A topic of 64 KB
    topic_of_64_kb,
    /// A client identifier of 64 KB
    client_id_of_64_kb,
    /// Wills as large as a CONNECT may be, on many connections
    huge_wills,
    /// Wills that all speak at once
    wills_at_once,
    /// Topic aliases set anew all the time, on many connections
    aliases_set_anew,
    /// More messages in flight than were granted
    receive_maximum_exceeded,
    /// The same in 3.1.1, where nothing was granted
    unreleased_v311,
    /// Sessions by the thousand that are to be kept
    sessions_by_the_thousand,
}

/// Asks for so many filters, a thousand at a time; how many were granted.
async fn ask(hostile: &mut Hostile, filters: u32, name: impl Fn(u32) -> String) -> Result<usize, Wrong> {
    let mut granted = 0;
    for page in 0..filters.div_ceil(1_000) {
        let names: Vec<_> = (page * 1_000..((page + 1) * 1_000).min(filters)).map(&name).collect();
        hostile.send(&subscribe(1, &[], names.iter().map(|name| (name.as_str(), 0)))).await?;
        let answer = hostile.expect(0x90).await?;
        let codes = answer.get(3..).unwrap_or_default();
        if let Some(code) = codes.iter().find(|code| ![0, 0x97].contains(*code)) {
            return wrong(format!("SUBACK {code:#04x}"));
        }
        granted += codes.iter().filter(|code| **code == 0).count();
    }
    Ok(granted)
}

async fn filters_100k(field: &Field) -> Verdict {
    let mut hostile = field.online(V5).await?;
    match ask(&mut hostile, 100_000, |n| format!("hostile/{n}/filter/+")).await? {
        1_000 => Ok("1000 granted, 0x97 for 99000".to_owned()),
        other => wrong(format!("{other} filters were granted")),
    }
}

async fn filters_by_crowd(field: &Field) -> Verdict {
    let (mut crowd, mut granted) = (Vec::new(), 0);
    for k in 0..100 {
        let mut hostile = field.online(V5).await?;
        granted += ask(&mut hostile, 1_000, |n| format!("hostile/{k}/{n}/+/#")).await?;
        crowd.push(hostile);
    }
    sleep(field.lasts).await;
    Ok(format!("{granted} granted"))
}

async fn topics_100k(field: &Field) -> Verdict {
    let (mut hostile, _listener) = (field.online(V5).await?, field.deaf("hostile/+/topic", 0).await?);
    for page in 0..100 {
        let bytes = (0..1_000).flat_map(|n| publish(&format!("hostile/{}/topic", page * 1_000 + n), 0, 0, &[], b"x"));
        hostile.send(&bytes.collect::<Vec<_>>()).await?;
    }
    acknowledged(&mut hostile).await?;
    Ok("all taken".to_owned())
}

/// Everything before was read.
async fn acknowledged(hostile: &mut Hostile) -> Result<(), Wrong> {
    hostile.send(&publish("hostile/last", 2, 9, &[], b"x")).await?;
    hostile.expect(0x40).await.map(drop)
}

async fn deep_topics(field: &Field) -> Verdict {
    let (mut hostile, until, mut count) = (field.online(V5).await?, field.until(), 0_u32);
    let topic = "a/".repeat(5_000);
    while count == 0 || Instant::now() < until {
        hostile.send(&publish(&topic, 2, 1, &[], b"x")).await?;
        let answer = hostile.expect(0x40).await?;
        if answer.get(2) != Some(&0x90) {
            return wrong(format!("PUBACK {answer:02x?}"));
        }
        count += 1;
    }
    Ok(format!("PUBACK 0x90, {count} times"))
}

async fn deep_filters(field: &Field) -> Verdict {
    let (mut hostile, until, mut count) = (field.online(V5).await?, field.until(), 0_u32);
    let filter = "+/".repeat(5_000);
    while count == 0 || Instant::now() < until {
        hostile.send(&subscribe(1, &[], [(filter.as_str(), 0)])).await?;
        let answer = hostile.expect(0x90).await?;
        if answer.get(3) != Some(&0x8f) {
            return wrong(format!("SUBACK {answer:02x?}"));
        }
        count += 1;
    }
    Ok(format!("SUBACK 0x8f, {count} times"))
}

/// One of the 1,024 filters of ten levels that match `letter` ten times.
fn way(letter: &str, n: u32) -> String {
    (0..10).map(|level| if n >> level & 1 == 1 { "+/".to_owned() } else { format!("{letter}/") }).collect()
}

async fn wildcards_everywhere(field: &Field) -> Verdict {
    let mut crowd = Vec::new();
    for _ in 0..10 {
        let mut hostile = field.online(V5).await?;
        ask(&mut hostile, 1_000, |n| format!("{}#", way("h", n))).await?;
        crowd.push(hostile);
    }
    let (mut writer, until, mut count) = (field.online(V5).await?, field.until(), 0_u32);
    let topic = format!("{}x", "h/".repeat(31));
    while count == 0 || Instant::now() < until {
        writer.send(&publish(&topic, 0, 0, &[], b"x").repeat(10)).await?;
        acknowledged(&mut writer).await?;
        count += 10;
    }
    Ok(format!("{count} messages matched 1000 filters of 10 clients each"))
}

async fn overlapping_subscriptions(field: &Field) -> Verdict {
    let mut hostile = field.online(V5).await?;
    for n in 0..1_000 {
        let identifier = [&[0x0b][..], &length(200_000_000 + n as usize)].concat();
        hostile.send(&subscribe(1, &identifier, [(way("o", n).as_str(), 0)])).await?;
        hostile.expect(0x90).await?;
    }
    let (mut writer, until, mut count) = (field.online(V5).await?, field.until(), 0_u32);
    while count == 0 || Instant::now() < until {
        writer.send(&publish(&"o/".repeat(10), 2, 1, &[], b"x")).await?;
        writer.expect(0x40).await?;
        let came = hostile.expect(0x30).await?;
        if came.len() < 5_000 {
            return wrong(format!("a message of {} bytes does not hold 1000 identifiers", came.len()));
        }
        count += 1;
    }
    Ok(format!("{count} messages, one copy with 1000 identifiers each"))
}

async fn shared_groups(field: &Field) -> Verdict {
    let mut hostile = field.online(V5).await?;
    let granted = ask(&mut hostile, 1_000, |n| format!("$share/group-{n}/hostile/shared")).await?;
    let mut writer = field.online(V5).await?;
    let chunk = publish("hostile/shared", 0, 0, &[], b"x");
    match writer.pump(&chunk, true, field.until()).await {
        (_, true) => wrong("the writer was ended"),
        (count, false) => Ok(format!("{granted} granted; {count} messages to each group")),
    }
}

async fn topic_of_64_kb(field: &Field) -> Verdict {
    let topic = "t".repeat(65_535);
    let mut hostile = field.online(V5).await?;
    hostile.send(&publish(&topic, 2, 1, &[], b"x")).await?;
    let answer = hostile.expect(0x40).await?;
    if answer.get(2) != Some(&0x90) {
        return wrong(format!("PUBACK {answer:02x?}"));
    }
    let mut old = field.online(V311).await?;
    let (count, _) = old.pump(&publish_v311(&topic, 0, 0, b"x"), true, field.until()).await;
    Ok(format!("PUBACK 0x90; {count} more in 3.1.1 dropped"))
}

async fn client_id_of_64_kb(field: &Field) -> Verdict {
    let (until, id, mut count) = (field.until(), "c".repeat(65_535), 0_u32);
    while count == 0 || (Instant::now() < until && count < 2_000) {
        let mut hostile = field.raw().await?;
        hostile.send(&Hello::new(V5, &id).packet()).await?;
        hostile.ends(End::Refused(0x95)).await?;
        count += 1;
    }
    Ok(format!("CONNACK 0x95, {count} times"))
}

fn will(topic: &str, bytes: usize) -> Vec<u8> {
    [vec![0], text(topic), field(&vec![b'w'; bytes])].concat()
}

const WITH_WILL: u8 = 0x02 | 0x04;

async fn huge_wills(field: &Field) -> Verdict {
    let (rest, mut crowd) = (will("hostile/will", 30_000), Vec::new());
    for _ in 0..300 {
        let id = field.id();
        let hello = Hello { flags: WITH_WILL, rest: &rest, ..Hello::new(V5, &id) };
        crowd.push(field.admitted(&hello).await?);
    }
    sleep(field.lasts).await;
    for hostile in &mut crowd {
        hostile.send(&[0xE0, 0]).await?;
    }
    Ok("300 wills of 30 KB are kept until their clients leave".to_owned())
}

async fn wills_at_once(field: &Field) -> Verdict {
    let (rest, mut crowd) = (will("hostile/wills", 1_000), Vec::new());
    let mut listener = field.deaf("hostile/wills", 0).await?;
    for _ in 0..500 {
        let id = field.id();
        let hello = Hello { flags: WITH_WILL, rest: &rest, ..Hello::new(V5, &id) };
        crowd.push(field.admitted(&hello).await?);
    }
    drop(crowd);
    for _ in 0..500 {
        listener.expect(0x30).await?;
    }
    Ok("500 wills were told".to_owned())
}

async fn aliases_set_anew(field: &Field) -> Verdict {
    let mut crowd = Vec::new();
    for _ in 0..50 {
        crowd.push(field.online(V5).await?);
    }
    let (until, mut count) = (field.until(), 0_u32);
    while count == 0 || Instant::now() < until {
        let topic = format!("{}{count}", "a".repeat(1_000));
        let bytes = (1..=16_u8).flat_map(|alias| publish(&topic, 0, 0, &[0x23, 0, alias], b"x")).collect::<Vec<_>>();
        for hostile in &mut crowd {
            hostile.send(&bytes).await?;
        }
        count += 1;
    }
    for hostile in &mut crowd {
        acknowledged(hostile).await?;
    }
    Ok(format!("{} aliases were set", u64::from(count) * 50 * 16))
}

async fn receive_maximum_exceeded(field: &Field) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    let bytes: Vec<_> = (1..=257).flat_map(|id| publish("hostile/many", 4, id, &[], b"x")).collect();
    while count == 0 || Instant::now() < until {
        let mut hostile = field.online(V5).await?;
        hostile.send(&bytes).await?;
        hostile.ends(End::Told(0x93)).await?;
        count += 1;
    }
    Ok(format!("DISCONNECT 0x93, {count} times"))
}

async fn unreleased_v311(field: &Field) -> Verdict {
    let mut hostile = field.online(V311).await?;
    let bytes: Vec<_> = (1..=5_000).flat_map(|id| publish_v311("hostile/many", 4, id, b"x")).collect();
    // The end may come before all is written.
    let _cut = hostile.send(&bytes).await;
    let end = hostile.ends_somehow(SOON).await?;
    Ok(format!("{end} at 4096"))
}

async fn sessions_by_the_thousand(field: &Field) -> Verdict {
    let (until, properties, mut ids) = (field.until(), expiry(3_600), Vec::new());
    while ids.len() < 100 || (Instant::now() < until && ids.len() < 5_000) {
        let id = field.id();
        let mut hostile = field.admitted(&Hello { properties: &properties, ..Hello::new(V5, &id) }).await?;
        hostile.send(&subscribe(1, &[], [("hostile/kept", 1)])).await?;
        hostile.expect(0x90).await?;
        ids.push(id);
    }
    let mut writer = field.online(V5).await?;
    writer.send(&publish("hostile/kept", 2, 1, &[], &[0; 1_000])).await?;
    writer.expect(0x40).await?;
    // What was to be kept is given up again: whoever may keep sessions may keep these.
    for id in &ids {
        let mut hostile = field.admitted(&Hello::new(V5, id)).await?;
        hostile.send(&unsubscribe(1, ["hostile/kept"])).await?;
        hostile.expect(0xB0).await?;
        hostile.send(&[0xE0, 0]).await?;
        hostile.ends_somehow(Duration::from_secs(5)).await?;
    }
    Ok(format!("{} sessions were kept, and are gone", ids.len()))
}
