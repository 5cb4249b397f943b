use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use iot_core::{
    access::{
        Authentication, BoxAuthenticator, Credentials, Grants, Object, Principal, Proof, Refusal, Relation, Subject,
        Tuple,
    },
    device::{Device, Stage},
    id::TenantId,
    keys::Purpose,
    logic::BoxError,
    secret::Secret,
    store::{Batch, Document, MetaStoreExt, Revision, Step, Stored},
    time::Timestamp,
};
use tower::service_fn;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::{Auth, AuthError};
use crate::{
    account::{AccessToken, Login, is_access_token},
    ca::{fingerprint, urn},
    token::{ApiToken, Kind, TokenText},
};

/// Someone is not let in.
struct Refused {
    tenant: TenantId,
    /// Who it seems to be.
    subject: String,
    why: Refusal,
}

/// What was asked, as far as it was decided.
type Verdict = Result<(Principal, Grants), Refused>;

impl Auth {
    /// The registry as the seam that nodes and HTTP faces authenticate by.
    pub fn authenticator(self: &Arc<Self>) -> BoxAuthenticator {
        let auth = self.clone();
        BoxAuthenticator::new(service_fn(move |credentials| {
            let auth = auth.clone();
            async move { auth.authenticate(&credentials).await.map_err(BoxError::from) }
        }))
    }

    /// Decides who someone is. A refusal is in the audit log when this returns; the first success of a claimed device is
    /// committed as its activation.
    pub async fn authenticate(&self, credentials: &Credentials) -> Result<Authentication, AuthError> {
        // Read first: the grants are at least as new as this.
        let revision = self.meta.revision().await?;
        let verdict = match &credentials.proof {
            Proof::Certificate(der) => self.by_certificate(der, credentials, revision).await?,
            Proof::Token(token) => self.by_token(token, credentials, revision).await?,
            _ => anonymous(credentials, revision),
        };
        match verdict {
            Ok((principal, grants)) => Ok(Authentication::Accepted(principal, grants)),
            Err(Refused { tenant, subject, why }) => {
                let entry = self.entry(&tenant, credentials.peer.ip(), "authenticate", subject);
                self.stranger_refused(entry, why.code()).await?;
                Ok(Authentication::Refused(why))
            }
        }
    }

    async fn by_certificate(&self, der: &[u8], from: &Credentials, revision: Revision) -> Result<Verdict, AuthError> {
        let Some(shown) = Shown::read(der) else { return Ok(Err(unknown("certificate"))) };
        self.settle(|| async {
            let stored = self.meta.find_by::<Device>("key", &shown.fingerprint).await?;
            let Some(stored) = stored.filter(|stored| shown.names(&stored.document)) else {
                return Ok(Step::Answer(Err(unknown(&format!("key {}", shown.fingerprint)))));
            };
            let device = &stored.document;
            if let Some(why) = objection(device, &shown, from, self.now()) {
                let subject = device.key().to_string();
                return Ok(Step::Answer(Err(Refused { tenant: device.tenant.clone(), subject, why })));
            }
            let subject = Subject::Device { device: device.id.clone(), fingerprint: shown.fingerprint.clone() };
            let accepted = Ok((Principal { tenant: device.tenant.clone(), subject }, device_grants(device, revision)));
            Ok(match device.stage {
                Stage::Activated => Step::Answer(accepted),
                _ => Step::Commit(self.activation(&stored), accepted),
            })
        })
        .await
    }

    fn activation(&self, stored: &Stored<Device>) -> Batch {
        let activated = Device { stage: Stage::Activated, ..stored.document.clone() };
        let actor = format_args!("{}/device/{}", activated.tenant, activated.id);
        let entry = self.entry(&activated.tenant, actor, "activate", activated.key());
        Batch::default().replace(stored, &activated).audited(entry)
    }

    async fn by_token(&self, token: &Secret, from: &Credentials, revision: Revision) -> Result<Verdict, AuthError> {
        if !from.encrypted && !from.peer.ip().to_canonical().is_loopback() {
            let refused = Refused { why: Refusal::Unencrypted, ..unknown("token") };
            return Ok(Err(refused));
        }
        if is_access_token(token) {
            return self.by_access(token, revision).await;
        }
        let Some(text) = TokenText::parse(Kind::Api, token) else { return Ok(Err(unknown("token"))) };
        let stored = self.meta.find::<ApiToken>(&ApiToken::key_of(&text.id)).await?;
        let code = self.code_of(&text).await?;
        let Some(token) = stored.map(|stored| stored.document).filter(|token| same_code(&token.code, &code)) else {
            return Ok(Err(unknown(&format!("token {}", text.id))));
        };
        if token.expires.is_some_and(|at| at <= self.now()) {
            let subject = token.key().to_string();
            return Ok(Err(Refused { tenant: token.tenant, subject, why: Refusal::Revoked }));
        }
        let grants = token_grants(&token, revision);
        Ok(Ok((Principal { tenant: token.tenant, subject: Subject::Token(token.id) }, grants)))
    }

