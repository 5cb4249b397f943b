//! A client by hand, with a will of its own in each connection: only packets, no engine. With 3.1.1 and a session it also
//! subscribes with QoS 2 and acknowledges step by step.

use std::{collections::BTreeSet, time::Duration};

use bytes::BytesMut;
use iot_core::{message::QoS, time::Monotonic};

use super::{network::Link, oracle::Oracle, rng::Rng};
use crate::mqtt::{
    codec::{decode, encode, frame_length},
    packet::{
        Ack, Connect, Disconnect, List, Packet, PacketId, Sender, Subscribe, Subscription, Version, Will as WireWill,
    },
    property::Property,
    reason::ReasonCode,
};

/// What becomes of a will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its connection lives.
    Open,
    /// The node has taken the client's goodbye.
    Forgotten,
    /// The client was back in time.
    Resumed,
    /// It is to be published.
    Due,
    /// The client cannot know.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Will {
    pub(super) message: u32,
    pub(super) delay: Duration,
    pub(super) fate: Fate,
    /// It said goodbye and waits for the node to close.
    leaving: bool,
    /// The node may close it for another reason than the goodbye.
    doubtful: bool,
    /// Its node was killed.
    forsaken: bool,
    accepted: bool,
    persistent: bool,
    /// When its connection was certainly there.
    heard: Monotonic,
}

pub(super) struct Mortal {
    pub(super) who: usize,
    version: Version,
    pub(super) expiry_s: u32,
    pub(super) link: Option<Link>,
    pub(super) online: bool,
    pub(super) wills: Vec<Will>,
    pub(super) subscribes: bool,
    subscribed: bool,
    received: BTreeSet<PacketId>,
    input: BytesMut,
    output: BytesMut,
    pings: Monotonic,
    answers: Option<Monotonic>,
}

const KEEP_ALIVE: Duration = Duration::from_secs(6);
const SUBSCRIBE_ID: PacketId = PacketId::MIN;
const FILTER: &str = "a/+";

