//! Who asks for a session, and what the node knows of the device.

use std::time::Duration;

use iot_core::{
    access::{Authentication, Credentials, Grants, Principal, Proof, Refusal, Subject},
    id::{DeviceId, TenantId},
    store::StoreError,
};
use tower::ServiceExt;

use super::{Inner, endpoint::DeviceContext};
use crate::{
    mqtt::{ReasonCode, server::ConnectRequest},
    transport::Peer,
};

/// How long asking for a credential may take.
const AUTHENTICATION_MAX: Duration = Duration::from_secs(5);

pub(super) fn unavailable(error: &StoreError) -> ReasonCode {
    tracing::error!(error = error as &dyn std::error::Error, "a client cannot be let in");
    ReasonCode::ServerUnavailable
}

pub(super) async fn authenticate(
    node: &Inner,
    peer: &Peer,
    request: &mut ConnectRequest,
) -> Result<(Principal, Grants), ReasonCode> {
    let proof = match (&peer.certificate, request.password.take()) {
        (Some(certificate), _) => Proof::Certificate(certificate.clone()),
        (None, Some(password)) => Proof::Token(password),
        (None, None) => Proof::Nothing,
    };
    let with_token = matches!(proof, Proof::Token(_));
    let credentials = Credentials {
        proof,
        client_id: Some(request.client_id.clone()),
        peer: peer.address,
        encrypted: peer.encrypted,
        anonymous_allowed: peer.anonymous_allowed,
    };
    let answer = tokio::time::timeout(AUTHENTICATION_MAX, node.authenticator.clone().oneshot(credentials)).await;
    match answer {
        Ok(Ok(Authentication::Accepted(principal, grants))) => Ok((principal, grants)),
        Ok(Ok(Authentication::Refused(refusal))) => {
            tracing::info!(reason = refusal.code(), "a client was refused");
            Err(match refusal {
                Refusal::ClientId => ReasonCode::ClientIdentifierNotValid,
                _ if with_token => ReasonCode::BadUserNameOrPassword,
                _ => ReasonCode::NotAuthorized,
            })
        }
        Ok(Err(error)) => {
            tracing::error!(error = &*error, "a credential cannot be checked");
            Err(ReasonCode::ServerUnavailable)
        }
        Err(_) => Err(ReasonCode::ServerBusy),
    }
}

/// What the connection knows of its device, and whether that is critical.
pub(super) async fn device_context(
    node: &Inner,
    principal: &Principal,
) -> Result<(Option<Box<DeviceContext>>, bool), StoreError> {
    let Subject::Device { device, .. } = &principal.subject else { return Ok((None, false)) };
    match context_of(node, &principal.tenant, device).await? {
        Some((context, is_critical)) => Ok((Some(context), is_critical)),
        None => Err(StoreError::Damaged { backend: "records", what: format!("device {device} is gone") }),
    }
}

/// The same of any device; `None` if there is none.
pub(super) async fn context_of(
    node: &Inner,
    tenant: &TenantId,
    device: &DeviceId,
) -> Result<Option<(Box<DeviceContext>, bool)>, StoreError> {
    let meta = &*node.stores.meta;
    let Some(record) = node.directory.device(meta, tenant, device).await? else { return Ok(None) };
    let key = iot_core::device::Product::key_of(&record.tenant, &record.product);
    let product = node.directory.product(meta, key).await?;
    let is_critical = product.as_ref().is_some_and(|product| product.critical);
    let context = DeviceContext {
        id: record.id.clone(),
        product: record.product.clone(),
        epoch: record.epoch,
        home: record.home.clone(),
        encoding: product.map(|product| product.encoding).unwrap_or_default(),
        prefix: iot_core::topic::of_device(&record.id, "").into(),
    };
    Ok(Some((Box::new(context), is_critical)))
}
