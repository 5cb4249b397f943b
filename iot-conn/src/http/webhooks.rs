//! Routes of webhooks: the same for a tenant as a whole and for each home.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use iot_core::{
    access::Permission,
    home::Home,
    id::{DeviceId, HomeId, OwnershipEpoch, WebhookId},
    problem::Problem,
    push::{Kind, NotificationId},
    secret::Secret,
    time::Timestamp,
};
use iot_http::{
    Body, Doc, Guard, GuardContext, Idempotency, Identity, Items, PageQuery, Path, ProblemResponse, Routes, Target,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::push::webhook::{
    Delivery, DeliveryState, DisabledReason, NewWebhook, Place, Registered, Replayed, Shown, WEBHOOKS_MAX, Webhook,
    WebhookError, Webhooks,
};

/// The routes of webhooks: under `/v1/webhooks` those of the tenant, under `/v1/homes/{home}/webhooks` those of a home.
pub fn webhook_routes(webhooks: Arc<Webhooks>, context: GuardContext) -> Routes<Arc<Webhooks>> {
    let routes = Routes::with_state(context, webhooks);
    let routes = under(
        routes,
        Guard::Tenant(Permission::ManageWebhooks),
        [
            "/v1/webhooks",
            "/v1/webhooks/{webhook}",
            "/v1/webhooks/{webhook}/rotate",
            "/v1/webhooks/{webhook}/enable",
            "/v1/webhooks/{webhook}/test",
            "/v1/webhooks/{webhook}/deliveries",
            "/v1/webhooks/{webhook}/dead-letters",
            "/v1/webhooks/{webhook}/dead-letters/replay",
            "/v1/webhooks/{webhook}/dead-letters/{delivery}/replay",
        ],
    );
    under(
        routes,
        Guard::Home(Permission::ManageWebhooks),
        [
            "/v1/homes/{home}/webhooks",
            "/v1/homes/{home}/webhooks/{webhook}",
            "/v1/homes/{home}/webhooks/{webhook}/rotate",
            "/v1/homes/{home}/webhooks/{webhook}/enable",
            "/v1/homes/{home}/webhooks/{webhook}/test",
            "/v1/homes/{home}/webhooks/{webhook}/deliveries",
            "/v1/homes/{home}/webhooks/{webhook}/dead-letters",
            "/v1/homes/{home}/webhooks/{webhook}/dead-letters/replay",
            "/v1/homes/{home}/webhooks/{webhook}/dead-letters/{delivery}/replay",
        ],
    )
}

fn under(routes: Routes<Arc<Webhooks>>, guard: Guard, paths: [&'static str; 9]) -> Routes<Arc<Webhooks>> {
    let [all, one, rotated, enabled, tested, made, dead, replayed_all, replayed] = paths;
    let examples = Examples::new();
    let create = Doc::new("Register a webhook; its secret is shown this once")
        .request(json!({"url": "https://example.com/hook", "kinds": ["alarm.raised", "alarm.cleared"], "device": null}))
        .response(201, examples.shown.clone())
        .idempotency(Idempotency::Stored);
    let rotate = Doc::new("Give a webhook a new secret, shown this once; the former one signs too for 24 hours")
        .response(200, examples.shown)
        .idempotency(Idempotency::Stored);
    let page = |summary| Doc::new(summary).paged().response(200, json!({"items": [&examples.delivery], "next": null}));
    let webhooks = Doc::new("Webhooks").paged().response(200, json!({"items": [&examples.webhook], "next": null}));
    let count = |summary| Doc::new(summary).response(202, json!({"replayed": 1}));
    routes
        .post(all, guard, create, create_webhook)
        .get(all, guard, webhooks, list)
        .get(one, guard, Doc::new("One webhook").response(200, examples.webhook.clone()), show)
        .delete(one, guard, Doc::new("Delete a webhook").response(204, Value::Null), delete)
        .post(rotated, guard, rotate, rotate_secret)
        .post(enabled, guard, Doc::new("Enable a webhook again").response(200, examples.webhook.clone()), enable)
        .post(tested, guard, Doc::new("Send a test").response(202, json!({"notification": "test-0197…"})), test)
        .get(made, guard, page("What waits, was delivered in the last day, or is dead"), deliveries)
        .get(dead, guard, page("Deliveries that were given up"), dead_letters)
        .post(replayed_all, guard, count("Try all dead letters again"), replay_all)
        .post(replayed, guard, count("Try a dead letter again"), replay)
}

struct Examples {
    webhook: Value,
    shown: Value,
    delivery: Value,
}

impl Examples {
    fn new() -> Self {
        let webhook = json!({
            "id": "0197…", "home": null, "device": null, "epoch": null, "url": "https://example.com/hook",
            "kinds": ["alarm.raised", "alarm.cleared"], "created": "2026-11-23T00:00:00Z", "previous_secret_until": null,
            "disabled": null
        });
        let mut shown = webhook.clone();
        shown["secret"] = json!("whsec_…");
        let delivery = json!({
            "notification": "alarm-n1-42-0", "kind": "alarm.raised", "device": "demo-1", "state": "dead", "attempts": 8,
            "created": "2026-11-23T00:00:00Z", "next": null, "changed": "2026-11-24T00:00:00Z", "last": "http_503"
        });
        Self { webhook, shown, delivery }
    }
}

impl<S: Sync> FromRequestParts<S> for Place {
    type Rejection = ProblemResponse;

    /// The home if the route's guard has read one, else the tenant of who asks.
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let identity = <Identity as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        let home = parts.extensions.get::<Target<Home>>().map(|Target(home)| home.clone());
        Ok(Self { tenant: identity.principal.tenant.clone(), home, actor: identity.principal.to_string() })
    }
}

type Service = State<Arc<Webhooks>>;
type Answer<T> = Result<T, ProblemResponse>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    url: String,
    #[serde(default)]
    kinds: Vec<Kind>,
    device: Option<DeviceId>,
}

