//! End-to-end latency at a fixed rate, measured from the time at which a message was to be sent: a server that stops for a
//! second is charged for every message of that second.

use std::time::Duration;

use iot_conn::mqtt::{
    QoS,
    client::{Event, Publication},
};
use iot_device::link::Clock;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::{
    BenchError, Outcome,
    flow::{read_stamp, stamped},
    histogram::Histogram,
    options::Latency,
    peer::Peer,
    process::{cost, cost_text, usage},
    publisher::Publishers,
    tally::Tally,
};

/// How long to wait for the last messages.
const GRACE: Duration = Duration::from_secs(5);

const BYTES: u32 = 64;

pub(crate) async fn measure(options: Latency) -> Result<Outcome, BenchError> {
    let (broker, qos, clock) = (options.broker, options.qos, Clock::start());
    let id = format!("bench-{}", std::process::id());
    let publishers = Publishers::new(&options.devices, 1)?;
    let (mut publisher, topic) = publishers.connect(&broker, 0, 10_000, clock).await?;
    let asked = publishers.filter(&[0]);
    let mut subscriber = Peer::connect(&broker, broker.client(format!("{id}-s"), 10_000), clock).await?;
    // A device gets answers in its own tree, and does not listen here: only clients measure them.
    if options.respond && publishers.are_devices() {
        return Err(BenchError::Options("--respond is for clients: command-latency asks devices".to_owned()));
    }
    let answers = format!("{topic}/answer");
    let mut responder = if options.respond {
        let mut responder = Peer::connect(&broker, broker.client(format!("{id}-r"), 10_000), clock).await?;
        responder.subscribe(&asked, qos).await?;
        Some(responder)
    } else {
        None
    };
    subscriber.subscribe(if options.respond { &answers } else { &asked }, qos).await?;

    let messages = u64::from(options.rate) * u64::from(options.seconds);
    let period = Duration::from_secs(1) / options.rate;
    let before = usage(broker.pid)?;
    let began = Instant::now();
    let due = |number: u64| began + period.mul_f64(f64::from(u32::try_from(number).unwrap_or(u32::MAX)));
    let deadline = due(messages) + GRACE;
    let (mut tally, mut latency, mut sent) = (Tally::new(messages), Histogram::default(), 0);
    while tally.received < messages {
        tokio::select! {
            step = publisher.step() => step?,
            step = subscriber.step() => step?,
            step = step(&mut responder) => step?,
            () = sleep_until(due(sent)), if sent < messages => {
                let publication = Publication::new(topic.as_str(), stamped(0, sent, clock, BYTES), qos);
                publisher.client.publish(publication).map_err(|error| BenchError::Target(error.to_string()))?;
                sent += 1;
            }
            () = sleep_until(deadline) => break,
        }
        while publisher.event()?.is_some() {}
        if let Some(responder) = &mut responder {
            respond(responder, &answers, qos)?;
        }
        while let Some(event) = subscriber.event()? {
            let Event::Message(message) = event else { continue };
            let Some((_, number, _)) = read_stamp(&message.payload) else { continue };
            if tally.record(number) {
                latency.record(Instant::now().saturating_duration_since(due(number)));
            }
        }
    }
    let after = usage(broker.pid)?;
    publisher.close().await;
    subscriber.close().await;
    if let Some(responder) = responder {
        responder.close().await;
    }
    let json = json!({"bench": "latency", "qos": qos as u8, "rate_per_s": options.rate, "seconds": options.seconds,
        "respond": options.respond,
        "sent": sent, "received": tally.received, "lost": tally.lost(), "duplicates": tally.duplicates,
        "out_of_order": tally.out_of_order, "latency": latency.to_json(),
        "server": cost(before, after, tally.received)});
    let text = format!(
        "latency QoS {} at {}/s: {latency} ({} of {messages} received){}",
        qos as u8,
        options.rate,
        tally.received,
        cost_text(before, after, tally.received)
    );
    Ok(Outcome { json, text, is_complete: tally.lost() == 0 })
}

/// Ends only if there is somebody who could go on.
async fn step(responder: &mut Option<Peer>) -> Result<(), BenchError> {
    match responder {
        Some(responder) => responder.step().await,
        None => std::future::pending().await,
    }
}

fn respond(responder: &mut Peer, answers: &str, qos: QoS) -> Result<(), BenchError> {
    while let Some(event) = responder.event()? {
        let Event::Message(message) = event else { continue };
        let answer = Publication::new(answers, message.payload, qos);
        responder.client.publish(answer).map_err(|error| BenchError::Target(error.to_string()))?;
    }
    Ok(())
}
