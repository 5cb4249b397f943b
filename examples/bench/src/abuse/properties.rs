//! As many properties as fit.

use tokio::time::Instant;

use super::{
    behaviours,
    bytes::{Hello, V5, packet, properties, publish, subscribe, text, user_property},
    field::{End, Field, Verdict, wrong},
};

behaviours! {
    /// CONNECT with as many empty user properties as it may have
    user_properties_in_connect,
    /// CONNECT with fifty thousand
    user_properties_beyond_connect,
    /// Messages full of user properties, to a subscriber that does not read
    user_properties_in_publish,
    /// SUBSCRIBE full of user properties
    user_properties_in_subscribe,
    /// DISCONNECT full of user properties
    user_properties_in_disconnect,
    /// A will full of user properties
    user_properties_in_will,
    /// SUBSCRIBE with a thousand subscription identifiers
    subscription_identifiers,
    /// Correlation data of 64 KB and a content type of 64 KB
    large_properties,
}

/// As many as a CONNECT has room for.
const IN_CONNECT: usize = 6_000;

fn bomb(count: usize) -> Vec<u8> {
    user_property("", "").repeat(count)
}

async fn user_properties_in_connect(field: &Field) -> Verdict {
    let (until, bomb, mut count) = (field.until(), bomb(IN_CONNECT), 0_u32);
    while count == 0 || Instant::now() < until {
        let id = field.id();
        let mut hostile = field.admitted(&Hello { properties: &bomb, ..Hello::new(V5, &id) }).await?;
        hostile.send(&[0xE0, 0]).await?;
        hostile.ends(End::Closed).await?;
        count += 1;
    }
    Ok(format!("read over, {count} times"))
}

async fn user_properties_beyond_connect(field: &Field) -> Verdict {
    let (until, bomb, mut count) = (field.until(), bomb(50_000), 0_u32);
    while count == 0 || Instant::now() < until {
        let (id, mut hostile) = (field.id(), field.raw().await?);
        hostile.send(&Hello { properties: &bomb, ..Hello::new(V5, &id) }.packet()).await?;
        hostile.ends(End::Refused(0x95)).await?;
        count += 1;
    }
    Ok(format!("CONNACK 0x95, {count} times"))
}

async fn user_properties_in_publish(field: &Field) -> Verdict {
    let (_deaf, mut hostile, until) = (field.deaf("hostile/bomb", 1).await?, field.online(V5).await?, field.until());
    let (bytes, mut count) = (publish("hostile/bomb", 0, 0, &bomb(50_000), b"x"), 0_u32);
    while count == 0 || Instant::now() < until {
        hostile.send(&bytes).await?;
        count += 1;
    }
    Ok(format!("{count} messages, bounded"))
}

async fn user_properties_in_subscribe(field: &Field) -> Verdict {
    let (mut hostile, until, mut count) = (field.online(V5).await?, field.until(), 0_u32);
    let bytes = subscribe(1, &bomb(50_000), [("hostile/x", 0)]);
    while count == 0 || Instant::now() < until {
        hostile.send(&bytes).await?;
        hostile.expect(0x90).await?;
        count += 1;
    }
    Ok(format!("SUBACK, {count} times"))
}

async fn user_properties_in_disconnect(field: &Field) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    let bytes = packet(0xE0, &[&[0][..], &properties(&bomb(50_000))].concat());
    while count == 0 || Instant::now() < until {
        let mut hostile = field.online(V5).await?;
        hostile.send(&bytes).await?;
        hostile.ends(End::Closed).await?;
        count += 1;
    }
    Ok(format!("closed, {count} times"))
}

async fn user_properties_in_will(field: &Field) -> Verdict {
    let rest = [properties(&bomb(IN_CONNECT)), text("hostile/will"), text("w")].concat();
    let (until, mut crowd) = (field.until(), Vec::new());
    while crowd.len() < 5 || (Instant::now() < until && crowd.len() < 10) {
        let id = field.id();
        crowd.push(field.admitted(&Hello { flags: 0x06, rest: &rest, ..Hello::new(V5, &id) }).await?);
    }
    Ok(format!("{} wills of {IN_CONNECT} properties are kept until their clients leave", crowd.len()))
}

async fn subscription_identifiers(field: &Field) -> Verdict {
    let (until, mut count) = (field.until(), 0_u32);
    let bytes = subscribe(1, &[0x0b, 1].repeat(1_000), [("hostile/x", 0)]);
    while count == 0 || (Instant::now() < until && count < 2_000) {
        let mut hostile = field.online(V5).await?;
        hostile.send(&bytes).await?;
        hostile.ends(End::Told(0x82)).await?;
        count += 1;
    }
    Ok(format!("DISCONNECT 0x82, {count} times"))
}

async fn large_properties(field: &Field) -> Verdict {
    let (mut deaf, mut hostile, until) =
        (field.deaf("hostile/large", 0).await?, field.online(V5).await?, field.until());
    let long = "l".repeat(65_535);
    let properties = [vec![0x09], text(&long), vec![0x03], text(&long)].concat();
    let bytes = publish("hostile/large", 0, 0, &properties, b"x");
    hostile.send(&bytes).await?;
    let came = deaf.expect(0x30).await?;
    if came.len() < 131_000 {
        return wrong("the properties were not passed on");
    }
    let (count, is_ended) = hostile.pump(&bytes, false, until).await;
    if is_ended { wrong("the writer was ended") } else { Ok(format!("{count} messages, bounded")) }
}
