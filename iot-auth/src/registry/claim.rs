use std::net::IpAddr;

use iot_core::{
    device::{Device, DeviceKey, KeyState, Stage},
    id::{DeviceId, TenantId},
    secret::Secret,
    store::{Batch, Document, MetaStoreExt, Step, Stored},
    time::Timestamp,
};

use super::ClaimToken;
use crate::{
    auth::{Auth, AuthError, same_code},
    ca::{DeviceCertificate, SigningRequest},
    token::{Kind, TokenText},
};

/// Among how many of the first unclaimed units one is picked: different nodes seldom pick the same.
const CANDIDATES: u32 = 64;

/// The answer to a claim.
#[must_use]
#[derive(Debug)]
pub enum Claimed {
    /// The unit and its certificate.
    Done(Box<Claim>),
    /// Not this key, this unit, or this token.
    Refused(ClaimRefusal),
}

/// A claim that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose.
    pub tenant: TenantId,
    /// Which unit.
    pub device: DeviceId,
    /// Its certificate.
    pub certificate: DeviceCertificate,
}

/// Why a claim is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClaimRefusal {
    /// No such token.
    UnknownToken,
    /// The token has ended.
    TokenExpired,
    /// The token has no use left.
    TokenUsedUp,
    /// The token does not pick units, and none was named.
    UnitNotNamed,
    /// The product has no unit left that is still manufactured.
    NoUnitLeft,
    /// The token's product has no such unit, or it is retired.
    UnknownUnit,
    /// The unit has another key: somebody else has claimed it, or somebody tries to take it over. An alarm.
    AlreadyClaimed,
    /// The key belongs to another unit.
    KeyOfAnother,
    /// The key was revoked.
    KeyRevoked,
}

impl ClaimRefusal {
    /// Stable, `snake_case`.
    pub fn code(self) -> &'static str {
        match self {
            Self::UnknownToken => "unknown_token",
            Self::TokenExpired => "token_expired",
            Self::TokenUsedUp => "token_used_up",
            Self::UnitNotNamed => "unit_not_named",
            Self::NoUnitLeft => "no_unit_left",
            Self::UnknownUnit => "unknown_unit",
            Self::AlreadyClaimed => "already_claimed",
            Self::KeyOfAnother => "key_of_another",
            Self::KeyRevoked => "key_revoked",
        }
    }
}

impl Auth {
    /// Exchanges a claim token for a certificate of `named`, or of a unit that is picked. Asking again with the same key gives a
    /// new certificate of the same unit and costs no use. Of two keys that claim one unit at once, one is refused.
    pub async fn claim(
        &self,
        token: &Secret,
        request: &SigningRequest,
        named: Option<&DeviceId>,
        from: IpAddr,
    ) -> Result<Claimed, AuthError> {
        let Some(text) = TokenText::parse(Kind::Claim, token) else {
            return self.claim_by_stranger(from, "claim_token").await;
        };
        let code = self.code_of(&text).await?;
        let key = ClaimToken::key_of(&text.id);
        let good = |stored: &Stored<ClaimToken>| same_code(&stored.document.code, &code);
        if !self.meta.find(&key).await?.is_some_and(|stored| good(&stored)) {
            return self.claim_by_stranger(from, &key.to_string()).await;
        }
        // Strangers never wait here, so that they cannot make others wait.
        let _alone = self.claiming.lock().await;
        let claimed = self
            .settle(|| async {
                let stored = self.meta.find::<ClaimToken>(&key).await?;
                match stored.filter(good) {
                    Some(token) => self.claim_with(&token, request, named, from).await,
                    None => Ok(Step::Answer(Err((None, ClaimRefusal::UnknownToken)))),
                }
            })
            .await?;
        match claimed {
            Ok(claim) => Ok(Claimed::Done(Box::new(claim))),
            Err((None, _)) => self.claim_by_stranger(from, &key.to_string()).await,
            Err((Some(token), why)) => self.claim_refused(&token, request, named, why).await,
        }
    }

    async fn claim_with(
        &self,
        token: &Stored<ClaimToken>,
        request: &SigningRequest,
        named: Option<&DeviceId>,
        from: IpAddr,
    ) -> Result<Step<Result<Claim, (Option<ClaimToken>, ClaimRefusal)>>, AuthError> {
        let now = self.now();
        let holder = self.meta.find_by::<Device>("key", request.fingerprint()).await?;
        let unit = self.unit(&token.document, named, holder.as_ref(), request.fingerprint()).await?;
        let facts = Facts { token: &token.document, unit: unit.as_ref(), holder: holder.as_ref(), named, now };
        let grant = match decide(&facts, request.fingerprint()) {
            Ok(grant) => grant,
            Err(why) => return Ok(Step::Answer(Err((Some(token.document.clone()), why)))),
        };
        let (stored, first) = grant;
        let device = &stored.document;
        let certificate = self.ca.issue_device(&device.tenant, &device.id, request, now)?;
        let claimed = with_key(device, request.fingerprint(), &certificate);
        let actor = format_args!("{}/claim_token/{} from {from}", device.tenant, token.document.id);
        let entry = self.entry(&device.tenant, actor, "claim", device.key());
        let batch = Batch::default().replace(stored, &claimed).audited(entry);
        let batch = match first {
            true => batch.replace(token, &ClaimToken { used: token.document.used + 1, ..token.document.clone() }),
            false => batch.unchanged(token),
        };
        let claim = Claim { tenant: device.tenant.clone(), device: device.id.clone(), certificate };
        Ok(Step::Commit(batch, Ok(claim)))
    }

