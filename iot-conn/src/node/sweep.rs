//! What is due without anybody asking: wills of closed sessions, sessions that have expired, old receipts.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use iot_core::{
    id::TenantId,
    session::Position,
    store::Closing,
    store::{Due, Fenced, StoreError},
};

use super::Inner;

const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// After a start, clients get so long to come back before wills and expiries count.
const START_GRACE: Duration = Duration::from_secs(30);
const SWEEP_PAGE: u32 = 500;
const SESSIONS_PAGE: u32 = 1_000;
const RECEIPTS_EVERY: u32 = 600;
const HISTORY_EVERY: u32 = 6 * 3_600;

pub(crate) async fn run(node: Arc<Inner>) {
    tokio::time::sleep(START_GRACE).await;
    if let Err(error) = node.end_suspicion().await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "the devices that did not come back cannot be told of"
        );
    }
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut round = 0u32;
    loop {
        tick.tick().await;
        if let Err(error) = sweep(&node).await {
            tracing::error!(error = &error as &dyn std::error::Error, "what is due cannot be swept");
        }
        if round.is_multiple_of(RECEIPTS_EVERY)
            && let Err(error) = node.commander.sweep(node.clock.timestamp()).await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "old receipts cannot be removed");
        }
        if round.is_multiple_of(HISTORY_EVERY)
            && let Err(error) = node.sweep_history().await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "old connections cannot be removed");
        }
        round = round.wrapping_add(1);
    }
}

pub(super) async fn sweep(node: &Inner) -> Result<(), StoreError> {
    close_left(node).await?;
    loop {
        let due = node.stores.sessions.due(node.clock.timestamp(), SWEEP_PAGE).await?;
        let full = due.len() == SWEEP_PAGE as usize;
        for due in due {
            settle(node, due).await?;
        }
        if !full {
            return Ok(());
        }
    }
}

/// Closes what could not be closed when its connection ended: an open session does not expire, and its will does not come. One
/// that was opened again meanwhile has a higher epoch, and nothing happens to it.
async fn close_left(node: &Inner) -> Result<(), StoreError> {
    let left = || node.unclosed.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let Some(closing) = left().pop() else { return Ok(()) };
        if let Err(error) = node.stores.sessions.close(closing.clone()).await.map(drop) {
            left().push(closing);
            return Err(error);
        }
    }
}

async fn settle(node: &Inner, due: Due) -> Result<(), StoreError> {
    let endpoint = node.registry.get(&due.session);
    let _opening = match &endpoint {
        Some(endpoint) => Some(endpoint.opening.lock().await),
        None => None,
    };
    if endpoint.as_ref().is_some_and(|endpoint| endpoint.is_connected()) {
        return Ok(());
    }
    if let Some(will) = due.will.clone() {
        node.publish_will(will).await?;
    }
    if node.stores.sessions.discharge(&due).await? == Fenced::Done
        && due.expired
        && let Some(endpoint) = &endpoint
    {
        endpoint.set_stored(false);
        node.unsubscribe_all(endpoint);
        node.registry.remove(endpoint);
    }
    Ok(())
}

/// Reads the stored sessions, so that messages for them find their queues. Those that a crash left open are closed as
/// of now.
pub(crate) async fn restore(node: &Arc<Inner>) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = node.stores.sessions.sessions(after.as_ref(), SESSIONS_PAGE).await?;
        let end = page.len() < SESSIONS_PAGE as usize;
        after = page.last().map(|stored| stored.session.clone());
        for stored in page {
            if TenantId::parse(stored.session.tenant()).is_err() {
                return Err(StoreError::Damaged { backend: "sessions", what: format!("session {}", stored.session) });
            }
            let endpoint = node.registry.get_or_insert(&stored.session);
            endpoint.set_stored(true);
            for subscription in stored.subscriptions {
                node.subscribe(&endpoint, &subscription);
            }
            if stored.open {
                node.left_open(&stored.session);
                let closing = Closing {
                    session: stored.session,
                    epoch: stored.epoch,
                    at: node.clock.timestamp(),
                    keep: stored.keep,
                    will: true,
                    sent_through: Position(u64::MAX >> 2),
                };
                let _superseded = node.stores.sessions.close(closing).await?;
            }
        }
        if end {
            return Ok(());
        }
    }
}
