//! The bodies of `POST /v1/claim` as a device writes and reads them.

use std::fmt;

use iot_core::{
    id::{DeviceId, TenantId},
    secret::Secret,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::key::{DeviceKey, InvalidKey};

/// What a device sends. `Debug` hides the token.
#[derive(Clone, Serialize)]
pub struct ClaimRequest {
    token: String,
    csr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<DeviceId>,
}

impl ClaimRequest {
    /// A claim with `token` for the holder of `key`; without `device` the cloud picks a unit, where the token allows that.
    pub fn new(token: &Secret, key: &DeviceKey, device: Option<DeviceId>) -> Result<Self, InvalidKey> {
        Ok(Self { token: token.expose().to_owned(), csr: key.signing_request()?, device_id: device })
    }
}

impl fmt::Debug for ClaimRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimRequest").field("device_id", &self.device_id).finish_non_exhaustive()
    }
}

/// What the cloud answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the members are those of the protocol")]
pub struct ClaimResponse {
    /// Which unit the device is now.
    pub device_id: DeviceId,
    /// Of which tenant.
    pub tenant: TenantId,
    /// Its certificate, perhaps followed by intermediate ones, in PEM.
    pub certificate: String,
    /// The authority of the deployment, in PEM.
    pub ca: String,
    /// When the certificate ends.
    pub not_after: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bodies_are_those_of_the_protocol() {
        let key = DeviceKey::generate().unwrap();
        let token = Secret::new("ct_t1_secret");
        let open = serde_json::to_value(ClaimRequest::new(&token, &key, None).unwrap()).unwrap();
        assert_eq!(open.as_object().unwrap().keys().collect::<Vec<_>>(), ["csr", "token"]);
        let lamp = DeviceId::parse("lamp").unwrap();
        let named = ClaimRequest::new(&token, &key, Some(lamp)).unwrap();
        assert_eq!(serde_json::to_value(&named).unwrap()["device_id"], "lamp");
        assert!(!format!("{named:?}").contains("secret"));

        let body =
            r#"{"device_id":"lamp","tenant":"acme","certificate":"C","ca":"A","not_after":"2027-01-01T00:00:00Z"}"#;
        let response: ClaimResponse = serde_json::from_str(body).unwrap();
        assert_eq!((response.device_id.as_str(), response.tenant.as_str()), ("lamp", "acme"));
        assert!(serde_json::from_str::<ClaimResponse>(&body.replace("lamp", "a/b")).is_err());
    }
}
