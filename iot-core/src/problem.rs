//! Errors as applications see them: RFC 9457 problems with a stable code; and the cursor of a list.

use std::borrow::Cow;

use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;

/// A refusal or failure, as problem+json (RFC 9457). `code` is stable and meant for programs; `detail` is for people and
/// may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Stable, `snake_case`.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// One line for people; says what to do where there is something to do.
    pub detail: Cow<'static, str>,
}

impl Problem {
    /// Any problem.
    pub fn new(status: u16, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, status, detail: detail.into() }
    }

    /// 400: the request does not say what it must.
    pub fn invalid(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, code, detail)
    }

    /// 401: no valid credential.
    pub fn unauthenticated() -> Self {
        Self::new(401, "unauthenticated", "send a valid token: Authorization: Bearer <token>")
    }

    /// 403: the principal may not do this, or must not learn whether the thing exists.
    pub fn forbidden() -> Self {
        Self::new(403, "forbidden", "this credential does not permit it")
    }

    /// 404: within what the principal may see, there is no such thing.
    pub fn not_found(what: &str) -> Self {
        Self::new(404, "not_found", format!("no such {what}"))
    }

    /// 409: it contradicts what is there.
    pub fn conflict(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(409, code, detail)
    }

    /// 503: a part behind the server failed; trying again may help. The cause is logged, not told.
    pub fn unavailable() -> Self {
        Self::new(503, "unavailable", "a part of the service failed; try again")
    }
}

/// Where the next page of a list begins: opaque outside, versioned inside. Stays valid while records come and go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(Vec<u8>);

const CURSOR_FORMAT: u8 = 1;

impl Cursor {
    /// After the item with this key.
    pub fn after(key: &[u8]) -> Self {
        Self(key.to_vec())
    }

    /// The key of the last item seen.
    pub fn key(&self) -> &[u8] {
        &self.0
    }

    /// As text for a URL.
    pub fn encode(&self) -> String {
        let mut bytes = vec![CURSOR_FORMAT];
        bytes.extend_from_slice(&self.0);
        BASE64URL_NOPAD.encode(&bytes)
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else.
    pub fn decode(text: &str) -> Option<Self> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        match bytes.split_first() {
            Some((&CURSOR_FORMAT, key)) => Some(Self(key.to_vec())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_refuses_other_text() {
        let cursor = Cursor::after(b"t/lamp");
        assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        assert_eq!(Cursor::decode("!"), None);
        assert_eq!(Cursor::decode(""), None);
    }
}
