//! How a connection takes a session, and how it leaves it.

use std::{
    future::poll_fn,
    sync::{Arc, PoisonError},
    time::Duration,
};

use iot_core::{
    access::{Grants, Permission, Principal, Standing, check},
    id::TenantId,
    message::Message,
    session::{Position, SessionEpoch, SessionId},
    store::{self, Closing, StoreError},
};
use tracing::Instrument;

use super::{
    Inner,
    endpoint::{DeviceContext, Endpoint, Link, session_of},
    identity::{authenticate, device_context, unavailable},
    mailbox::{Mailbox, mailbox},
    presence::Presence,
    quota::{Limits, Metering, QUOTA_RETRY_AFTER},
    session::Session,
    wire::Wire,
};
use crate::{
    mqtt::{
        ReasonCode,
        server::{Accepted, Cause, ConnectRequest, Connection, Event, WillRequest},
    },
    transport::{Peer, Permit, Stream},
};

/// How long a client that resumes a session waits for what its former connection has received to be stored.
const STORED_MAX: Duration = Duration::from_secs(5);

/// A will until its connection ends.
pub(crate) struct Will {
    message: Message,
    delay: Duration,
}

/// A connection that has not taken its session yet.
struct Opening {
    node: Arc<Inner>,
    wire: Wire,
    peer: Peer,
    mailbox: Arc<Mailbox>,
}

/// Lets a client in, or tells it why not: from the first byte on its stream to the answer to its CONNECT. The permit is held
/// for as long as the connection lasts.
pub(crate) async fn begin(node: Arc<Inner>, stream: Stream, peer: Peer, permit: Permit) -> Option<Box<Session>> {
    let span = tracing::info_span!("connection", peer = %peer.address, listener = peer.listener, client = tracing::field::Empty);
    async move {
        let engine = Connection::new(node.clock.monotonic(), node.connection_limits.clone());
        let mut opening = Opening { wire: Wire::new(stream, engine), node, peer, mailbox: mailbox() };
        let Some(request) = opening.request().await else {
            opening.wire.finish().await;
            return None;
        };
        let opened = match permit {
            Permit::Served(permit) => opening.open(*request).await.map(|taken| (taken, permit)),
            Permit::Refused(_) => Err(ReasonCode::ServerBusy.into()),
        };
        match opened {
            Ok((taken, permit)) => {
                metrics::gauge!("iot_connections").increment(1.0);
                Some(Box::new(Session::new(opening.node, opening.wire, taken, permit)))
            }
            Err(Refused { reason, retry_after }) => {
                metrics::counter!("iot_connects_refused_total", "reason" => format!("{reason:?}")).increment(1);
                let mut farewell = opening.node.farewell(reason);
                farewell.retry_after = retry_after.or(farewell.retry_after);
                if reason == ReasonCode::QuotaExceeded {
                    farewell.retry_after = Some(QUOTA_RETRY_AFTER + opening.node.retry_after());
                }
                opening.wire.engine.refuse_with(reason, &farewell);
                opening.wire.finish().await;
                None
            }
        }
    }
    .instrument(span)
    .await
}

/// Serves a client that was let in until one side ends it.
pub(crate) async fn serve(mut session: Box<Session>) {
    let cause = session.run().await;
    Box::pin(end(session, cause)).await;
}

async fn end(mut session: Box<Session>, cause: Cause) {
    let span = session.span();
    async move {
        metrics::gauge!("iot_connections").decrement(1.0);
        metrics::counter!("iot_disconnects_total", "reason" => cause.code()).increment(1);
        tracing::debug!(cause = cause.code(), "disconnected");
        close(&mut session, &cause).await;
        session.wire.finish().await;
    }
    .instrument(span)
    .await;
}

/// Why a client is not let in.
struct Refused {
    reason: ReasonCode,
    retry_after: Option<Duration>,
}

impl From<ReasonCode> for Refused {
    fn from(reason: ReasonCode) -> Self {
        Self { reason, retry_after: None }
    }
}

