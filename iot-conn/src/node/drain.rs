//! How a node that ends hands its clients away.

use std::{sync::Arc, time::Duration};

use super::Node;
use crate::mqtt::ReasonCode;

/// How long connections get to end once all are told to.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// How often a draining node hands clients away, in milliseconds.
const DRAIN_STEP_MS: u64 = 50;

/// How a node that ends hands its clients away. They are told with a time each to come back at; nothing that was acknowledged is
/// lost, and no will is published.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "made by whoever deploys")]
pub struct Drain {
    /// How many clients are handed away per second, at least 1; the others are served meanwhile.
    pub per_s: u32,
    /// After so long all that are left are handed away at once.
    pub within: Duration,
    /// Where they are to go, `host` or `host:port`, if there is another server: clients of MQTT 5 are told to use it (reason 0x9C
    /// with a Server Reference, MQTT 5 §4.13).
    pub server_reference: Option<Arc<str>>,
}

impl Default for Drain {
    /// At once, and nowhere else.
    fn default() -> Self {
        Self { per_s: u32::MAX, within: Duration::ZERO, server_reference: None }
    }
}

impl Node {
    pub(super) async fn drain(&self) {
        let Drain { per_s, within, server_reference } = &self.inner.drain;
        let reason = match server_reference {
            Some(_) => ReasonCode::UseAnotherServer,
            None => ReasonCode::ServerShuttingDown,
        };
        let at_the_rate = async {
            let per_step = u64::from((*per_s).max(1)) * DRAIN_STEP_MS;
            let mut owed = 0;
            loop {
                // In thousandths of a client.
                owed += per_step;
                if self.hand_away(usize::try_from(owed / 1_000).unwrap_or(usize::MAX), reason)
                    || self.all_ended(Duration::from_millis(DRAIN_STEP_MS)).await
                {
                    return;
                }
                owed %= 1_000;
            }
        };
        let _late = tokio::time::timeout(*within, at_the_rate).await;
        let everybody_gone = async {
            loop {
                self.hand_away(usize::MAX, reason);
                if self.all_ended(Duration::from_millis(DRAIN_STEP_MS)).await {
                    return;
                }
            }
        };
        if tokio::time::timeout(DRAIN_MAX, everybody_gone).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
    }

    /// Tells so many clients to go; whether none is left that was not told.
    fn hand_away(&self, count: usize, reason: ReasonCode) -> bool {
        let mut untold = self.inner.registry.connected_in_order().into_iter().filter(|link| !link.mailbox.is_closed());
        untold.by_ref().take(count).for_each(|link| link.mailbox.close(reason));
        untold.next().is_none()
    }

    async fn all_ended(&self, within: Duration) -> bool {
        let all = u32::try_from(self.inner.connections_max).unwrap_or(u32::MAX);
        tokio::time::timeout(within, self.inner.acceptor.all_ended(all)).await.is_ok()
    }
}