    /// The unit that is meant: the named one, else the one that has the key already, else an unclaimed one.
    async fn unit(
        &self,
        token: &ClaimToken,
        named: Option<&DeviceId>,
        holder: Option<&Stored<Device>>,
        fingerprint: &str,
    ) -> Result<Option<Stored<Device>>, AuthError> {
        if let Some(id) = named {
            return Ok(self.meta.find(&Device::key_of(&token.tenant, id)).await?);
        }
        if holder.is_some() || !token.assign {
            return Ok(holder.cloned());
        }
        let product = format!("{}/{}", token.tenant, token.product);
        let mut units = self.meta.page::<Device>("unclaimed", &product, None, CANDIDATES).await?.items;
        let spread = usize::from_str_radix(fingerprint.get(..4).unwrap_or_default(), 16).unwrap_or_default();
        Ok((!units.is_empty()).then(|| units.swap_remove(spread % units.len())))
    }

    async fn claim_by_stranger(&self, from: IpAddr, subject: &str) -> Result<Claimed, AuthError> {
        let why = ClaimRefusal::UnknownToken;
        let entry = self.entry(&Self::default_tenant(), from, "claim", subject);
        self.stranger_refused(entry, why.code()).await?;
        Ok(Claimed::Refused(why))
    }

    async fn claim_refused(
        &self,
        token: &ClaimToken,
        request: &SigningRequest,
        named: Option<&DeviceId>,
        why: ClaimRefusal,
    ) -> Result<Claimed, AuthError> {
        if why == ClaimRefusal::AlreadyClaimed {
            tracing::warn!(unit = ?named, key = request.fingerprint(), "a claimed unit was claimed with another key");
        }
        let actor = format!("{}/claim_token/{}", token.tenant, token.id);
        let subject = match named {
            Some(id) => Device::key_of(&token.tenant, id).to_string(),
            None => format!("key {}", request.fingerprint()),
        };
        self.refused(self.entry(&token.tenant, actor, "claim", subject), why.code()).await?;
        Ok(Claimed::Refused(why))
    }
}

/// What a claim is decided by.
struct Facts<'a> {
    token: &'a ClaimToken,
    /// The unit that is meant.
    unit: Option<&'a Stored<Device>>,
    /// The unit that has the key.
    holder: Option<&'a Stored<Device>>,
    named: Option<&'a DeviceId>,
    now: Timestamp,
}

/// The unit that is granted, and whether that costs a use.
fn decide<'a>(facts: &Facts<'a>, fingerprint: &str) -> Result<(&'a Stored<Device>, bool), ClaimRefusal> {
    let Facts { token, unit, holder, named, now } = *facts;
    if token.expires <= now {
        return Err(ClaimRefusal::TokenExpired);
    }
    let Some(stored) = unit else {
        return Err(match named {
            Some(_) => ClaimRefusal::UnknownUnit,
            None if token.assign => ClaimRefusal::NoUnitLeft,
            None => ClaimRefusal::UnitNotNamed,
        });
    };
    let device = &stored.document;
    let in_product = device.tenant == token.tenant && device.product == token.product;
    if holder.is_some_and(|holder| holder.document.key() != device.key()) || (named.is_none() && !in_product) {
        return Err(ClaimRefusal::KeyOfAnother);
    }
    if !in_product || device.stage == Stage::Retired {
        return Err(ClaimRefusal::UnknownUnit);
    }
    match device.keys.iter().find(|key| key.fingerprint == fingerprint) {
        Some(key) if key.state == KeyState::Active => Ok((stored, false)),
        Some(_) => Err(ClaimRefusal::KeyRevoked),
        None if device.stage != Stage::Manufactured => Err(ClaimRefusal::AlreadyClaimed),
        None if token.used >= token.uses => Err(ClaimRefusal::TokenUsedUp),
        None => Ok((stored, true)),
    }
}

/// The unit with its newest certificate.
fn with_key(device: &Device, fingerprint: &str, certificate: &DeviceCertificate) -> Device {
    let mut claimed = device.clone();
    if claimed.stage == Stage::Manufactured {
        claimed.stage = Stage::Claimed;
    }
    let newest = DeviceKey {
        fingerprint: fingerprint.to_owned(),
        state: KeyState::Active,
        certificate_serial: certificate.serial.clone(),
        not_after: certificate.not_after,
    };
    match claimed.keys.iter_mut().find(|key| key.fingerprint == fingerprint) {
        Some(key) => *key = newest,
        None => claimed.keys.push(newest),
    }
    claimed
}
