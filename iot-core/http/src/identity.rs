//! Who asks.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use axum::{
    Router,
    extract::{FromRequestParts, OptionalFromRequestParts, Request, State},
    http::{HeaderMap, header::AUTHORIZATION, request::Parts},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use iot_core::{
    access::{Authentication, BoxAuthenticator, Credentials, Grants, Principal, Proof, Refusal, Subject},
    id::{AccountId, LoginId},
    problem::Problem,
    secret::Secret,
};
use tower::ServiceExt;

use crate::{
    cookie::{Cookie, Cookies, needs_same_origin, same_origin},
    problem::{ProblemResponse, unavailable},
};

/// Who asks, in the extensions of a request once [`authenticate`] has let it in. As an argument of a handler it answers
/// 401 where nobody is known; `Option<Identity>` does not.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who.
    pub principal: Principal,
    /// What they may do, as of this request.
    pub grants: Grants,
}

/// From where a request comes: put into its extensions by the server's accept loop. Without it a request counts as one from
/// elsewhere, never as one from loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// How a request reached the server, for handlers that take credentials themselves. [`authenticate`] puts it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// From where.
    pub peer: SocketAddr,
    /// Whether it is encrypted.
    pub encrypted: bool,
}

impl Connection {
    /// Whether credentials may be shown on it: it is encrypted, or does not leave the machine.
    pub fn is_private(&self) -> bool {
        self.encrypted || self.peer.ip().to_canonical().is_loopback()
    }
}

/// Puts authentication around all routes. `encrypted`: whether the listener in front speaks TLS.
///
/// `Authorization: Bearer` becomes an [`Identity`], and a bad token is answered with 401 at once, on public routes too. Other
/// schemes and requests without the header pass without an identity; guards refuse them. A browser's
/// [`Cookie::Session`] does the same where there is no such header, with two differences: one
/// that is not accepted counts as none, so that a person whose session is over reaches the pages for signing in; and a request
/// that may change something is answered with `403 cross_site` unless a page of this server made it
/// ([`same_origin`]).
pub fn authenticate(router: Router, authenticator: BoxAuthenticator, encrypted: bool) -> Router {
    router.layer(from_fn_with_state((authenticator, encrypted), identify))
}

async fn identify(
    State((authenticator, encrypted)): State<(BoxAuthenticator, bool)>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get().map_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), |Peer(p)| *p);
    let connection = Connection { peer, encrypted };
    request.extensions_mut().insert(connection);
    let headers = request.headers();
    let (shown, cookie) = (bearer(headers), Cookies::of(connection).read(Cookie::Session, headers));
    let own = !needs_same_origin(request.method(), headers) || same_origin(connection, headers);
    let identified = match (shown, cookie) {
        (Some(token), _) => by_bearer(authenticator, connection, token).await.map(Some),
        (None, Some(token)) => by_cookie(authenticator, connection, token, own).await,
        (None, None) => Ok(None),
    };
    match identified {
        Ok(identity) => {
            if let Some(identity) = identity {
                request.extensions_mut().insert(identity);
            }
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn by_bearer(
    authenticator: BoxAuthenticator,
    connection: Connection,
    token: Secret,
) -> Result<Identity, ProblemResponse> {
    match ask(authenticator, connection, token).await? {
        Authentication::Accepted(principal, grants) => Ok(Identity { principal, grants }),
        Authentication::Refused(Refusal::Unencrypted) => {
            let detail = "tokens are accepted over TLS, or from the machine itself";
            Err(Problem::new(401, "unauthenticated", detail).into())
        }
        Authentication::Refused(_) => Err(Problem::unauthenticated().into()),
    }
}

async fn by_cookie(
    authenticator: BoxAuthenticator,
    connection: Connection,
    token: Secret,
    own: bool,
) -> Result<Option<Identity>, ProblemResponse> {
    if !own {
        return Err(Problem::new(403, "cross_site", "another site made this request; open the console itself").into());
    }
    Ok(match ask(authenticator, connection, token).await? {
        Authentication::Accepted(principal, grants) => Some(Identity { principal, grants }),
        Authentication::Refused(_) => None,
    })
}

async fn ask(
    authenticator: BoxAuthenticator,
    Connection { peer, encrypted }: Connection,
    token: Secret,
) -> Result<Authentication, ProblemResponse> {
    let proof = Proof::Token(token);
    let credentials = Credentials { proof, client_id: None, peer, encrypted, anonymous_allowed: false };
    authenticator.oneshot(credentials).await.map_err(|error| unavailable(&*error))
}

/// The token of `Authorization: Bearer`; the scheme's case does not matter (RFC 9110 §11.1). Text that cannot be a token is
/// one that nobody has.
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| Secret::new(String::from_utf8_lossy(token).trim()))
}

impl<S: Sync> FromRequestParts<S> for Identity {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemResponse> {
        parts.extensions.get().cloned().ok_or(ProblemResponse(Problem::unauthenticated()))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Identity {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

/// The account that asks, behind [`Guard::Account`](crate::Guard::Account). As an argument of another route's handler it answers
/// `403 forbidden` to who is no account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Who, as for the audit.
    pub principal: Principal,
    /// Which account of the principal's tenant.
    pub account: AccountId,
    /// By which of its sign-ins.
    pub login: LoginId,
}

impl<S: Sync> FromRequestParts<S> for Person {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemResponse> {
        let identity = parts.extensions.get::<Identity>().ok_or(ProblemResponse(Problem::unauthenticated()))?;
        let principal = identity.principal.clone();
        match &principal.subject {
            Subject::Account { account, login } => {
                Ok(Self { account: account.clone(), login: login.clone(), principal })
            }
            _ => Err(Problem::forbidden().into()),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Connection {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemResponse> {
        parts.extensions.get().copied().ok_or_else(|| {
            tracing::error!("a route is served without `authenticate`");
            ProblemResponse(Problem::unavailable())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &'static str) -> HeaderMap {
        [(AUTHORIZATION, text.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn a_bearer_token_is_read_and_other_schemes_are_left_alone() {
        assert_eq!(bearer(&header("Bearer at_a_b")).unwrap().expose(), "at_a_b");
        assert_eq!(bearer(&header("bearer  x ")).unwrap().expose(), "x");
        for other in ["Basic YTpi", "Bearer", "", "Bearerx y"] {
            assert!(bearer(&header(other)).is_none(), "{other}");
        }
        assert!(bearer(&HeaderMap::new()).is_none());
    }

    #[test]
    fn a_mapped_loopback_address_is_loopback() {
        let at = |text: &str| Connection { peer: text.parse().unwrap(), encrypted: false }.is_private();
        assert!(at("127.0.0.1:1") && at("[::1]:1") && at("[::ffff:127.0.0.1]:1"));
        assert!(!at("0.0.0.0:0") && !at("192.0.2.1:1"));
    }
}
