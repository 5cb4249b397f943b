//! One webhook: its secret, its deliveries, and those that were given up.

use std::time::Duration;

use askama::Template;
use axum::extract::State;
use iot_conn::push::webhook::{Delivery, DeliveryState, Place, Replayed, Webhook};
use iot_core::{
    access::Permission,
    id::WebhookId,
    problem::{Cursor, Problem},
    push::NotificationId,
    store::{Page, Stored},
    time::Timestamp,
};
use iot_http::{Doc, Guard, Identity, Path, ProblemResponse, Query, Routes};
use serde::Deserialize;

use super::{
    Console,
    confirm::{self, Question},
    form,
    page::{Answer, Shell, page, page_as, see},
    show::Moment,
    webhooks::{Base, SecretShown, WebhookShown, failed},
};

/// Deliveries of a page.
const ROWS: u32 = 50;
/// A page looks again by itself while a try is no further away.
const WATCHED: Duration = Duration::from_secs(60);

pub(super) fn routes(routes: Routes<Console>) -> Routes<Console> {
    let routes = under(
        routes,
        Guard::Tenant(Permission::ManageWebhooks),
        [
            "/webhooks/{webhook}",
            "/webhooks/{webhook}/rotate",
            "/webhooks/{webhook}/test",
            "/webhooks/{webhook}/enable",
            "/webhooks/{webhook}/remove",
            "/webhooks/{webhook}/replay",
            "/webhooks/{webhook}/deliveries/{delivery}/replay",
        ],
    );
    under(
        routes,
        Guard::Home(Permission::ManageWebhooks),
        [
            "/homes/{home}/webhooks/{webhook}",
            "/homes/{home}/webhooks/{webhook}/rotate",
            "/homes/{home}/webhooks/{webhook}/test",
            "/homes/{home}/webhooks/{webhook}/enable",
            "/homes/{home}/webhooks/{webhook}/remove",
            "/homes/{home}/webhooks/{webhook}/replay",
            "/homes/{home}/webhooks/{webhook}/deliveries/{delivery}/replay",
        ],
    )
}

