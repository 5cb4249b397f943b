//! A device's data as a whole: taken along, or erased.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE},
    },
    response::Response,
};
use futures_util::stream;
use iot_core::{
    access::{Permission, Resource, check},
    device::Device,
    logic::BoxError,
    problem::Cursor,
    store::Stored,
};
use iot_http::{Identity, ProblemResponse, Target};
use serde::Serialize;
use serde_json::{Value, json};

use super::{devices::PresenceView, telemetry::report};
use crate::node::{DeviceRecords, Epochs, Node};

/// How many reports are read at once.
const PAGE: u32 = 1_000;
/// The layout of an export.
const FORMAT: u32 = 1;

/// One JSON text per line; the last one says that it is the last.
pub(super) async fn export(
    State(node): State<Node>,
    identity: Identity,
    Target(device): Target<Device>,
) -> Result<Response, ProblemResponse> {
    let device = device.document;
    let mut records = node.records(&device).await?;
    let now = node.clock().timestamp();
    // Receipts are for those who may send commands.
    if !check(&identity.grants, Permission::Control, &Resource::device(&device), now).allow {
        records.commands.clear();
        records.receipts.clear();
    }
    let first = lines(&node, &device, &records)?;
    let pages = Pages { node, device, count: 0, next: Next::Records(first) };
    let mut response = Response::new(Body::from_stream(stream::try_unfold(pages, Pages::step)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"device.ndjson\""));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn lines(node: &Node, device: &Device, records: &DeviceRecords) -> Result<Bytes, ProblemResponse> {
    let unwritable = |error: serde_json::Error| iot_http::problem::unavailable(&error);
    let mut text = Vec::new();
    let head = json!({
        "format": FORMAT, "exported": node.clock().timestamp(), "id": device.id, "product": device.product,
        "p_code": device.p_code, "stage": device.stage, "epoch": device.epoch, "home": device.home,
        "created": device.created,
    });
    line(&mut text, "device", &head).map_err(unwritable)?;
    if let Some(twin) = &records.twin {
        line(&mut text, "twin", twin).map_err(unwritable)?;
    }
    for alarm in &records.alarms {
        line(&mut text, "alarm", alarm).map_err(unwritable)?;
    }
    for command in &records.commands {
        line(&mut text, "command", command).map_err(unwritable)?;
    }
    for receipt in &records.receipts {
        line(&mut text, "receipt", receipt).map_err(unwritable)?;
    }
    for presence in &records.connections {
        line(&mut text, "connection", &PresenceView::new(presence.clone())).map_err(unwritable)?;
    }
    Ok(text.into())
}

/// `{"<kind>": …}` and a line feed.
fn line(text: &mut Vec<u8>, kind: &str, value: &impl Serialize) -> serde_json::Result<()> {
    let value = serde_json::to_value(value)?;
    serde_json::to_writer(&mut *text, &json!({ (kind): value }))?;
    text.push(b'\n');
    Ok(())
}

struct Pages {
    node: Node,
    device: Device,
    count: u64,
    next: Next,
}

enum Next {
    Records(Bytes),
    Reports(Option<Cursor>),
    Nothing,
}

impl Pages {
    async fn step(mut self) -> Result<Option<(Bytes, Self)>, BoxError> {
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Records(first) => {
                self.next = Next::Reports(None);
                Ok(Some((first, self)))
            }
            Next::Reports(after) => {
                let page = self.node.reports(&self.device, after.as_ref(), PAGE).await?;
                let mut text = Vec::new();
                for stored in page.items {
                    line(&mut text, "report", &report(stored))?;
                    self.count += 1;
                }
                match page.next {
                    Some(next) => self.next = Next::Reports(Some(next)),
                    None => line(&mut text, "end", &json!({ "reports": self.count }))?,
                }
                Ok(Some((text.into(), self)))
            }
            Next::Nothing => Ok(None),
        }
    }
}

pub(super) async fn erase(
    State(node): State<Node>,
    identity: Identity,
    Target(device): Target<Device>,
) -> Result<Json<Value>, ProblemResponse> {
    erased(&node, &identity, &device, Epochs::Present).await
}

pub(super) async fn erase_history(
    State(node): State<Node>,
    identity: Identity,
    Target(device): Target<Device>,
) -> Result<Json<Value>, ProblemResponse> {
    erased(&node, &identity, &device, Epochs::All).await
}

async fn erased(
    node: &Node,
    identity: &Identity,
    device: &Stored<Device>,
    epochs: Epochs,
) -> Result<Json<Value>, ProblemResponse> {
    let erased = node.erase_data(&identity.principal, &device.document, epochs).await?;
    Ok(Json(json!({ "events": erased.events, "records": erased.records, "retained": erased.retained })))
}
