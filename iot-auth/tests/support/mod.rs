//! What the tests of the server's side share: a cloud in memory, and the oracle that a refused attack left no trace but one.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use iot_auth::{
    Auth,
    ca::{DeviceCa, SigningRequest},
    keys::FileKeyRing,
    registry::{Claim, Claimed, Import},
};
use iot_core::{
    access::{Authentication, Credentials, Principal, Proof, Refusal, Subject},
    clock::{Clock, ManualClock},
    device::{Device, Encoding},
    id::{DeviceId, HomeId, ProductId, TenantId, TokenId},
    keys::KeyRing,
    secret::Secret,
    store::{Audit, Key, MetaStore, MetaStoreExt, Revision, Stores},
    time::Timestamp,
};
use iot_store::{StoreLimits, memory::Memory};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

pub struct Cloud {
    pub auth: Arc<Auth>,
    pub stores: Stores,
    pub meta: Arc<dyn MetaStore>,
    pub clock: Arc<ManualClock>,
    pub keys: Arc<dyn KeyRing>,
    folder: TempDir,
}

/// What the store looked like.
pub struct Before {
    revision: Revision,
    audit: usize,
    tenant: TenantId,
}

impl Cloud {
    pub async fn new() -> Self {
        let stores = Stores::new(Memory::new(StoreLimits::default()));
        let clock = Arc::new(ManualClock::at(Timestamp::parse_rfc3339("2026-11-23T00:00:00Z").unwrap()));
        let folder = tempfile::tempdir().unwrap();
        let keys: Arc<dyn KeyRing> = Arc::new(FileKeyRing::open_or_create(folder.path()).unwrap());
        let auth = auth(&stores, &keys, &clock, &folder).await;
        Self { auth, meta: stores.meta.clone(), stores, clock, keys, folder }
    }

    /// Another node over the same records.
    pub async fn another_node(&self) -> Arc<Auth> {
        auth(&self.stores, &self.keys, &self.clock, &self.folder).await
    }

    pub async fn ca(&self) -> DeviceCa {
        DeviceCa::open_or_create(self.folder.path(), &*self.keys, self.clock.timestamp()).await.unwrap()
    }

    /// A product with units `<product>-0`, `<product>-1`, …
    pub async fn with_units(&self, by: &Principal, product: &str, count: usize) {
        let id = ProductId::parse(product).unwrap();
        let _put = self.auth.put_product(by, &id, product, Encoding::Json).await.unwrap();
        let mut csv = "device_id,p_code\n".to_owned();
        (0..count).for_each(|n| csv += &format!("{product}-{n},{}-{n}\n", product.to_uppercase()));
        assert_eq!(self.auth.import_units(by, &id, csv.as_bytes()).await.unwrap(), Import::Done(count));
    }

    pub async fn claim_token(&self, by: &Principal, product: &str, uses: u32) -> Secret {
        let product = ProductId::parse(product).unwrap();
        let issued = self.auth.issue_claim_token(by, &product, uses, Duration::from_secs(3_600), true).await;
        issued.unwrap().unwrap().text
    }

    pub async fn claim(&self, token: &Secret, key: &KeyPair, unit: Option<&str>) -> Claimed {
        let unit = unit.map(device);
        self.auth.claim(token, &request(key), unit.as_ref(), peer().ip()).await.unwrap()
    }

    pub async fn claimed(&self, token: &Secret, key: &KeyPair, unit: Option<&str>) -> Claim {
        match self.claim(token, key, unit).await {
            Claimed::Done(claim) => *claim,
            Claimed::Refused(why) => panic!("{why:?}"),
        }
    }

    pub async fn connect(&self, certificate_pem: &str, client_id: &str) -> Authentication {
        self.auth.authenticate(&by_certificate(certificate_pem, client_id)).await.unwrap()
    }

    pub async fn device(&self, by: &Principal, id: &str) -> Device {
        self.meta.find(&Device::key_of(&by.tenant, &device(id))).await.unwrap().unwrap().document
    }

    pub async fn version(&self, key: &Key) -> u64 {
        self.meta.get(std::slice::from_ref(key)).await.unwrap()[0].as_ref().unwrap().version
    }

    pub async fn before(&self, tenant: &TenantId) -> Before {
        let revision = self.meta.revision().await.unwrap();
        Before { revision, audit: self.audit(tenant).await.len(), tenant: tenant.clone() }
    }

    /// No record was written since, and one refusal with this reason was recorded.
    pub async fn refused_only(&self, before: Before, why: &str) {
        assert_eq!(self.meta.changes(before.revision, 10).await.unwrap(), [], "a record was written");
        let audit = self.audit(&before.tenant).await;
        assert_eq!(audit.len(), before.audit + 1, "one audit entry");
        assert_eq!(audit[0].refused.as_deref(), Some(why));
    }

    pub async fn audit(&self, tenant: &TenantId) -> Vec<Audit> {
        self.meta.audit(tenant, None, 1_000).await.unwrap().items
    }
}

async fn auth(stores: &Stores, keys: &Arc<dyn KeyRing>, clock: &Arc<ManualClock>, folder: &TempDir) -> Arc<Auth> {
    let ca = DeviceCa::open_or_create(folder.path(), &**keys, clock.timestamp()).await.unwrap();
    Arc::new(Auth::new(stores, keys.clone(), ca, clock.clone()))
}

pub fn operator(tenant: &str) -> Principal {
    let subject = Subject::Token(TokenId::parse("operator").unwrap());
    Principal { tenant: TenantId::parse(tenant).unwrap(), subject }
}

pub fn device(id: &str) -> DeviceId {
    DeviceId::parse(id).unwrap()
}

pub fn home(id: &str) -> HomeId {
    HomeId::parse(id).unwrap()
}

pub fn peer() -> SocketAddr {
    "192.0.2.1:50000".parse().unwrap()
}

pub fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

pub fn request(key: &KeyPair) -> SigningRequest {
    let csr = CertificateParams::default().serialize_request(key).unwrap();
    SigningRequest::parse(&csr.pem().unwrap()).unwrap()
}

pub fn der(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

pub fn by_certificate(pem: &str, client_id: &str) -> Credentials {
    Credentials {
        proof: Proof::Certificate(der(pem)),
        client_id: Some(client_id.to_owned()),
        peer: peer(),
        encrypted: true,
        anonymous_allowed: false,
    }
}

pub fn by_token(token: &Secret) -> Credentials {
    let proof = Proof::Token(token.clone());
    Credentials { proof, client_id: None, peer: peer(), encrypted: true, anonymous_allowed: false }
}

pub fn accepted(answer: Authentication) -> Principal {
    match answer {
        Authentication::Accepted(principal, _) => principal,
        Authentication::Refused(why) => panic!("{why:?}"),
    }
}

pub fn refusal(answer: Authentication) -> Refusal {
    match answer {
        Authentication::Refused(why) => why,
        Authentication::Accepted(principal, _) => panic!("{principal} was let in"),
    }
}
