//! Webhooks of the tenant or of a home: what there is, and a further one.

use askama::Template;
use axum::extract::State;
use iot_conn::push::webhook::{
    DisabledReason, NewWebhook, Place, Registered, Shown, WEBHOOKS_MAX, Webhook, WebhookError,
};
use iot_core::{access::Permission, id::DeviceId, push::Kind};
use iot_http::{Doc, Form, Guard, Identity, ProblemResponse, Query, Routes};
use serde::Deserialize;

use super::{
    Console, form,
    page::{Answer, Shell, Wrong, invalid, page},
    show::Moment,
    sign_in::sentence,
};

pub(super) fn routes(routes: Routes<Console>) -> Routes<Console> {
    let (tenant, home) = (Guard::Tenant(Permission::ManageWebhooks), Guard::Home(Permission::ManageWebhooks));
    routes
        .get("/webhooks", tenant, Doc::new("Webhooks"), list)
        .post("/webhooks", tenant, form("Register a webhook"), create)
        .get("/homes/{home}/webhooks", home, Doc::new("Webhooks of a home"), list)
        .post("/homes/{home}/webhooks", home, form("Register a webhook of a home"), create)
}

/// Where the pages of a place's webhooks are, and what people call them.
pub(super) struct Base {
    pub(super) path: String,
    pub(super) section: &'static str,
    /// The pages above: path and name.
    pub(super) above: Vec<(String, String)>,
}

impl Base {
    pub(super) fn of(place: &Place) -> Self {
        match &place.home {
            None => Self { path: "/webhooks".to_owned(), section: "webhooks", above: Vec::new() },
            Some(home) => {
                let home = &home.document;
                let path = format!("/homes/{}", home.id);
                let above = vec![("/homes".to_owned(), "Homes".to_owned()), (path.clone(), home.name.clone())];
                Self { path: format!("{path}/webhooks"), section: "homes", above }
            }
        }
    }
}

/// A webhook as it is shown.
pub(super) struct WebhookShown {
    pub(super) id: String,
    pub(super) url: String,
    /// "all" or names with commas.
    pub(super) kinds: String,
    /// Empty if it is about all of the place.
    pub(super) device: String,
    pub(super) created: Moment,
    /// Why it gets nothing; empty if it does.
    pub(super) disabled: &'static str,
    pub(super) failing: Option<Moment>,
    pub(super) previous: Option<Moment>,
}

impl WebhookShown {
    pub(super) fn of(console: &Console, webhook: Webhook) -> Self {
        let now = console.now();
        let kinds: Vec<&str> = webhook.kinds.iter().map(|kind| kind.name()).collect();
        Self {
            id: webhook.id.to_string(),
            url: webhook.url,
            kinds: if kinds.is_empty() { "everything".to_owned() } else { kinds.join(", ") },
            device: webhook.device.map(|(device, _)| device.to_string()).unwrap_or_default(),
            created: Moment::of(webhook.created, now),
            disabled: webhook.disabled.map(|disabled| why_disabled(disabled.reason)).unwrap_or_default(),
            failing: webhook.failing_since.map(|at| Moment::of(at, now)),
            previous: webhook.previous.filter(|former| former.until > now).map(|former| Moment::of(former.until, now)),
        }
    }
}

fn why_disabled(reason: DisabledReason) -> &'static str {
    match reason {
        DisabledReason::Gone => "The receiver said that it is gone (410).",
        DisabledReason::Failing => "Nothing could be delivered for days.",
        DisabledReason::DeadLetters => "It has as many dead letters as may be.",
        _ => "It was disabled.",
    }
}

/// A secret, shown this once.
pub(super) struct SecretShown {
    pub(super) id: String,
    pub(super) secret: String,
}

impl SecretShown {
    pub(super) fn of(shown: &Shown) -> Self {
        Self { id: shown.webhook.id.to_string(), secret: shown.secret.expose().to_owned() }
    }
}

#[derive(Template)]
#[template(path = "webhooks.html")]
struct WebhooksPage {
    shell: Shell,
    base: Base,
    rows: Vec<WebhookShown>,
    kinds: Vec<Choice>,
    is_full: bool,
    issued: Option<SecretShown>,
    asked: Asked,
    wrong: Wrong,
}

struct Choice {
    name: &'static str,
    says: &'static str,
    chosen: bool,
}

