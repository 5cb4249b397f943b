//! What the tests of the server's side share: a cloud in memory, and the oracle that a refused attack left no trace but one.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part")]

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use iot_auth::{
    Auth,
    account::{Account, AccountOptions, EmailAddress, LoggedIn, Password, Registered, SignedIn, Verified},
    ca::{DeviceCa, SigningRequest},
    home::{InviteAsked, Invited, home_tuples},
    keys::FileKeyRing,
    registry::{Claim, Claimed, Import},
};
use iot_core::{
    access::{Authentication, Credentials, Grants, Permission, Principal, Proof, Refusal, Resource, Subject, check},
    clock::{Clock, ManualClock},
    device::{Device, Product, Stage},
    home::{self, Home, Ruling},
    id::{AccountId, DeviceId, HomeId, LoginId, OwnershipEpoch, ProductId, TenantId, TokenId},
    keys::KeyRing,
    mail::{Mail, MailError, Mailer},
    secret::Secret,
    service::{Call, DeviceCall},
    store::{Audit, Batch, Key, MetaStore, MetaStoreExt, Revision, Stores},
    time::Timestamp,
};
use iot_store::{StoreLimits, memory::Memory, sqlite::Sqlite};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

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

    /// Over the backend that a deployment has by default, in a folder.
    pub async fn on_disk(folder: &Path) -> Self {
        Self::over(Stores::new(Sqlite::open(folder, StoreLimits::default()).await.unwrap())).await
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

    /// Another node over the same records, whose clock says something else.
    pub async fn node_at(&self, at: Timestamp) -> Arc<Auth> {
        auth(&self.stores, &self.keys, &Arc::new(ManualClock::at(at)), &self.folder, &self.mails).await
    }

    pub async fn ca(&self) -> DeviceCa {
        DeviceCa::open_or_create(self.folder.path(), &*self.keys, self.clock.timestamp()).await.unwrap()
    }

    /// A product with units `<product>-0`, `<product>-1`, …
    pub async fn with_units(&self, by: &Principal, product: &str, count: usize) {
        let id = ProductId::parse(product).unwrap();
        let _put = self.auth.put_product(by, Product::new(by.tenant.clone(), id.clone(), product)).await.unwrap();
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

    /// The oracle of every refused attack: nothing was written but one audit entry with this reason, and neither the reply nor
    /// anything that is stored shows one of the secrets.
    pub async fn left_nothing(&self, before: Before, why: &str, reply: impl fmt::Debug, secrets: &[&str]) {
        let tenant = before.tenant.clone();
        self.refused_only(before, why).await;
        let (reply, stored) = (format!("{reply:?}"), self.dump(&tenant).await);
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            let bare = secret.replace('-', "");
            for text in [&reply, &stored] {
                assert!(!text.contains(secret) && !text.contains(&bare), "a secret is shown");
            }
        }
    }

    /// Everything that is stored about people and bindings, and the audit log, as text.
    pub async fn dump(&self, tenant: &TenantId) -> String {
        let changes = self.meta.changes(Revision::default(), 100_000).await.unwrap();
        let keys: BTreeSet<Key> = changes.into_iter().flat_map(|change| change.keys).collect();
        let records = self.meta.get(&keys.into_iter().collect::<Vec<_>>()).await.unwrap();
        let bodies: Vec<_> = records.into_iter().flatten().map(|record| record.body).collect();
        format!("{bodies:?} {:?}", self.audit(tenant).await)
    }

    /// A unit in service, as after its first connection.
    pub async fn activated(&self, id: &str) -> Device {
        let unit = Device {
            tenant: TenantId::parse("acme").unwrap(),
            product: ProductId::parse("lamp").unwrap(),
            id: device(id),
            p_code: id.to_uppercase().parse().unwrap(),
            stage: Stage::Activated,
            epoch: OwnershipEpoch(0),
            home: None,
            keys: vec![],
            created: self.clock.timestamp(),
        };
        assert!(self.meta.commit_or_conflict(Batch::default().create(&unit)).await.unwrap());
        unit
    }

    pub async fn unit(&self, id: &str) -> Device {
        self.device(&operator("acme"), id).await
    }

    /// What the binding service says to a unit as it is now.
    pub async fn device_asks(&self, id: &str, payload: &str) -> Value {
        let (device, payload) = (Arc::new(self.unit(id).await), payload.as_bytes().to_vec());
        let call = DeviceCall { device, call: Call::Asked(payload.into()) };
        let answer = self.auth.binding_service().oneshot(call).await.unwrap();
        answer.map_or(Value::Null, |answer| serde_json::from_slice(&answer).unwrap())
    }

    /// A code that the unit shows, as somebody beside it reads it.
    pub async fn shown_code(&self, id: &str) -> String {
        let told = self.device_asks(id, r#"{"type":"present","for_s":120}"#).await;
        assert_eq!((&told["type"], &told["expires_s"]), (&"code".into(), &120.into()), "{told}");
        told["code"].as_str().unwrap().to_owned()
    }

    pub async fn home_of(&self, owner: &Principal) -> HomeId {
        match self.auth.create_home(owner, "a home").await.unwrap() {
            Ruling::Changed(home) => home.id,
            Ruling::Refused(why) => panic!("{why:?}"),
        }
    }

    pub async fn home_record(&self, id: &HomeId) -> Home {
        let key = Home::key_of(&TenantId::parse("acme").unwrap(), id);
        self.meta.find(&key).await.unwrap().unwrap().document
    }

    /// Lets somebody into a home, by an invitation.
    pub async fn let_in(&self, by: &Principal, home: &HomeId, who: &Principal, role: home::Role) {
        let code = self.invited(by, home, &InviteAsked::one(role)).await;
        let ruling = self.auth.accept_invite(who, &code, peer().ip()).await.unwrap();
        assert!(matches!(ruling, Ruling::Changed(_)), "{ruling:?}");
    }

    pub async fn invited(&self, by: &Principal, home: &HomeId, asked: &InviteAsked) -> Secret {
        match self.auth.invite(by, home, asked).await.unwrap() {
            Invited::Done(issued) => issued.code,
            Invited::Refused(why) => panic!("{why:?}"),
        }
    }

    /// Whether somebody may do something to a unit now, by the homes that they are in.
    pub async fn may(&self, who: &Principal, permission: Permission, unit: &Device) -> bool {
        let Subject::Account { account, .. } = &who.subject else { panic!("no person") };
        let tuples = home_tuples(&*self.meta, &who.tenant, account).await.unwrap();
        let grants = Grants { revision: Revision::default(), tuples: tuples.into() };
        check(&grants, permission, &Resource::device(unit), self.clock.timestamp()).allow
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

/// Somebody with an account of `acme`.
pub fn person(name: &str) -> Principal {
    person_of("acme", name)
}

pub fn person_of(tenant: &str, name: &str) -> Principal {
    let subject = Subject::Account { account: account(name), login: LoginId::parse("login").unwrap() };
    Principal { tenant: TenantId::parse(tenant).unwrap(), subject }
}

pub fn account(name: &str) -> AccountId {
    AccountId::parse(name).unwrap()
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

/// Whether an answer lets its principal do something in the whole tenant.
pub fn may(answer: &Authentication, cloud: &Cloud, permission: Permission) -> bool {
    let Authentication::Accepted(principal, grants) = answer else { panic!("{answer:?}") };
    check(grants, permission, &Resource::tenant(&principal.tenant), cloud.clock.timestamp()).allow
}
