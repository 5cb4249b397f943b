use std::{sync::Arc, time::Duration};

use iot_core::{
    message::Message,
    session::{SessionEpoch, SessionId},
    store::{Offered, Placed, Publication, SessionStore, Settlement, Target},
};

use super::{
    endpoint::{Endpoint, Link},
    gate::Part,
    mailbox::{Kind, Outgoing},
    plane::Plane,
};
use crate::mqtt::ReasonCode;

/// The most publications stored at once.
pub(crate) const OFFER_BATCH_MAX: usize = 1_024;
/// As many may wait before connections stop reading.
pub(crate) const OFFERS_PRESSED: usize = 16_384;

/// A message that must be durable before its sender is acknowledged.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) message: Message,
    pub(crate) to: Vec<(Arc<Endpoint>, Target)>,
    /// Whose sessions are not stored, and who still get it after it is.
    pub(crate) passing: Vec<(Arc<Link>, Outgoing)>,
    pub(crate) received: Option<(SessionId, SessionEpoch, u16)>,
    pub(crate) part: Part,
}

/// A step in a delivery, and who waits for it to be durable.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) settlement: Settlement,
    pub(crate) part: Option<Part>,
}

/// Stores what is offered, batch after batch, and then hands it to the sessions that are connected.
pub(crate) async fn run(plane: Arc<Plane<Offer>>, store: Arc<dyn SessionStore>) {
    while let Some(offers) = plane.take(OFFER_BATCH_MAX).await {
        let publication = |offer: &Offer| Publication {
            message: offer.message.clone(),
            to: offer.to.iter().map(|(_, target)| target.clone()).collect(),
            received: offer.received.clone(),
        };
        let publications: Vec<Publication> = offers.iter().map(publication).collect();
        let offered = retry("messages cannot be stored", || store.offer(&publications)).await;
        for (offer, offered) in offers.into_iter().zip(offered) {
            hand_out(offer, &offered);
        }
    }
}

/// Makes steps durable, batch after batch.
pub(crate) async fn settle(plane: Arc<Plane<Step>>, store: Arc<dyn SessionStore>) {
    while let Some(steps) = plane.take(OFFER_BATCH_MAX).await {
        let settlements: Vec<Settlement> = steps.iter().map(|step| step.settlement.clone()).collect();
        retry("deliveries cannot be settled", || store.settle(&settlements)).await;
        steps.into_iter().filter_map(|step| step.part).for_each(|part| part.finish(ReasonCode::Success));
    }
}

fn hand_out(offer: Offer, offered: &Offered) {
    let mut reason = ReasonCode::Success;
    if offered.retained_full {
        metrics::counter!("iot_messages_dropped_total", "reason" => "retained_full").increment(1);
        reason = ReasonCode::QuotaExceeded;
    }
    for ((endpoint, target), placed) in offer.to.into_iter().zip(&offered.placed) {
        match placed {
            Placed::At(epoch, position) => {
                // A later opening reads it from the store, or has a new session, which it is not for.
                let Some(link) = endpoint.link().filter(|link| link.persistent && link.epoch == *epoch) else {
                    continue;
                };
                link.mailbox.post_queued(Outgoing {
                    message: offer.message.clone(),
                    qos: target.qos,
                    retain: target.retain,
                    identifiers: target.identifiers.iter().copied().collect(),
                    kind: Kind::Queued { position: *position, released: false, dup: false },
                });
            }
            Placed::Full => {
                metrics::counter!("iot_messages_dropped_total", "reason" => "queue_full").increment(1);
                reason = ReasonCode::QuotaExceeded;
            }
            _ => {}
        }
    }
    // The sender's next connection sends it again if it was not this one's to send.
    let passing = offer.passing.into_iter().filter(|_| !offered.superseded);
    for (link, outgoing) in passing {
        // Of QoS 2, which is not shed.
        let _posted = link.mailbox.post(outgoing, || offer.part.another());
    }
    offer.part.finish(reason);
}

/// Tries a store operation until it works; what waits for it is not acknowledged meanwhile.
async fn retry<T, F, Fut>(what: &'static str, mut operation: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, iot_core::store::StoreError>>,
{
    let mut pause = Duration::from_millis(50);
    loop {
        match operation().await {
            Ok(answer) => return answer,
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "{what}; trying again"),
        }
        metrics::counter!("iot_session_store_failures_total").increment(1);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}