/// What a connection has when it has taken its session.
pub(crate) struct Taken {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) link: Arc<Link>,
    pub(crate) will: Option<Will>,
    /// How long the session outlives the connection.
    pub(crate) expiry_s: u32,
    /// Up to here an earlier connection may have written.
    pub(crate) sent_through: Position,
    /// What it is limited by, if it is.
    pub(crate) metering: Option<Box<Metering>>,
}

/// Who asks for a session, and what holds for them.
struct Client {
    principal: Principal,
    grants: Grants,
    device: Option<Box<DeviceContext>>,
    limits: Limits,
}

impl Opening {
    /// The client's CONNECT, if it comes in time.
    async fn request(&mut self) -> Option<Box<ConnectRequest>> {
        loop {
            match self.wire.engine.poll_event() {
                Some(Event::Connect(request)) => return Some(request),
                Some(_) => return None,
                None if self.wire.is_ended() || self.wire.engine.is_closed() => return None,
                None => {}
            }
            let (clock, wire) = (&self.node.clock, &mut self.wire);
            let left = wire.engine.poll_timeout().map(|at| at.since(clock.monotonic())).unwrap_or_default();
            let read = poll_fn(|cx| wire.poll_read(cx, clock.monotonic()));
            if tokio::time::timeout(left, read).await.is_err() {
                wire.engine.handle_timeout(clock.monotonic());
            }
        }
    }

    /// Takes the session that the client asks for, from whoever has it.
    async fn open(&mut self, mut request: ConnectRequest) -> Result<Taken, Refused> {
        let node = self.node.clone();
        if request.client_id.len() > node.limits.client_id_bytes_max || request.client_id.contains('\0') {
            return Err(ReasonCode::ClientIdentifierNotValid.into());
        }
        let (principal, grants) = authenticate(&node, &self.peer, &mut request).await?;
        tracing::Span::current().record("client", tracing::field::display(&principal));
        let (device, is_critical) = device_context(&node, &principal).await.map_err(|error| unavailable(&error))?;
        let admitted = node.admit(is_critical);
        admitted.map_err(|wait| Refused { reason: ReasonCode::ConnectionRateExceeded, retry_after: Some(wait) })?;
        let limits = node.limits_of(Some(self.peer.listener), &principal, device.as_deref()).await;
        let limits = limits.map_err(|error| unavailable(&error))?;
        let assigned = request.client_id.is_empty().then(|| match &device {
            Some(device) => device.id.to_string(),
            None => uuid::Uuid::new_v4().simple().to_string(),
        });
        let session = session_of(&principal, assigned.as_deref().unwrap_or(&request.client_id));
        self.wait_for_turn(&session).await?;
        if node.registry.len() >= node.limits.sessions_max && node.registry.get(&session).is_none() {
            return Err(ReasonCode::QuotaExceeded.into());
        }
        loop {
            let endpoint = node.registry.get_or_insert(&session);
            let opening = endpoint.opening.lock().await;
            // The last connection may have ended the session while this one waited for it.
            if node.registry.get(&session).is_some_and(|present| Arc::ptr_eq(&present, &endpoint)) {
                let client = Client { principal, grants, device, limits };
                return Ok(self.take(endpoint.clone(), opening, request, assigned, client).await?);
            }
        }
    }

    /// Waits a while if the session is taken over again and again.
    async fn wait_for_turn(&mut self, session: &SessionId) -> Result<(), ReasonCode> {
        if self.node.registry.get(session).is_none_or(|endpoint| !endpoint.is_connected()) {
            return Ok(());
        }
        let delay = self.node.take_over_delay(session);
        if delay.is_zero() {
            return Ok(());
        }
        metrics::counter!("iot_take_overs_damped_total").increment(1);
        tracing::warn!(
            ?delay,
            "two connections take one session from each other: is there a second device with this identity?"
        );
        let gone = poll_fn(|cx| self.wire.poll_gone(cx));
        match tokio::time::timeout(delay, gone).await {
            // Nobody is there any more to whom the session could be given.
            Ok(()) => Err(ReasonCode::UnspecifiedError),
            Err(_) => Ok(()),
        }
    }

