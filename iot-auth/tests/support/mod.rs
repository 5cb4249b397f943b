//! What the tests of the server's side share: a cloud in memory, and the oracle that a refused attack left no trace but one.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part")]

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use iot_auth::{
    Auth,
    account::{Account, AccountOptions, EmailAddress, LoggedIn, Password, Registered, SignedIn, Verified},
    ca::{DeviceCa, SigningRequest},
    keys::FileKeyRing,
    registry::{Claim, Claimed, Import},
};
use iot_core::{
    access::{Authentication, Credentials, Principal, Proof, Refusal, Subject},
    clock::{Clock, ManualClock},
    device::{Device, Encoding},
    id::{AccountId, DeviceId, HomeId, ProductId, TenantId, TokenId},
    keys::KeyRing,
    mail::{Mail, MailError, Mailer},
    secret::Secret,
    store::{Audit, Key, MetaStore, MetaStoreExt, Revision, Stores},
    time::Timestamp,
};
use iot_store::{StoreLimits, memory::Memory};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

/// Keeps what it is given.
#[derive(Debug, Default)]
pub struct Mailbox {
    mails: Mutex<Vec<Mail>>,
    arrived: tokio::sync::Notify,
}

impl Mailbox {
    pub fn count(&self) -> usize {
        self.mails.lock().unwrap().len()
    }

    pub fn last(&self) -> Mail {
        self.mails.lock().unwrap().last().unwrap().clone()
    }

    /// The code in the newest mail.
    pub fn code(&self) -> Secret {
        let mail = self.last();
        let code = mail.text.expose().lines().find_map(|line| line.strip_prefix("    ")).unwrap();
        Secret::new(code)
    }

    /// Until there are so many.
    pub async fn wait_for(&self, count: usize) {
        while self.count() < count {
            self.arrived.notified().await;
        }
    }
}

#[async_trait]
impl Mailer for Mailbox {
    async fn send(&self, mail: Mail) -> Result<(), MailError> {
        self.mails.lock().unwrap().push(mail);
        self.arrived.notify_one();
        Ok(())
    }
}

pub struct Cloud {
    pub mails: Arc<Mailbox>,
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
        Self::over(Stores::new(Memory::new(StoreLimits::default()))).await
    }

    pub async fn over(stores: Stores) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::parse_rfc3339("2026-11-23T00:00:00Z").unwrap()));
        let folder = tempfile::tempdir().unwrap();
        let keys: Arc<dyn KeyRing> = Arc::new(FileKeyRing::open_or_create(folder.path()).unwrap());
        let mails = Arc::new(Mailbox::default());
        let auth = auth(&stores, &keys, &clock, &folder, &mails).await;
        Self { mails, auth, meta: stores.meta.clone(), stores, clock, keys, folder }
    }

    /// The same cloud over what its store has kept.
    pub async fn restarted(self, stores: Stores) -> Self {
        let auth = auth(&stores, &self.keys, &self.clock, &self.folder, &self.mails).await;
        Self { auth, meta: stores.meta.clone(), stores, ..self }
    }

    /// Another node over the same records.
    pub async fn another_node(&self) -> Arc<Auth> {
        auth(&self.stores, &self.keys, &self.clock, &self.folder, &self.mails).await
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

    /// Registers and confirms by mail.
    pub async fn person(&self, address: &str) -> AccountId {
        let asked = self.auth.register(&email(address), &password(PASSWORD), "Ann", ip()).await.unwrap();
        let Registered::Asked(id) = asked else { panic!("{asked:?}") };
        match self.auth.verify(&id, &self.mails.code(), ip()).await.unwrap() {
            Verified::Done(account) => account,
            other => panic!("{other:?}"),
        }
    }

    pub async fn log_in(&self, address: &str, password: &str, from: IpAddr) -> LoggedIn {
        self.auth.log_in(&email(address), &Secret::new(password), "phone", from).await.unwrap()
    }

    pub async fn signed_in(&self, address: &str) -> SignedIn {
        match self.log_in(address, PASSWORD, ip()).await {
            LoggedIn::Granted(signed_in) => *signed_in,
            other => panic!("{other:?}"),
        }
    }

    pub async fn by_access(&self, access: &Secret) -> Authentication {
        self.auth.authenticate(&by_token(access)).await.unwrap()
    }

    pub async fn account(&self, id: &AccountId) -> Account {
        self.meta.find(&Account::key_of(&Auth::default_tenant(), id)).await.unwrap().unwrap().document
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

async fn auth(
    stores: &Stores,
    keys: &Arc<dyn KeyRing>,
    clock: &Arc<ManualClock>,
    folder: &TempDir,
    mails: &Arc<Mailbox>,
) -> Arc<Auth> {
    let ca = DeviceCa::open_or_create(folder.path(), &**keys, clock.timestamp()).await.unwrap();
    let auth = Auth::new(stores, keys.clone(), ca, clock.clone());
    Arc::new(auth.with_accounts(AccountOptions::default(), mails.clone()))
}

pub const PASSWORD: &str = "correct horse";

pub fn email(address: &str) -> EmailAddress {
    EmailAddress::parse(address).unwrap()
}

pub fn password(text: &str) -> Password {
    Password::parse(&Secret::new(text)).unwrap()
}

pub fn ip() -> IpAddr {
    peer().ip()
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
