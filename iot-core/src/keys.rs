//! The seam to the keys that protect what is stored.

use std::fmt;

use async_trait::async_trait;

/// What a key is for. A ciphertext or code made for one purpose is refused for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// Codes of API tokens, claim tokens and passwords that this project generates.
    TokenHash,
    /// Private keys kept at rest, such as the device CA's.
    PrivateKey,
    /// Responses kept for idempotent requests.
    Response,
    /// Addresses of people.
    Email,
    /// Access tokens of accounts.
    AccessToken,
    /// Codes by which devices are bound.
    BindingCode,
    /// Codes by which homes are shared.
    ShareCode,
    /// Secrets with which webhooks are signed.
    WebhookSecret,
    /// Links by which one device loads one image.
    DownloadLink,
}

impl Purpose {
    /// A stable name, part of what is authenticated.
    pub fn name(self) -> &'static str {
        match self {
            Self::TokenHash => "token-hash",
            Self::PrivateKey => "private-key",
            Self::Response => "response",
            Self::Email => "email",
            Self::AccessToken => "access-token",
            Self::BindingCode => "binding-code",
            Self::ShareCode => "share-code",
            Self::WebhookSecret => "webhook-secret",
            Self::DownloadLink => "download-link",
        }
    }
}

/// A key operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The ciphertext was altered, made for another purpose or context, or its key is gone.
    #[error("the ciphertext cannot be opened")]
    Unopenable,
    /// The ring cannot be reached or read; try again or repair it.
    #[error("the key ring is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Seals and authenticates with keys that never leave it. Every result names the key that made it, so that keys can be
/// rotated while older results stay usable. Losing the ring loses what it sealed.
#[async_trait]
pub trait KeyRing: fmt::Debug + Send + Sync + 'static {
    /// Encrypts and authenticates `plaintext`, bound to `purpose` and `context`.
    async fn seal(&self, purpose: Purpose, context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, KeyError>;

    /// Opens what [`seal`](Self::seal) made for the same purpose and context.
    async fn open(&self, purpose: Purpose, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KeyError>;

    /// A keyed code of `data` as text, deterministic for as long as the ring's code key stands: fit to be an index key.
    async fn code(&self, purpose: Purpose, data: &[u8]) -> Result<String, KeyError>;
}
