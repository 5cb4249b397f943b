//! `GET /v1/live` as server-sent events (WHATWG HTML §9.2) and `GET /v1/live/socket` as a WebSocket (RFC 6455).

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{
        FromRequestParts, State, WebSocketUpgrade,
        ws::{Message, Utf8Bytes, WebSocket},
    },
    http::{HeaderMap, header, request::Parts},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt as _, stream};
use iot_core::{
    event::{EventId, Sequence},
    id::{DeviceId, HomeId},
    problem::Problem,
};
use iot_http::{Identity, ProblemResponse, Query};
use serde::Deserialize;

use crate::node::{LIVE_DEVICES_MAX, LiveError, LiveEvent, LiveFilter, LiveKind, LiveStream, Node};

/// How often a quiet stream says that it is there. Proxies close what is silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The longest message of a client over a WebSocket; there is nothing to say.
const CLIENT_MESSAGE_BYTES_MAX: usize = 1_024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    device: Option<String>,
    home: Option<HomeId>,
    types: Option<String>,
    after: Option<String>,
}

/// What is to be watched, from the query and `Last-Event-ID`.
pub(super) struct Wanted {
    filter: LiveFilter,
    after: Option<EventId>,
}

impl<S: Sync> FromRequestParts<S> for Wanted {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let Query(text) = Query::<Text>::from_request_parts(parts, state).await?;
        let resumed = parts.headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let devices = list(text.device.as_deref(), |id| DeviceId::parse(id).ok())
            .filter(|devices| devices.len() <= LIVE_DEVICES_MAX)
            .ok_or_else(|| super::query_invalid("device: ids with commas between them, at most 100"))?;
        let kinds = list(text.types.as_deref(), kind).ok_or_else(|| {
            super::query_invalid("types: of telemetry, event, presence, alarm, command, twin, with commas between them")
        })?;
        let after = resumed.or(text.after).map(|text| position(&text).ok_or_else(foreign)).transpose()?;
        Ok(Self { filter: LiveFilter { devices, home: text.home, kinds }, after })
    }
}

fn list<T: std::hash::Hash + Eq>(
    text: Option<&str>,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<std::collections::HashSet<T>> {
    text.into_iter().flat_map(|text| text.split(',')).map(parse).collect()
}

fn kind(word: &str) -> Option<LiveKind> {
    use LiveKind as K;
    let all = [K::Telemetry, K::Event, K::Presence, K::Alarm, K::Command, K::Twin];
    all.into_iter().find(|kind| kind.word() == word)
}

fn position(text: &str) -> Option<EventId> {
    let (node, sequence) = text.rsplit_once('-')?;
    Some(EventId { node: node.parse().ok()?, sequence: Sequence(sequence.parse().ok()?) })
}

fn foreign() -> Problem {
    Problem::invalid("cursor_invalid", "send the id of an event of this stream, or leave it out")
}

impl From<LiveError> for Problem {
    fn from(error: LiveError) -> Self {
        match error {
            LiveError::TooMany => Self::new(503, "too_many_streams", "the server has as many live streams as it can"),
            LiveError::ForeignPosition => foreign(),
            LiveError::Store(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a live stream cannot begin");
                Self::unavailable()
            }
        }
    }
}

async fn begin(node: &Node, identity: Identity, wanted: Wanted) -> Result<LiveStream, Problem> {
    Ok(node.live(identity.principal, identity.grants, wanted.filter, wanted.after).await?)
}

pub(super) async fn events(
    State(node): State<Node>,
    identity: Identity,
    wanted: Wanted,
) -> Result<Response, ProblemResponse> {
    let live = begin(&node, identity, wanted).await?;
    let events = stream::unfold(live, |mut live| async move {
        let event = live.next().await?;
        Some((Ok::<_, Infallible>(sse(&event)), live))
    });
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // Proxies that gather responses would hold events back.
    Ok(([(header::CACHE_CONTROL, "no-store"), (header::HeaderName::from_static("x-accel-buffering"), "no")], sse)
        .into_response())
}

fn sse(event: &LiveEvent) -> Event {
    let sse = Event::default().event(event.kind.word()).data(event.data.to_string());
    match &event.id {
        Some(id) => sse.id(id.to_string()),
        None => sse,
    }
}

pub(super) async fn socket(
    State(node): State<Node>,
    identity: Identity,
    wanted: Wanted,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, ProblemResponse> {
    if !is_same_origin(&headers) {
        return Err(Problem::new(403, "cross_site", "pages of other sites may not open this socket").into());
    }
    let plain = |_| Problem::new(426, "upgrade_required", "open this address as a WebSocket, or read /v1/live");
    let upgrade = upgrade.map_err(plain)?;
    let live = begin(&node, identity, wanted).await?;
    Ok(upgrade.max_message_size(CLIENT_MESSAGE_BYTES_MAX).on_upgrade(move |socket| carry(socket, live)))
}

/// Browsers name the page's origin (RFC 6455 §10.2) and send cookies whatever the page; programs send no origin.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).map(|host| host.as_bytes());
    let named = origin.as_bytes().split(|byte| *byte == b'/').nth(2);
    host.is_some() && named == host
}

/// Writes what happens until either side ends. What the client says is read, so that its closing and pings are, and dropped.
async fn carry(socket: WebSocket, mut live: LiveStream) {
    let (mut writer, mut reader) = socket.split();
    let write = async {
        use futures_util::SinkExt as _;
        let mut tick = tokio::time::interval(KEEP_ALIVE);
        tick.tick().await;
        loop {
            let next = live.next();
            tokio::pin!(next);
            let event = loop {
                tokio::select! {
                    event = &mut next => break event,
                    _ = tick.tick() => if writer.send(Message::Ping(bytes::Bytes::new())).await.is_err() { return },
                }
            };
            let Some(event) = event else { break };
            if writer.send(Message::Text(text(&event))).await.is_err() {
                return;
            }
        }
        // An error means that it is closed already.
        let _closed = writer.send(Message::Close(None)).await;
    };
    let read = async { while let Some(Ok(_)) = reader.next().await {} };
    tokio::select! { () = write => {}, () = read => {} }
}

fn text(event: &LiveEvent) -> Utf8Bytes {
    let id = event.id.as_ref().map(ToString::to_string);
    serde_json::json!({"type": event.kind.word(), "id": id, "data": event.data}).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_and_other_text_does_not() {
        let id = EventId { node: "n-1".parse().unwrap(), sequence: Sequence(42) };
        assert_eq!(position(&id.to_string()), Some(id));
        for bad in ["", "n", "n-", "-1", "n-x", "n/1-2"] {
            assert_eq!(position(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_pages_of_the_same_host_open_a_socket() {
        let ask = |origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "cloud.example:8443".parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            is_same_origin(&headers)
        };
        assert!(ask(None) && ask(Some("https://cloud.example:8443")));
        for other in
            ["https://evil.example", "https://cloud.example", "null", "https://evil.example/cloud.example:8443"]
        {
            assert!(!ask(Some(other)), "{other}");
        }
    }
}
