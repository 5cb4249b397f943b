//! Topics that are alike where a weak table would look.

use tokio::time::sleep;

use super::{
    behaviours,
    bytes::{V5, publish, subscribe},
    field::{Field, Hostile, Verdict, Wrong, wrong},
};

behaviours! {
    /// Topics whose FNV-1a hashes end alike
    fnv_collisions,
    /// Topics that one multiplies by 31 to the same hash
    times_31_collisions,
    /// Topics that are alike but for their last bytes
    identical_prefixes,
    /// Topics of the same length that are sorted
    same_length,
    /// Client identifiers whose FNV-1a hashes end alike
    client_id_collisions,
}

const TOPICS: usize = 4_000;

/// Each connection subscribes to a thousand of them; then all are published to.
async fn use_all(field: &Field, topics: &[String]) -> Verdict {
    let mut crowd: Vec<Hostile> = Vec::new();
    for some in topics.chunks(1_000) {
        let mut hostile = field.online(V5).await?;
        hostile.send(&subscribe(1, &[], some.iter().map(|topic| (topic.as_str(), 0)))).await?;
        hostile.expect(0x90).await?;
        crowd.push(hostile);
    }
    let mut writer = field.online(V5).await?;
    for some in topics.chunks(100) {
        let bytes: Vec<_> = some.iter().flat_map(|topic| publish(topic, 0, 0, &[], b"x")).collect();
        writer.send(&bytes).await?;
    }
    for hostile in &mut crowd {
        for _ in 0..topics.len() / topics.len().div_ceil(1_000) {
            hostile.expect(0x30).await?;
        }
    }
    sleep(field.lasts).await;
    Ok(format!("{} topics, each to its subscriber", topics.len()))
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Names whose hashes have the same ten last bits.
fn alike(prefix: &str, count: usize) -> Vec<String> {
    let names = (0_u64..).map(|n| format!("{prefix}{n}"));
    names.filter(|name| fnv(name.as_bytes()) & 0x3ff == 0x155).take(count).collect()
}

async fn fnv_collisions(field: &Field) -> Verdict {
    use_all(field, &alike("hostile/", TOPICS)).await
}

async fn times_31_collisions(field: &Field) -> Verdict {
    // "Aa" and "BB" have the same hash, and so has whatever is made of them.
    let name = |n: usize| (0..12).map(|bit| if n >> bit & 1 == 1 { "Aa" } else { "BB" }).collect::<String>();
    use_all(field, &(0..TOPICS).map(name).collect::<Vec<_>>()).await
}

async fn identical_prefixes(field: &Field) -> Verdict {
    let prefix = "p".repeat(900);
    use_all(field, &(0..TOPICS / 20).map(|n| format!("{prefix}{n:04}")).collect::<Vec<_>>()).await
}

async fn same_length(field: &Field) -> Verdict {
    use_all(field, &(0..TOPICS).map(|n| format!("hostile/{n:08}")).collect::<Vec<_>>()).await
}

async fn client_id_collisions(field: &Field) -> Verdict {
    let mut crowd = Vec::new();
    for id in alike("hostile-id-", 500) {
        crowd.push(admitted(field, &id).await?);
    }
    sleep(field.lasts).await;
    if crowd.len() == 500 { Ok("500 clients".to_owned()) } else { wrong("fewer clients") }
}

async fn admitted(field: &Field, id: &str) -> Result<Hostile, Wrong> {
    field.admitted(&super::bytes::Hello::new(V5, id)).await
}
