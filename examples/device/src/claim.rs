//! Asking the cloud for a certificate. Blocking; a device does it once in its life.

use std::{error::Error as _, path::Path, time::Duration};

use iot_auth::device::{ClaimRequest, ClaimResponse, Identity, IdentityError, IdentityFolder, InvalidKey, State};
use iot_core::{id::DeviceId, secret::Secret};
use serde::Deserialize;
use ureq::{
    Agent,
    tls::{Certificate, RootCerts, TlsConfig, TlsProvider},
};

use crate::{
    options::CloudUrl,
    tls::{Authority, TlsError, provider},
};

/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Why a claim did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The cloud could not be asked, or was too busy; asking again with the same key is safe.
    #[error("the cloud cannot be asked: {0}")]
    TryAgain(String),
    /// The cloud said no, and will say it again.
    #[error("the claim was refused: {code}: {detail}")]
    Refused {
        /// Stable.
        code: String,
        /// For people.
        detail: String,
    },
    /// The answer names an authority that is not the pinned one, or is not an answer.
    #[error("the answer to the claim is not to be trusted: {0}")]
    Answer(String),
    /// The device's folder cannot be used.
    #[error("{0}{cause}", cause = .0.source().map(|source| format!(": {source}")).unwrap_or_default())]
    Folder(#[from] IdentityError),
    /// The key cannot sign the request.
    #[error(transparent)]
    Key(#[from] InvalidKey),
}

impl ClaimError {
    /// Whether asking again later may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::TryAgain(_))
    }
}

/// What devices need to claim certificates.
#[derive(Debug)]
pub struct Claimer {
    url: String,
    agent: Agent,
    token: Secret,
    authority: Authority,
}

#[derive(Deserialize)]
struct Problem {
    code: String,
    #[serde(default)]
    detail: String,
}

impl Claimer {
    /// Claims with `token` at `cloud`, which `authority` vouches for.
    pub fn new(cloud: &CloudUrl, token: Secret, authority: Authority) -> Self {
        let agent = agent(Some(&authority), TIMEOUT, TIMEOUT);
        Self { url: cloud.route("/v1/claim"), agent, token, authority }
    }

    /// One attempt for the device of `folder`. Its key is on disk before it is used, so any attempt may be the one that is
    /// answered; if the device has its identity already, that is the answer.
    pub fn attempt(&self, folder: &Path, device: Option<&DeviceId>) -> Result<Identity, ClaimError> {
        let folder = IdentityFolder::open(folder)?;
        let key = match folder.load()? {
            State::Claimed(identity) => return Ok(*identity),
            State::Keyed(key) => key,
            State::New => folder.create_key()?,
        };
        let answer = self.ask(&ClaimRequest::new(&self.token, &key, device.cloned())?)?;
        self.check(&answer, device)?;
        Ok(folder.save(&key, answer)?)
    }

    fn ask(&self, request: &ClaimRequest) -> Result<ClaimResponse, ClaimError> {
        let response = self.agent.post(&self.url).send_json(request);
        let mut response = response.map_err(|error| ClaimError::TryAgain(error.to_string()))?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| ClaimError::TryAgain(error.to_string()))?;
        read_answer(status, &body)
    }

    fn check(&self, answer: &ClaimResponse, device: Option<&DeviceId>) -> Result<(), ClaimError> {
        if device.is_some_and(|device| *device != answer.device_id) {
            return Err(ClaimError::Answer(format!("it is for device {}", answer.device_id)));
        }
        let named = Authority::from_pem(answer.ca.as_bytes());
        let named = named.map_err(|error: TlsError| ClaimError::Answer(format!("its CA: {error}")))?;
        if !self.authority.includes(&named) {
            return Err(ClaimError::Answer("it names another CA than the pinned one".to_owned()));
        }
        Ok(())
    }
}

/// HTTP to the given address and nowhere else: no proxy and no redirect. Over TLS, `authority` alone vouches.
pub(crate) fn agent(authority: Option<&Authority>, whole: Duration, answer: Duration) -> Agent {
    let certificates = authority.into_iter().flat_map(Authority::certificates);
    let roots: Vec<_> = certificates.map(|c| Certificate::from_der(c).to_owned()).collect();
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(provider())
        .root_certs(RootCerts::new_with_certs(&roots))
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_global(Some(whole))
        .timeout_connect(Some(answer))
        .timeout_recv_response(Some(answer))
        .user_agent(concat!("iot-device/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

fn read_answer(status: u16, body: &[u8]) -> Result<ClaimResponse, ClaimError> {
    if (200..300).contains(&status) {
        return serde_json::from_slice(body).map_err(|error| ClaimError::Answer(error.to_string()));
    }
    let problem: Option<Problem> = serde_json::from_slice(body).ok();
    let (code, detail) = problem.map_or((format!("status {status}"), String::new()), |p| (p.code, p.detail));
    match status {
        408 | 425 | 429 | 500.. => Err(ClaimError::TryAgain(format!("{code} {detail}"))),
        _ => Err(ClaimError::Refused { code, detail }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let body = br#"{"code":"claim_refused","status":403,"title":"no","detail":"the token has ended"}"#;
        for status in [400, 401, 403, 404, 409, 301] {
            let error = read_answer(status, body).unwrap_err();
            assert!(!error.is_transient(), "{status}");
            assert_eq!(error.to_string(), "the claim was refused: claim_refused: the token has ended");
        }
        for status in [408, 429, 500, 502, 503] {
            assert!(read_answer(status, b"<html>").unwrap_err().is_transient(), "{status}");
        }
        assert!(matches!(read_answer(200, b"{}"), Err(ClaimError::Answer(_))));
    }
}
