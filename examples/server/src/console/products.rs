//! Products, and the units that are made of them.

use std::time::Duration;

use askama::Template;
use axum::{extract::State, response::Response};
use iot_auth::registry::{Import, NAME_BYTES_MAX, Put};
use iot_core::{
    device::{Device, Encoding, Product},
    id::{ProductId, TenantId},
    problem::{Cursor, Problem},
    store::{Document, Index, MetaStoreExt, StoreError},
};
use iot_http::{Form, Identity, Path, ProblemResponse, Query};
use serde::Deserialize;

use super::{
    Console,
    page::{Answer, Shell, Wrong, invalid, page, see},
};

/// Products of a page.
const ROWS: u32 = 50;
/// For how long a claim token made here is good.
const CLAIM_VALID: Duration = Duration::from_secs(24 * 3_600);
/// How often it may be used, at most.
const CLAIM_USES_MAX: u32 = 10_000;

#[derive(Deserialize)]
pub(super) struct View {
    cursor: Option<String>,
    done: Option<String>,
}

/// A product and how many units it has.
struct Row {
    id: String,
    name: String,
    encoding: &'static str,
    critical: bool,
    units: u64,
    unclaimed: u64,
}

#[derive(Template)]
#[template(path = "products.html")]
struct ProductsPage {
    shell: Shell,
    rows: Vec<Row>,
    /// Where the next page is; empty after the last.
    next: String,
    asked: NewProduct,
    wrong: Wrong,
}

/// The form for a product.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct NewProduct {
    #[serde(default)]
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    encoding: String,
    /// Sent only if it is ticked.
    #[serde(default)]
    critical: Option<String>,
}

impl NewProduct {
    fn encoding(&self) -> Encoding {
        if self.encoding == "cbor" { Encoding::Cbor } else { Encoding::Json }
    }

    fn name(&self) -> Result<&str, String> {
        let name = self.name.trim();
        let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control);
        if fits { Ok(name) } else { Err(format!("Give a name of at most {NAME_BYTES_MAX} characters.")) }
    }

    fn id(&self) -> Result<ProductId, String> {
        ProductId::parse(self.id.trim())
            .map_err(|_| "Use 1 to 64 letters, digits, - and _; for example lamp-2.".to_owned())
    }
}

pub(super) async fn list(State(console): State<Console>, who: Identity, Query(view): Query<View>) -> Answer {
    let shown = compose_list(&console, &who, view).await?;
    Ok(page(&shown))
}

async fn compose_list(console: &Console, who: &Identity, view: View) -> Result<ProductsPage, StoreError> {
    let tenant = &who.principal.tenant;
    let shell = Shell::of(console, who, "products", "Products").await?.noticing(view.done.as_deref());
    let after = view.cursor.as_deref().and_then(Cursor::decode);
    let found = console.meta().page::<Product>("tenant", tenant.as_str(), after.as_ref(), ROWS).await?;
    let mut rows = Vec::with_capacity(found.items.len());
    for stored in found.items {
        rows.push(row(console, tenant, stored.document).await?);
    }
    let next = found.next.map(|cursor| format!("/products?cursor={}", cursor.encode())).unwrap_or_default();
    Ok(ProductsPage { shell, rows, next, asked: NewProduct::default(), wrong: Wrong::default() })
}

async fn row(console: &Console, tenant: &TenantId, product: Product) -> Result<Row, StoreError> {
    let value = format!("{tenant}/{}", product.id);
    let units = console.meta().count(&Index::new(Device::KIND, "product", &value)).await?;
    let unclaimed = console.meta().count(&Index::new(Device::KIND, "unclaimed", &value)).await?;
    let encoding = match product.encoding {
        Encoding::Json => "JSON",
        Encoding::Cbor => "CBOR",
    };
    let (id, critical) = (product.id.to_string(), product.critical);
    Ok(Row { id, name: product.name, encoding, critical, units, unclaimed })
}

pub(super) async fn create(State(console): State<Console>, who: Identity, Form(asked): Form<NewProduct>) -> Answer {
    let mut wrong = Wrong::default();
    let id = asked.id().map_err(|what| wrong.add("id", what)).ok();
    if let Err(what) = asked.name() {
        wrong.add("name", what);
    }
    if let Some(id) = &id
        && console.meta().find::<Product>(&Product::key_of(&who.principal.tenant, id)).await?.is_some()
    {
        wrong.add("id", "There is a product with this id already; choose another.");
    }
    match id.filter(|_| wrong.is_empty()) {
        Some(id) => save(&console, &who, &id, &asked).await,
        None => {
            let shown = compose_list(&console, &who, View { cursor: None, done: None }).await?;
            Ok(invalid(&ProductsPage { asked, wrong, ..shown }))
        }
    }
}