    async fn take(
        &mut self,
        endpoint: Arc<Endpoint>,
        opening: tokio::sync::MutexGuard<'_, ()>,
        mut request: ConnectRequest,
        assigned_client_id: Option<String>,
        Client { principal, grants, device, limits }: Client,
    ) -> Result<Taken, ReasonCode> {
        let node = self.node.clone();
        let expiry_s = request.session_expiry_s.min(node.limits.session_expiry_s_max);
        let persistent = expiry_s > 0 || (!request.clean_start && endpoint.is_stored());
        let (mailbox, epoch) = (self.mailbox.clone(), SessionEpoch::default());
        let probe = Link::new(principal.clone(), grants, epoch, persistent, device, mailbox);
        let permitted = match node.place_for(&endpoint, &limits) {
            Ok(metering) => {
                permit_will(&node, &probe, &mut request, metering.as_deref()).await.map(|will| (will, metering))
            }
            Err(reason) => Err(reason),
        };
        let taken = match permitted {
            Ok((will, metering)) => {
                if let Some(former) = endpoint.link() {
                    former.mailbox.close(ReasonCode::SessionTakenOver);
                }
                let expiry = Duration::from_secs(u64::from(expiry_s));
                let taken = take(&node, &endpoint, &request, persistent, expiry, will.as_ref()).await;
                taken.map(|(epoch, resumed)| (will, metering, epoch, resumed)).map_err(|error| unavailable(&error))
            }
            Err(reason) => Err(reason),
        };
        let (will, metering, epoch, resumed) = match taken {
            Ok(taken) => taken,
            Err(reason) => {
                // Made for this attempt, and nobody else will take it away.
                if !endpoint.is_connected() && !endpoint.is_stored() {
                    node.registry.remove(&endpoint);
                }
                return Err(reason);
            }
        };
        let session_present = resumed.is_some();
        let resumed = resumed.unwrap_or_default();
        for subscription in &resumed.subscriptions {
            if !endpoint.has_subscription(&subscription.filter) {
                node.subscribe(&endpoint, subscription);
            }
        }
        let since = node.clock.timestamp();
        let link = Arc::new(probe.with_epoch(epoch, since, node.presences.next_epoch(since)));
        if persistent {
            self.mailbox.fall_behind();
        }
        if let Some(former) = endpoint.set_link(link.clone()) {
            node.release(&endpoint, &former);
        }
        // From here on changes are told; those of the meantime were not.
        if node.quotas.generation() != limits.generation() {
            self.mailbox.ask_limits();
        }
        node.registry.depend(&endpoint.session, &node.access.depends_on(&principal));
        node.arrived(&link).await;
        drop(opening);
        node.greet(&link);
        self.ask_again(&endpoint, &link).await;
        self.wire.engine.accept(
            node.clock.monotonic(),
            Accepted {
                session_present,
                session_expiry_s: expiry_s,
                assigned_client_id,
                server_keep_alive_s: None,
                receive_maximum: metering.as_ref().and_then(|metering| metering.inflight_max()),
                received: resumed.received,
            },
        );
        let sent_through = if session_present { resumed.sent_through } else { Position::default() };
        Ok(Taken { endpoint, link, will, expiry_s, sent_through, metering })
    }

    /// What was revoked between the first question and the registration would be missed otherwise.
    async fn ask_again(&self, endpoint: &Arc<Endpoint>, link: &Link) {
        match self.node.access.standing(&link.principal).await {
            Ok(Standing::Current(grants)) => {
                link.set_grants(grants);
                if let Err(error) = self.node.resume_places(endpoint, link).await {
                    tracing::error!(error = &error as &dyn std::error::Error, "devices cannot be read");
                    self.mailbox.close(ReasonCode::ServerBusy);
                }
            }
            Ok(Standing::Revoked) => self.mailbox.close(ReasonCode::NotAuthorized),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "standing cannot be read");
                self.mailbox.close(ReasonCode::ServerBusy);
            }
        }
    }
}

async fn permit_will(
    node: &Inner,
    link: &Link,
    request: &mut ConnectRequest,
    metering: Option<&Metering>,
) -> Result<Option<Will>, ReasonCode> {
    match request.will.take() {
        Some(will) if metering.is_some_and(|metering| metering.is_too_large(will.payload.len())) => {
            Err(ReasonCode::QuotaExceeded)
        }
        Some(will) => node.permit_will(link, will).await.map(Some),
        None => Ok(None),
    }
}

