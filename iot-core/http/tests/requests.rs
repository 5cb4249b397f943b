//! Bodies, pages and `Idempotency-Key`, over a router as a server builds it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body as Bytes,
    http::{StatusCode, header::CONTENT_TYPE},
};
use iot_core::{
    access::Permission,
    problem::{Cursor, Problem},
    store::Index,
};
use iot_http::{Body, Doc, Form, Guard, Idempotency, PageQuery, ProblemResponse, Query, sweep};
use serde::Deserialize;
use serde_json::{Value, json};
use support::{Site, ask, read, request, send, serve};
use tokio::sync::Semaphore;

const GUARD: Guard = Guard::Tenant(Permission::ReadDevice);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Thing {
    name: String,
}

async fn post(router: &Router, path: &str, token: &str, key: &str, body: &str) -> (StatusCode, Value) {
    let request = request(&format!("POST {path}"), token).header(CONTENT_TYPE, "application/json");
    let request = if key.is_empty() { request } else { request.header("Idempotency-Key", key) };
    read(send(router, request.body(Bytes::from(body.to_owned())).unwrap()).await).await
}

#[tokio::test]
async fn a_body_is_json_of_the_right_shape_and_size() {
    let site = Site::new();
    let handler = async |Body(thing): Body<Thing>| thing.name;
    let router = serve(site.routes().post("/x", GUARD, Doc::new("x").body_limit(1_000), handler));
    let large = json!({ "name": "x".repeat(1_000) }).to_string();
    for key in ["", "key"] {
        assert_eq!(post(&router, "/x", "admin", "", r#"{"name":"a"}"#).await.0, StatusCode::OK);
        for (body, status, code) in [
            ("", 400, "body_invalid"),
            (r#"{"name":1}"#, 400, "body_invalid"),
            (r#"{"name":"a","more":1}"#, 400, "body_invalid"),
            (large.as_str(), 413, "body_too_large"),
        ] {
            let key = if key.is_empty() { String::new() } else { format!("{key}{status}{}", body.len()) };
            let (is, problem) = post(&router, "/x", "admin", &key, body).await;
            assert_eq!((is.as_u16(), &problem["code"]), (status, &json!(code)), "{body}");
        }
    }
    let text = request("POST /x", "admin").header(CONTENT_TYPE, "text/plain").body(Bytes::from("{}")).unwrap();
    let (status, problem) = read(send(&router, text).await).await;
    assert_eq!((status.as_u16(), &problem["code"]), (415, &json!("content_type")));
}

#[tokio::test]
async fn a_form_is_refused_as_a_body_is() {
    let site = Site::new();
    let handler = async |Form(thing): Form<Thing>| thing.name;
    let router = serve(site.routes().post("/x", GUARD, Doc::new("x").body_limit(100), handler));
    let send_form = async |media_type: &str, body: String| {
        let request = request("POST /x", "admin").header(CONTENT_TYPE, media_type).body(Bytes::from(body)).unwrap();
        read(send(&router, request).await).await
    };
    let form = "application/x-www-form-urlencoded";
    assert_eq!(send_form(form, "name=a".to_owned()).await.0, StatusCode::OK);
    for (media_type, body, status, code) in [
        (form, "nome=a".to_owned(), 400, "body_invalid"),
        (form, format!("name={}", "x".repeat(100)), 413, "body_too_large"),
        ("text/plain", "name=a".to_owned(), 415, "content_type"),
    ] {
        let (is, problem) = send_form(media_type, body).await;
        assert_eq!((is.as_u16(), &problem["code"]), (status, &json!(code)), "{problem}");
        assert!(!problem["detail"].as_str().unwrap().contains("deserialize"), "{problem}");
    }
}

#[tokio::test]
async fn a_page_stands_beside_other_parameters() {
    #[derive(Deserialize)]
    struct Filter {
        colour: Option<String>,
        n: Option<u8>,
    }
    let site = Site::new();
    let handler = async |Query(filter): Query<Filter>, page: PageQuery| {
        format!("\"{:?} {:?} {:?} {}\"", filter.colour, filter.n, page.after.map(|c| c.key().to_vec()), page.limit)
            .replace("Some(\"red\")", "red")
    };
    let router = serve(site.routes().get("/x", GUARD, Doc::new("x"), handler));
    let cursor = Cursor::after(b"a").encode();
    let line = format!("GET /x?colour=red&limit=7&cursor={cursor}");
    assert_eq!(ask(&router, &line, "admin").await.1, json!("red None Some([97]) 7"));
    assert_eq!(ask(&router, "GET /x", "admin").await.1, json!("None None None 100"));
    for (query, code) in [
        ("limit=0", "query_invalid"),
        ("limit=1001", "query_invalid"),
        ("limit=x", "query_invalid"),
        ("n=300", "query_invalid"),
        ("cursor=!", "cursor_invalid"),
    ] {
        let (status, problem) = ask(&router, &format!("GET /x?{query}"), "admin").await;
        assert_eq!((status.as_u16(), &problem["code"]), (400, &json!(code)), "{query}");
    }
}

/// A route that counts how often it was carried out.
fn counting(site: &Site, idempotency: Idempotency) -> (Router, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    let handler = async move |body: String| -> Result<axum::Json<u32>, ProblemResponse> {
        let n = counted.fetch_add(1, Ordering::SeqCst);
        if body == "\"fail\"" { Err(Problem::unavailable().into()) } else { Ok(axum::Json(n)) }
    };
    let doc = || Doc::new("x").idempotency(idempotency);
    let routes = site.routes().post("/x", GUARD, doc(), handler.clone()).post("/y", GUARD, doc(), handler);
    (serve(routes), count)
}

#[tokio::test]
async fn a_key_answers_as_the_first_time() {
    for kind in [Idempotency::Stored, Idempotency::Memory] {
        let site = Site::new();
        let (router, count) = counting(&site, kind);
        let first = post(&router, "/x", "admin", "k", "1").await;
        assert_eq!(first, (StatusCode::OK, json!(0)));
        assert_eq!(post(&router, "/x", "admin", "k", "1").await, first, "{kind:?}");
        let (status, problem) = post(&router, "/x", "admin", "k", "2").await;
        assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("idempotency_mismatch")), "{kind:?}");
        assert_eq!(count.load(Ordering::SeqCst), 1);
        for (n, (path, token, key)) in
            [("/x", "admin", ""), ("/x", "admin", "K"), ("/y", "admin", "k"), ("/x", "viewer", "k")].iter().enumerate()
        {
            assert_eq!(post(&router, path, token, key, "1").await.1, json!(n + 1), "{kind:?} {path} {token} {key}");
        }
        assert_eq!(post(&router, "/x", "topics", "k", "1").await.0, StatusCode::FORBIDDEN, "the guard comes first");
    }
}

#[tokio::test]
async fn a_key_is_free_again_after_a_day_and_after_a_failure() {
    for kind in [Idempotency::Stored, Idempotency::Memory] {
        let site = Site::new();
        let (router, count) = counting(&site, kind);
        assert_eq!(post(&router, "/x", "admin", "f", "\"fail\"").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(post(&router, "/x", "admin", "f", "1").await, (StatusCode::OK, json!(1)));
        site.clock.advance(Duration::from_secs(24 * 3_600 - 1));
        assert_eq!(post(&router, "/x", "admin", "f", "1").await, (StatusCode::OK, json!(1)), "{kind:?}");
        site.clock.advance(Duration::from_secs(1));
        assert_eq!(post(&router, "/x", "admin", "f", "1").await, (StatusCode::OK, json!(2)), "{kind:?}");
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }
}

/// The client goes away in the middle; the request is carried out all the same and its key then has the answer.
#[tokio::test]
async fn a_request_under_way_is_busy_and_goes_on_without_its_client() {
    for kind in [Idempotency::Stored, Idempotency::Memory] {
        let site = Site::new();
        let (begun, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (begun_too, go_too) = (begun.clone(), go.clone());
        let handler = async move || {
            begun_too.add_permits(1);
            go_too.acquire().await.unwrap().forget();
            axum::Json("done")
        };
        let router = serve(site.routes().post("/x", GUARD, Doc::new("x").idempotency(kind), handler));
        let client = tokio::spawn({
            let router = router.clone();
            async move { post(&router, "/x", "admin", "k", "1").await }
        });
        begun.acquire().await.unwrap().forget();
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
        let (status, problem) = post(&router, "/x", "admin", "k", "1").await;
        assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("idempotency_busy")), "{kind:?}");
        go.add_permits(1);
        let answer = loop {
            let answer = post(&router, "/x", "admin", "k", "1").await;
            if answer.0 != StatusCode::CONFLICT {
                break answer;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(answer, (StatusCode::OK, json!("done")), "{kind:?}");
    }
}

#[tokio::test]
async fn a_key_is_visible_ascii_of_a_bounded_length() {
    let site = Site::new();
    let (router, _) = counting(&site, Idempotency::Natural);
    assert_eq!(post(&router, "/x", "admin", &"k".repeat(128), "1").await.0, StatusCode::OK);
    for bad in [&"k".repeat(129), " ", "a b"] {
        let (status, problem) = post(&router, "/x", "admin", bad, "1").await;
        assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("idempotency_key_invalid")), "{bad:?}");
    }
}

#[tokio::test]
async fn what_is_over_is_swept_and_nothing_else() {
    let site = Site::new();
    let (router, _) = counting(&site, Idempotency::Stored);
    for n in 0..300 {
        post(&router, "/x", "admin", &format!("a{n}"), "1").await;
    }
    site.clock.advance(Duration::from_secs(24 * 3_600));
    post(&router, "/x", "admin", "b", "1").await;
    let all = Index::new("idempotency", "all", "");
    let now = |days: u64| iot_core::clock::Clock::timestamp(&*site.clock).plus(Duration::from_secs(days * 24 * 3_600));
    assert_eq!(sweep(&site.meta, now(0)).await.unwrap(), 0, "their day is not over");
    assert_eq!(sweep(&site.meta, now(1)).await.unwrap(), 300);
    assert_eq!(site.meta.count(&all).await.unwrap(), 1);
    assert_eq!(sweep(&site.meta, now(2)).await.unwrap(), 1);
    assert_eq!(site.meta.count(&all).await.unwrap(), 0);
}