#[derive(Deserialize)]
struct Name {
    webhook: WebhookId,
}

#[derive(Deserialize)]
struct DeliveryName {
    webhook: WebhookId,
    delivery: NotificationId,
}

#[derive(Serialize)]
struct View {
    id: WebhookId,
    home: Option<HomeId>,
    device: Option<DeviceId>,
    epoch: Option<OwnershipEpoch>,
    url: String,
    kinds: Vec<Kind>,
    created: Timestamp,
    previous_secret_until: Option<Timestamp>,
    disabled: Option<DisabledView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

#[derive(Serialize)]
struct DisabledView {
    at: Timestamp,
    reason: DisabledReason,
}

#[derive(Serialize)]
struct DeliveryView {
    notification: NotificationId,
    kind: Kind,
    device: Option<DeviceId>,
    state: DeliveryState,
    attempts: u32,
    created: Timestamp,
    next: Option<Timestamp>,
    changed: Timestamp,
    last: Option<String>,
}

fn view(webhook: Webhook, secret: Option<&Secret>) -> View {
    let (device, epoch) = webhook.device.unzip();
    View {
        id: webhook.id,
        home: webhook.home,
        device,
        epoch,
        url: webhook.url,
        kinds: webhook.kinds,
        created: webhook.created,
        previous_secret_until: webhook.previous.map(|previous| previous.until),
        disabled: webhook.disabled.map(|disabled| DisabledView { at: disabled.at, reason: disabled.reason }),
        secret: secret.map(|secret| secret.expose().to_owned()),
    }
}

fn view_of(delivery: Delivery) -> DeliveryView {
    DeliveryView {
        notification: delivery.id,
        kind: delivery.kind,
        device: delivery.device.map(|(id, _)| id),
        attempts: delivery.attempts,
        created: delivery.created,
        next: (delivery.state == DeliveryState::Waiting).then_some(delivery.next),
        state: delivery.state,
        changed: delivery.changed,
        last: delivery.last,
    }
}

fn unknown() -> ProblemResponse {
    Problem::not_found("webhook").into()
}

fn failed(error: &WebhookError) -> ProblemResponse {
    iot_http::problem::unavailable(error)
}

async fn create_webhook(
    State(webhooks): Service,
    place: Place,
    Body(body): Body<CreateBody>,
) -> Answer<(StatusCode, Json<View>)> {
    let new = NewWebhook { url: body.url, kinds: body.kinds, device: body.device };
    let problem = match webhooks.register(&place, &new).await.map_err(|error| failed(&error))? {
        Registered::Done(shown) => {
            let Shown { webhook, secret } = *shown;
            return Ok((StatusCode::CREATED, Json(view(webhook, Some(&secret)))));
        }
        Registered::Url(refusal) => Problem::invalid(refusal.code(), refusal.to_string()),
        Registered::TooMany => {
            let detail = format!("there are {WEBHOOKS_MAX} webhooks here already: delete one");
            Problem::conflict("too_many_webhooks", detail)
        }
        Registered::NoSuchDevice => Problem::not_found("device"),
        Registered::HomeChanged => Problem::conflict("home_changed", "the home has just changed: ask again"),
    };
    Err(problem.into())
}

async fn list(State(webhooks): Service, place: Place, page: PageQuery) -> Answer<Items<View>> {
    let found = webhooks.list(&place, page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found, |stored| view(stored.document, None)))
}

