//! From a mailbox to the client.

use iot_core::{message::QoS, store::Settled, time::Monotonic};

use super::{
    mailbox::{Kind, Outgoing},
    session::{Session, Tag},
};
use crate::mqtt::{
    ReasonCode,
    server::{Delivered, Delivery, PacketId},
};

/// Output above this is written before more is taken from the mailbox.
const OUTPUT_MAX: usize = 64 * 1024;
/// How many messages one look at the queue brings.
const QUEUE_PAGE: u32 = 256;
/// How many bytes of them; one message may go beyond.
const QUEUE_PAGE_BYTES: usize = 256 * 1024;

impl Session {
    /// Brings the next page of the stored queue into memory.
    pub(super) async fn read_queue(&mut self) {
        let mailbox = self.mailbox().clone();
        let store = self.node.stores.sessions.clone();
        mailbox.begin_read();
        let after = Some(self.progress.read.max(self.progress.last)).filter(|position| position.0 > 0);
        match store.peek(&self.endpoint.session, after, QUEUE_PAGE, QUEUE_PAGE_BYTES).await {
            Ok(queued) => {
                let size: usize = queued.iter().map(|item| item.message.size()).sum();
                let end = queued.len() < QUEUE_PAGE as usize && size < QUEUE_PAGE_BYTES;
                for item in queued {
                    self.progress.read = item.position;
                    let dup = item.position <= self.progress.sent_through;
                    mailbox.post_read(Outgoing {
                        message: item.message,
                        qos: item.qos,
                        retain: item.retain,
                        identifiers: item.identifiers.into_iter().collect(),
                        kind: Kind::Queued { position: item.position, released: item.released, dup },
                    });
                }
                if end {
                    mailbox.caught_up();
                }
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a queue cannot be read");
                self.wire.engine.disconnect(ReasonCode::UnspecifiedError);
            }
        }
    }

    /// Gives the engine what it can take.
    pub(super) fn fill(&mut self) {
        let now = self.node.clock.monotonic();
        while self.wire.engine.output_len() < OUTPUT_MAX && !self.wire.engine.is_closed() {
            let window = self.wire.engine.window() > 0;
            let Some(outgoing) = self.link.mailbox.next(window) else { return };
            if !self.deliver(now, outgoing) {
                return;
            }
        }
    }

    /// `false` if it must wait.
    fn deliver(&mut self, now: Monotonic, outgoing: Outgoing) -> bool {
        let timestamp = self.node.clock.timestamp();
        let tag = match &outgoing.kind {
            Kind::Passing => Tag::Passing,
            Kind::Queued { position, .. } => Tag::Queued(*position),
            Kind::Command(_) => Tag::Command(self.rare().next_command),
        };
        if let Kind::Queued { position, released, .. } = outgoing.kind {
            if position <= self.progress.last {
                return true;
            }
            if released {
                self.progress.last = position;
                self.wire.engine.release(position.packet_id().get(), tag.write());
                return true;
            }
        }
        let allowed = matches!(outgoing.kind, Kind::Command(_)) || self.link.may_receive(&outgoing.message, timestamp);
        // What was sent before is sent again however late it is: the client may know it already [MQTT-4.3.3-7].
        let was_sent = matches!(outgoing.kind, Kind::Queued { dup: true, .. });
        if !allowed || (!was_sent && outgoing.message.is_expired(timestamp)) {
            let why = if allowed { "expired" } else { "not_authorized" };
            metrics::counter!("iot_messages_dropped_total", "reason" => why).increment(1);
            self.skip(&outgoing.kind);
            return true;
        }
        let message = &outgoing.message;
        // A device sees its own tree from inside.
        let prefix = self.link.device.as_ref().map_or("", |device| &*device.prefix);
        let topic = message.topic.strip_prefix(prefix).unwrap_or(&message.topic);
        let expiry = message.expires.map(|at| at.since(timestamp).as_secs());
        let (packet_id, dup) = match outgoing.kind {
            Kind::Queued { position, dup, .. } => (PacketId::Use(position.packet_id()), dup),
            Kind::Passing | Kind::Command(_) => (PacketId::Assign, false),
        };
        let delivery = Delivery {
            topic,
            payload: &message.payload,
            qos: outgoing.qos,
            retain: outgoing.retain,
            dup: dup && outgoing.qos != QoS::AtMostOnce,
            packet_id,
            tag: tag.write(),
            identifiers: &outgoing.identifiers,
            properties: message.properties.as_deref(),
            expiry_s: expiry.map(|s| u32::try_from(s).unwrap_or(u32::MAX)),
        };
        match self.wire.engine.deliver(now, &delivery) {
            Delivered::Written => self.written(outgoing.kind),
            Delivered::TooLarge => {
                metrics::counter!("iot_messages_dropped_total", "reason" => "too_large").increment(1);
                self.skip(&outgoing.kind);
            }
            Delivered::Full => {
                self.link.mailbox.put_back(outgoing);
                return false;
            }
        }
        true
    }

    fn written(&mut self, kind: Kind) {
        self.node.counters.sent.increment(1);
        match kind {
            Kind::Queued { position, .. } => self.progress.last = position,
            Kind::Command(id) => {
                self.node.commander.sent(&self.link.principal.tenant, &id);
                let rare = self.rare();
                rare.commands.push((rare.next_command, id));
                rare.next_command += 1;
            }
            Kind::Passing => {}
        }
    }

    fn skip(&mut self, kind: &Kind) {
        if let Kind::Queued { position, .. } = kind {
            self.progress.last = *position;
            self.settle(Settled::Finished(*position), None);
        }
    }
}
