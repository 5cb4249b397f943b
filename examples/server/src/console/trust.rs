//! Whose signatures count for the releases of a product.

use askama::Template;
use axum::extract::State;
use data_encoding::HEXLOWER_PERMISSIVE;
use iot_core::{access::Permission, device::Product, id::ProductId, problem::Problem, store::MetaStoreExt};
use iot_http::{Doc, Form, Guard, Identity, Path, ProblemResponse, Query, Routes};
use iot_ota::{
    release::{KEYS_MAX, PublicKey, Trust},
    server::TrustPut,
};
use serde::Deserialize;

use super::{
    Console, form,
    page::{Answer, Shell, Wrong, invalid, page, see},
    sign_in::sentence,
};

pub(super) fn routes(routes: Routes<Console>) -> Routes<Console> {
    let read = Guard::Tenant(Permission::ReadDevice);
    // Whose signatures count is worth more than a release: whoever may issue credentials decides it.
    let trust = Guard::Tenant(Permission::ManageCredentials);
    routes.get("/products/{product}/trust", read, Doc::new("Whose signatures count"), show).post(
        "/products/{product}/trust",
        trust,
        form("Say whose signatures count"),
        put,
    )
}

#[derive(Default, Deserialize)]
pub(super) struct View {
    done: Option<String>,
}

#[derive(Template)]
#[template(path = "trust.html")]
struct TrustPage {
    shell: Shell,
    product: String,
    name: String,
    /// Ids of the keys that count now.
    ids: Vec<String>,
    threshold: u8,
    asked: Asked,
    wrong: Wrong,
}

/// The form, as it was sent.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    threshold: String,
    /// Public keys in hexadecimal digits, one a line.
    #[serde(default)]
    keys: String,
}

impl Asked {
    fn of(trust: Option<&Trust>) -> Self {
        let hex = |key: &PublicKey| serde_json::to_value(key).ok()?.as_str().map(ToOwned::to_owned);
        let keys: Vec<String> = trust.iter().flat_map(|trust| trust.keys()).filter_map(hex).collect();
        Self { threshold: trust.map_or(1, Trust::threshold).to_string(), keys: keys.join("\n") }
    }

    fn trust(&self) -> Result<Trust, Wrong> {
        let mut wrong = Wrong::default();
        let threshold = self.threshold.trim().parse().ok();
        if threshold.is_none() {
            wrong.add("threshold", format!("Give a number from 1 to {KEYS_MAX}."));
        }
        let lines = self.keys.split_whitespace();
        let keys: Option<Vec<PublicKey>> = lines.map(key_of).collect();
        if keys.is_none() {
            wrong.add("keys", "Each key is 64 hexadecimal digits, on a line of its own.");
        }
        match threshold.zip(keys).map(|(threshold, keys)| Trust::new(threshold, keys)) {
            Some(Ok(trust)) => Ok(trust),
            Some(Err(error)) => Err(wrong.with("keys", sentence(&error))),
            None => Err(wrong),
        }
    }
}

fn key_of(line: &str) -> Option<PublicKey> {
    let bytes = HEXLOWER_PERMISSIVE.decode(line.as_bytes()).ok()?;
    bytes.try_into().ok().map(PublicKey::from_bytes)
}

pub(super) async fn show(
    State(console): State<Console>,
    who: Identity,
    Path(id): Path<ProductId>,
    Query(view): Query<View>,
) -> Answer {
    let shown = compose(&console, &who, &id, view).await?;
    Ok(page(&shown))
}

async fn compose(console: &Console, who: &Identity, id: &ProductId, view: View) -> Result<TrustPage, ProblemResponse> {
    let found = console.meta().find::<Product>(&Product::key_of(&who.principal.tenant, id)).await?;
    let product = found.ok_or_else(|| Problem::not_found("product"))?.document;
    let trust = console.ota.trust(&who.principal, id).await?;
    Ok(TrustPage {
        shell: Shell::of(console, who, "products", "Trusted keys").await?.noticing(view.done.as_deref()),
        product: id.to_string(),
        name: product.name,
        ids: trust.iter().flat_map(Trust::keys).map(|key| key.id().to_string()).collect(),
        threshold: trust.as_ref().map_or(0, Trust::threshold),
        asked: Asked::of(trust.as_ref()),
        wrong: Wrong::default(),
    })
}

pub(super) async fn put(
    State(console): State<Console>,
    who: Identity,
    Path(id): Path<ProductId>,
    Form(asked): Form<Asked>,
) -> Answer {
    let wrong = match asked.trust() {
        Err(wrong) => wrong,
        Ok(trust) => match console.ota.put_trust(&who.principal, &id, trust).await? {
            TrustPut::Created | TrustPut::Replaced => return Ok(see(&format!("/products/{id}/trust?done=trust"))),
            TrustPut::NoSuchProduct => return Err(Problem::not_found("product").into()),
        },
    };
    let shown = compose(&console, &who, &id, View::default()).await?;
    Ok(invalid(&TrustPage { asked, wrong, ..shown }))
}
