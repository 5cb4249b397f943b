//! People: accounts, sign-ins, mailed codes, and who of them works for the vendor.
//!
//! An address is stored sealed and found by a keyed code, a password as argon2id, tokens as keyed codes: a copy of the store
//! alone signs nobody in and names nobody. Whether an address has an account is never told: not by an answer, and not by the
//! work that it takes to give it.
//!
//! A sign-in (`Login`) stands for as long as its record does and carries the account's epoch. It has an access token, which
//! names account, sign-in and epoch and is good for [`ACCESS_VALIDITY`], and a refresh token, which is exchanged for a new pair
//! and is then used up. A new password, a reset or signing out everywhere increment the epoch: whatever carries an older one is
//! dead at once, on every node.

mod access;
mod code;
mod email;
mod export;
mod login;
mod own;
mod password;
mod record;
mod refresh;
mod register;
mod reset;
mod staff;
mod throttle;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::rand;
use data_encoding::BASE32_NOPAD;
use iot_core::{
    mail::{Mail, Mailer},
    secret::Secret,
    time::Timestamp,
};
use tokio::sync::Semaphore;

pub(crate) use self::access::{AccessToken, is_access_token, login_depends_on};
use self::password::HashPool;
pub(crate) use self::throttle::Limit;
pub use self::{
    access::ACCESS_VALIDITY,
    code::{CODE_TRIES_MAX, CODE_VALIDITY},
    email::{EMAIL_BYTES_MAX, EmailAddress, InvalidEmail},
    export::{
        AUDIT_EXPORTED_MAX, AUDIT_SEARCHED_MAX, AccountExport, AccountProfile, HomeExport, InviteExport, LoginExport,
        SessionExport,
    },
    login::{LoggedIn, SignedIn},
    own::{Deleted, PasswordChanged},
    password::{
        HASH_WAIT_MAX, HASHES_MAX, HASHES_WAITING_MAX, PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN, Password, PasswordWork,
        WeakPassword,
    },
    record::{Account, LABEL_BYTES_MAX, LOGIN_IDLE_MAX, LOGIN_VALIDITY_MAX, LOGINS_MAX, Login, NAME_BYTES_MAX},
    refresh::{REFRESH_GRACE, Refreshed},
    register::{PENDING_MAX, Registered, Verified},
    reset::{ResetAsked, ResetDone},
    staff::{StaffCreated, StaffSet},
    throttle::{THROTTLED_MAX, Throttle},
};
use crate::{
    auth::{Auth, AuthError},
    token::random_text,
};

/// How often one network may fail to sign in to one account within [`SIGN_IN_PERIOD`].
pub const SIGN_IN_TRIES_MAX: u32 = 10;
/// How often one network may fail to sign in to any account within [`SIGN_IN_PERIOD`].
pub const SIGN_IN_TRIES_PER_NETWORK_MAX: u32 = 100;
/// See [`SIGN_IN_TRIES_MAX`].
pub const SIGN_IN_PERIOD: Duration = Duration::from_secs(15 * 60);
/// How many messages one address gets within an hour; further ones are not sent, and nobody is told.
pub const MAILS_PER_HOUR_MAX: u32 = 5;
/// How many accounts one network may begin within an hour.
pub const REGISTRATIONS_PER_HOUR_MAX: u32 = 20;
/// How many resets one node works on at once; a further one is refused as busy.
pub const RESETS_AT_ONCE_MAX: usize = 64;

const HOUR: Duration = Duration::from_secs(3_600);

/// How accounts behave.
#[derive(Debug, Clone)]
pub struct AccountOptions {
    /// Whether a code that is mailed to the address must come back before there is an account. Without it anybody can have an
    /// account under any address.
    pub verify_email: bool,
    /// How many password hashes are made at once: each takes 19 MiB.
    pub hashes_max: usize,
    /// The name of the service in mail.
    pub service_name: String,
}