async fn save(console: &Console, who: &Identity, id: &ProductId, asked: &NewProduct) -> Answer {
    let name = asked.name().unwrap_or_default();
    let (tenant, critical) = (who.principal.tenant.clone(), asked.critical.is_some());
    let product = Product { encoding: asked.encoding(), critical, ..Product::new(tenant, id.clone(), name) };
    match console.auth.put_product(&who.principal, product).await? {
        Put::Created | Put::Replaced => Ok(see(&format!("/products/{id}?done=product"))),
        Put::Owned => Err(Problem::forbidden().into()),
    }
}

/// A claim token, shown this once.
struct Issued {
    text: String,
    uses: u32,
}

#[derive(Template)]
#[template(path = "product.html")]
struct ProductPage {
    shell: Shell,
    product: Row,
    asked: NewProduct,
    csv: String,
    wrong: Wrong,
    issued: Option<Issued>,
}

pub(super) async fn show(
    State(console): State<Console>,
    who: Identity,
    Path(id): Path<ProductId>,
    Query(view): Query<View>,
) -> Answer {
    let shown = compose(&console, &who, &id, view.done.as_deref()).await?;
    Ok(page(&shown))
}

async fn compose(
    console: &Console,
    who: &Identity,
    id: &ProductId,
    done: Option<&str>,
) -> Result<ProductPage, ProblemResponse> {
    let tenant = &who.principal.tenant;
    let found = console.meta().find::<Product>(&Product::key_of(tenant, id)).await?;
    let product = found.ok_or_else(|| Problem::not_found("product"))?.document;
    let shell = Shell::of(console, who, "products", &*product.name).await?.noticing(done);
    let encoding = if product.encoding == Encoding::Cbor { "cbor" } else { "json" };
    let critical = product.critical.then(|| "on".to_owned());
    let (id, name, encoding) = (product.id.to_string(), product.name.clone(), encoding.to_owned());
    let asked = NewProduct { id, name, encoding, critical };
    let product = row(console, tenant, product).await?;
    Ok(ProductPage { shell, product, asked, csv: String::new(), wrong: Wrong::default(), issued: None })
}

pub(super) async fn change(
    State(console): State<Console>,
    who: Identity,
    Path(id): Path<ProductId>,
    Form(asked): Form<NewProduct>,
) -> Answer {
    let shown = compose(&console, &who, &id, None).await?;
    match asked.name() {
        Ok(_) => save(&console, &who, &id, &asked).await,
        Err(what) => {
            let wrong = Wrong::default().with("name", what);
            Ok(invalid(&ProductPage { asked: NewProduct { id: id.to_string(), ..asked }, wrong, ..shown }))
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Units {
    #[serde(default)]
    csv: String,
}

pub(super) async fn import(
    State(console): State<Console>,
    who: Identity,
    Path(id): Path<ProductId>,
    Form(units): Form<Units>,
) -> Answer {
    let what = match units.csv.trim() {
        "" => "Paste a header line and a line for each unit.".to_owned(),
        csv => match console.auth.import_units(&who.principal, &id, csv.as_bytes()).await? {
            Import::Done(_) => return Ok(see(&format!("/products/{id}?done=import"))),
            Import::NoSuchProduct => return Err(Problem::not_found("product").into()),
            Import::Rejected(error) => format!("Line {}: {}. Nothing was imported.", error.line, error.detail),
        },
    };
    let shown = compose(&console, &who, &id, None).await?;
    Ok(invalid(&ProductPage { csv: units.csv, wrong: Wrong::default().with("csv", what), ..shown }))
}

#[derive(Deserialize)]
pub(super) struct NewClaimToken {
    #[serde(default)]
    uses: String,
}

/// The text of the token is in this answer and nowhere else, so that there is no page to be sent to.
pub(super) async fn issue(
    State(console): State<Console>,
    who: Identity,
    Path(id): Path<ProductId>,
    Form(asked): Form<NewClaimToken>,
) -> Result<Response, ProblemResponse> {
    let shown = compose(&console, &who, &id, None).await?;
    let Some(uses) = asked.uses.trim().parse().ok().filter(|uses| (1..=CLAIM_USES_MAX).contains(uses)) else {
        let wrong = Wrong::default().with("uses", format!("Give a number from 1 to {CLAIM_USES_MAX}."));
        return Ok(invalid(&ProductPage { wrong, ..shown }));
    };
    let issued = console.auth.issue_claim_token(&who.principal, &id, uses, CLAIM_VALID, true).await?;
    let issued = issued.ok_or_else(|| Problem::not_found("product"))?;
    let issued = Some(Issued { text: issued.text.expose().to_owned(), uses });
    Ok(page(&ProductPage { issued, ..shown }))
}
