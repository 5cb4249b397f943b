//! From a client's PUBLISH to the log, to subscribers, to the commander.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use iot_core::{
    access::{Permission, Resource},
    device::Device,
    event::Event,
    id::{DeviceId, OwnershipEpoch},
    message::{Message, Properties, QoS},
    payload::{self, ErrorBody, InvalidPayload, Uplink},
    session::SessionId,
    store::{StoreError, Target},
    time::Timestamp,
    topic::{self, DeviceTopic},
};

use super::{
    Inner,
    endpoint::{DeviceContext, Endpoint, Link},
    gate::Gate,
    ingest::Arrival,
    mailbox::{Kind, Outgoing, Posted},
    offers::Offer,
};
use crate::{
    mqtt::{ReasonCode, server::PublishRequest},
    router::{Identifiers, Route},
};

/// What a client may do with a topic.
enum Place {
    /// Its own tree.
    Own(Permitted),
    /// The tree of another device, by an application.
    Other(Arc<Device>),
    /// A question to a service.
    Service,
    /// Outside the trees.
    Free,
}

enum Permitted {
    Telemetry,
    Event,
    Reply,
    Custom,
}

/// What became of a message that a client has published.
pub(crate) enum Taken {
    /// It is on its way, or refused.
    Done(ReasonCode),
    /// Something has to be read or asked first: [`Inner::publish_later`].
    NotYet(Box<PublishRequest>),
}

/// What a client has just published to: most say much on one topic.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// As a device says it.
    local: Box<str>,
    /// Below its tree.
    full: Option<Arc<str>>,
    route: Route<Arc<Endpoint>>,
}

impl Said {
    fn full(&mut self, prefix: &str, local: &str) -> Arc<str> {
        match &self.full {
            Some(full) if *self.local == *local => full.clone(),
            _ => {
                self.local = local.into();
                self.full.insert(format!("{prefix}{local}").into()).clone()
            }
        }
    }
}

/// Where a topic is, as far as is known.
enum Located {
    At(Place),
    Refused(ReasonCode),
    /// The device's record has to be read.
    Unknown(DeviceId),
}

/// The record of the device that a topic names, if it was read.
type Found = Option<Option<Arc<Device>>>;

impl Inner {
    /// Takes what a client has published. The gate opens when everything that its acknowledgement promises is done.
    pub(crate) fn publish(
        &self,
        endpoint: &Endpoint,
        link: &Arc<Link>,
        request: PublishRequest,
        gate: &Gate<'_>,
        found: Found,
        mut said: Option<&mut Said>,
    ) -> Taken {
        let now = self.clock.timestamp();
        let place = match self.place(link, &request.topic, now, found) {
            Located::At(Place::Service) | Located::Unknown(_) => return Taken::NotYet(Box::new(request)),
            Located::At(place) => place,
            Located::Refused(reason) => {
                metrics::counter!("iot_publishes_refused_total", "reason" => "not_authorized").increment(1);
                return Taken::Done(reason);
            }
        };
        let received = request.packet_id.filter(|_| request.qos == QoS::ExactlyOnce && link.persistent);
        let received = received.map(|id| (endpoint.session.clone(), link.epoch, id));
        let (topic, device, keep) = match (&place, &link.device) {
            (Place::Own(kind), Some(device)) => {
                if let Err(invalid) = self.report(link, device, kind, &request, gate, now) {
                    return Taken::Done(self.refuse_payload(link, device, &request.topic, &invalid));
                }
                let topic = match &mut said {
                    Some(said) => said.full(&device.prefix, &request.topic),
                    None => format!("{}{}", device.prefix, request.topic).into(),
                };
                (topic, Some((device.id.clone(), device.epoch)), matches!(kind, Permitted::Custom))
            }
            (Place::Other(device), _) => ((*request.topic).into(), Some((device.id.clone(), device.epoch)), true),
            _ => ((*request.topic).into(), None, true),
        };
        let expiry = request.expiry_s.map(|s| now.plus(std::time::Duration::from_secs(u64::from(s))));
        let message = Message {
            tenant: link.principal.tenant.clone(),
            topic,
            payload: request.payload,
            qos: request.qos,
            retain: request.retain && keep,
            properties: (!request.properties.is_empty()).then(|| Arc::new(request.properties)),
            published: now,
            expires: expiry,
            device,
        };
        let matched = self.route(Some(endpoint), message, received, gate, said.map(|said| &mut said.route));
        Taken::Done(if matched == 0 && !matches!(place, Place::Own(_)) {
            ReasonCode::NoMatchingSubscribers
        } else {
            ReasonCode::Success
        })
    }

