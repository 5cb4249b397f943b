//! Where a webhook points: a URL that has been read, and the rules that need no network.

use std::net::{IpAddr, SocketAddr};

use hyper::http::{Uri, uri::PathAndQuery};

use super::address::is_global;

/// The longest URL of a webhook, in bytes.
pub const URL_BYTES_MAX: usize = 2_048;

/// Ports of services that understand something in what a webhook could be made to send, or that must never be probed.
const PORTS_BLOCKED: [u16; 30] = [
    0, 7, 9, 19, 21, 22, 23, 25, 53, 69, 110, 111, 123, 135, 137, 139, 143, 161, 389, 445, 465, 514, 587, 636, 993,
    995, 2049, 3306, 5432, 6379,
];

/// The URL is not one that a webhook may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlRefusal {
    /// It cannot be read.
    #[error("{0}")]
    Invalid(&'static str),
    /// It can be read, and must not be used.
    #[error("{0}")]
    Forbidden(&'static str),
    /// Its host has no address now.
    #[error("the host has no address: check its name")]
    Unresolvable,
}

impl UrlRefusal {
    /// Stable, `snake_case`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Invalid(_) => "url_invalid",
            Self::Forbidden(_) => "url_forbidden",
            Self::Unresolvable => "url_unresolvable",
        }
    }
}

/// A URL that may be used, as far as can be said without looking up its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) tls: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// As in the URL: the `Host` of the request.
    pub(super) authority: String,
    pub(super) path: PathAndQuery,
}

impl Endpoint {
    /// Reads a URL. `http` only with `loopback`, and then only to loopback: see [`admits`](Self::admits).
    pub(super) fn parse(url: &str, loopback: bool) -> Result<Self, UrlRefusal> {
        if url.len() > URL_BYTES_MAX {
            return Err(UrlRefusal::Invalid("the URL is too long: at most 2048 bytes"));
        }
        if url.contains('#') {
            return Err(UrlRefusal::Invalid("leave out the part after #"));
        }
        let uri: Uri = url.parse().map_err(|_| UrlRefusal::Invalid("send a URL such as https://example.com/hook"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if loopback => false,
            Some(_) => return Err(UrlRefusal::Forbidden("use https")),
            None => return Err(UrlRefusal::Invalid("send a URL such as https://example.com/hook")),
        };
        let authority = uri.authority().ok_or(UrlRefusal::Invalid("the URL has no host"))?.as_str().to_owned();
        if authority.contains('@') {
            return Err(UrlRefusal::Forbidden("leave credentials out of the URL: deliveries are signed"));
        }
        let host = uri.host().map(|host| host.trim_start_matches('[').trim_end_matches(']').to_owned());
        let host = host.filter(|host| !host.is_empty()).ok_or(UrlRefusal::Invalid("the URL has no host"))?;
        let port = match uri.port() {
            Some(port) => port.as_u16(),
            // What the parser does not take for a port, such as 99999, it leaves out.
            None if uri.host() != Some(authority.as_str()) => {
                return Err(UrlRefusal::Invalid("the URL's port is none"));
            }
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
        };
        if PORTS_BLOCKED.contains(&port) {
            return Err(UrlRefusal::Forbidden("the port belongs to another service: use 443 or one above 1024"));
        }
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self { tls, host, port, authority, path })
    }

    /// The addresses to connect to: `resolved`, if each single one may be reached. One that may not refuses all, so that
    /// an answer with two addresses gets nobody through.
    pub(super) fn admits(&self, resolved: Vec<SocketAddr>, loopback: bool) -> Result<Vec<SocketAddr>, UrlRefusal> {
        if resolved.is_empty() {
            return Err(UrlRefusal::Unresolvable);
        }
        let may_be_reached = |address: &SocketAddr| {
            let ip: IpAddr = address.ip();
            address.port() == self.port && ((self.tls && is_global(ip)) || (loopback && ip.is_loopback()))
        };
        match resolved.iter().all(may_be_reached) {
            true => Ok(resolved),
            false => Err(UrlRefusal::Forbidden("the host is not on the public internet")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_or_refused() {
        let read = Endpoint::parse("https://example.com/hook?a=b", false).unwrap();
        assert_eq!((read.host.as_str(), read.port, read.path.as_str()), ("example.com", 443, "/hook?a=b"));
        let read = Endpoint::parse("https://[2606:4700::1111]:8443", false).unwrap();
        assert_eq!((read.host.as_str(), read.port, read.path.as_str()), ("2606:4700::1111", 8443, "/"));
        let long = format!("https://example.com/{}", "x".repeat(URL_BYTES_MAX));
        for (url, code) in [
            ("", "url_invalid"),
            ("/hook", "url_invalid"),
            ("example.com", "url_invalid"),
            ("https://", "url_invalid"),
            ("https:///x", "url_invalid"),
            ("https://a b/", "url_invalid"),
            ("https://example.com/#x", "url_invalid"),
            ("https://example.com:99999/", "url_invalid"),
            ("https://example.com:/", "url_invalid"),
            (&long, "url_invalid"),
            ("http://example.com/", "url_forbidden"),
            ("ftp://example.com/", "url_forbidden"),
            ("https://u:p@example.com/", "url_forbidden"),
            ("https://u@example.com/", "url_forbidden"),
            ("https://example.com:22/", "url_forbidden"),
            ("https://example.com:0/", "url_forbidden"),
        ] {
            assert_eq!(Endpoint::parse(url, false).map_err(UrlRefusal::code), Err(code), "{url}");
        }
    }

    #[test]
    fn one_inner_address_refuses_all() {
        let at = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let https = Endpoint::parse("https://example.com/", false).unwrap();
        assert!(https.admits(at(&["1.1.1.1:443", "9.9.9.9:443"]), false).is_ok());
        assert!(https.admits(at(&["1.1.1.1:443", "127.0.0.1:443"]), false).is_err());
        assert!(https.admits(at(&["1.1.1.1:22"]), false).is_err(), "the resolver does not choose the port");
        assert_eq!(https.admits(vec![], false), Err(UrlRefusal::Unresolvable));
    }

    #[test]
    fn the_option_for_development_opens_loopback_and_nothing_else() {
        let http = Endpoint::parse("http://localhost:8080/", true).unwrap();
        assert!(http.admits(vec![([127, 0, 0, 1], 8080).into()], true).is_ok());
        for other in [[10, 0, 0, 1], [1, 1, 1, 1], [169, 254, 169, 254]] {
            assert!(http.admits(vec![(other, 8080).into()], true).is_err(), "{other:?}");
        }
    }
}
