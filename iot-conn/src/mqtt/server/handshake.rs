//! CONNECT and CONNACK.

use bytes::Bytes;
use iot_core::{secret::Secret, time::Monotonic};

use crate::mqtt::{
    codec::{connect_version, decode},
    packet::{ConnAck, Connect, List, Packet, PacketKind, Sender, Version, Will},
    property::Property,
    reason::ReasonCode,
    wire::DecodeError,
};

use super::connection::{Asked, Connection, Phase, reason_for};
use super::event::{Cause, ConnectRequest, Event, Farewell, WillRequest};
use super::inbound::Inbound;
use super::outbound::Outbound;

/// What the server grants. Packet size and topic alias maximum are those of the limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made by the caller")]
pub struct Accepted {
    /// Whether there is a session to go on with.
    pub session_present: bool,
    /// How long the session will outlive the connection, not above the limit. An MQTT 5 client is told if that is not
    /// what it asked for.
    pub session_expiry_s: u32,
    /// For a client that named none; MQTT 5 only. 3.1.1 has no way to tell.
    pub assigned_client_id: Option<String>,
    /// The keep alive that the client is to use instead of its own; MQTT 5 only.
    pub server_keep_alive_s: Option<u16>,
    /// How many inbound messages of QoS 1 and 2 may be unfinished, if that is less than
    /// [`ConnectionLimits::receive_maximum`](super::ConnectionLimits::receive_maximum) says; 0 counts as 1.
    pub receive_maximum: Option<u16>,
    /// Inbound QoS 2 messages of the session that were received and whose PUBREL is to come.
    pub received: Vec<u16>,
}

impl Connection {
    /// Takes the client: CONNACK is sent, and packets behind the CONNECT are next. Only after [`Event::Connect`].
    pub fn accept(&mut self, now: Monotonic, accepted: Accepted) {
        let (Phase::Asked, Some(version)) = (self.phase, self.version) else { return };
        let server_keep_alive_s = match version {
            Version::V5 => self.server_keep_alive(accepted.server_keep_alive_s),
            Version::V311 => None,
        };
        if !self.send_accepted(&accepted, server_keep_alive_s) {
            return self.close(Cause::ServerDisconnect(ReasonCode::PacketTooLarge));
        }
        let keep_alive_s = server_keep_alive_s.unwrap_or(self.asked.keep_alive_s);
        self.keep_alive_s = keep_alive_s;
        self.heard = now;
        self.inbound = Inbound::new(self.granted(&accepted), accepted.received);
        let inflight_max = self.limits.inflight_max.max(1);
        self.outbound = Outbound::new(self.asked.receive_maximum.map_or(inflight_max, |max| max.min(inflight_max)));
        self.phase = Phase::Online;
    }

    /// The receive maximum of this connection.
    fn granted(&self, accepted: &Accepted) -> u16 {
        let max = self.limits.receive_maximum;
        accepted.receive_maximum.map_or(max, |granted| granted.min(max)).max(1)
    }

    /// The server's keep alive, if it is not the client's.
    fn server_keep_alive(&self, chosen_s: Option<u16>) -> Option<u16> {
        let keep_alive_s = chosen_s.unwrap_or(self.asked.keep_alive_s);
        match self.limits.keep_alive_s_max {
            Some(max) if keep_alive_s == 0 || keep_alive_s > max => Some(max),
            _ => chosen_s,
        }
    }

    fn send_accepted(&mut self, accepted: &Accepted, server_keep_alive_s: Option<u16>) -> bool {
        let limits = &self.limits;
        let session_expiry_s = accepted.session_expiry_s.min(limits.session_expiry_s_max);
        let packet_bytes_max = u32::try_from(limits.packet_bytes_max.max(1)).unwrap_or(u32::MAX);
        let properties: Vec<_> = [
            (session_expiry_s != self.asked.session_expiry_s)
                .then_some(Property::SessionExpiryInterval(session_expiry_s)),
            Some(Property::ReceiveMaximum(self.granted(accepted))),
            Some(Property::MaximumPacketSize(packet_bytes_max)),
            accepted.assigned_client_id.as_deref().map(Property::AssignedClientIdentifier),
            (limits.topic_alias_maximum > 0).then_some(Property::TopicAliasMaximum(limits.topic_alias_maximum)),
            server_keep_alive_s.map(Property::ServerKeepAlive),
        ]
        .into_iter()
        .flatten()
        .collect();
        self.send(&Packet::ConnAck(ConnAck {
            session_present: accepted.session_present,
            reason: ReasonCode::Success,
            properties: List::from(&properties[..]),
        }))
    }

