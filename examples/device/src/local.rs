//! The door for whoever is beside the device. On a real unit this is Bluetooth or the home's network and a button; here it is
//! HTTP on a loopback address.
//!
//! | request | |
//! |---|---|
//! | `GET /` | what the unit shows: its id, its firmware, whether it is connected and has an owner |
//! | `POST /button` | the button: asks the cloud for a binding code and answers with it |
//! | `POST /reset` | factory reset: forgets what its owner has set; identity and firmware stay, and so does the owner |
//!
//! A `POST` needs `Content-Type: application/json`, and every request a loopback `Host`: a page in a browser on the same
//! machine must not press the button.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use iot_core::{id::DeviceId, secret::Secret};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::timeout,
};

/// How long the cloud may take to give a code.
const CODE_WITHIN: Duration = Duration::from_secs(10);
const BODY_BYTES_MAX: usize = 1_024;

/// What somebody does to the unit. Each is answered.
#[derive(Debug)]
pub(crate) enum Press {
    /// Looks at it.
    Look(oneshot::Sender<Value>),
    /// Presses its button.
    Button(oneshot::Sender<Button>),
    /// Resets it.
    Reset(oneshot::Sender<()>),
}

/// What the button leads to.
#[derive(Debug)]
pub(crate) enum Button {
    /// A code for whoever pressed, good for so many seconds.
    Code { code: Secret, expires_s: u64 },
    /// The cloud gives none; its reason.
    Refused(String),
    /// There is no connection to the cloud.
    NotConnected,
}

#[derive(Clone)]
struct Door {
    device: DeviceId,
    presses: mpsc::Sender<Press>,
}

/// Opens the door. An address that is not loopback is an error: the code would be anybody's.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_loopback() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "--local stands for being beside the unit: loopback only",
        ));
    }
    TcpListener::bind(address).await
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, device: DeviceId, presses: mpsc::Sender<Press>) -> io::Result<()> {
    axum::serve(listener, router(Door { device, presses })).await
}

fn router(door: Door) -> Router {
    Router::new()
        .route("/", get(look))
        .route("/button", post(button))
        .route("/reset", post(reset))
        .layer(from_fn(only_from_here))
        .with_state(door)
}

async fn only_from_here(request: Request, next: Next) -> Response {
    match objection(&request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

fn objection(request: &Request) -> Option<Response> {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !is_loopback(text(header::HOST)) {
        return Some(problem(StatusCode::FORBIDDEN, "host_forbidden"));
    }
    let json = text(header::CONTENT_TYPE).split(';').next().is_some_and(|kind| kind.trim() == "application/json");
    let length = text(header::CONTENT_LENGTH).parse().unwrap_or(0);
    if length > BODY_BYTES_MAX || request.headers().contains_key(header::TRANSFER_ENCODING) {
        return Some(problem(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"));
    }
    (request.method() == Method::POST && !json).then(|| problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type"))
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or(name == "localhost", |address| address.is_loopback())
}

async fn look(State(door): State<Door>) -> Response {
    match ask(&door, Press::Look).await {
        Some(seen) => Json(seen).into_response(),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "ending"),
    }
}

async fn button(State(door): State<Door>) -> Response {
    match timeout(CODE_WITHIN, ask(&door, Press::Button)).await {
        Ok(Some(Button::Code { code, expires_s })) => {
            Json(json!({"device": door.device, "code": code.expose(), "expires_s": expires_s})).into_response()
        }
        Ok(Some(Button::Refused(code))) => problem(StatusCode::CONFLICT, &code),
        Ok(Some(Button::NotConnected)) => problem(StatusCode::SERVICE_UNAVAILABLE, "not_connected"),
        Ok(None) => problem(StatusCode::CONFLICT, "pressed_again"),
        Err(_) => problem(StatusCode::GATEWAY_TIMEOUT, "no_answer"),
    }
}

async fn reset(State(door): State<Door>) -> Response {
    match ask(&door, Press::Reset).await {
        Some(()) => StatusCode::NO_CONTENT.into_response(),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "ending"),
    }
}

async fn ask<T>(door: &Door, press: impl FnOnce(oneshot::Sender<T>) -> Press) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    door.presses.send(press(answer)).await.ok()?;
    answered.await.ok()
}

fn problem(status: StatusCode, code: &str) -> Response {
    (status, Json(json!({"code": code}))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A unit that answers its button with a code.
    async fn unit(button: fn() -> Button) -> SocketAddr {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (presses, mut pressed) = mpsc::channel(4);
        tokio::spawn(serve(listener, "lamp".parse().unwrap(), presses));
        tokio::spawn(async move {
            while let Some(press) = pressed.recv().await {
                match press {
                    Press::Look(answer) => drop(answer.send(json!({"device": "lamp"}))),
                    Press::Button(answer) => drop(answer.send(button())),
                    Press::Reset(answer) => drop(answer.send(())),
                }
            }
        });
        address
    }

    async fn request(address: SocketAddr, text: String) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn press(address: SocketAddr, path: &str, host: &str, kind: &str, body: &str) -> String {
        let length = body.len();
        request(
            address,
            format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            ),
        )
        .await
    }

    fn code() -> Button {
        Button::Code { code: Secret::new("ABCD"), expires_s: 120 }
    }

    #[tokio::test]
    async fn whoever_is_beside_it_gets_the_code_and_pages_of_a_browser_do_not() {
        let unit = unit(code).await;
        let answer = press(unit, "/button", &unit.to_string(), "application/json", "{}").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""code":"ABCD""#), "{answer}");
        let here = unit.to_string();
        for (host, kind, status) in [
            ("evil.example", "application/json", "403"),
            ("127.0.0.1.evil.example", "application/json", "403"),
            ("", "application/json", "403"),
            (here.as_str(), "text/plain", "415"),
            (here.as_str(), "application/x-www-form-urlencoded", "415"),
        ] {
            let answer = press(unit, "/button", host, kind, "{}").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host} {kind}: {answer}");
            assert!(!answer.contains("ABCD"));
        }
        let answer = request(unit, format!("GET /button HTTP/1.1\r\nHost: {here}\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    }

    #[test]
    fn a_host_is_loopback_with_and_without_a_port() {
        for here in ["127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:80", "localhost", "localhost:8080"] {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in ["", "10.0.0.1", "localhost.evil.example", "127.0.0.1.evil.example:80", "evil.example:127"] {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
    }

    #[tokio::test]
    async fn a_long_body_is_not_read() {
        let unit = unit(code).await;
        let answer = press(unit, "/button", "localhost", "application/json", &"x".repeat(BODY_BYTES_MAX + 1)).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }

    #[tokio::test]
    async fn what_the_cloud_says_is_passed_on() {
        for (button, status, said) in [
            ((|| Button::NotConnected) as fn() -> Button, "503", "not_connected"),
            (|| Button::Refused("already_bound".to_owned()), "409", "already_bound"),
        ] {
            let unit = unit(button).await;
            let answer = press(unit, "/button", "localhost", "application/json", "").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(said), "{answer}");
        }
    }

    #[tokio::test]
    async fn the_door_is_on_this_machine_only() {
        assert!(bind(([0, 0, 0, 0], 0).into()).await.is_err());
        assert!(bind(([192, 0, 2, 1], 0).into()).await.is_err());
        assert!(!format!("{:?}", code()).contains("ABCD"));
    }
}
