//! The seam to people's mailboxes.

use std::fmt;

use async_trait::async_trait;

use crate::secret::Secret;

/// A message to one person, plain text. It may hold codes, so no part of it but the subject is ever shown by `Debug`.
#[derive(Debug, Clone)]
pub struct Mail {
    /// An address as of RFC 5321 §4.1.2, `local@domain`, in ASCII.
    pub to: Secret,
    /// One line, ASCII, without anything secret.
    pub subject: String,
    /// The body; lines end with `\n`.
    pub text: Secret,
}

/// A message was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// The backend cannot be reached or has no room: try again later. The message may have been taken all the same.
    #[error("{backend}: mail cannot be sent now")]
    Unavailable {
        /// Which backend.
        backend: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This message is refused for good: trying again does not help.
    #[error("{backend}: the message is refused")]
    Rejected {
        /// Which backend.
        backend: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Hands messages over.
#[async_trait]
pub trait Mailer: fmt::Debug + Send + Sync + 'static {
    /// Hands one over, at least once: when this returns `Ok`, the message is durable here or with the next server, and a crash
    /// does not lose it; it may come twice. Not cancel-safe: a cancelled message has been taken or not. An implementation
    /// writes neither the address nor the text to a log.
    async fn send(&self, mail: Mail) -> Result<(), MailError>;
}