fn under(routes: Routes<Console>, guard: Guard, paths: [&'static str; 7]) -> Routes<Console> {
    let [one, rotated, tested, enabled, removed, replayed_all, replayed] = paths;
    routes
        .get(one, guard, Doc::new("A webhook"), show)
        .post(rotated, guard, form("Give a webhook a new secret"), rotate)
        .post(tested, guard, form("Send a test"), test)
        .post(enabled, guard, form("Enable a webhook again"), enable)
        .get(removed, guard, Doc::new("Remove a webhook?"), ask_remove)
        .post(removed, guard, form("Remove a webhook"), remove)
        .post(replayed_all, guard, form("Try all dead letters again"), replay_all)
        .post(replayed, guard, form("Try a dead letter again"), replay)
}

#[derive(Deserialize)]
pub(super) struct Name {
    webhook: WebhookId,
}

#[derive(Deserialize)]
pub(super) struct DeliveryName {
    webhook: WebhookId,
    delivery: NotificationId,
}

#[derive(Default, Deserialize)]
pub(super) struct View {
    cursor: Option<String>,
    done: Option<String>,
}

#[derive(Template)]
#[template(path = "webhook.html")]
struct WebhookPage {
    shell: Shell,
    base: Base,
    webhook: WebhookShown,
    issued: Option<SecretShown>,
    dead: Vec<DeliveryShown>,
    /// Whether there are more dead letters than are shown.
    more_dead: bool,
    deliveries: Vec<DeliveryShown>,
    /// Where the next page is; empty after the last.
    next: String,
    /// Whether something is under way, so that a look in a second may show more.
    moves: bool,
    refused: String,
}

struct DeliveryShown {
    id: String,
    kind: &'static str,
    device: String,
    state: &'static str,
    /// `good`, `bad` or `open`.
    mark: &'static str,
    attempts: u32,
    /// How the last attempt ended; empty if there was none.
    last: String,
    at: Moment,
    next: Option<Moment>,
}

impl DeliveryShown {
    fn of(delivery: Delivery, now: Timestamp) -> Self {
        Self {
            id: delivery.id.to_string(),
            kind: delivery.kind.name(),
            device: delivery.device.map(|(device, _)| device.to_string()).unwrap_or_default(),
            state: delivery.state.name(),
            mark: match delivery.state {
                DeliveryState::Delivered => "good",
                DeliveryState::Dead => "bad",
                _ => "open",
            },
            attempts: delivery.attempts,
            last: delivery.last.map(|last| last_says(&last)).unwrap_or_default(),
            at: Moment::of(delivery.changed, now),
            next: (delivery.state == DeliveryState::Waiting).then(|| Moment::of(delivery.next, now)),
        }
    }
}

/// "http_503" as people read it.
fn last_says(code: &str) -> String {
    match code.strip_prefix("http_") {
        Some(status) => format!("answered {status}"),
        None => code.replace('_', " "),
    }
}

fn unknown() -> ProblemResponse {
    Problem::not_found("webhook").into()
}

async fn known(console: &Console, place: &Place, id: &WebhookId) -> Result<Webhook, ProblemResponse> {
    console.webhooks.find(place, id).await?.map(|stored| stored.document).ok_or_else(unknown)
}

pub(super) async fn show(
    State(console): State<Console>,
    who: Identity,
    place: Place,
    Path(name): Path<Name>,
    Query(view): Query<View>,
) -> Answer {
    let webhook = known(&console, &place, &name.webhook).await?;
    let shown = compose(&console, &who, &place, webhook, view).await?;
    Ok(page(&shown))
}

async fn compose(
    console: &Console,
    who: &Identity,
    place: &Place,
    webhook: Webhook,
    view: View,
) -> Result<WebhookPage, ProblemResponse> {
    let (base, now) = (Base::of(place), console.now());
    let after = view.cursor.as_deref().and_then(Cursor::decode);
    let is_first = after.is_none();
    let read = |dead, after| {
        let id = webhook.id.clone();
        async move { console.webhooks.deliveries(place, &id, dead, Option::as_ref(&after), ROWS).await }
    };
    let dead = read(true, None).await?.ok_or_else(unknown)?;
    let all = read(false, after).await?.ok_or_else(unknown)?;
    let shown = |page: Page<Stored<Delivery>>| -> Vec<DeliveryShown> {
        page.items.into_iter().rev().map(|stored| DeliveryShown::of(stored.document, now)).collect()
    };
    let next = all.next.as_ref().map(|cursor| format!("{}/{}?cursor={}", base.path, webhook.id, cursor.encode()));
    let more_dead = dead.next.is_some();
    let soon = |delivery: &Delivery| delivery.state == DeliveryState::Waiting && delivery.next.since(now) < WATCHED;
    let moves = is_first && all.items.iter().any(|stored| soon(&stored.document));
    let deliveries = shown(all);
    Ok(WebhookPage {
        shell: Shell::of(console, who, base.section, "Webhook").await?.noticing(view.done.as_deref()),
        base,
        webhook: WebhookShown::of(console, webhook),
        issued: None,
        dead: shown(dead),
        more_dead,
        moves,
        deliveries,
        next: next.unwrap_or_default(),
        refused: String::new(),
    })
}

/// The new secret is in this answer and nowhere else, so that there is no page to be sent to.
pub(super) async fn rotate(
    State(console): State<Console>,
    who: Identity,
    place: Place,
    Path(name): Path<Name>,
) -> Answer {
    let rotated = console.webhooks.rotate(&place, &name.webhook).await.map_err(|error| failed(&error))?;
    let rotated = rotated.ok_or_else(unknown)?;
    let issued = Some(SecretShown::of(&rotated));
    let shown = compose(&console, &who, &place, rotated.webhook, View::default()).await?;
    Ok(page(&WebhookPage { issued, ..shown }))
}

pub(super) async fn test(State(console): State<Console>, place: Place, Path(name): Path<Name>) -> Answer {
    let sent = console.webhooks.test(&place, &name.webhook).await.map_err(|error| failed(&error))?;
    sent.ok_or_else(unknown)?;
    Ok(back(&place, &name.webhook, "tested"))
}

pub(super) async fn enable(State(console): State<Console>, place: Place, Path(name): Path<Name>) -> Answer {
    let enabled = console.webhooks.enable(&place, &name.webhook).await.map_err(|error| failed(&error))?;
    enabled.ok_or_else(unknown)?;
    Ok(back(&place, &name.webhook, "enabled"))
}

fn back(place: &Place, webhook: &WebhookId, done: &str) -> axum::response::Response {
    see(&format!("{}/{webhook}?done={done}", Base::of(place).path))
}

fn removal(place: &Place, webhook: &Webhook) -> Question {
    let Base { path, section, .. } = Base::of(place);
    Question {
        section,
        asks: "Remove this webhook?".to_owned(),
        from: (format!("{path}/{}", webhook.id), "Webhook".to_owned()),
        ends: vec![
            format!("{} gets nothing any more.", webhook.url),
            "Its secret, deliveries that wait, and its dead letters are gone.".to_owned(),
        ],
        stays: Vec::new(),
        action: format!("{path}/{}/remove", webhook.id),
        seen: String::new(),
        button: "Remove the webhook",
    }
}

pub(super) async fn ask_remove(
    State(console): State<Console>,
    who: Identity,
    place: Place,
    Path(name): Path<Name>,
) -> Answer {
    let webhook = known(&console, &place, &name.webhook).await?;
    confirm::ask(&console, &who, removal(&place, &webhook)).await
}

pub(super) async fn remove(State(console): State<Console>, place: Place, Path(name): Path<Name>) -> Answer {
    match console.webhooks.delete(&place, &name.webhook).await.map_err(|error| failed(&error))? {
        true => Ok(see(&format!("{}?done=webhook-removed", Base::of(&place).path))),
        false => Err(unknown()),
    }
}

pub(super) async fn replay_all(
    State(console): State<Console>,
    who: Identity,
    place: Place,
    Path(name): Path<Name>,
) -> Answer {
    let replayed = console.webhooks.replay_all(&place, &name.webhook).await.map_err(|error| failed(&error))?;
    tell(&console, &who, &place, &name.webhook, replayed).await
}

pub(super) async fn replay(
    State(console): State<Console>,
    who: Identity,
    place: Place,
    Path(name): Path<DeliveryName>,
) -> Answer {
    let DeliveryName { webhook, delivery } = name;
    let replayed = console.webhooks.replay(&place, &webhook, &delivery).await.map_err(|error| failed(&error))?;
    tell(&console, &who, &place, &webhook, replayed).await
}

async fn tell(console: &Console, who: &Identity, place: &Place, id: &WebhookId, replayed: Replayed) -> Answer {
    let (status, refused) = match replayed {
        Replayed::Done(_) => return Ok(back(place, id, "replayed")),
        Replayed::Unknown => return Err(Problem::not_found("dead letter").into()),
        Replayed::Disabled => (409, "The webhook is disabled. Enable it first.".to_owned()),
        Replayed::Full(count) => (
            429,
            format!("{count} will be tried again; more would be too many at once. Come back when some are through."),
        ),
    };
    let webhook = known(console, place, id).await?;
    let shown = compose(console, who, place, webhook, View::default()).await?;
    let status = axum::http::StatusCode::from_u16(status).unwrap_or_default();
    Ok(page_as(status, &WebhookPage { refused, ..shown }))
}
