//! What bodies look like. Nothing here has a field for a code or, but for the answer that issues it, a secret.

use iot_core::{
    device::{Device, Encoding, KeyState, Product, Stage},
    id::{DeviceId, HomeId, ProductId, TenantId, TokenId},
    secret::Secret,
    time::Timestamp,
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    registry::{Claim, ClaimToken},
    token::{ApiToken, Role},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) valid_s: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct TokenShown {
    id: TokenId,
    name: String,
    role: Role,
    created: Timestamp,
    expires: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl TokenShown {
    pub(super) fn of(token: ApiToken) -> Self {
        let ApiToken { id, name, role, created, expires, .. } = token;
        Self { id, name, role, created, expires, token: None }
    }

    pub(super) fn with(self, text: &Secret) -> Self {
        Self { token: Some(text.expose().to_owned()), ..self }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewClaimToken {
    pub(super) product: ProductId,
    #[serde(default = "one")]
    pub(super) uses: u32,
    pub(super) valid_s: Option<u64>,
    #[serde(default)]
    pub(super) assign: bool,
}

fn one() -> u32 {
    1
}

#[derive(Serialize)]
pub(super) struct ClaimTokenShown {
    id: TokenId,
    product: ProductId,
    uses: u32,
    used: u32,
    assign: bool,
    created: Timestamp,
    expires: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl ClaimTokenShown {
    pub(super) fn of(token: ClaimToken) -> Self {
        let ClaimToken { id, product, uses, used, assign, created, expires, .. } = token;
        Self { id, product, uses, used, assign, created, expires, token: None }
    }

    pub(super) fn with(self, text: &Secret) -> Self {
        Self { token: Some(text.expose().to_owned()), ..self }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClaimAsked {
    #[serde(deserialize_with = "secret")]
    pub(super) token: Secret,
    pub(super) csr: String,
    pub(super) device_id: Option<DeviceId>,
}

pub(super) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

#[derive(Serialize)]
pub(super) struct ClaimShown {
    device_id: DeviceId,
    tenant: TenantId,
    certificate: String,
    ca: String,
    not_after: Timestamp,
}

impl ClaimShown {
    pub(super) fn of(claim: Claim, ca_pem: &str) -> Self {
        let Claim { tenant, device, certificate } = claim;
        let (certificate, not_after) = (certificate.pem, certificate.not_after);
        Self { device_id: device, tenant, certificate, ca: ca_pem.to_owned(), not_after }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProductAsked {
    pub(super) name: String,
    #[serde(default)]
    pub(super) encoding: Encoding,
    #[serde(default)]
    pub(super) critical: bool,
}

#[derive(Serialize)]
pub(super) struct ProductShown {
    id: ProductId,
    name: String,
    encoding: Encoding,
    critical: bool,
}

impl ProductShown {
    pub(super) fn of(product: Product) -> Self {
        let Product { id, name, encoding, critical, .. } = product;
        Self { id, name, encoding, critical }
    }
}

#[derive(Serialize)]
pub(super) struct Imported {
    pub(super) imported: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeysMeant {
    pub(super) fingerprint: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// Must be said, so that an empty object moves nothing.
    #[serde(deserialize_with = "Option::deserialize")]
    pub(super) home: Option<HomeId>,
}

#[derive(Serialize)]
pub(super) struct UnitShown {
    id: DeviceId,
    product: ProductId,
    stage: Stage,
    home: Option<HomeId>,
    keys: Vec<KeyShown>,
}

#[derive(Serialize)]
struct KeyShown {
    fingerprint: String,
    state: KeyState,
    certificate_serial: String,
    not_after: Timestamp,
}

impl UnitShown {
    pub(super) fn of(device: Device) -> Self {
        let keys = device.keys.into_iter().map(|key| KeyShown {
            fingerprint: key.fingerprint,
            state: key.state,
            certificate_serial: key.certificate_serial,
            not_after: key.not_after,
        });
        let keys = keys.collect();
        Self { id: device.id, product: device.product, stage: device.stage, home: device.home, keys }
    }
}
