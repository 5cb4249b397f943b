//! Retained messages: many, large, asked for again and again. What was retained is removed again.

use tokio::time::{Instant, sleep};

use super::{
    behaviours,
    bytes::{V5, publish, subscribe},
    field::{Field, Hostile, Verdict, Wrong, wrong},
};

behaviours! {
    /// A large retained set, and subscribers that ask for all of it and do not read
    retained_for_the_deaf,
    /// The same set asked for again and again by one client that does not read
    retained_again_and_again,
    /// A thousand filters in one SUBSCRIBE that match the whole set, each
    retained_by_every_filter,
    /// Retained messages set and removed all the time
    retained_churn,
    /// Many small retained messages
    retained_by_the_thousand,
}

const RETAIN_QOS_1: u8 = 0x03;
const LARGE: u16 = 300;
const LARGE_BYTES: usize = 100_000;

/// Retains, or removes with an empty payload, so many topics.
async fn retain(field: &Field, root: &str, count: u16, payload: &[u8]) -> Result<(), Wrong> {
    let mut hostile = field.online(V5).await?;
    let mut waiting = 0;
    for n in 1..=count {
        hostile.send(&publish(&format!("{root}/{n}"), RETAIN_QOS_1, n, &[], payload)).await?;
        waiting += 1;
        while waiting > 100 || (n == count && waiting > 0) {
            let answer = hostile.expect(0x40).await?;
            if let Some(code @ 0x80..) = answer.get(2) {
                return wrong(format!("PUBACK {code:#04x}"));
            }
            waiting -= 1;
        }
    }
    Ok(())
}

async fn retained_for_the_deaf(field: &Field) -> Verdict {
    retain(field, "hostile/deaf", LARGE, &[7; LARGE_BYTES]).await?;
    let mut crowd = Vec::new();
    for k in 0..20 {
        crowd.push(field.deaf("hostile/deaf/#", k % 2).await?);
    }
    sleep(field.lasts).await;
    let readers = whole(&mut crowd[0], LARGE).await;
    drop(crowd);
    retain(field, "hostile/deaf", LARGE, &[]).await?;
    readers?;
    Ok(format!("20 × {LARGE} messages of 100 KB wait; who then reads gets all"))
}

async fn whole(hostile: &mut Hostile, count: u16) -> Result<(), Wrong> {
    for _ in 0..count {
        hostile.expect(0x30).await?;
    }
    Ok(())
}

async fn retained_again_and_again(field: &Field) -> Verdict {
    retain(field, "hostile/again", LARGE, &[7; LARGE_BYTES]).await?;
    let mut hostile = field.online(V5).await?;
    let (asked, is_ended) = hostile.pump(&subscribe(1, &[], [("hostile/again/#", 0)]), false, field.until()).await;
    drop(hostile);
    retain(field, "hostile/again", LARGE, &[]).await?;
    if is_ended { wrong("the client was ended") } else { Ok(format!("asked {asked} times, bounded")) }
}

async fn retained_by_every_filter(field: &Field) -> Verdict {
    retain(field, "h/h/h/h/h/h/h/h/h/h", 50, &[7; LARGE_BYTES]).await?;
    let way = |n: u32| (0..10).map(|level| if n >> level & 1 == 1 { "+/" } else { "h/" }).collect::<String>();
    let filters: Vec<_> = (0..1_000).map(|n| format!("{}#", way(n))).collect();
    let mut hostile = field.online(V5).await?;
    hostile.send(&subscribe(1, &[], filters.iter().map(|filter| (filter.as_str(), 0)))).await?;
    hostile.expect(0x90).await?;
    sleep(field.lasts).await;
    drop(hostile);
    retain(field, "h/h/h/h/h/h/h/h/h/h", 50, &[]).await?;
    Ok("1000 × 50 messages of 100 KB, bounded".to_owned())
}

async fn retained_churn(field: &Field) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    while count == 0 || Instant::now() < until {
        retain(field, "hostile/churn", 100, b"x").await?;
        retain(field, "hostile/churn", 100, &[]).await?;
        count += 200;
    }
    Ok(format!("{count} changes"))
}

async fn retained_by_the_thousand(field: &Field) -> Verdict {
    retain(field, "hostile/small", 3_000, b"x").await?;
    let mut hostile = field.online(V5).await?;
    hostile.send(&subscribe(1, &[], [("hostile/small/#", 0)])).await?;
    whole(&mut hostile, 3_000).await?;
    retain(field, "hostile/small", 3_000, &[]).await?;
    Ok("3000 retained, given out and removed".to_owned())
}