impl Mortal {
    pub(super) fn new(who: usize, rng: &mut Rng, oracle: &mut Oracle) -> Self {
        let version = if rng.once_in(2) { Version::V311 } else { Version::V5 };
        let expiry_s = match (version, rng.below(3)) {
            (_, 0) => 0,
            (Version::V311, _) => 7 * 24 * 3_600,
            (Version::V5, 1) => 15,
            (Version::V5, _) => 3_600,
        };
        let subscribes = version == Version::V311 && expiry_s > 0;
        let subscriber = &mut oracle.subscribers[who];
        (subscriber.name, subscriber.persistent) = (format!("mortal {who}"), subscribes);
        Self {
            who,
            version,
            expiry_s,
            link: None,
            online: false,
            wills: Vec::new(),
            subscribes,
            subscribed: false,
            received: BTreeSet::new(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            pings: Monotonic::ZERO,
            answers: None,
        }
    }

    pub(super) fn topic(&self) -> String {
        format!("w/{}", self.who)
    }

    fn send(&mut self, packet: &Packet<'_>) {
        encode(packet, self.version, &mut self.output).unwrap();
    }

    pub(super) fn connect(&mut self, now: Monotonic, link: Link, rng: &mut Rng, oracle: &mut Oracle) {
        let delay = match (self.version, rng.below(3)) {
            (Version::V311, _) | (_, 0) => 0,
            (_, 1) => 5,
            _ => 15,
        };
        let message = oracle.called(self.who, &self.topic(), QoS::ExactlyOnce, false, false);
        let payload = format!("{message}:");
        let properties = [Property::WillDelayInterval(delay)];
        let session = [Property::SessionExpiryInterval(self.expiry_s)];
        let v5 = self.version == Version::V5;
        let (client_id, password) = (format!("mortal-{}", self.who), format!("app-{}", self.who));
        let topic = self.topic();
        let will = WireWill {
            topic: &topic,
            payload: payload.as_bytes(),
            qos: QoS::ExactlyOnce,
            retain: false,
            properties: if v5 { List::from(&properties[..]) } else { List::EMPTY },
        };
        (self.input, self.output) = (BytesMut::new(), BytesMut::new());
        self.send(&Packet::Connect(Connect {
            version: self.version,
            client_id: &client_id,
            clean_start: self.expiry_s == 0,
            keep_alive_s: u16::try_from(KEEP_ALIVE.as_secs()).unwrap(),
            will: Some(will),
            username: Some("app"),
            password: Some(password.as_bytes()),
            properties: if v5 { List::from(&session[..]) } else { List::EMPTY },
        }));
        self.link = Some(link);
        self.answers = Some(now.plus(Duration::from_secs(4)));
        self.wills.push(Will {
            message,
            delay: Duration::from_secs(u64::from(delay)),
            fate: Fate::Open,
            leaving: false,
            doubtful: false,
            forsaken: false,
            accepted: false,
            persistent: self.expiry_s > 0,
            heard: now,
        });
    }

    /// Says goodbye, with the will or without, and waits for the end.
    pub(super) fn leave(&mut self, with_will: bool, doubtful: bool, oracle: &mut Oracle) {
        let v5 = self.version == Version::V5;
        if !self.online || self.wills.last().is_some_and(|will| will.leaving) {
            return;
        }
        oracle.note("leaves", self.who, u64::from(with_will));
        let reason = if with_will && v5 { ReasonCode::DisconnectWithWill } else { ReasonCode::Success };
        self.send(&Packet::Disconnect(Disconnect { reason, properties: List::EMPTY }));
        self.online = false;
        if let Some(will) = self.wills.last_mut()
            && reason == ReasonCode::Success
        {
            (will.leaving, will.doubtful) = (true, doubtful);
        }
    }

    /// The connection is over for the client.
    pub(super) fn end(&mut self, oracle: &mut Oracle) -> Option<Link> {
        let link = self.link.take()?;
        let in_order = link.was_closed_by_node() && link.is_over();
        link.close();
        (self.online, self.answers) = (false, None);
        let Some(will) = self.wills.last_mut() else { return Some(link) };
        will.fate = match will {
            Will { accepted: false, .. } | Will { forsaken: true, .. } => Fate::Unknown,
            Will { leaving: true, doubtful: false, .. } if in_order => Fate::Forgotten,
            Will { leaving: true, .. } => Fate::Unknown,
            _ => Fate::Due,
        };
        oracle.note("ends", self.who, u64::from(will.message));
        if !will.accepted {
            // Whether the node has taken it is not known: if so, the session went on, and what waited for its delay is forgotten.
            link.die();
            let waits = |will: &&mut Will| will.fate == Fate::Due && !will.delay.is_zero();
            self.wills.iter_mut().filter(waits).for_each(|will| will.fate = Fate::Unknown);
        }
        Some(link)
    }

    /// The node has gone down without a word.
    pub(super) fn node_crashed(&mut self) {
        for will in &mut self.wills {
            // A client that comes back while the node has just started is not reported lost; and what only memory knew is gone.
            if !will.persistent || will.delay.is_zero() || will.leaving {
                match will.fate {
                    Fate::Open => will.forsaken = true,
                    Fate::Due => will.fate = Fate::Unknown,
                    _ => {}
                }
            }
        }
    }

    /// The node hands its clients away: it publishes no will for them, and whether it had seen an earlier end is not known.
    pub(super) fn node_drains(&mut self, now: Monotonic) {
        self.doubt();
        for will in &mut self.wills {
            match will.fate {
                Fate::Open => will.forsaken = true,
                Fate::Due if now.since(will.heard) < 3 * KEEP_ALIVE => will.fate = Fate::Unknown,
                _ => {}
            }
        }
    }

    /// The node may end connections for reasons of its own.
    pub(super) fn doubt(&mut self) {
        self.wills.last_mut().into_iter().for_each(|will| will.doubtful = true);
    }

    pub(super) fn turn(&mut self, now: Monotonic, oracle: &mut Oracle) -> Option<Link> {
        let link = self.link.clone()?;
        link.receive(&mut self.input);
        while let Ok(Some(length)) = frame_length(&self.input, 1 << 20) {
            if length > self.input.len() {
                break;
            }
            let frame = self.input.split_to(length).freeze();
            match decode(&frame, self.version, Sender::Server) {
                Ok(packet) => self.handle(&packet, now, oracle),
                Err(error) => oracle.complain(format!("mortal {} cannot read what came: {error}", self.who)),
            }
        }
        if self.online && now >= self.pings {
            self.pings = now.plus(KEEP_ALIVE / 2);
            self.answers.get_or_insert(now.plus(Duration::from_secs(4)));
            self.send(&Packet::PingReq);
        }
        link.send(&mut self.output);
        if !self.online {
            self.answers.get_or_insert(now.plus(Duration::from_secs(4)));
        }
        let in_vain = self.answers.is_some_and(|at| at <= now);
        if link.is_over() || in_vain {
            return self.end(oracle);
        }
        None
    }

    fn handle(&mut self, packet: &Packet<'_>, now: Monotonic, oracle: &mut Oracle) {
        match packet {
            Packet::ConnAck(ack) if !ack.reason.is_error() => self.connected(now, ack.session_present, oracle),
            Packet::ConnAck(_) => self.online = false,
            Packet::PingResp => self.answers = None,
            Packet::SubAck(ack) if ack.reasons.iter().all(|reason| !reason.is_error()) => {
                self.subscribed = true;
                oracle.subscribed(self.who, FILTER);
            }
            Packet::Publish(publish) => {
                let is_new = match (publish.qos, publish.packet_id) {
                    (QoS::ExactlyOnce, Some(id)) => self.received.insert(id),
                    _ => true,
                };
                if is_new {
                    oracle.received(self.who, publish.topic, publish.qos, publish.retain, publish.payload);
                }
                match (publish.qos, publish.packet_id) {
                    (QoS::AtLeastOnce, Some(id)) => self.send(&Packet::PubAck(Ack::new(id, ReasonCode::Success))),
                    (QoS::ExactlyOnce, Some(id)) => self.send(&Packet::PubRec(Ack::new(id, ReasonCode::Success))),
                    _ => {}
                }
            }
            Packet::PubRel(ack) => {
                self.received.remove(&ack.packet_id);
                self.send(&Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            _ => {}
        }
        if let Some(will) = self.wills.last_mut()
            && !will.leaving
        {
            will.heard = now;
        }
    }

    fn connected(&mut self, now: Monotonic, session_present: bool, oracle: &mut Oracle) {
        oracle.note("connected", self.who, u64::from(session_present));
        self.online = true;
        self.pings = now.plus(KEEP_ALIVE / 2);
        self.answers = None;
        if !session_present {
            self.received.clear();
            self.subscribed = false;
            oracle.session_lost(self.who);
        }
        let count = self.wills.len();
        self.wills[count - 1].accepted = true;
        for will in &mut self.wills[..count - 1] {
            // The session goes on: what waited for its delay does not come; what was being published may.
            if will.fate == Fate::Due && session_present && !will.delay.is_zero() {
                // What was heard last may have been under way for a while.
                let in_time = now.since(will.heard) + Duration::from_secs(2) < will.delay;
                will.fate = if in_time { Fate::Resumed } else { Fate::Unknown };
            } else if will.fate == Fate::Open {
                will.fate = Fate::Unknown;
            }
        }
        if self.subscribes && !self.subscribed {
            oracle.subscribing(self.who, FILTER, QoS::ExactlyOnce);
            let subscriptions = [Subscription::new(FILTER, QoS::ExactlyOnce)];
            self.send(&Packet::Subscribe(Subscribe {
                packet_id: SUBSCRIBE_ID,
                properties: List::EMPTY,
                subscriptions: List::from(&subscriptions[..]),
            }));
        }
    }

    /// What the watcher must have got of the wills, and what not.
    pub(super) fn judge(&self, watcher: usize, oracle: &mut Oracle) -> usize {
        let mut certain = 0;
        for will in &self.wills {
            let came = oracle.has_seen(watcher, will.message);
            match will.fate {
                Fate::Forgotten | Fate::Resumed if came => {
                    oracle.complain(format!(
                        "the will {} of mortal {} came although {:?}",
                        will.message, self.who, will.fate
                    ));
                }
                Fate::Due if !came => {
                    oracle.complain(format!("the will {} of mortal {} never came, {will:?}", will.message, self.who));
                }
                Fate::Forgotten | Fate::Resumed | Fate::Due => certain += 1,
                Fate::Open | Fate::Unknown => {}
            }
        }
        certain
    }
}
