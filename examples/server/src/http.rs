//! HTTP: listeners, what surrounds every request, and the routes that belong to no crate.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Method, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use iot_conn::transport::HttpDoor;
use iot_core::problem::Problem;
use iot_http::{Doc, Guard, GuardContext, Peer, ProblemResponse, Routes};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;

/// The most HTTP connections; a further one waits in the kernel.
const CONNECTIONS_MAX: usize = 2_048;
/// From a connection or a response to the end of the next request's headers.
const HEADERS_WITHIN: Duration = Duration::from_secs(15);
/// From the end of the headers to the response; longer than any `wait_ms`.
const RESPONSE_WITHIN: Duration = Duration::from_secs(60);
/// The same for an image of firmware, which is as long as its line is slow.
const IMAGE_WITHIN: Duration = Duration::from_secs(1_800);
const TLS_WITHIN: Duration = Duration::from_secs(10);
/// How long requests get to end when the server drains.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// What the server's own routes need.
#[derive(Clone)]
pub(crate) struct Own {
    pub(crate) metrics: PrometheusHandle,
    /// Set once every listener is bound and the node serves.
    pub(crate) ready: Arc<AtomicBool>,
    openapi: Arc<OnceLock<Value>>,
}

/// All routes of the server behind one router, without authentication.
pub(crate) fn router(
    context: GuardContext,
    faces: Vec<Routes>,
    console: Routes,
    metrics: PrometheusHandle,
    ready: Arc<AtomicBool>,
) -> Router {
    let own = Own { metrics, ready, openapi: Arc::default() };
    let public = |why| Guard::Public { why };
    let text = "text/plain; version=0.0.4";
    let mut routes = Routes::with_state(context, own.clone())
        .get(
            "/healthz",
            public("says only that the process runs"),
            Doc::new("Does the process run?").response_of(200, "text/plain", "ok"),
            healthz,
        )
        .get(
            "/readyz",
            public("says only whether listeners are open"),
            Doc::new("Is every listener open?").response_of(200, "text/plain", "ready"),
            readyz,
        )
        .get(
            "/metrics",
            public("counts, without names of devices or people"),
            Doc::new("Metrics for Prometheus").response_of(200, text, "iot_connections 5"),
            metrics_text,
        )
        .get(
            "/openapi.json",
            public("the description of the interface"),
            Doc::new("This description").response(200, json!({"openapi": "3.1.0"})),
            openapi,
        )
        .erased();
    for face in faces {
        routes = routes.merge(face);
    }
    let _first = own.openapi.set(routes.openapi("IoT cloud", env!("CARGO_PKG_VERSION")));
    // Pages are for people: they are guarded as all routes are, and described nowhere.
    routes.merge(console).into_router()
}

/// What surrounds every request, outermost first: a span and a count, a panic becomes a problem, a deadline.
pub(crate) fn surround(router: Router) -> Router {
    router
        .layer(from_fn(deadline))
        .layer(CatchPanicLayer::custom(|_| {
            ProblemResponse(Problem::new(500, "internal", "the request failed; it is logged")).into_response()
        }))
        .layer(from_fn(span))
}

async fn deadline(request: Request, next: Next) -> Response {
    let sends = matches!(*request.method(), Method::PUT | Method::POST);
    let is_image = sends && request.uri().path().ends_with("/image");
    let within = if is_image { IMAGE_WITHIN } else { RESPONSE_WITHIN };
    match tokio::time::timeout(within, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ProblemResponse(Problem::new(
            408,
            "timeout",
            format!("the request and its answer took longer than {} s", within.as_secs()),
        ))
        .into_response(),
    }
}

async fn span(request: Request, next: Next) -> Response {
    static REQUESTS: AtomicU64 = AtomicU64::new(1);
    let id = REQUESTS.fetch_add(1, Ordering::Relaxed);
    // The path only: a query may hold what should not be logged.
    let span = tracing::info_span!("request", id, method = %request.method(), path = request.uri().path());
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    metrics::counter!("iot_http_requests_total", "status" => status.to_string()).increment(1);
    span.in_scope(|| tracing::debug!(status, "answered"));
    response
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(own): State<Own>) -> Response {
    if own.ready.load(Ordering::Acquire) {
        "ready\n".into_response()
    } else {
        ProblemResponse(Problem::new(503, "not_ready", "the server is starting or draining")).into_response()
    }
}

async fn metrics_text(State(own): State<Own>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], own.metrics.render()).into_response()
}

async fn openapi(State(own): State<Own>) -> axum::Json<Value> {
    axum::Json(own.openapi.get().cloned().unwrap_or(Value::Null))
}

/// Serves one listener until shutdown, and then the requests that are under way.
pub(crate) async fn serve(
    socket: std::net::TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    mut shutdown: watch::Receiver<bool>,
) {
    let listener = match socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket)) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the HTTP listener cannot be used"),
    };
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (Ok(permit), accepted) = (tokio::select! {
            next = next => next,
            _ = shutdown.changed() => break,
        }) else {
            break;
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Answers are small and must not wait for the acknowledgement of the one before.
        let _unsupported = tcp.set_nodelay(true);
        let (router, tls, watcher) = (router.clone(), tls.clone(), graceful.watcher());
        tokio::spawn(async move {
            match tls {
                None => connection(tcp, peer, router, watcher).await,
                Some(config) => match tokio::time::timeout(TLS_WITHIN, TlsAcceptor::from(config).accept(tcp)).await {
                    Ok(Ok(stream)) => connection(stream, peer, router, watcher).await,
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
                },
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_MAX, graceful.shutdown()).await.is_err() {
        tracing::warn!("some HTTP requests did not end in time");
    }
}

/// Serves connections that another listener has accepted.
pub(crate) fn door(router: Router, stopped: watch::Receiver<bool>) -> HttpDoor {
    Arc::new(move |stream, peer| {
        let (router, mut stopped) = (router.clone(), stopped.clone());
        Box::pin(async move {
            let graceful = GracefulShutdown::new();
            let mut served = std::pin::pin!(connection(stream, peer, router, graceful.watcher()));
            tokio::select! {
                () = &mut served => return,
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
            let both = async { tokio::join!(served, graceful.shutdown()) };
            if tokio::time::timeout(DRAIN_MAX, both).await.is_err() {
                tracing::warn!(%peer, "an HTTP request did not end in time");
            }
        })
    })
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: SocketAddr,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let service = tower::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let router = router.clone();
        request.extensions_mut().insert(Peer(peer));
        async move { tower::ServiceExt::oneshot(router, request.map(Body::new)).await.map_err(|never: Infallible| never) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
    // With upgrades: live streams may be WebSockets.
    let served =
        builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service)).into_owned();
    if let Err(error) = watcher.watch(served).await {
        tracing::debug!(%peer, %error, "an HTTP connection ended");
    }
}
