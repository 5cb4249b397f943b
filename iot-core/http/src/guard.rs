use axum::{
    RequestPartsExt,
    extract::{FromRequestParts, RawPathParams, Request, State},
    http::request::Parts,
    middleware::Next,
    response::{IntoResponse, Response},
};
use iot_core::{
    access::{Permission, Reason, Resource, Subject, check},
    device::Device,
    home::Home,
    id::{DeviceId, HomeId},
    problem::Problem,
    store::{Audit, Batch, Document, Key, MetaStoreExt, Stored},
};

use crate::{
    identity::Identity,
    problem::ProblemResponse,
    routes::{Guard, GuardContext},
};

/// The record that a guard has read: `Target<Device>` behind [`Guard::Device`], `Target<Home>` behind [`Guard::Home`]. As it
/// was when the guard decided; its version belongs into the checks of what is written because of it.
#[derive(Debug, Clone)]
pub struct Target<T>(pub Stored<T>);

impl<T: Clone + Send + Sync + 'static, S: Sync> FromRequestParts<S> for Target<T> {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemResponse> {
        parts.extensions.get().cloned().ok_or_else(|| {
            tracing::error!("a handler asks for a target that its guard does not read");
            ProblemResponse(Problem::unavailable())
        })
    }
}

/// The middleware of every route.
pub(crate) async fn guard(
    State((context, guard)): State<(GuardContext, Guard)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    match admit(&context, guard, &mut parts).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(problem) => problem.into_response(),
    }
}

async fn admit(context: &GuardContext, guard: Guard, parts: &mut Parts) -> Result<(), ProblemResponse> {
    if matches!(guard, Guard::Public { .. }) {
        return Ok(());
    }
    let identity = parts.extensions.get::<Identity>().cloned().ok_or(Problem::unauthenticated())?;
    let tenant = &identity.principal.tenant;
    match guard {
        Guard::Public { .. } | Guard::SignedIn => Ok(()),
        Guard::Account | Guard::TenantOrAccount(_) if matches!(identity.principal.subject, Subject::Account { .. }) => {
            Ok(())
        }
        Guard::Account => Err(refuse(context, &identity, "not_an_account", parts).await),
        Guard::Tenant(permission) | Guard::TenantOrAccount(permission) => {
            require(context, &identity, permission, &Resource::tenant(tenant), parts).await
        }
        Guard::Device(permission) => {
            let text = parameter(parts, "device").await;
            let key = DeviceId::parse(&text).map(|id| Device::key_of(tenant, &id));
            let Some(device) = find::<Device, _>(context, key).await? else {
                return absent(context, &identity, permission, "device", &DeviceId::parse(&text), parts).await;
            };
            require(context, &identity, permission, &Resource::device(&device.document), parts).await?;
            parts.extensions.insert(Target(device));
            Ok(())
        }
        Guard::Home(permission) => {
            let text = parameter(parts, "home").await;
            let key = HomeId::parse(&text).map(|id| Home::key_of(tenant, &id));
            let Some(home) = find::<Home, _>(context, key).await? else {
                return absent(context, &identity, permission, "home", &HomeId::parse(&text), parts).await;
            };
            let resource = Resource::home(tenant, &home.document.id);
            require(context, &identity, permission, &resource, parts).await?;
            parts.extensions.insert(Target(home));
            Ok(())
        }
    }
}

/// Text that is no id names no record.
async fn find<T: Document, E>(
    context: &GuardContext,
    key: Result<Key, E>,
) -> Result<Option<Stored<T>>, ProblemResponse> {
    match key {
        Ok(key) => Ok(context.meta.find(&key).await?),
        Err(_) => Ok(None),
    }
}

/// What may be said of a record that is not there: the truth, to those who may see all of the tenant; nothing to others.
async fn absent<T>(
    context: &GuardContext,
    identity: &Identity,
    permission: Permission,
    what: &str,
    id: &Result<T, iot_core::id::InvalidId>,
    parts: &Parts,
) -> Result<(), ProblemResponse> {
    require(context, identity, permission, &Resource::tenant(&identity.principal.tenant), parts).await?;
    Err(match id {
        Ok(_) => Problem::not_found(what).into(),
        Err(error) => ProblemResponse::from(error.clone()),
    })
}

async fn require(
    context: &GuardContext,
    identity: &Identity,
    permission: Permission,
    resource: &Resource,
    parts: &Parts,
) -> Result<(), ProblemResponse> {
    let decision = check(&identity.grants, permission, resource, context.clock.timestamp());
    match decision.allow {
        true => Ok(()),
        false => Err(refuse(context, identity, reason_code(decision.reason), parts).await),
    }
}

/// `403 forbidden`, recorded with its reason.
async fn refuse(context: &GuardContext, identity: &Identity, why: &str, parts: &Parts) -> ProblemResponse {
    let audit = Audit {
        at: context.clock.timestamp(),
        tenant: identity.principal.tenant.clone(),
        actor: identity.principal.to_string(),
        action: "http_request".to_owned(),
        subject: format!("{} {}", parts.method, parts.uri.path()),
        refused: Some(why.to_owned()),
    };
    // The refusal stands even if it cannot be recorded.
    if let Err(error) = context.meta.commit(Batch::default().audited(audit)).await {
        tracing::error!(%error, principal = %identity.principal, "a refusal could not be recorded");
    }
    Problem::forbidden().into()
}

fn reason_code(reason: Reason) -> &'static str {
    match reason {
        Reason::NotPermitted => "not_permitted",
        Reason::Expired => "grant_expired",
        _ => "no_relation",
    }
}

async fn parameter(parts: &mut Parts, name: &str) -> String {
    let found = parts.extract::<RawPathParams>().await.ok();
    found.iter().flatten().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
}
