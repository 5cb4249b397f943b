//! How a connection is held to its limits.

use iot_core::{
    payload::{self, ErrorBody},
    topic::DeviceTopic,
};

use super::{
    super::session::{Session, Work},
    Metering,
    metering::{Answer, Reached},
};
use crate::mqtt::{ReasonCode, server::PublishRequest};

/// A device is sending too fast: it is slowed, and nothing is lost.
const RATE_LIMITED: &str = "rate_limited";
/// A message of a device was not taken.
const QUOTA_EXCEEDED: &str = "quota_exceeded";

impl Session {
    /// Takes what the client has published as far as its limits let it.
    pub(crate) fn publish_limited(&mut self, request: PublishRequest) -> Option<Work> {
        let (now, can_wait) = (self.node.clock.monotonic(), !self.is_ending());
        let is_awaited = self.is_awaited_reply(&request);
        let Some(metering) = &mut self.metering else { return self.hand_on(request) };
        if is_awaited {
            metering.charge(&request, now);
            return self.hand_on(request);
        }
        match metering.ask(&request, now, can_wait) {
            Answer::Passes => self.hand_on(request),
            Answer::Waits(reached, until) => {
                self.tell_limit(&request, &reached, RATE_LIMITED);
                if let Some(metering) = &mut self.metering {
                    metering.hold(request, until);
                }
                None
            }
            Answer::Refused(reached) => {
                self.tell_limit(&request, &reached, QUOTA_EXCEEDED);
                self.refuse(&request, ReasonCode::QuotaExceeded);
                None
            }
        }
    }

    /// Whether nothing is taken from the client because a message of it waits.
    pub(crate) fn is_slowed(&self) -> bool {
        self.metering.as_ref().is_some_and(|metering| metering.held_until().is_some())
    }

    /// Takes the message that has waited, if its time has come. Where the node ends the connection it does not wait any more: it
    /// has its room.
    pub(crate) fn release_held(&mut self) -> Option<Work> {
        if !self.is_slowed() {
            return None;
        }
        let at_once = self.is_ending();
        let metering = self.metering.as_mut()?;
        let request = metering.take_held(self.node.clock.monotonic(), at_once)?;
        if metering.is_over() {
            self.metering = None;
        }
        self.hand_on(*request)
    }

    /// Whether the node ends the connection. A client that has left before its messages had their time is not waited for longer than
    /// they wait: at most as many as the engine hands out at once.
    pub(crate) fn is_ending(&self) -> bool {
        self.link.mailbox.is_closed()
    }

    /// Whether the client has left, and what it sent before waits for its time.
    pub(crate) fn has_only_what_waits(&self) -> bool {
        self.is_slowed() && (self.wire.is_ended() || self.wire.engine.is_closed())
    }

    /// The answer to a command that waits for it: control goes before data, and there is one for each command. Whatever else a
    /// device says on that topic is data.
    fn is_awaited_reply(&self, request: &PublishRequest) -> bool {
        let Some(device) = &self.link.device else { return false };
        DeviceTopic::parse(&request.topic) == Some(DeviceTopic::Reply)
            && payload::reply(&request.payload)
                .is_ok_and(|reply| self.node.commander.awaits(&self.link.principal.tenant, &device.id, &reply.id))
    }

    fn tell_limit(&mut self, request: &PublishRequest, reached: &Reached, code: &'static str) {
        let (Some(device), Some(metering)) = (&self.link.device, &mut self.metering) else { return };
        if metering.tells(code == QUOTA_EXCEEDED, self.node.clock.monotonic()) {
            let (topic, detail) = (&*request.topic, reached.to_string());
            tracing::debug!(device = %device.id, topic, code, %detail, "a limit is reached");
            let body = ErrorBody { topic: topic.into(), code: code.into(), detail: detail.into() };
            self.node.tell_error(&self.link, device, &body);
        }
    }

    /// Looks again by what the connection is limited.
    pub(crate) async fn relimit(&mut self) {
        let listener = self.metering.as_ref().and_then(|metering| metering.listener);
        match self.node.limits_of(listener, &self.link.principal, self.link.device.as_deref()).await {
            Ok(limits) => {
                let fresh = self.node.quotas.seat(&limits, self.endpoint.subscriber);
                let former = self.metering.take();
                self.metering = Metering::instead_of(fresh, former);
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "quotas cannot be read; disconnecting");
                self.link.mailbox.close(ReasonCode::ServerBusy);
            }
        }
    }
}
