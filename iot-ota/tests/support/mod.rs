//! What the tests of the service share: a cloud in memory, release keys, devices that listen.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part")]

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use iot_core::{
    access::{Principal, Subject},
    clock::{Clock, ManualClock},
    device::{Device, Product, Stage},
    id::{DeviceId, OwnershipEpoch, PCode, ProductId, ReleaseId, RolloutId, ServiceName, TenantId, TokenId},
    keys::{KeyError, KeyRing, Purpose},
    logic::BoxError,
    service::{Call, DeviceCall, Downlink, Told},
    store::{Audit, Batch, BlobId, BlobStore, Document, MetaStore, MetaStoreExt},
    time::Timestamp,
};
use iot_ota::{
    release::{Digest, FORMAT, Hardware, Image, Manifest, SignedRelease, SigningKey, Trust, Version},
    rollout::{Assignment, Gate, GroupPlan, Order, Phase, Plan, Rollout},
    server::{Created, Ota, RolloutCreated, RolloutOrdered, TrustPut, Uploaded},
    wire::{Down, Hello, Offer, Report, ReportState, Slot, Up},
};
use iot_store::{StoreLimits, blobs::Blobs, memory::Memory};
use tower::ServiceExt;

pub const ADDRESS: &str = "https://cloud.example:8443";
pub const CHUNK: u32 = 1_024;

/// Codes as a ring makes them: bound to purpose and data, and to a secret of this ring.
#[derive(Debug)]
pub struct TestRing;

#[async_trait]
impl KeyRing for TestRing {
    async fn seal(&self, purpose: Purpose, context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok([purpose.name().as_bytes(), context, plaintext].join(&0))
    }

    async fn open(&self, purpose: Purpose, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
        let prefix = [purpose.name().as_bytes(), context, b""].join(&0);
        sealed.strip_prefix(prefix.as_slice()).map(<[u8]>::to_vec).ok_or(KeyError::Unopenable)
    }

    async fn code(&self, purpose: Purpose, data: &[u8]) -> Result<String, KeyError> {
        Ok(Digest::of(&[b"secret of this ring", purpose.name().as_bytes(), data].join(&0)).to_string())
    }
}

/// Connected devices, and what they were told without asking.
#[derive(Debug, Default)]
pub struct Radio {
    pub connected: Mutex<HashSet<DeviceId>>,
    pub told: Mutex<HashMap<DeviceId, Vec<Down>>>,
    pub spoke: tokio::sync::Notify,
}

#[async_trait]
impl Downlink for Radio {
    async fn tell(&self, _: &TenantId, device: &DeviceId, service: &ServiceName, payload: Bytes) -> Told {
        assert_eq!(service.as_str(), "update");
        if !self.connected.lock().unwrap().contains(device) {
            return Told::NotConnected;
        }
        let down = Down::parse(&payload).unwrap();
        self.told.lock().unwrap().entry(device.clone()).or_default().push(down);
        self.spoke.notify_one();
        Told::Sent
    }
}

impl Radio {
    pub fn connect(&self, device: &str) {
        self.connected.lock().unwrap().insert(device_id(device));
    }

    /// Until a device is told something.
    pub async fn speaks(&self) {
        tokio::time::timeout(Duration::from_secs(10), self.spoke.notified()).await.expect("nobody was told anything");
    }

    pub fn told(&self, device: &str) -> Vec<Down> {
        self.told.lock().unwrap().remove(&device_id(device)).unwrap_or_default()
    }
}

pub struct Cloud {
    pub meta: Arc<dyn MetaStore>,
    pub blobs: Arc<dyn BlobStore>,
    pub clock: Arc<ManualClock>,
    pub ota: Arc<Ota>,
    pub radio: Arc<Radio>,
}

impl Cloud {
    pub async fn new() -> Self {
        Self::over(Arc::new(Memory::new(StoreLimits::default())), Arc::new(Blobs::memory())).await
    }