    /// The same, reading and asking what is needed.
    pub(crate) async fn publish_later(
        &self,
        endpoint: &Endpoint,
        link: &Arc<Link>,
        request: PublishRequest,
        gate: &Gate<'_>,
    ) -> ReasonCode {
        let found = match self.place(link, &request.topic, self.clock.timestamp(), None) {
            Located::Unknown(id) => match self.read_device(link, &id).await {
                Ok(found) => Some(found),
                Err(reason) => return reason,
            },
            Located::At(Place::Service) => {
                let (Some(device), Some(DeviceTopic::Ask(name))) = (&link.device, DeviceTopic::parse(&request.topic))
                else {
                    return ReasonCode::NotAuthorized;
                };
                return self.ask(link, device, name, request.payload).await;
            }
            Located::At(_) | Located::Refused(_) => None,
        };
        match self.publish(endpoint, link, request, gate, found, None) {
            Taken::Done(reason) => reason,
            Taken::NotYet(_) => ReasonCode::UnspecifiedError,
        }
    }

    async fn read_device(&self, link: &Link, id: &DeviceId) -> Result<Option<Arc<Device>>, ReasonCode> {
        let found = self.directory.device(&*self.stores.meta, &link.principal.tenant, id).await;
        found.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a device cannot be read");
            ReasonCode::UnspecifiedError
        })
    }

    fn place(&self, link: &Link, name: &str, now: Timestamp, found: Found) -> Located {
        let denied = Located::Refused(ReasonCode::NotAuthorized);
        if name.len() > self.limits.topic_bytes_max || topic::levels(name) > self.limits.topic_levels_max {
            return Located::Refused(ReasonCode::TopicNameInvalid);
        }
        let tenant = &link.principal.tenant;
        if let Some(device) = &link.device {
            let place = match DeviceTopic::parse(name) {
                Some(DeviceTopic::Telemetry) => Place::Own(Permitted::Telemetry),
                Some(DeviceTopic::Event) => Place::Own(Permitted::Event),
                Some(DeviceTopic::Reply) => Place::Own(Permitted::Reply),
                Some(DeviceTopic::UpCustom(_)) => Place::Own(Permitted::Custom),
                Some(DeviceTopic::Ask(_)) => Place::Service,
                _ => return denied,
            };
            let allowed = link.permits(Permission::Report, &device.resource(tenant), now);
            return if allowed { Located::At(place) } else { denied };
        }
        if let Some((device, local)) = topic::split_device(name) {
            let Some(DeviceTopic::DownCustom(_)) = DeviceTopic::parse(local) else { return denied };
            let Ok(id) = device.parse() else { return denied };
            // Of the whole tenant: what people may do with their devices, they do by commands, which end and are accounted for.
            if !link.permits(Permission::Control, &Resource::tenant(tenant), now) {
                return denied;
            }
            return match found.or_else(|| self.directory.known_device(tenant, &id)) {
                Some(Some(device)) => Located::At(Place::Other(device)),
                Some(None) => denied,
                None => Located::Unknown(id),
            };
        }
        let reserved = name.starts_with('$') || name == "d" || name == "alarm" || name.starts_with("alarm/");
        if reserved || !link.permits(Permission::Publish, &Resource::tenant(tenant), now) {
            return denied;
        }
        Located::At(Place::Free)
    }

    fn report(
        &self,
        link: &Link,
        device: &DeviceContext,
        kind: &Permitted,
        request: &PublishRequest,
        gate: &Gate<'_>,
        now: Timestamp,
    ) -> Result<(), InvalidPayload> {
        let uplinks = match kind {
            Permitted::Telemetry => payload::telemetry(&request.payload, &self.limits, now)?,
            Permitted::Event => vec![payload::event(&request.payload, &self.limits, now)?],
            Permitted::Reply => {
                let reply = payload::reply(&request.payload)?;
                self.commander.replied(&link.principal.tenant, &device.id, reply);
                return Ok(());
            }
            Permitted::Custom => return Ok(()),
        };
        if request.qos == QoS::AtMostOnce && self.arrivals.len() >= super::ingest::INGEST_PRESSED / 2 {
            metrics::counter!("iot_messages_dropped_total", "reason" => "ingest_pressed").increment(1);
            return Ok(());
        }
        let event = |uplink: Uplink| Event {
            tenant: link.principal.tenant.clone(),
            product: device.product.clone(),
            device: device.id.clone(),
            epoch: device.epoch,
            home: device.home.clone(),
            at: uplink.at.unwrap_or(now),
            received: now,
            device_sequence: uplink.sequence,
            report: uplink.report,
        };
        let events = uplinks.into_iter().map(event).collect();
        self.arrivals.push(Arrival { events, part: gate.part() });
        Ok(())
    }

    fn refuse_payload(&self, link: &Link, device: &DeviceContext, local: &str, invalid: &InvalidPayload) -> ReasonCode {
        metrics::counter!("iot_publishes_refused_total", "reason" => "payload_invalid").increment(1);
        let detail = invalid.to_string();
        tracing::debug!(device = %device.id, topic = local, %detail, "payload refused");
        self.tell_error(
            link,
            device,
            &ErrorBody { topic: local.into(), code: "payload_invalid".into(), detail: detail.into() },
        );
        ReasonCode::PayloadFormatInvalid
    }

    /// Tells a device what was refused of it, and why, as well as can be.
    pub(crate) fn tell_error(&self, link: &Link, device: &DeviceContext, body: &ErrorBody<'_>) {
        let payload = payload::encode(body, device.encoding).into();
        let message = self.own_message(&link.principal.tenant, &device.prefix, DeviceTopic::Error, payload, device);
        let outgoing = Outgoing {
            message,
            qos: QoS::AtMostOnce,
            retain: false,
            identifiers: Identifiers::default(),
            kind: Kind::Passing,
        };
        if link.mailbox.post(outgoing, || Gate::open().part()) != Posted::Taken {
            self.counters.shed.increment(1);
        }
    }

    /// A message of the cloud itself below a device.
    pub(crate) fn own_message(
        &self,
        tenant: &iot_core::id::TenantId,
        prefix: &str,
        local: DeviceTopic<'_>,
        payload: Bytes,
        device: &DeviceContext,
    ) -> Message {
        Message {
            tenant: tenant.clone(),
            topic: format!("{prefix}{local}").into(),
            payload,
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: None,
            published: self.clock.timestamp(),
            expires: None,
            device: Some((device.id.clone(), device.epoch)),
        }
    }

    /// Hands a message to every session that is subscribed to it; answers how many that are.
    pub(crate) fn route(
        &self,
        sender: Option<&Endpoint>,
        message: Message,
        received: Option<(SessionId, iot_core::session::SessionEpoch, u16)>,
        gate: &Gate<'_>,
        route: Option<&mut Route<Arc<Endpoint>>>,
    ) -> usize {
        let now = message.published;
        let _ordered = message.retain.then(|| self.retaining.read().unwrap_or_else(PoisonError::into_inner));
        let is_online = |endpoint: &Arc<Endpoint>| endpoint.is_connected();
        let sender = sender.map(|endpoint| endpoint.subscriber);
        let (tenant, topic, mut once) = (message.tenant.as_str(), &message.topic, Vec::new());
        let matches = match route {
            Some(route) => self.router.route(tenant, topic, sender, &is_online, route),
            None => {
                self.router.matches(tenant, topic, sender, &is_online, &mut once);
                &once
            }
        };
        let count = matches.len();
        let (mut to, mut passing) = (Vec::new(), Vec::new());
        for matched in matches {
            let endpoint = &matched.handle;
            let qos = matched.qos.min(message.qos);
            let retain = matched.retain_as_published && message.retain;
            match endpoint.link() {
                Some(link) if !link.may_receive(&message, now) => link.was_denied(&message),
                Some(link) if qos == QoS::AtMostOnce || !link.persistent => {
                    let message = message.clone();
                    let identifiers = matched.identifiers.clone();
                    let outgoing = Outgoing { message, qos, retain, identifiers, kind: Kind::Passing };
                    // What comes again if the node ends before it knows that it has it must not be with anybody before.
                    if received.is_some() && qos == QoS::ExactlyOnce {
                        passing.push((link, outgoing));
                    } else if link.mailbox.post(outgoing, || gate.part()) == Posted::Shed {
                        self.counters.shed.increment(1);
                    }
                }
                _ if qos == QoS::AtMostOnce || !endpoint.is_stored() => {}
                _ => {
                    let identifiers = matched.identifiers.to_vec();
                    let target = Target { session: endpoint.session.clone(), qos, retain, identifiers };
                    to.push((endpoint.clone(), target));
                }
            }
        }
        if !to.is_empty() || message.retain || received.is_some() {
            self.offers.push(Offer { message, to, passing, received, part: gate.part() });
        }
        count
    }

    /// Publishes something that the cloud itself says outside the device trees.
    pub(crate) fn announce(&self, tenant: &iot_core::id::TenantId, topic: &str, payload: Bytes, retain: bool) {
        let properties = Properties { content_type: Some("application/json".to_owned()), ..Properties::default() };
        let message = Message {
            tenant: tenant.clone(),
            topic: topic.into(),
            payload,
            qos: QoS::AtLeastOnce,
            retain,
            properties: Some(Arc::new(properties)),
            published: self.clock.timestamp(),
            expires: None,
            device: None,
        };
        self.route(None, message, None, &Gate::open(), None);
    }

    /// Publishes a will, as the client that left it would have. Its permission is asked again.
    pub(crate) async fn publish_will(&self, mut will: Message) -> Result<(), StoreError> {
        if let Some((id, epoch)) = &will.device {
            let device = self.directory.device(&*self.stores.meta, &will.tenant, id).await?;
            if device.is_none_or(|device| device.epoch != *epoch) {
                return Ok(());
            }
        }
        let now = self.clock.timestamp();
        // Its lifetime begins now (MQTT 5 §3.1.3.2.4).
        will.expires = will.expires.map(|at| now.plus(at.since(will.published)));
        will.published = now;
        self.route(None, will, None, &Gate::open(), None);
        Ok(())
    }
}

impl Inner {
    /// Where a will may go: what the client could publish, except what the node would have to read.
    pub(crate) async fn will_topic(
        &self,
        link: &Link,
        name: &str,
        now: Timestamp,
    ) -> Result<(String, Option<(DeviceId, OwnershipEpoch)>), ReasonCode> {
        let place = match self.place(link, name, now, None) {
            Located::Unknown(id) => {
                let found = self.read_device(link, &id).await?;
                self.place(link, name, now, Some(found))
            }
            known => known,
        };
        let place = match place {
            Located::At(place) => place,
            Located::Refused(reason) => return Err(reason),
            Located::Unknown(_) => return Err(ReasonCode::UnspecifiedError),
        };
        match (place, &link.device) {
            (Place::Own(Permitted::Custom), Some(device)) => {
                Ok((format!("{}{name}", device.prefix), Some((device.id.clone(), device.epoch))))
            }
            (Place::Own(_) | Place::Service, _) => Err(ReasonCode::NotAuthorized),
            (Place::Other(device), _) => Ok((name.to_owned(), Some((device.id.clone(), device.epoch)))),
            (Place::Free, _) => Ok((name.to_owned(), None)),
        }
    }
}
