//! The list of devices, filtered and paged.

use askama::Template;
use axum::extract::State;
use iot_conn::node::{Presence, PresenceState};
use iot_core::{
    device::{Device, Product, Stage},
    home::Home,
    id::{HomeId, ProductId, TenantId},
    problem::Cursor,
    store::{MetaStoreExt, StoreError},
    time::Timestamp,
};
use iot_http::{Identity, Query};
use serde::Deserialize;

use super::{
    Console,
    page::{Answer, Shell, encoded, page},
    show::Moment,
};

/// Rows of a page, and records of one read.
const ROWS: u32 = 50;
/// The most devices that are looked through for one page; its end is then a place to go on from.
const SCANNED_MAX: u32 = 2_000;
/// The most products and homes that can be chosen from; further ones are typed into the address.
const CHOICES_MAX: u32 = 200;

/// What is looked for. Empty text is no wish.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Filter {
    #[serde(default)]
    product: String,
    #[serde(default)]
    home: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    text: String,
    cursor: Option<String>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        [&self.product, &self.home, &self.state, &self.text].iter().all(|wish| wish.is_empty())
    }

    /// The index that has the fewest devices; `None` if what is wished is no id, so that nothing can fit.
    fn index(&self, tenant: &TenantId) -> Option<(&'static str, String)> {
        if !self.home.is_empty() {
            let home = HomeId::parse(&self.home).ok()?;
            return Some(("home", format!("{tenant}/{home}")));
        }
        if !self.product.is_empty() {
            let product = ProductId::parse(&self.product).ok()?;
            return Some(("product", format!("{tenant}/{product}")));
        }
        Some(("tenant", tenant.to_string()))
    }

    fn fits(&self, device: &Device, online: bool) -> bool {
        let wanted = self.text.trim().to_lowercase();
        let named = device.id.as_str().to_lowercase().contains(&wanted)
            || device.p_code.as_str().to_lowercase().contains(&wanted);
        let state = match self.state.as_str() {
            "online" => online,
            "offline" => !online,
            _ => true,
        };
        named && state && (self.product.is_empty() || device.product.as_str() == self.product)
    }

    fn query(&self, cursor: &Cursor) -> String {
        let Self { product, home, state, text, .. } = self;
        let [product, home, state, text] = [product, home, state, text].map(|wish| encoded(wish));
        format!("/devices?product={product}&home={home}&state={state}&text={text}&cursor={}", cursor.encode())
    }
}

/// A device as it is shown in lists.
pub(super) struct Row {
    pub(super) id: String,
    pub(super) p_code: String,
    pub(super) product: String,
    /// Empty if it stands nowhere.
    pub(super) home: String,
    pub(super) state: Standing,
}

/// Whether a device is connected.
pub(super) struct Standing {
    pub(super) online: bool,
    pub(super) word: &'static str,
    pub(super) since: Option<Moment>,
    /// Why it went; empty if it has not, or nobody knows.
    pub(super) cause: String,
}

impl Standing {
    pub(super) fn of(presence: Option<Presence>, stage: Stage, now: Timestamp) -> Self {
        let word = match (&presence, stage) {
            (_, Stage::Retired) => "retired",
            (Some(Presence { state: PresenceState::Online, .. }), _) => "online",
            (Some(Presence { state: PresenceState::Suspect, .. }), _) => "suspect",
            (_, Stage::Manufactured) => "not claimed",
            _ => "offline",
        };
        let online = presence.as_ref().is_some_and(Presence::is_online);
        let since = presence.as_ref().map(|presence| Moment::of(presence.since, now));
        let cause = presence.and_then(|presence| presence.cause).unwrap_or_default().replace('_', " ");
        Self { online, word, since, cause }
    }
}

impl Row {
    pub(super) fn of(console: &Console, device: Device) -> Self {
        let presence = console.node.presence(&device.tenant, &device.id);
        Self {
            state: Standing::of(presence, device.stage, console.now()),
            id: device.id.to_string(),
            p_code: device.p_code.to_string(),
            product: device.product.to_string(),
            home: device.home.map(|home| home.to_string()).unwrap_or_default(),
        }
    }
}

/// Something that can be chosen.
pub(super) struct Choice {
    pub(super) id: String,
    pub(super) name: String,
}

#[derive(Template)]
#[template(path = "devices.html")]
struct DevicesPage {
    shell: Shell,
    filter: Filter,
    products: Vec<Choice>,
    homes: Vec<Choice>,
    rows: Vec<Row>,
    /// Where the next page is; empty after the last.
    next: String,
}

pub(super) async fn show(State(console): State<Console>, who: Identity, Query(filter): Query<Filter>) -> Answer {
    let tenant = &who.principal.tenant;
    let shell = Shell::of(&console, &who, "devices", "Devices").await?;
    let (rows, next) = look(&console, tenant, &filter).await?;
    let next = next.map(|cursor| filter.query(&cursor)).unwrap_or_default();
    let products = products(&console, tenant).await?;
    let homes = homes(&console, tenant).await?;
    Ok(page(&DevicesPage { shell, filter, products, homes, rows, next }))
}

async fn look(console: &Console, tenant: &TenantId, filter: &Filter) -> Result<(Vec<Row>, Option<Cursor>), StoreError> {
    let Some((index, value)) = filter.index(tenant) else { return Ok((Vec::new(), None)) };
    let mut after = filter.cursor.as_deref().and_then(Cursor::decode);
    let mut rows = Vec::new();
    let mut scanned = 0;
    while rows.len() < ROWS as usize && scanned < SCANNED_MAX {
        let read = console.meta().page::<Device>(index, &value, after.as_ref(), ROWS).await?;
        scanned += ROWS;
        for stored in read.items {
            let device = stored.document;
            let online = console.node.presence(tenant, &device.id).is_some_and(|presence| presence.is_online());
            if filter.fits(&device, online) {
                rows.push(Row::of(console, device));
            }
        }
        after = read.next;
        if after.is_none() {
            break;
        }
    }
    Ok((rows, after))
}

async fn products(console: &Console, tenant: &TenantId) -> Result<Vec<Choice>, StoreError> {
    let found = console.meta().page::<Product>("tenant", tenant.as_str(), None, CHOICES_MAX).await?;
    let choice = |product: Product| Choice { id: product.id.to_string(), name: product.name };
    Ok(found.items.into_iter().map(|stored| choice(stored.document)).collect())
}

async fn homes(console: &Console, tenant: &TenantId) -> Result<Vec<Choice>, StoreError> {
    let found = console.meta().page::<Home>("tenant", tenant.as_str(), None, CHOICES_MAX).await?;
    let choice = |home: Home| Choice { id: home.id.to_string(), name: home.name };
    Ok(found.items.into_iter().map(|stored| choice(stored.document)).collect())
}
