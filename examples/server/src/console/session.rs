//! A person's session in a browser: two cookies, renewed while pages are used, so that nobody is asked to sign in again
//! while at work.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    extract::Request,
    http::{
        HeaderMap, HeaderValue, Method,
        header::{AUTHORIZATION, COOKIE, SET_COOKIE, USER_AGENT},
    },
    response::Response,
};
use iot_auth::{
    AuthError,
    account::{Refreshed, SignedIn},
};
use iot_core::{secret::Secret, time::Timestamp};
use iot_http::{Cookie, Cookies, Peer, identity::Connection, same_origin};

use super::Console;

/// A browser forgets the access token so long before it ends, so that no request comes too late with it.
const EARLY: Duration = Duration::from_secs(60);
/// How long what a refresh token was exchanged for is remembered: several tabs show the same one at once, and a second exchange
/// would look like theft.
const REMEMBERED: Duration = Duration::from_secs(20);
/// The most exchanges that are remembered.
const REMEMBERED_MAX: usize = 256;

/// The last exchanges, by a digest of the refresh token. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Renewals {
    // Across the exchange, so that of two tabs the second finds what the first has got.
    done: Arc<tokio::sync::Mutex<VecDeque<Renewal>>>,
}

#[derive(Debug, Clone)]
struct Renewal {
    token: Vec<u8>,
    at: Timestamp,
    signed_in: SignedIn,
}

/// What a request's answer says of the cookies.
#[derive(Debug, Default)]
pub(super) struct CookieChange(Vec<HeaderValue>);

impl CookieChange {
    /// A session begins, or goes on.
    pub(super) fn begin(connection: Connection, signed_in: &SignedIn, now: Timestamp) -> Self {
        let cookies = Cookies::of(connection);
        let access = signed_in.access_expires.since(now).saturating_sub(EARLY);
        let access = cookies.set(Cookie::Session, &signed_in.access, access);
        let refresh = cookies.set(Cookie::Refresh, &signed_in.refresh, signed_in.expires.since(now));
        Self(access.into_iter().chain(refresh).collect())
    }

    /// It is over.
    pub(super) fn end(connection: Connection) -> Self {
        let cookies = Cookies::of(connection);
        Self(vec![cookies.clear(Cookie::Session), cookies.clear(Cookie::Refresh)])
    }

    pub(super) fn onto(self, mut response: Response) -> Response {
        for value in self.0 {
            response.headers_mut().append(SET_COOKIE, value);
        }
        response
    }
}

/// Where a request comes from; the same that authentication sees.
pub(super) fn connection(request: &Request, encrypted: bool) -> Connection {
    let elsewhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    Connection { peer: request.extensions().get().map_or(elsewhere, |Peer(peer)| *peer), encrypted }
}

/// The client's name for itself.
pub(super) fn label(headers: &HeaderMap) -> &str {
    headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Exchanges the refresh cookie where the access token is gone, before the request is looked at: so a form that was filled in
/// for an hour is not lost.
pub(super) async fn renew(
    console: &Console,
    connection: Connection,
    request: &mut Request,
) -> Result<CookieChange, AuthError> {
    let headers = request.headers();
    let cookies = Cookies::of(connection);
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let needless = headers.contains_key(AUTHORIZATION) || cookies.read(Cookie::Session, headers).is_some();
    let Some(refresh) = cookies.read(Cookie::Refresh, headers).filter(|_| !needless) else {
        return Ok(CookieChange::default());
    };
    if !is_safe && !same_origin(connection, headers) {
        return Ok(CookieChange::default());
    }
    let label = label(headers).to_owned();
    let Some(signed_in) = console.renewals.exchange(console, &refresh, &label, connection.peer.ip()).await? else {
        return Ok(CookieChange::end(connection));
    };
    let change = CookieChange::begin(connection, &signed_in, console.now());
    show(&change, request);
    Ok(change)
}

/// Puts the new access token into the request, as if the browser had had it already.
fn show(change: &CookieChange, request: &mut Request) {
    let pair = change.0.first().and_then(|value| value.to_str().ok()).and_then(|text| text.split(';').next());
    if let Some(pair) = pair.and_then(|pair| HeaderValue::from_str(pair).ok()) {
        request.headers_mut().append(COOKIE, pair);
    }
}

impl Renewals {
    async fn exchange(
        &self,
        console: &Console,
        refresh: &Secret,
        label: &str,
        from: IpAddr,
    ) -> Result<Option<SignedIn>, AuthError> {
        let token = digest(&SHA256, refresh.expose().as_bytes()).as_ref().to_vec();
        let mut done = self.done.lock().await;
        let now = console.now();
        done.retain(|renewal| now.since(renewal.at) < REMEMBERED);
        if let Some(known) = done.iter().find(|renewal| renewal.token == token) {
            return Ok(Some(known.signed_in.clone()));
        }
        match console.auth.refresh(refresh, label, from).await? {
            Refreshed::Granted(signed_in) => {
                if done.len() == REMEMBERED_MAX {
                    done.pop_front();
                }
                done.push_back(Renewal { token, at: now, signed_in: (*signed_in).clone() });
                Ok(Some(*signed_in))
            }
            Refreshed::Reused | Refreshed::Refused => Ok(None),
        }
    }
}
