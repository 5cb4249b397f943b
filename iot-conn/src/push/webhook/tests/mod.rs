//! Webhooks over stores, and receivers on loopback.

mod delivery;
mod guard;
mod lives;
#[cfg(feature = "http")]
mod routes;

use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use aws_lc_rs::digest;
use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::{BodyExt, Empty};
use hyper::{HeaderMap, Request, Response, body::Incoming, header::LOCATION, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use iot_core::{
    clock::{Clock, ManualClock},
    device::{Device, Stage},
    home::Home,
    id::{DeviceId, HomeId, OwnershipEpoch, TenantId},
    keys::{KeyError, KeyRing, Purpose},
    push::{FieldValue, Kind, Notification, NotificationId, Push, Pushed},
    secret::Secret,
    store::{Audit, Batch, Committed, MetaStore, MetaStoreExt, Stored, Write},
    time::Timestamp,
};
use iot_store::{StoreLimits, memory::Memory};
use rustls::RootCertStore;
use tokio::{net::TcpListener, sync::mpsc};

use super::{Client, Delivery, DeliveryState, NewWebhook, Place, Registered, Shown, Webhook, WebhookLimits, Webhooks};

/// No answer takes longer.
const SOON: Duration = Duration::from_secs(20);

/// Binds to purpose and context as a ring must, and hides nothing.
#[derive(Debug)]
pub(super) struct OpenRing;

#[async_trait]
impl KeyRing for OpenRing {
    async fn seal(&self, purpose: Purpose, context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok([purpose.name().as_bytes(), context, plaintext].join(&0))
    }

    async fn open(&self, purpose: Purpose, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
        let prefix = [purpose.name().as_bytes(), context, b""].join(&0);
        sealed.strip_prefix(prefix.as_slice()).map(<[u8]>::to_vec).ok_or(KeyError::Unopenable)
    }

    async fn code(&self, purpose: Purpose, data: &[u8]) -> Result<String, KeyError> {
        Ok(format!("{}:{}", purpose.name(), data.escape_ascii()))
    }
}

pub(super) fn tenant() -> TenantId {
    TenantId::parse("acme").unwrap()
}

pub(super) fn client() -> Client {
    Client::new(RootCertStore::empty()).allow_loopback_http(true)
}

/// The webhooks of a store and a clock.
pub(super) struct Site {
    pub(super) meta: Arc<dyn MetaStore>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) hooks: Arc<Webhooks>,
}

impl Site {
    pub(super) async fn new() -> Self {
        Self::with(client(), WebhookLimits::default()).await
    }

    pub(super) async fn with(client: Client, limits: WebhookLimits) -> Self {
        let meta = Arc::new(Memory::new(StoreLimits::default()));
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_763_856_000_000)));
        let site = Self::over(meta, clock, client, limits).await;
        let home = Home::without_owner(tenant(), HomeId::parse("h").unwrap(), "Home".to_owned());
        site.put(&home).await;
        site.put(&lamp(0, Some("h"))).await;
        site
    }

    pub(super) async fn over(
        meta: Arc<dyn MetaStore>,
        clock: Arc<ManualClock>,
        client: Client,
        limits: WebhookLimits,
    ) -> Self {
        let hooks = Webhooks::open(meta.clone(), Arc::new(OpenRing), clock.clone(), client, limits).await.unwrap();
        Self { meta, clock, hooks }
    }

    pub(super) async fn put<T: iot_core::store::Document>(&self, document: &T) {
        let batch = Batch { writes: vec![Write::put(document)], ..Batch::default() };
        assert!(matches!(self.meta.commit(batch).await, Ok(Committed::Done(_))));
    }

    pub(super) fn everywhere(&self) -> Place {
        Place { tenant: tenant(), home: None, actor: "acme/token/admin".to_owned() }
    }

    pub(super) async fn at_home(&self) -> Place {
        let home: Option<Stored<Home>> =
            self.meta.find(&Home::key_of(&tenant(), &HomeId::parse("h").unwrap())).await.unwrap();
        Place { home, ..self.everywhere() }
    }

    pub(super) async fn register(&self, place: &Place, url: &str) -> Shown {
        let new = NewWebhook { url: url.to_owned(), kinds: vec![], device: None };
        match self.hooks.register(place, &new).await.unwrap() {
            Registered::Done(shown) => *shown,
            other => panic!("{url}: {other:?}"),
        }
    }

    pub(super) async fn push(&self, notification: &Notification) -> Pushed {
        self.hooks.push(notification).await.unwrap()
    }

    /// Makes the attempts that are due now.
    pub(super) async fn deliver_due(&self) -> usize {
        let mut attempts = 0;
        while let Some((endpoint, delivery)) = self.hooks.take() {
            self.hooks.attempt(endpoint, delivery).await;
            attempts += 1;
        }
        attempts
    }

    /// Steps from attempt to attempt until nothing waits.
    pub(super) async fn deliver_all(&self) -> usize {
        let mut attempts = 0;
        for _ in 0..1_000 {
            attempts += self.deliver_due().await;
            let next = self.hooks.schedule().next_at();
            let Some(next) = next else { return attempts };
            self.clock.advance(next.since(self.clock.timestamp()));
        }
        panic!("the attempts do not end");
    }

    pub(super) async fn delivery(&self, webhook: &Webhook, notification: &Notification) -> Option<Delivery> {
        let key = Delivery::key_of(&webhook.tenant, &webhook.id, &notification.id);
        self.meta.find(&key).await.unwrap().map(|stored| stored.document)
    }

    pub(super) async fn state(&self, webhook: &Webhook, notification: &Notification) -> (DeliveryState, String) {
        let delivery = self.delivery(webhook, notification).await.unwrap();
        (delivery.state, delivery.last.unwrap_or_default())
    }

    pub(super) async fn webhook(&self, webhook: &Webhook) -> Webhook {
        self.meta.find(&Webhook::key_of(&webhook.tenant, &webhook.id)).await.unwrap().unwrap().document
    }

    pub(super) async fn audit(&self, action: &str) -> Vec<Audit> {
        let all = self.meta.audit(&tenant(), None, 1_000).await.unwrap().items;
        all.into_iter().filter(|entry| entry.action == action).collect()
    }
}