async fn show(State(webhooks): Service, place: Place, Path(name): Path<Name>) -> Answer<Json<View>> {
    let found = webhooks.find(&place, &name.webhook).await?.ok_or_else(unknown)?;
    Ok(Json(view(found.document, None)))
}

async fn delete(State(webhooks): Service, place: Place, Path(name): Path<Name>) -> Answer<StatusCode> {
    match webhooks.delete(&place, &name.webhook).await.map_err(|error| failed(&error))? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(unknown()),
    }
}

async fn rotate_secret(State(webhooks): Service, place: Place, Path(name): Path<Name>) -> Answer<Json<View>> {
    let shown = webhooks.rotate(&place, &name.webhook).await.map_err(|error| failed(&error))?;
    let Shown { webhook, secret } = shown.ok_or_else(unknown)?;
    Ok(Json(view(webhook, Some(&secret))))
}

async fn enable(State(webhooks): Service, place: Place, Path(name): Path<Name>) -> Answer<Json<View>> {
    let enabled = webhooks.enable(&place, &name.webhook).await.map_err(|error| failed(&error))?;
    Ok(Json(view(enabled.ok_or_else(unknown)?, None)))
}

async fn test(State(webhooks): Service, place: Place, Path(name): Path<Name>) -> Answer<(StatusCode, Json<Value>)> {
    let sent = webhooks.test(&place, &name.webhook).await.map_err(|error| failed(&error))?;
    Ok((StatusCode::ACCEPTED, Json(json!({"notification": sent.ok_or_else(unknown)?}))))
}

async fn deliveries(
    State(webhooks): Service,
    place: Place,
    Path(name): Path<Name>,
    page: PageQuery,
) -> Answer<Items<DeliveryView>> {
    let found = webhooks.deliveries(&place, &name.webhook, false, page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found.ok_or_else(unknown)?, |stored| view_of(stored.document)))
}

async fn dead_letters(
    State(webhooks): Service,
    place: Place,
    Path(name): Path<Name>,
    page: PageQuery,
) -> Answer<Items<DeliveryView>> {
    let found = webhooks.deliveries(&place, &name.webhook, true, page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found.ok_or_else(unknown)?, |stored| view_of(stored.document)))
}

async fn replay_all(State(webhooks): Service, place: Place, Path(name): Path<Name>) -> Answer<Response> {
    let replayed = webhooks.replay_all(&place, &name.webhook).await.map_err(|error| failed(&error))?;
    answer(replayed, "webhook")
}

async fn replay(State(webhooks): Service, place: Place, Path(name): Path<DeliveryName>) -> Answer<Response> {
    let replayed = webhooks.replay(&place, &name.webhook, &name.delivery).await.map_err(|error| failed(&error))?;
    answer(replayed, "dead letter")
}

fn answer(replayed: Replayed, what: &str) -> Answer<Response> {
    match replayed {
        Replayed::Done(count) => Ok((StatusCode::ACCEPTED, Json(json!({"replayed": count}))).into_response()),
        Replayed::Unknown => Err(Problem::not_found(what).into()),
        Replayed::Disabled => {
            Err(Problem::conflict("webhook_disabled", "the webhook is disabled: enable it first").into())
        }
        Replayed::Full(count) => {
            let detail = format!("{count} were taken; too many deliveries wait for this webhook: ask again later");
            Err(Problem::new(429, "too_many_deliveries", detail).into())
        }
    }
}
