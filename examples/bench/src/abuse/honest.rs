//! An honest client beside the attacks: a question every few milliseconds, and somebody who answers. It has a thread of its own,
//! so that what is measured is the server, as far as the machine allows.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use iot_conn::mqtt::{
    QoS,
    client::{Event, Publication},
};
use iot_device::link::Clock;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{BenchError, histogram::Histogram, options::Broker, peer::Peer};

/// One question in this time: 200 per second.
const PERIOD: Duration = Duration::from_millis(5);

/// How long the last questions may wait for their answers.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Shared {
    latency: Histogram,
    asked: u64,
    answered: u64,
    /// Questions whose connection was lost.
    lost: u64,
    trouble: Option<String>,
}

/// The client and who answers it.
pub(super) struct Honest {
    // Small sections, never across an await.
    shared: Arc<Mutex<Shared>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    /// What was asked and not answered is lost with the connection.
    fn give_up(&mut self, error: &BenchError) {
        self.lost += self.asked - self.answered;
        self.answered = self.asked;
        self.trouble.get_or_insert(error.to_string());
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Honest {
    pub(super) fn start(broker: Broker) -> Result<Self, BenchError> {
        let (shared, ended) = (Arc::new(Mutex::new(Shared::default())), Arc::new(AtomicBool::new(false)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| BenchError::Target(error.to_string()))?;
        let (told, stop) = (Arc::clone(&shared), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = talk(&broker, &told, &stop).await {
                        lock(&told).give_up(&error);
                        sleep(PERIOD).await;
                    }
                }
            });
        });
        Ok(Self { shared, ended, thread: Some(thread) })
    }

    /// The time from a question to its answer, for what was answered since this was asked last.
    pub(super) fn latency(&self) -> Histogram {
        std::mem::take(&mut lock(&self.shared).latency)
    }

    /// Whether it is connected and was answered.
    pub(super) fn is_served(&self) -> bool {
        lock(&self.shared).latency.count() > 0
    }

    /// Waits until everything that was asked is answered; what went wrong since this was called last.
    pub(super) async fn settled(&self) -> Option<String> {
        let (by, asked) = (Instant::now() + ANSWER_WITHIN, lock(&self.shared).asked);
        loop {
            {
                let mut shared = lock(&self.shared);
                if let Some(trouble) = shared.trouble.take() {
                    let lost = std::mem::take(&mut shared.lost);
                    return Some(format!("the honest client lost its connection and {lost} questions: {trouble}"));
                }
                if shared.answered >= asked {
                    return None;
                }
                if Instant::now() > by {
                    return Some(format!("{} questions have no answer", asked - shared.answered));
                }
            }
            sleep(PERIOD).await;
        }
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

async fn talk(broker: &Broker, shared: &Mutex<Shared>, stop: &AtomicBool) -> Result<(), BenchError> {
    let (clock, id) = (Clock::start(), format!("honest-{}", std::process::id()));
    let (questions, answers) = (format!("{id}/ask"), format!("{id}/answer"));
    let mut asking = Peer::connect(broker, broker.client(format!("{id}-a"), 10_000), clock).await?;
    let mut answering = Peer::connect(broker, broker.client(format!("{id}-b"), 10_000), clock).await?;
    asking.subscribe(&answers, QoS::AtLeastOnce).await?;
    answering.subscribe(&questions, QoS::AtLeastOnce).await?;
    let began = Instant::now();
    let due = |number: u64| began + PERIOD.mul_f64(f64::from(u32::try_from(number).unwrap_or(u32::MAX)));
    let (mut sent, mut seen) = (0_u64, 0_u64);
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            step = asking.step() => step?,
            step = answering.step() => step?,
            () = sleep_until(due(sent)) => {
                publish(&mut asking, &questions, sent.to_be_bytes().to_vec())?;
                sent += 1;
                lock(shared).asked += 1;
            }
        }
        while let Some(event) = answering.event()? {
            if let Event::Message(message) = event {
                publish(&mut answering, &answers, message.payload.to_vec())?;
            }
        }
        while let Some(event) = asking.event()? {
            let Event::Message(message) = event else { continue };
            let number = <[u8; 8]>::try_from(&message.payload[..]).map(u64::from_be_bytes).ok();
            if number != Some(seen) {
                return Err(BenchError::Target(format!("answer {number:?} came instead of {seen}")));
            }
            let mut shared = lock(shared);
            shared.latency.record(Instant::now().saturating_duration_since(due(seen)));
            shared.answered += 1;
            seen += 1;
        }
    }
    asking.close().await;
    answering.close().await;
    Ok(())
}

fn publish(peer: &mut Peer, topic: &str, payload: Vec<u8>) -> Result<(), BenchError> {
    let publication = Publication::new(topic, payload, QoS::AtLeastOnce);
    let published = peer.client.publish(publication);
    published.map(drop).map_err(|error| BenchError::Target(error.to_string()))
}
