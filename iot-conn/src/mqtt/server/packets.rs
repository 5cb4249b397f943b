//! Packets of a connected client.

use bytes::Bytes;
use iot_core::message::QoS;

use crate::mqtt::{
    codec::decode,
    packet::{
        Ack, Disconnect, Packet, PacketId, PacketKind, Publish, Sender, Subscribe, Subscription, Unsubscribe, Version,
    },
    reason::ReasonCode,
    wire::DecodeError,
};

use super::connection::{Connection, Phase};
use super::event::{Cause, Event, PublishRequest, SubscribeOptions, Text};
use super::inbound::{Arrival, ReleaseArrival};
use super::outbound::Recorded;

type Handled = Result<(), DecodeError>;

impl Connection {
    pub(super) fn handle_frame(&mut self, frame: &Bytes) -> Handled {
        match (self.phase, self.version) {
            (Phase::Online, Some(version)) => self.handle_packet(frame, version),
            _ => self.handle_first(frame),
        }
    }

    fn handle_packet(&mut self, frame: &Bytes, version: Version) -> Handled {
        match decode(frame, version, Sender::Client)? {
            Packet::Publish(publish) => self.handle_publish(&publish, frame, version),
            Packet::PubAck(ack) => self.handle_pub_ack(&ack),
            Packet::PubRec(ack) => self.handle_pub_rec(&ack),
            Packet::PubRel(ack) => self.handle_pub_rel(&ack),
            Packet::PubComp(ack) => {
                let finished = self.outbound.completed(ack.packet_id);
                self.finish(finished, ack.reason);
                Ok(())
            }
            Packet::Subscribe(subscribe) => {
                self.handle_subscribe(&subscribe);
                Ok(())
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.handle_unsubscribe(&unsubscribe);
                Ok(())
            }
            Packet::PingReq => {
                self.send(&Packet::PingResp);
                Ok(())
            }
            Packet::Disconnect(disconnect) => self.handle_disconnect(&disconnect),
            Packet::Connect(_) => Err(DecodeError::protocol("a client sends one CONNECT [MQTT-3.1.0-2]")),
            Packet::Auth(_) => Err(DecodeError::protocol(
                "an AUTH comes after a CONNECT with an authentication method [MQTT-4.12.0-7]",
            )),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(DecodeError::protocol("a packet type is sent in its direction of flow (MQTT 5 §2.1.2)"))
            }
        }
    }

    fn handle_publish(&mut self, publish: &Publish<'_>, frame: &Bytes, version: Version) -> Handled {
        let topic = self.topic(publish, frame)?;
        let ticket = match publish.packet_id {
            None => None,
            Some(packet_id) => match self.inbound.publish(publish.qos, packet_id, version, &self.limits)? {
                Arrival::New(ticket) => Some(ticket),
                Arrival::Duplicate => {
                    self.send_answers();
                    return Ok(());
                }
            },
        };
        self.emit(Event::Publish(PublishRequest {
            ticket,
            packet_id: publish.packet_id.map(PacketId::get),
            topic,
            payload: frame.slice_ref(publish.payload),
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup && publish.qos != QoS::AtMostOnce,
            expiry_s: publish.properties.message_expiry_interval(),
            properties: publish.properties.to_message(),
        }));
        Ok(())
    }

    fn topic(&mut self, publish: &Publish<'_>, frame: &Bytes) -> Result<Text, DecodeError> {
        match publish.properties.topic_alias() {
            Some(alias) if publish.topic.is_empty() => self.inbound.alias(alias, &self.limits),
            alias => {
                if let Some(alias) = alias {
                    self.inbound.set_alias(alias, publish.topic, &self.limits)?;
                }
                Ok(Text::of_frame(frame, publish.topic))
            }
        }
    }

    fn handle_pub_ack(&mut self, ack: &Ack<'_>) -> Handled {
        let finished = self.outbound.acknowledged(ack.packet_id)?;
        self.finish(finished, ack.reason);
        Ok(())
    }

    fn handle_pub_rec(&mut self, ack: &Ack<'_>) -> Handled {
        match self.outbound.recorded(ack.packet_id, ack.reason)? {
            Recorded::Received { tag } => self.emit(Event::Received { tag, packet_id: ack.packet_id.get() }),
            Recorded::Finished { tag } => self.finish(Some(tag), ack.reason),
            Recorded::Release(reason) => {
                self.send(&Packet::PubRel(Ack::new(ack.packet_id, reason)));
            }
            Recorded::Nothing => {}
        }
        Ok(())
    }

    fn finish(&mut self, tag: Option<u64>, reason: ReasonCode) {
        if let Some(tag) = tag {
            self.emit(Event::Finished { tag, reason });
        }
    }

    fn handle_pub_rel(&mut self, ack: &Ack<'_>) -> Handled {
        match self.inbound.release(ack.packet_id)? {
            ReleaseArrival::New(ticket) => self.emit(Event::Release { ticket, packet_id: ack.packet_id.get() }),
            ReleaseArrival::Duplicate => {}
            ReleaseArrival::Unknown => {
                self.send(&Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::PacketIdentifierNotFound)));
            }
        }
        Ok(())
    }

    fn handle_subscribe(&mut self, subscribe: &Subscribe<'_>) {
        let filters: Vec<_> = subscribe
            .subscriptions
            .iter()
            .map(|subscription| (subscription.filter.to_owned(), options(&subscription)))
            .collect();
        let ticket = self.inbound.request(PacketKind::SubAck, subscribe.packet_id, filters.len());
        let identifier = subscribe.properties.subscription_identifier();
        self.emit(Event::Subscribe { ticket, filters, identifier });
    }

    fn handle_unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>) {
        let filters: Vec<_> = unsubscribe.filters.iter().map(str::to_owned).collect();
        let ticket = self.inbound.request(PacketKind::UnsubAck, unsubscribe.packet_id, filters.len());
        self.emit(Event::Unsubscribe { ticket, filters });
    }

    fn handle_disconnect(&mut self, disconnect: &Disconnect<'_>) -> Handled {
        let session_expiry_s = disconnect.properties.session_expiry_interval();
        if self.asked.session_expiry_s == 0 && session_expiry_s.is_some_and(|expiry_s| expiry_s > 0) {
            return Err(DecodeError::protocol(
                "a session without an expiry interval gets none by DISCONNECT (MQTT 5 §3.14.2.2.2)",
            ));
        }
        self.close(Cause::Disconnected {
            with_will: disconnect.reason != ReasonCode::Success,
            session_expiry_s: session_expiry_s.map(|expiry_s| expiry_s.min(self.limits.session_expiry_s_max)),
        });
        Ok(())
    }
}

fn options(subscription: &Subscription<'_>) -> SubscribeOptions {
    SubscribeOptions {
        qos: subscription.qos,
        no_local: subscription.no_local,
        retain_as_published: subscription.retain_as_published,
        retain_handling: subscription.retain_handling,
    }
}