    /// Refuses the client: CONNACK with the reason, then the end. A 3.1.1 client gets the return code that says it, and
    /// no CONNACK if none does. Only after [`Event::Connect`].
    pub fn refuse(&mut self, reason: ReasonCode) {
        self.refuse_with(reason, &Farewell::default());
    }

    /// The same, with something to tell beside the reason.
    pub fn refuse_with(&mut self, reason: ReasonCode, farewell: &Farewell) {
        if let (Phase::Asked, Some(version)) = (self.phase, self.version) {
            self.send_refusal(version, reason, farewell);
            self.close(Cause::ServerDisconnect(reason));
        }
    }

    fn send_refusal(&mut self, version: Version, reason: ReasonCode, farewell: &Farewell) {
        let reason = match version {
            Version::V5 if !reason.is_error() => ReasonCode::UnspecifiedError,
            Version::V5 => reason_for(PacketKind::ConnAck, reason),
            Version::V311 if reason.is_error() => reason,
            Version::V311 => return,
        };
        // An error means a reason without a return code in 3.1.1; nothing is written then.
        self.version = Some(version);
        self.send_away(farewell, |properties| Packet::ConnAck(ConnAck { session_present: false, reason, properties }));
    }

    /// The first packet.
    pub(super) fn handle_first(&mut self, frame: &Bytes) -> Result<(), DecodeError> {
        let connect = match decode(frame, Version::V5, Sender::Client) {
            Ok(Packet::Connect(connect)) => connect,
            Ok(_) => return Err(DecodeError::protocol("the client's first packet is a CONNECT [MQTT-3.1.0-1]")),
            Err(violation) => {
                self.refuse_first(frame, &violation);
                return Err(violation);
            }
        };
        let properties = connect.properties;
        self.version = Some(connect.version);
        self.asked = Asked {
            keep_alive_s: connect.keep_alive_s,
            session_expiry_s: session_expiry(&connect),
            receive_maximum: properties.receive_maximum(),
            packet_bytes_max: properties.maximum_packet_size(),
        };
        self.phase = Phase::Asked;
        if properties.authentication_method().is_some() {
            self.refuse(ReasonCode::BadAuthenticationMethod);
        } else if let Some(request) = self.request(&connect) {
            self.emit(Event::Connect(Box::new(request)));
        } else {
            self.refuse(ReasonCode::BadUserNameOrPassword);
        }
        Ok(())
    }

    /// Answers a CONNECT that cannot be read, as far as its version is known.
    pub(super) fn refuse_first(&mut self, bytes: &[u8], violation: &DecodeError) {
        if let (Phase::Fresh, Some(version)) = (self.phase, connect_version(bytes)) {
            self.send_refusal(version, violation.reason, &Farewell::default());
        }
    }

    /// `None` if the password is not text.
    fn request(&self, connect: &Connect<'_>) -> Option<ConnectRequest> {
        let password = match connect.password {
            Some(bytes) => Some(Secret::new(str::from_utf8(bytes).ok()?)),
            None => None,
        };
        Some(ConnectRequest {
            version: connect.version,
            client_id: connect.client_id.to_owned(),
            clean_start: connect.clean_start,
            keep_alive_s: connect.keep_alive_s,
            username: connect.username.map(str::to_owned),
            password,
            will: connect.will.map(|will| will_request(&will)),
            session_expiry_s: self.asked.session_expiry_s.min(self.limits.session_expiry_s_max),
            request_problem_information: connect.properties.request_problem_information().unwrap_or(true),
        })
    }
}

fn session_expiry(connect: &Connect<'_>) -> u32 {
    match connect.version {
        Version::V5 => connect.properties.session_expiry_interval().unwrap_or(0),
        Version::V311 if connect.clean_start => 0,
        Version::V311 => u32::MAX,
    }
}

fn will_request(will: &Will<'_>) -> WillRequest {
    WillRequest {
        topic: will.topic.to_owned(),
        // A copy: a slice would keep the password in memory as long as the will.
        payload: Bytes::copy_from_slice(will.payload),
        qos: will.qos,
        retain: will.retain,
        delay_s: will.properties.will_delay_interval().unwrap_or(0),
        expiry_s: will.properties.message_expiry_interval(),
        properties: will.properties.to_message(),
    }
}
