//! Cookies, for browsers: they hold what applications send as a bearer token.
//!
//! A browser sends cookies with every request to their host, whoever wrote the page that makes it. So a cookie counts as a
//! credential only where the request does not change anything, or proves that a page of this server made it:
//! [`same_origin`]. The names begin with `__Host-` over TLS (RFC 6265bis §4.1.3.2): no other host and no unencrypted
//! connection can have set them.

use std::time::Duration;

use axum::http::{
    HeaderMap, HeaderValue, Method,
    header::{COOKIE, HOST, ORIGIN, UPGRADE},
};
use iot_core::secret::Secret;

use crate::identity::Connection;

/// What a cookie holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cookie {
    /// An access token: [`authenticate`](crate::authenticate) takes it for `Authorization: Bearer`.
    Session,
    /// A refresh token: only the console's own handlers look at it.
    Refresh,
}

/// The cookies of one kind of connection. Those of an unencrypted one are neither read nor set on an encrypted one, and
/// the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookies {
    encrypted: bool,
}

impl Cookies {
    /// For a connection with or without TLS.
    pub fn of(connection: Connection) -> Self {
        Self { encrypted: connection.encrypted }
    }

    /// What a request carries; `None` also where it carries two of them, since one was then set by somebody else.
    pub fn read(self, cookie: Cookie, headers: &HeaderMap) -> Option<Secret> {
        let name = self.name(cookie);
        let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(';'));
        let mut found = pairs.filter_map(|pair| pair.trim().split_once('=').filter(|(is, _)| *is == name));
        match (found.next(), found.next()) {
            (Some((_, value)), None) if !value.is_empty() => Some(Secret::new(value)),
            _ => None,
        }
    }

    /// A value of `Set-Cookie`: out of reach of scripts, not sent with requests that other sites make, gone after `max_age`.
    /// `None` if `value` has a character that no cookie may have; tokens have none.
    pub fn set(self, cookie: Cookie, value: &Secret, max_age: Duration) -> Option<HeaderValue> {
        let value = value.expose();
        value.bytes().all(is_octet).then(|| self.header(cookie, value, max_age))?
    }

    /// A value of `Set-Cookie` that takes the cookie away.
    pub fn clear(self, cookie: Cookie) -> HeaderValue {
        self.header(cookie, "", Duration::ZERO).expect("names and attributes are visible ASCII")
    }

    fn header(self, cookie: Cookie, value: &str, max_age: Duration) -> Option<HeaderValue> {
        let (name, seconds) = (self.name(cookie), max_age.as_secs());
        let secure = if self.encrypted { "; Secure" } else { "" };
        let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    fn name(self, cookie: Cookie) -> &'static str {
        match (cookie, self.encrypted) {
            (Cookie::Session, true) => "__Host-session",
            (Cookie::Session, false) => "session",
            (Cookie::Refresh, true) => "__Host-refresh",
            (Cookie::Refresh, false) => "refresh",
        }
    }
}

/// Whether a page of this server made the request, or the person at the browser did: `Sec-Fetch-Site` says so (W3C Fetch
/// Metadata), or, in a browser that does not send it, `Origin` names the host that was asked. A request with neither is
/// foreign.
pub fn same_origin(connection: Connection, headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(ORIGIN), text(HOST)) else { return false };
    let authority = match connection.encrypted {
        true => origin.strip_prefix("https://"),
        // A proxy in front may speak TLS.
        false => origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")),
    };
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// Whether a cookie alone does not do: the request may change something, or opens a socket that could.
pub(crate) fn needs_same_origin(method: &Method, headers: &HeaderMap) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) || headers.contains_key(UPGRADE)
}

/// `cookie-octet` of RFC 6265 §4.1.1.
fn is_octet(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\')
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn at(encrypted: bool) -> Connection {
        Connection { peer: ([127, 0, 0, 1], 1).into(), encrypted }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair =
            |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_cookie_is_set_read_and_taken_away() {
        let (tls, plain) = (Cookies::of(at(true)), Cookies::of(at(false)));
        let value = Secret::new("ua_a_B-c_d");
        let header = tls.set(Cookie::Session, &value, Duration::from_secs(900)).unwrap();
        assert!(header.is_sensitive());
        assert_eq!(
            header.to_str().unwrap(),
            "__Host-session=ua_a_B-c_d; Path=/; Max-Age=900; HttpOnly; SameSite=Lax; Secure"
        );
        let header = plain.set(Cookie::Refresh, &value, Duration::from_secs(1)).unwrap();
        assert_eq!(header.to_str().unwrap(), "refresh=ua_a_B-c_d; Path=/; Max-Age=1; HttpOnly; SameSite=Lax");
        assert!(tls.clear(Cookie::Refresh).to_str().unwrap().starts_with("__Host-refresh=; Path=/; Max-Age=0;"));
        for bad in ["a b", "a;b", "a\nb", "a\"b", "ä", "a,b", "a\\b"] {
            assert!(tls.set(Cookie::Session, &Secret::new(bad), Duration::ZERO).is_none(), "{bad}");
        }
        let sent = headers(&[("cookie", "a=b; __Host-session=ua_x; session=ua_y"), ("cookie", "refresh=ur_z")]);
        assert_eq!(tls.read(Cookie::Session, &sent).unwrap().expose(), "ua_x");
        assert_eq!(plain.read(Cookie::Session, &sent).unwrap().expose(), "ua_y");
        assert_eq!(plain.read(Cookie::Refresh, &sent).unwrap().expose(), "ur_z");
        assert!(tls.read(Cookie::Refresh, &sent).is_none(), "set without TLS");
        for bad in ["session=a; session=b", "session=", "session", "xsession=a", "Session=a"] {
            assert!(plain.read(Cookie::Session, &headers(&[("cookie", bad)])).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_foreign_request_is_told_from_an_own_one() {
        let host = ("host", "cloud.example:8443");
        for (sent, own) in [
            (vec![("sec-fetch-site", "same-origin")], true),
            (vec![("sec-fetch-site", "none")], true),
            (vec![("sec-fetch-site", "same-site")], false),
            (vec![("sec-fetch-site", "cross-site"), ("origin", "https://cloud.example:8443")], false),
            (vec![("sec-fetch-site", "")], false),
            (vec![("origin", "https://cloud.example:8443")], true),
            (vec![("origin", "https://Cloud.Example:8443")], true),
            (vec![("origin", "http://cloud.example:8443")], false),
            (vec![("origin", "https://cloud.example")], false),
            (vec![("origin", "https://cloud.example:8443.evil.example")], false),
            (vec![("origin", "null")], false),
            (vec![], false),
        ] {
            let headers = headers(&[&sent[..], &[host]].concat());
            assert_eq!(same_origin(at(true), &headers), own, "{sent:?}");
        }
        let local = headers(&[("origin", "http://127.0.0.1:8080"), ("host", "127.0.0.1:8080")]);
        assert!(same_origin(at(false), &local) && !same_origin(at(true), &local));
        assert!(!same_origin(at(false), &headers(&[("origin", "http://a")])), "no host");
    }

    #[test]
    fn what_may_change_something_needs_the_proof() {
        let none = HeaderMap::new();
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert!(!needs_same_origin(&method, &none));
            assert!(needs_same_origin(&method, &headers(&[("upgrade", "websocket")])));
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            assert!(needs_same_origin(&method, &none));
        }
    }
}