/// While it is there, nothing more is stored for the session, which is about to be discarded. Without [`done`](Self::done) it is as
/// it was.
struct Discarding<'a>(Option<&'a Endpoint>);

impl<'a> Discarding<'a> {
    fn of(endpoint: &'a Endpoint) -> Self {
        endpoint.set_stored(false);
        Self(Some(endpoint))
    }

    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Discarding<'_> {
    fn drop(&mut self) {
        if let Some(endpoint) = self.0 {
            endpoint.set_stored(true);
        }
    }
}

async fn take(
    node: &Inner,
    endpoint: &Endpoint,
    request: &ConnectRequest,
    persistent: bool,
    expiry: Duration,
    will: Option<&Will>,
) -> Result<(SessionEpoch, Option<store::Resumed>), StoreError> {
    if !persistent && !endpoint.is_stored() {
        node.unsubscribe_all(endpoint);
        return Ok((node.next_epoch(), None));
    }
    let was_stored = endpoint.is_stored();
    let discarding = (was_stored && request.clean_start).then(|| Discarding::of(endpoint));
    if was_stored {
        // What the former connection has received with QoS 2 and handed on is remembered with the session only once it is stored;
        // before, the client's repetition of it would be taken for a new message. And what is for a session that is discarded
        // would be put into the next.
        let stored = tokio::time::timeout(STORED_MAX, node.offers.flushed()).await;
        stored.map_err(|late| StoreError::Unavailable { backend: "sessions", source: Box::new(late) })?;
    }
    // A stored session that is resumed with expiry 0 ends with this connection, but has its queue until then.
    let keep = if persistent { expiry.max(Duration::from_secs(1)) } else { Duration::ZERO };
    let opened = node
        .stores
        .sessions
        .open(store::Opening {
            session: endpoint.session.clone(),
            clean: request.clean_start,
            keep,
            will: will.filter(|_| persistent).map(|will| (will.message.clone(), will.delay)),
            at: node.clock.timestamp(),
        })
        .await?;
    if opened.resumed.is_none() {
        node.unsubscribe_all(endpoint);
    }
    discarding.into_iter().for_each(Discarding::done);
    endpoint.set_stored(persistent);
    // The session is taken: what fails from here on must not leave it without a connection.
    if let Some(will) = opened.will
        && let Err(error) = node.publish_will(will).await
    {
        tracing::error!(error = &error as &dyn std::error::Error, "a will cannot be published");
    }
    Ok((opened.epoch, opened.resumed))
}

/// Leaves the session: nothing if another connection has taken it.
async fn close(session: &mut Session, cause: &Cause) {
    let will = session.take_will();
    let Session { node, endpoint, link, progress, expiry_s, .. } = &*session;
    link.mailbox.shut();
    let opening = endpoint.opening.lock().await;
    let current = endpoint.clear_link(link);
    let expiry_s = match cause {
        Cause::Disconnected { session_expiry_s: Some(s), .. } => (*s).min(node.limits.session_expiry_s_max),
        _ => *expiry_s,
    };
    let expiry = Duration::from_secs(u64::from(expiry_s));
    let said_goodbye = matches!(cause, Cause::Disconnected { with_will: false, .. });
    let is_delayed = will.as_ref().is_some_and(|will| !will.delay.is_zero());
    // Also when the server ends: whoever has the session's store then goes on waiting for the client.
    let later = is_delayed && !said_goodbye && link.persistent && !expiry.is_zero();
    let will = will.filter(|_| cause.with_will());
    if current {
        node.release(endpoint, link);
        if link.persistent {
            let closing = Closing {
                session: endpoint.session.clone(),
                epoch: link.epoch,
                at: node.clock.timestamp(),
                keep: expiry,
                will: later,
                sent_through: progress.last.max(progress.sent_through),
            };
            if let Err(error) = node.stores.sessions.close(closing.clone()).await.map(drop) {
                tracing::error!(error = &error as &dyn std::error::Error, "a session cannot be closed in the store");
                node.unclosed.lock().unwrap_or_else(PoisonError::into_inner).push(closing);
            }
        }
        if !link.persistent || expiry.is_zero() {
            endpoint.set_stored(false);
            node.unsubscribe_all(endpoint);
            node.registry.remove(endpoint);
        }
    }
    // Before another connection can take the session, so that the last that is told is true.
    if current {
        node.departed(link, cause).await;
    }
    drop(opening);
    if let Some(will) = will.filter(|_| !later)
        && let Err(error) = node.publish_will(will.message).await
    {
        tracing::error!(error = &error as &dyn std::error::Error, "a will cannot be published");
    }
}