    pub async fn over(meta: Arc<dyn MetaStore>, blobs: Arc<dyn BlobStore>) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::parse_rfc3339("2026-11-23T00:00:00Z").unwrap()));
        let (ring, dynamic) = (Arc::new(TestRing), clock.clone());
        let ota = Arc::new(Ota::new(meta.clone(), blobs.clone(), ring, dynamic, ADDRESS));
        Self { meta, blobs, clock, ota, radio: Arc::default() }
    }

    /// Another node over the same records and images.
    pub async fn another_node(&self) -> Self {
        Self::over(self.meta.clone(), self.blobs.clone()).await
    }

    /// A product with devices `<product>-0`, `<product>-1`, …, and trust in two of [`keys`].
    pub async fn with_devices(&self, product: &str, count: usize) {
        let id = ProductId::parse(product).unwrap();
        let record = Product::new(tenant(), id.clone(), product);
        let mut batch = Batch::default().create(&record);
        for n in 0..count {
            batch = batch.create(&device(product, n));
        }
        assert!(self.meta.commit_or_conflict(batch).await.unwrap());
        assert_eq!(self.ota.put_trust(&operator(), &id, trust()).await.unwrap(), TrustPut::Created);
    }

    pub async fn create(&self, signed: &SignedRelease) -> Created {
        self.ota.create_release(&operator(), signed).await.unwrap()
    }

    /// A release that is ready.
    pub async fn released(&self, sequence: u64, image: &[u8]) -> ReleaseId {
        let Created::Done(release) = self.create(&signed(&manifest(sequence, image))).await else { panic!() };
        let uploaded = self.upload(&release.id, &[image]).await;
        assert!(matches!(uploaded, Uploaded::Done(_)), "{uploaded:?}");
        release.id
    }

    pub async fn upload(&self, release: &ReleaseId, pieces: &[&[u8]]) -> Uploaded {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, BoxError>(Bytes::copy_from_slice(piece))).collect();
        self.ota.upload(&operator(), release, futures_util::stream::iter(pieces)).await.unwrap()
    }

    pub async fn draft(&self, release: &ReleaseId, plan: Plan) -> RolloutId {
        match self.ota.create_rollout(&operator(), release, plan).await.unwrap() {
            RolloutCreated::Done(rollout) => rollout.id,
            other => panic!("{other:?}"),
        }
    }

    pub async fn started(&self, release: &ReleaseId, plan: Plan) -> RolloutId {
        let rollout = self.draft(release, plan).await;
        self.ordered(&rollout, Order::Start).await;
        rollout
    }

    pub async fn ordered(&self, rollout: &RolloutId, order: Order) {
        let answer = self.ota.order(&operator(), rollout, order).await.unwrap();
        assert!(matches!(answer, RolloutOrdered::Done(_)), "{answer:?}");
    }

    pub async fn tick(&self) {
        self.ota.tick(&*self.radio).await.unwrap();
    }

    pub async fn rollout(&self, id: &RolloutId) -> Rollout {
        self.ota.rollout(&tenant(), id).await.unwrap().unwrap()
    }

    pub async fn part(&self, rollout: &RolloutId, device: &str) -> Option<Assignment> {
        let key = Assignment::key_of(&tenant(), rollout, &device_id(device));
        self.meta.find(&key).await.unwrap().map(|stored| stored.document)
    }

    pub async fn phases(&self, rollout: &RolloutId) -> Vec<(Phase, u64)> {
        let all = self.ota.phases(&self.rollout(rollout).await).await.unwrap();
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    pub async fn device(&self, id: &str) -> Device {
        self.meta.find(&Device::key_of(&tenant(), &device_id(id))).await.unwrap().unwrap().document
    }

    pub async fn ask(&self, device: &str, bytes: &[u8]) -> Option<Down> {
        let call = Call::Asked(Bytes::copy_from_slice(bytes));
        let call = DeviceCall { device: Arc::new(self.device(device).await), call };
        let answer = self.ota.device_service().oneshot(call).await.unwrap();
        answer.map(|bytes| Down::parse(&bytes).unwrap())
    }

    /// What a device on `rev-a` hears that runs this.
    pub async fn hello(&self, device: &str, sequence: u64) -> Down {
        self.ask(device, &hello(sequence, "rev-a")).await.unwrap()
    }

    pub async fn offered(&self, device: &str, sequence: u64) -> Box<Offer> {
        match self.hello(device, sequence).await {
            Down::Offer(offer) => offer,
            other => panic!("{other:?}"),
        }
    }

    pub async fn report(&self, device: &str, rollout: &RolloutId, state: ReportState) -> Option<Down> {
        let report = Report { rollout: rollout.clone(), state, progress_percent: None, reason: None };
        self.ask(device, &Up::Report(report).to_json()).await
    }

    pub async fn refused(&self, device: &str, rollout: &RolloutId, reason: &str) {
        let (state, reason) = (ReportState::Refused, Some(reason.to_owned()));
        let report = Report { rollout: rollout.clone(), state, progress_percent: None, reason };
        assert_eq!(self.ask(device, &Up::Report(report).to_json()).await, None);
    }

    pub async fn explained(&self, device: &str) -> &'static str {
        self.ota.explain(&self.device(device).await).await.unwrap().code()
    }

    pub async fn audit(&self) -> Vec<Audit> {
        self.meta.audit(&tenant(), None, 1_000).await.unwrap().items
    }

    pub async fn change<T: Document + Clone>(&self, document: &T) {
        let former = self.meta.find::<T>(&document.key()).await.unwrap().unwrap();
        assert!(self.meta.commit_or_conflict(Batch::default().replace(&former, document)).await.unwrap());
    }

    pub fn now(&self) -> Timestamp {
        self.clock.timestamp()
    }
}

