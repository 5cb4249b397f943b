use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use iot_core::bus::{Bus, BusError, Delivery, Inbox};
use tokio::sync::broadcast;

/// The most messages that wait for one subscriber; the oldest is dropped, and the subscriber told.
pub const INBOX_MAX: usize = 1_024;

/// A bus within one process.
#[derive(Debug, Default)]
pub struct InProcess {
    // Small sections, never across an await. One entry per subject that was ever subscribed to.
    subjects: Mutex<HashMap<String, broadcast::Sender<Bytes>>>,
}

#[async_trait]
impl Bus for InProcess {
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        let subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = subjects.get(subject) {
            // Nobody there is not an error of a bus that promises nothing.
            let _receivers = sender.send(payload);
        }
        Ok(())
    }

    async fn subscribe(&self, subject: &str) -> Result<Box<dyn Inbox>, BusError> {
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = subjects.entry(subject.to_owned()).or_insert_with(|| broadcast::channel(INBOX_MAX).0);
        Ok(Box::new(Subscriber(sender.subscribe())))
    }
}

struct Subscriber(broadcast::Receiver<Bytes>);

#[async_trait]
impl Inbox for Subscriber {
    async fn next(&mut self) -> Result<Delivery, BusError> {
        match self.0.recv().await {
            Ok(payload) => Ok(Delivery::Message(payload)),
            Err(broadcast::error::RecvError::Lagged(_)) => Ok(Delivery::Missed),
            Err(broadcast::error::RecvError::Closed) => Err(BusError::Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subscriber_gets_its_subject_in_order_and_is_told_what_it_missed() {
        let bus = InProcess::default();
        bus.publish("a", Bytes::from_static(b"early")).await.unwrap();
        let mut inbox = bus.subscribe("a").await.unwrap();
        bus.publish("b", Bytes::from_static(b"other")).await.unwrap();
        bus.publish("a", Bytes::from_static(b"1")).await.unwrap();
        assert_eq!(inbox.next().await.unwrap(), Delivery::Message(Bytes::from_static(b"1")));
        for _ in 0..=INBOX_MAX {
            bus.publish("a", Bytes::from_static(b"x")).await.unwrap();
        }
        assert_eq!(inbox.next().await.unwrap(), Delivery::Missed);
    }
}
