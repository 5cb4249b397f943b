//! Mail to people: a folder of messages by default, SMTP where an operator has a server for it.

mod outbox;
#[cfg(feature = "smtp")]
mod smtp;

pub use self::outbox::{FileOutbox, OUTBOX_MAILS_MAX};
#[cfg(feature = "smtp")]
pub use self::smtp::{SMTP_TIMEOUT, Smtp, SmtpOptions, SmtpSecurity};
