//! Services that devices ask ([`iot_core::service`]): calling them, and carrying what they say.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use iot_core::{
    clock::Clock,
    device::Device,
    id::{DeviceId, ServiceName, TenantId},
    logic::BoxError,
    message::{Message, QoS},
    service::{BoxDeviceService, Call, DeviceCall, Downlink, Told},
    session::SessionId,
    topic::{self, DeviceTopic},
};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::{
    Inner,
    endpoint::{DeviceContext, Link, Registry},
    mailbox::{Kind, Outgoing, Posted},
};
use crate::{mqtt::ReasonCode, router::Identifiers};

/// How long a service may take to answer. The connection of the device that asked waits meanwhile, others do not.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// How many devices that have just connected are announced to services at once; the others wait their turn.
const GREETINGS_MAX: usize = 64;
/// What a device learns when its question could not be answered.
const UNAVAILABLE: &[u8] = br#"{"type":"refused","code":"unavailable","detail":"try again"}"#;

/// The services of a node.
pub(crate) struct Services {
    by_name: HashMap<ServiceName, BoxDeviceService>,
    greetings: Arc<Semaphore>,
}

impl Services {
    pub(crate) fn new(by_name: HashMap<ServiceName, BoxDeviceService>) -> Self {
        Self { by_name, greetings: Arc::new(Semaphore::new(GREETINGS_MAX)) }
    }
}

impl Inner {
    /// Puts a question of a device to a service. The answer is on its way to the device when this returns.
    pub(crate) async fn ask(&self, link: &Link, context: &DeviceContext, name: &str, payload: Bytes) -> ReasonCode {
        let known = ServiceName::parse(name).ok().filter(|name| self.services.by_name.contains_key(name));
        let Some(name) = known else { return ReasonCode::NotAuthorized };
        let tenant = &link.principal.tenant;
        let device = match self.directory.device(&*self.stores.meta, tenant, &context.id).await {
            Ok(Some(device)) if device.epoch == context.epoch => device,
            Ok(_) => return ReasonCode::NotAuthorized,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a device that asks cannot be read");
                return ReasonCode::UnspecifiedError;
            }
        };
        let (answer, reason) = match self.call(&name, device, Call::Asked(payload)).await {
            Ok(answer) => (answer, ReasonCode::Success),
            Err(()) => (Some(Bytes::from_static(UNAVAILABLE)), ReasonCode::UnspecifiedError),
        };
        if let Some(answer) = answer {
            let _gone = say(link, context, &name, answer, &*self.clock);
        }
        reason
    }

    /// Tells every service that a device has connected, and the device what they say to that.
    pub(crate) fn greet(self: &Arc<Self>, link: &Arc<Link>) {
        let Some(context) = link.device.clone().filter(|_| !self.services.by_name.is_empty()) else { return };
        let (node, link) = (self.clone(), link.clone());
        tokio::spawn(async move {
            let Ok(_turn) = node.services.greetings.acquire().await else { return };
            let found = node.directory.device(&*node.stores.meta, &link.principal.tenant, &context.id).await;
            let Ok(Some(device)) = found else { return };
            for name in node.services.by_name.keys() {
                if link.mailbox.is_closed() || device.epoch != context.epoch {
                    return;
                }
                if let Ok(Some(answer)) = node.call(name, device.clone(), Call::Connected).await {
                    let _gone = say(&link, &context, name, answer, &*node.clock);
                }
            }
        });
    }

    async fn call(&self, name: &ServiceName, device: Arc<Device>, call: Call) -> Result<Option<Bytes>, ()> {
        let Some(service) = self.services.by_name.get(name) else { return Err(()) };
        let called = service.clone().oneshot(DeviceCall { device, call });
        let failed: BoxError = match tokio::time::timeout(ANSWERED_WITHIN, called).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(late) => late.into(),
        };
        metrics::counter!("iot_service_failures_total", "service" => name.to_string()).increment(1);
        tracing::error!(service = %name, error = &*failed, "a service could not answer a device");
        Err(())
    }
}

/// The way from services to the devices of a node.
pub(crate) struct NodeDownlink {
    pub(crate) registry: Arc<Registry>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl fmt::Debug for NodeDownlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeDownlink").finish_non_exhaustive()
    }
}

#[async_trait]
impl Downlink for NodeDownlink {
    async fn tell(&self, tenant: &TenantId, device: &DeviceId, service: &ServiceName, payload: Bytes) -> Told {
        let endpoint = self.registry.get(&SessionId::device(tenant, device));
        let Some(link) = endpoint.and_then(|endpoint| endpoint.link()) else { return Told::NotConnected };
        let Some(context) = &link.device else { return Told::NotConnected };
        say(&link, context, service, payload, &*self.clock)
    }
}

fn say(link: &Link, context: &DeviceContext, service: &ServiceName, payload: Bytes, clock: &dyn Clock) -> Told {
    let local = DeviceTopic::Answer(service.as_str()).to_string();
    let message = Message {
        tenant: link.principal.tenant.clone(),
        topic: topic::of_device(&context.id, &local).into(),
        payload,
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: None,
        published: clock.timestamp(),
        expires: None,
        device: Some((context.id.clone(), context.epoch)),
    };
    let kind = Kind::Passing;
    let outgoing =
        Outgoing { message, qos: QoS::AtLeastOnce, retain: false, identifiers: Identifiers::default(), kind };
    match link.mailbox.post_control(outgoing) {
        Posted::Taken => Told::Sent,
        Posted::Shed | Posted::Closed => Told::NotConnected,
    }
}