/// The form, as it was sent: a pair for each box that is ticked.
#[derive(Debug, Clone, Default)]
struct Asked {
    url: String,
    device: String,
    kinds: Vec<Kind>,
}

impl Asked {
    fn of(pairs: Vec<(String, String)>) -> Self {
        let mut asked = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "url" => asked.url = value.trim().to_owned(),
                "device" => asked.device = value.trim().to_owned(),
                "kind" => asked.kinds.extend(Kind::ALL.into_iter().find(|kind| kind.name() == value)),
                _ => {}
            }
        }
        asked.kinds.dedup();
        asked
    }

    fn wish(&self) -> Result<NewWebhook, Wrong> {
        let device = match self.device.as_str() {
            "" => Ok(None),
            id => DeviceId::parse(id).map(Some).map_err(|_| Wrong::default().with("device", NO_DEVICE)),
        }?;
        Ok(NewWebhook { url: self.url.clone(), kinds: self.kinds.clone(), device })
    }
}

const NO_DEVICE: &str = "There is no such device here. Check its id, or leave this empty.";

#[derive(Deserialize)]
pub(super) struct View {
    done: Option<String>,
}

pub(super) async fn list(
    State(console): State<Console>,
    who: Identity,
    place: Place,
    Query(view): Query<View>,
) -> Answer {
    let shown = compose(&console, &who, &place, view.done.as_deref(), Asked::default()).await?;
    Ok(page(&shown))
}

async fn compose(
    console: &Console,
    who: &Identity,
    place: &Place,
    done: Option<&str>,
    asked: Asked,
) -> Result<WebhooksPage, ProblemResponse> {
    let base = Base::of(place);
    let found = console.webhooks.list(place, None, WEBHOOKS_MAX).await?;
    let choice = |kind: Kind| Choice { name: kind.name(), says: says(kind), chosen: asked.kinds.contains(&kind) };
    Ok(WebhooksPage {
        shell: Shell::of(console, who, base.section, "Webhooks").await?.noticing(done),
        base,
        is_full: found.items.len() >= WEBHOOKS_MAX as usize,
        rows: found.items.into_iter().map(|stored| WebhookShown::of(console, stored.document)).collect(),
        kinds: Kind::ALL.into_iter().filter(|kind| *kind != Kind::Test).map(choice).collect(),
        issued: None,
        asked,
        wrong: Wrong::default(),
    })
}

fn says(kind: Kind) -> &'static str {
    match kind {
        Kind::AlarmRaised => "An alarm is raised",
        Kind::AlarmCleared => "An alarm is over",
        Kind::DeviceOnline => "A device connects",
        Kind::DeviceOffline => "A device disconnects",
        Kind::DeviceBound => "A device gets an owner",
        Kind::DeviceUnbound => "A device is released",
        Kind::BindingAttempted => "Somebody tries to bind a device that has an owner",
        Kind::UpdateConfirmed => "An update is done",
        Kind::UpdateFailed => "An update fails",
        _ => kind.name(),
    }
}

/// The secret is in this answer and nowhere else, so that there is no page to be sent to.
pub(super) async fn create(
    State(console): State<Console>,
    who: Identity,
    place: Place,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Answer {
    let asked = Asked::of(pairs);
    let wrong = match asked.wish() {
        Err(wrong) => wrong,
        Ok(new) => match console.webhooks.register(&place, &new).await.map_err(|error| failed(&error))? {
            Registered::Done(shown) => {
                let issued = Some(SecretShown::of(&shown));
                let shown = compose(&console, &who, &place, None, Asked::default()).await?;
                return Ok(page(&WebhooksPage { issued, ..shown }));
            }
            Registered::Url(refusal) => Wrong::default().with("url", sentence(&refusal)),
            Registered::TooMany => Wrong::default().with("url", TOO_MANY),
            Registered::NoSuchDevice => Wrong::default().with("device", NO_DEVICE),
            Registered::HomeChanged => Wrong::default().with("url", "The home has just changed. Send it again."),
        },
    };
    let shown = compose(&console, &who, &place, None, asked).await?;
    Ok(invalid(&WebhooksPage { wrong, ..shown }))
}

const TOO_MANY: &str = "There are as many webhooks here as there can be; remove one first.";

pub(super) fn failed(error: &WebhookError) -> ProblemResponse {
    iot_http::problem::unavailable(error)
}