pub(super) fn lamp(epoch: u64, home: Option<&str>) -> Device {
    Device {
        tenant: tenant(),
        product: "lamp".parse().unwrap(),
        id: DeviceId::parse("lamp-1").unwrap(),
        p_code: "LAMP-1".parse().unwrap(),
        stage: Stage::Activated,
        epoch: OwnershipEpoch(epoch),
        home: home.map(|home| home.parse().unwrap()),
        keys: vec![],
        created: Timestamp::EPOCH,
    }
}

/// An alarm of a device, caused by the `n`-th event.
pub(super) fn alarm(n: usize, device: &Device) -> Notification {
    let fields = [
        ("name", FieldValue::from("heat")),
        ("text", FieldValue::from("31.5 is above 30")),
        ("since", FieldValue::Time(Timestamp::EPOCH)),
    ];
    let id = NotificationId::parse(&format!("alarm-n-{n}-0")).unwrap();
    Notification::new(id, tenant(), Kind::AlarmRaised, Timestamp::EPOCH, fields).unwrap().about(device)
}

/// What a receiver got.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Got {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// Verifies as a receiver does, written from the specification: HMAC by RFC 2104 §2 over SHA-256, keyed by the decoded
    /// part after `whsec_`; any of the signatures counts.
    pub(super) fn is_signed_with(&self, secret: &Secret) -> bool {
        let mut key = BASE64.decode(secret.expose().split_once('_').unwrap().1.as_bytes()).unwrap();
        key.resize(64, 0);
        let pad = |byte: u8| key.iter().map(|k| k ^ byte).collect::<Vec<u8>>();
        let text = format!("{}.{}.{}", self.header("webhook-id"), self.header("webhook-timestamp"), self.body);
        let sha256 = |bytes: Vec<u8>| digest::digest(&digest::SHA256, &bytes).as_ref().to_vec();
        let inner = sha256([pad(0x36), text.into_bytes()].concat());
        let expected = format!("v1,{}", BASE64.encode(&sha256([pad(0x5c), inner].concat())));
        self.header("webhook-signature").split(' ').any(|signature| signature == expected)
    }
}

/// A receiver on loopback. It answers with the statuses of its script, then 204.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    pub(super) got: mpsc::UnboundedReceiver<Got>,
    script: Arc<Mutex<VecDeque<u16>>>,
    location: Arc<Mutex<Option<String>>>,
}

impl Receiver {
    pub(super) async fn start() -> Self {
        Self::at(([127, 0, 0, 1], 0).into()).await
    }

    pub(super) async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, got) = mpsc::unbounded_channel();
        let (script, location) = (Arc::new(Mutex::new(VecDeque::new())), Arc::new(Mutex::new(None)));
        let (script_of, location_of) = (script.clone(), location.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, script, location) = (sender.clone(), script_of.clone(), location_of.clone());
                tokio::spawn(async move {
                    let answer = |request| answer(request, &sender, &script, &location);
                    let _gone = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                });
            }
        });
        Self { address, got, script, location }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(super) fn answers(&self, statuses: impl IntoIterator<Item = u16>) {
        self.script.lock().unwrap().extend(statuses);
    }

    pub(super) fn redirects_to(&self, location: String) {
        *self.location.lock().unwrap() = Some(location);
    }

    /// What has come; attempts were awaited, so that nothing is on its way.
    pub(super) fn drain(&mut self) -> Vec<Got> {
        std::iter::from_fn(|| self.got.try_recv().ok()).collect()
    }

    pub(super) fn ids(&mut self) -> HashSet<String> {
        self.drain().iter().map(|got| got.header("webhook-id").to_owned()).collect()
    }
}

async fn answer(
    request: Request<Incoming>,
    sender: &mpsc::UnboundedSender<Got>,
    script: &Mutex<VecDeque<u16>>,
    location: &Mutex<Option<String>>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    assert_eq!(request.method(), "POST");
    let headers = request.headers().clone();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let _receiver_gone = sender.send(Got { headers, body: String::from_utf8(body.to_vec()).unwrap() });
    let status = script.lock().unwrap().pop_front().unwrap_or(204);
    let mut response = Response::builder().status(status);
    if let Some(location) = location.lock().unwrap().clone() {
        response = response.header(LOCATION, location);
    }
    Ok(response.body(Empty::new()).unwrap())
}