pub fn tenant() -> TenantId {
    TenantId::parse("acme").unwrap()
}

pub fn operator() -> Principal {
    Principal { tenant: tenant(), subject: Subject::Token(TokenId::parse("operator").unwrap()) }
}

pub fn device_id(id: &str) -> DeviceId {
    DeviceId::parse(id).unwrap()
}

pub fn device(product: &str, n: usize) -> Device {
    Device {
        tenant: tenant(),
        product: ProductId::parse(product).unwrap(),
        id: device_id(&format!("{product}-{n}")),
        p_code: PCode::parse(&format!("{}-{n}", product.to_uppercase())).unwrap(),
        stage: Stage::Activated,
        epoch: OwnershipEpoch(0),
        home: None,
        keys: vec![],
        created: Timestamp::EPOCH,
    }
}

pub fn keys() -> [SigningKey; 3] {
    [1, 2, 3].map(|seed| SigningKey::from_seed(&[seed; 32]).unwrap())
}

/// Two of three.
pub fn trust() -> Trust {
    Trust::new(2, keys().iter().map(SigningKey::public).collect()).unwrap()
}

pub fn manifest(sequence: u64, image: &[u8]) -> Manifest {
    let created = Timestamp::parse_rfc3339("2026-11-22T00:00:00Z").unwrap();
    Manifest {
        format: FORMAT,
        tenant: tenant(),
        product: ProductId::parse("lamp").unwrap(),
        version: Version::parse(&format!("1.{sequence}.0")).unwrap(),
        sequence,
        security_version: 0,
        hardware: vec![Hardware::parse("rev-a").unwrap()],
        image: Image::of(image, CHUNK).unwrap(),
        notes: String::new(),
        created,
        expires: created.plus(Duration::from_secs(90 * 24 * 3_600)),
    }
}

pub fn signed(manifest: &Manifest) -> SignedRelease {
    let [one, two, _] = keys();
    SignedRelease::sign(manifest, &[&one, &two]).unwrap()
}

pub fn image(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}

pub fn hello(sequence: u64, hardware: &str) -> Vec<u8> {
    let hello = Hello {
        version: Version::parse("1.0.0").unwrap(),
        sequence,
        security_version: 0,
        hardware: Hardware::parse(hardware).unwrap(),
        slot: Slot::A,
    };
    Up::Hello(hello).to_json()
}

/// One device in the first group, which it decides alone; then all.
pub fn first_then_all(first: &[&str]) -> Plan {
    let gate = Gate {
        min_executed: u32::try_from(first.len()).unwrap(),
        failure_per_mille_max: 0,
        success_per_mille_min: 1_000,
        soak_s: 0,
    };
    let devices = first.iter().map(|id| device_id(id)).collect();
    Plan {
        groups: vec![
            GroupPlan { reach_per_mille: 0, devices, gate },
            GroupPlan {
                reach_per_mille: 1_000,
                devices: Default::default(),
                gate: Gate { min_executed: 2, failure_per_mille_max: 500, success_per_mille_min: 0, soak_s: 0 },
            },
        ],
        patience_s: 3_600,
    }
}

/// All of a blob.
pub async fn load(blobs: &dyn BlobStore, id: &BlobId) -> Vec<u8> {
    let pieces: Vec<Bytes> = blobs.read(id, None).await.unwrap().unwrap().try_collect().await.unwrap();
    pieces.concat()
}