    async fn by_access(&self, text: &Secret, revision: Revision) -> Result<Verdict, AuthError> {
        let Some(token) = self.open_access(text).await? else { return Ok(Err(unknown("access token"))) };
        let AccessToken { tenant, account, login, .. } = &token;
        let grants = match token.expires > self.now() {
            true => self.login_grants(tenant, account, login, Some(token.epoch), revision).await?,
            false => None,
        };
        let AccessToken { tenant, account, login, .. } = token;
        Ok(match grants {
            Some(grants) => Ok((Principal { tenant, subject: Subject::Account { account, login } }, grants)),
            None => Err(Refused { tenant, subject: Login::key_of(&login).to_string(), why: Refusal::Revoked }),
        })
    }

    /// The stored form of a token's secret part. Bound to kind and id, so that it fits no other record.
    pub(crate) async fn code_of(&self, text: &TokenText) -> Result<String, AuthError> {
        let data = [text.kind.prefix(), text.id.as_str(), text.secret.expose()].join("\n");
        Ok(self.keys.code(Purpose::TokenHash, data.as_bytes()).await?)
    }
}

/// Why a device that has the key is not let in all the same.
fn objection(device: &Device, shown: &Shown, from: &Credentials, now: Timestamp) -> Option<Refusal> {
    let own_id = |id: &String| id.is_empty() || id == device.id.as_str();
    if !from.encrypted {
        return Some(Refusal::Unencrypted);
    }
    if !device.accepts(&shown.fingerprint) || now < shown.not_before || now > shown.not_after {
        return Some(Refusal::Revoked);
    }
    if !from.client_id.as_ref().is_none_or(own_id) {
        return Some(Refusal::ClientId);
    }
    // A unit that is only manufactured has no key; a record that says otherwise was not written by a claim.
    (!matches!(device.stage, Stage::Claimed | Stage::Activated)).then_some(Refusal::Unknown)
}

fn anonymous(from: &Credentials, revision: Revision) -> Verdict {
    let tenant = Auth::default_tenant();
    if !from.anonymous_allowed {
        return Err(Refused { tenant, subject: "nothing".to_owned(), why: Refusal::NoCredential });
    }
    let grants = anonymous_grants(&tenant, revision);
    Ok((Principal { tenant, subject: Subject::Anonymous }, grants))
}

fn unknown(subject: &str) -> Refused {
    Refused { tenant: Auth::default_tenant(), subject: subject.to_owned(), why: Refusal::Unknown }
}

pub(super) fn device_grants(device: &Device, revision: Revision) -> Grants {
    let object = Object::Device(device.tenant.clone(), device.id.clone(), device.epoch);
    grants(object, Relation::Itself, None, revision)
}

pub(super) fn token_grants(token: &ApiToken, revision: Revision) -> Grants {
    grants(Object::Tenant(token.tenant.clone()), token.role.relation(), token.expires, revision)
}

pub(super) fn anonymous_grants(tenant: &TenantId, revision: Revision) -> Grants {
    // Of all clients without credentials together.
    static SHARED: LazyLock<Grants> =
        LazyLock::new(|| grants(Object::Topics(Auth::default_tenant()), Relation::User, None, Revision::default()));
    if *tenant == Auth::default_tenant() {
        return Grants { revision, tuples: SHARED.tuples.clone() };
    }
    grants(Object::Topics(tenant.clone()), Relation::User, None, revision)
}

fn grants(object: Object, relation: Relation, expires: Option<Timestamp>, revision: Revision) -> Grants {
    Grants { revision, tuples: [Tuple { object, relation, expires }].into() }
}

pub(crate) fn same_code(stored: &str, shown: &str) -> bool {
    verify_slices_are_equal(stored.as_bytes(), shown.as_bytes()).is_ok()
}

/// A certificate whose chain was verified.
struct Shown {
    fingerprint: String,
    uri: String,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Shown {
    fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = &certificate.subject_alternative_name().ok()??.value.general_names;
        let [GeneralName::URI(uri)] = names[..] else { return None };
        let seconds = |at: x509_parser::time::ASN1Time| Timestamp::from_millis(at.timestamp().saturating_mul(1_000));
        Some(Self {
            fingerprint: fingerprint(certificate.public_key().raw),
            uri: uri.to_owned(),
            not_before: seconds(certificate.validity().not_before),
            not_after: seconds(certificate.validity().not_after),
        })
    }

    /// The holder of the key is whom the certificate names: tenant and device.
    fn names(&self, device: &Device) -> bool {
        self.uri == urn(&device.tenant, &device.id)
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.uri, self.fingerprint)
    }
}