impl Inner {
    /// Takes the places that a connection needs for the session of this endpoint.
    fn place_for(&self, endpoint: &Endpoint, limits: &Limits) -> Result<Option<Box<Metering>>, ReasonCode> {
        self.quotas.admit(limits, endpoint.subscriber).map_err(|holder| {
            tracing::info!(
                scope = holder.code(),
                "a client was refused: there are as many connections as there may be"
            );
            ReasonCode::QuotaExceeded
        })
    }

    async fn permit_will(&self, link: &Link, will: WillRequest) -> Result<Will, ReasonCode> {
        let now = self.clock.timestamp();
        let (topic, device) = self.will_topic(link, &will.topic, now).await?;
        let expires = will.expiry_s.map(|s| now.plus(Duration::from_secs(u64::from(s))));
        let message = Message {
            tenant: link.principal.tenant.clone(),
            topic: topic.into(),
            payload: will.payload,
            qos: will.qos,
            retain: will.retain,
            properties: (!will.properties.is_empty()).then(|| Arc::new(will.properties)),
            published: now,
            expires,
            device,
        };
        Ok(Will { message, delay: Duration::from_secs(u64::from(will.delay_s)) })
    }

    /// What a connection's standing was read from no longer concerns its session.
    fn release(&self, endpoint: &Endpoint, link: &Link) {
        self.registry.release(&endpoint.session, &self.access.depends_on(&link.principal));
        self.registry.release(&endpoint.session, &link.places.keys(&link.principal.tenant));
    }

    /// A connection has taken a session.
    async fn arrived(&self, link: &Link) {
        metrics::counter!("iot_connects_total").increment(1);
        let Some(device) = &link.device else { return };
        self.tell_presence(&link.principal.tenant, device, self.presence_at_arrival(link)).await;
        match self.withdraw_unpermitted(&link.principal.tenant, device).await {
            Ok(()) => self.commander.connected(&link.principal.tenant, &device.id, device.epoch),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "senders of commands cannot be asked about");
                link.mailbox.close(ReasonCode::ServerBusy);
            }
        }
    }

    /// Takes back what waited for a device if who asked for it may not control the device any more.
    async fn withdraw_unpermitted(&self, tenant: &TenantId, device: &DeviceContext) -> Result<(), StoreError> {
        let resource = device.resource(tenant);
        for (id, sender) in self.commander.waiting(tenant, &device.id) {
            let standing = self.access.standing(&sender.principal(tenant)).await?;
            let now = self.clock.timestamp();
            if !matches!(&standing, Standing::Current(grants) if check(grants, Permission::Control, &resource, now).allow)
            {
                tracing::info!(command = %id, device = %device.id, "taken back: its sender may not control the device now");
                self.commander.withdraw(tenant, &id);
            }
        }
        Ok(())
    }

    async fn departed(&self, link: &Link, cause: &Cause) {
        let Some(device) = &link.device else { return };
        self.tell_presence(&link.principal.tenant, device, self.presence_at_departure(cause.code())).await;
    }

    pub(crate) async fn tell_presence(&self, tenant: &TenantId, device: &DeviceContext, presence: Presence) {
        self.presences.changed(tenant, &device.id, &presence);
        self.history.changed(tenant, &device.id, device.epoch, &presence);
        self.live.presence(tenant, &device.id, device.epoch, &presence);
        if let Some(notifier) = &self.notifier {
            notifier.presence(tenant, device, &presence);
        }
        match self.status_message(tenant, &device.id, &presence).await {
            Ok(Some(message)) => {
                self.route(None, message, None, &super::gate::Gate::open(), None);
            }
            Ok(None) => {}
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "a status cannot be told"),
        }
    }
}