impl Default for AccountOptions {
    fn default() -> Self {
        Self { verify_email: true, hashes_max: HASHES_MAX, service_name: "Your IoT cloud".to_owned() }
    }
}

/// What [`Auth`] keeps in memory for accounts.
pub(crate) struct Accounts {
    options: AccountOptions,
    resets: Arc<Semaphore>,
    mailer: Option<Arc<dyn Mailer>>,
    hashes: HashPool,
    // Small sections, never across an await.
    throttle: Mutex<Throttle>,
    /// Sign-ins of one node do not race each other for the last place of an account.
    signing_in: tokio::sync::Mutex<()>,
}

impl Accounts {
    pub(crate) fn new(options: AccountOptions, mailer: Option<Arc<dyn Mailer>>) -> Self {
        Self {
            resets: Arc::new(Semaphore::new(RESETS_AT_ONCE_MAX)),
            mailer,
            hashes: HashPool::new(options.hashes_max),
            throttle: Mutex::new(Throttle::new(THROTTLED_MAX)),
            signing_in: tokio::sync::Mutex::default(),
            options,
        }
    }

    async fn send(&self, to: &EmailAddress, subject: &str, text: String) -> Result<(), AuthError> {
        let mailer = self.mailer.as_ref().ok_or(AuthError::NoMailer)?;
        let subject = format!("{}: {subject}", self.options.service_name);
        Ok(mailer.send(Mail { to: to.secret().clone(), subject, text: Secret::new(text) }).await?)
    }
}

impl Auth {
    /// With mail to people, and other options than the default. Without a mailer nobody can register or reset a password.
    #[must_use]
    pub fn with_accounts(mut self, options: AccountOptions, mailer: Arc<dyn Mailer>) -> Self {
        self.accounts = Accounts::new(options, Some(mailer));
        self
    }

    /// The work that passwords have cost since the start, for metrics.
    pub fn password_work(&self) -> PasswordWork {
        self.accounts.hashes.work()
    }

    /// Counts a try against a limit; the answer is for how long no further one is allowed.
    pub(crate) fn spend(&self, key: &str, limit: Limit) -> Result<(), Duration> {
        let now = self.clock.monotonic();
        self.accounts.throttle.lock().unwrap_or_else(PoisonError::into_inner).spend(key, limit, now)
    }

    /// Takes a try back that turned out to be a good one.
    pub(crate) fn refund(&self, key: &str) {
        self.accounts.throttle.lock().unwrap_or_else(PoisonError::into_inner).refund(key);
    }

    /// Whether one more message may go to an address.
    fn may_mail(&self, email_code: &str) -> bool {
        let limit = Limit { tries: MAILS_PER_HOUR_MAX, period: HOUR };
        self.spend(&format!("mail {email_code}"), limit).is_ok()
    }
}

/// An id of 80 random bits that parses as any id of core.
fn random_id<T>(parse: impl FnOnce(&str) -> Result<T, iot_core::id::InvalidId>) -> Result<T, AuthError> {
    parse(&random_text::<10>()?).map_err(|_| AuthError::Random)
}

/// At most `bytes_max` bytes of a text, cut between characters, without control characters.
fn bounded(text: &str, bytes_max: usize) -> String {
    let shown = text.chars().filter(|c| !c.is_control());
    shown
        .scan(0, |length, c| {
            *length += c.len_utf8();
            (*length <= bytes_max).then_some(c)
        })
        .collect()
}

fn random_bytes<const BYTES: usize>() -> Result<[u8; BYTES], AuthError> {
    let mut bytes = [0; BYTES];
    rand::fill(&mut bytes).map_err(|_| AuthError::Random)?;
    Ok(bytes)
}

fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

/// The earlier of two times.
fn earlier(a: Timestamp, b: Timestamp) -> Timestamp {
    a.min(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(bounded("a\nbä", 3), "ab");
        assert_eq!(bounded("abä", 4), "abä");
    }
}
