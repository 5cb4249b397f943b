use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::{Error, phc::PasswordHash},
};
use data_encoding::BASE64_NOPAD;
use iot_core::{secret::Secret, store::StoreError};
use tokio::sync::Semaphore;

use super::random_bytes;
use crate::auth::AuthError;

/// The shortest password, in bytes of UTF-8.
pub const PASSWORD_BYTES_MIN: usize = 8;
/// The longest password, in bytes of UTF-8. All of them count.
pub const PASSWORD_BYTES_MAX: usize = 1_024;
/// How many passwords are hashed at once by default; each takes 19 MiB.
pub const HASHES_MAX: usize = 2;
/// How many wait for their turn; a further one is refused as busy.
pub const HASHES_WAITING_MAX: usize = 64;
/// The longest that one waits for its turn; then it is refused as busy.
pub const HASH_WAIT_MAX: Duration = Duration::from_secs(5);

/// argon2id as OWASP's Password Storage Cheat Sheet asks: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1_024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// What is tried first by everybody who guesses, in lower case, in order of bytes.
const COMMON: &str = include_str!("common_passwords.txt");

/// A text that is, or could be, a password. It is compared byte by byte: nothing is trimmed, folded or cut.
#[derive(Debug, Clone)]
pub struct Password(Secret);

/// The text may not become a password (NIST SP 800-63B-4, §3.1.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeakPassword {
    /// Too short, too long, or with a zero byte.
    #[error("a password has {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes and no zero byte")]
    Length,
    /// One of those that are guessed first, in whatever case and with whatever digits and signs behind it.
    #[error("this is one of the passwords that are guessed first: take several words of your own")]
    Common,
}

impl Password {
    /// Checks a text that is to become a password.
    pub fn parse(text: &Secret) -> Result<Self, WeakPassword> {
        let password = Self::shown(text).ok_or(WeakPassword::Length)?;
        if is_common(text.expose()) { Err(WeakPassword::Common) } else { Ok(password) }
    }

    /// A text that somebody shows as a password; `None` for what cannot be one.
    pub(super) fn shown(text: &Secret) -> Option<Self> {
        let bytes = text.expose().as_bytes();
        let good = (PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&bytes.len()) && !bytes.contains(&0);
        good.then(|| Self(text.clone()))
    }
}

fn is_common(text: &str) -> bool {
    let text = text.to_lowercase();
    let word = text.trim_end_matches(|last: char| !last.is_alphabetic());
    COMMON.lines().any(|common| common == text || common == word)
}

/// What passwords have cost since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordWork {
    /// Hashes made, for comparing or storing.
    pub hashes: u64,
    /// The most at one time.
    pub at_once_max: usize,
    /// Refused because too many waited, or for too long.
    pub refused: u64,
}

/// Whether a password is the right one.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    Right {
        /// The stored hash was made with less work than is asked today.
        weak: bool,
    },
    Wrong,
}

/// Hashes on threads that may block, as many at once as its permits. A flood takes permits × 19 MiB and no more.
pub(super) struct HashPool {
    permits: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// Of no password: compared with where there is no account, so that it costs the same.
    nobody: String,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    hashes: AtomicU64,
    running: AtomicUsize,
    at_once_max: AtomicUsize,
    refused: AtomicU64,
}

impl HashPool {
    pub(super) fn new(hashes_max: usize) -> Self {
        let permits = hashes_max.max(1);
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            places: Arc::new(Semaphore::new(permits + HASHES_WAITING_MAX)),
            nobody: nobody(),
            counts: Arc::default(),
        }
    }

    pub(super) fn work(&self) -> PasswordWork {
        let Counts { hashes, at_once_max, refused, .. } = &*self.counts;
        PasswordWork {
            hashes: hashes.load(Ordering::Relaxed),
            at_once_max: at_once_max.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
        }
    }

    /// For the store, as a PHC string.
    pub(super) async fn hash(&self, password: &Password) -> Result<String, AuthError> {
        let (password, salt) = (password.0.clone(), random_bytes::<SALT_BYTES>()?);
        let hashed = move || hasher().hash_password_with_salt(password.expose().as_bytes(), &salt);
        let hash: PasswordHash = self.run(hashed).await?.map_err(|_| AuthError::Random)?;
        Ok(hash.to_string())
    }

    /// Compares with a stored hash, or, at the same cost, with that of nobody.
    pub(super) async fn compare(&self, password: &Password, stored: Option<&str>) -> Result<Compared, AuthError> {
        let (password, text) = (password.0.clone(), stored.unwrap_or(&self.nobody).to_owned());
        let compared = self.run(move || compare(&password, &text)).await?;
        let damaged =
            |error: Error| StoreError::Damaged { backend: "records", what: format!("password hash: {error}") };
        Ok(compared.map_err(damaged)?)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, AuthError> {
        let busy = || {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            AuthError::Busy
        };
        let place = self.places.clone().try_acquire_owned().map_err(|_| busy())?;
        let waited = tokio::time::timeout(HASH_WAIT_MAX, self.permits.clone().acquire_owned()).await;
        let permit = waited.ok().and_then(Result::ok).ok_or_else(busy)?;
        let counts = self.counts.clone();
        // The thread holds its permit also when nobody waits for it any more.
        let ended = tokio::task::spawn_blocking(move || {
            let _held = (place, permit);
            let running = counts.running.fetch_add(1, Ordering::Relaxed) + 1;
            counts.at_once_max.fetch_max(running, Ordering::Relaxed);
            counts.hashes.fetch_add(1, Ordering::Relaxed);
            let result = work();
            counts.running.fetch_sub(1, Ordering::Relaxed);
            result
        });
        ended.await.map_err(|_| AuthError::Busy)
    }
}

impl fmt::Debug for HashPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashPool").field("work", &self.work()).finish_non_exhaustive()
    }
}

fn compare(password: &Secret, stored: &str) -> Result<Compared, Error> {
    let hash = PasswordHash::new(stored).map_err(|_| Error::EncodingInvalid)?;
    match hasher().verify_password(password.expose().as_bytes(), &hash) {
        Ok(()) => Ok(Compared::Right { weak: is_weak(&hash) }),
        Err(Error::PasswordInvalid) => Ok(Compared::Wrong),
        Err(error) => Err(error),
    }
}

fn is_weak(hash: &PasswordHash) -> bool {
    let strong = |params: Params| params.m_cost() >= MEMORY_KIB && params.t_cost() >= PASSES;
    hash.algorithm.as_str() != Algorithm::Argon2id.as_str() || !Params::try_from(hash).is_ok_and(strong)
}

fn hasher() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(HASH_BYTES)).expect("they are within argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// A hash that no password has: its output is zero.
fn nobody() -> String {
    let (salt, hash) = (BASE64_NOPAD.encode(&[1; SALT_BYTES]), BASE64_NOPAD.encode(&[0; HASH_BYTES]));
    format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::parse(&Secret::new(text)).unwrap()
    }

    /// AC-6: nothing is cut, folded or trimmed, and what is too long costs no hash.
    #[tokio::test]
    async fn ac_6_each_byte_of_a_password_counts() {
        let pool = HashPool::new(1);
        let long = "x".repeat(PASSWORD_BYTES_MAX);
        for (set, others) in [
            (long.as_str(), vec![long[1..].to_owned(), format!("{}y", &long[1..])]),
            (&format!("{}a", "p".repeat(72)), vec!["p".repeat(72), format!("{}b", "p".repeat(72))]),
            ("caf\u{e9} au lait", vec!["cafe\u{301} au lait".to_owned(), "CAF\u{c9} au lait".to_owned()]),
            (" spaced  ", vec!["spaced  ".to_owned(), " spaced ".to_owned()]),
        ] {
            let stored = pool.hash(&password(set)).await.unwrap();
            assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
            let right = pool.compare(&password(set), Some(&stored)).await.unwrap();
            assert_eq!(right, Compared::Right { weak: false });
            for other in others {
                assert_eq!(pool.compare(&password(&other), Some(&stored)).await.unwrap(), Compared::Wrong);
            }
        }
        let made = pool.work().hashes;
        for bad in ["1234567".to_owned(), "x".repeat(1_025), "x".repeat(1_000_000), "password\0more".to_owned()] {
            let bad = Secret::new(bad);
            assert!(Password::shown(&bad).is_none());
            assert_eq!(Password::parse(&bad).unwrap_err(), WeakPassword::Length);
        }
        assert_eq!(pool.work().hashes, made);
        assert_eq!(pool.compare(&password("what ever"), None).await.unwrap(), Compared::Wrong);
        assert_eq!(pool.work().hashes, made + 1, "nobody costs as much as somebody");
        assert!(pool.compare(&password("what ever"), Some("plain")).await.is_err());
    }

    #[test]
    fn what_everybody_guesses_is_no_password_but_can_be_shown() {
        for common in ["password", "Password1!", "PASSWORD2026", "12345678", "qwertyuiop", "Trustno1", "xxxxxxxx"] {
            let common = Secret::new(common);
            assert_eq!(Password::parse(&common).unwrap_err(), WeakPassword::Common);
            assert!(Password::shown(&common).is_some(), "accounts made before this rule sign in");
        }
        for own in ["my password is long", "tidy lantern 77", "passwords!", "1234 rue x"] {
            assert!(Password::parse(&Secret::new(own)).is_ok(), "{own}");
        }
        assert!(COMMON.lines().is_sorted() && COMMON.lines().all(|line| line.len() >= PASSWORD_BYTES_MIN));
    }

    /// AC-5: a flood is hashed by as many threads as there are permits, and what does not fit is refused.
    #[tokio::test]
    async fn ac_5_a_flood_takes_no_more_than_its_permits() {
        const FLOOD: usize = 2 * HASHES_WAITING_MAX;
        let pool = Arc::new(HashPool::new(2));
        let tries: Vec<_> = (0..FLOOD)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.compare(&password("what ever"), None).await })
            })
            .collect();
        let mut refused = 0;
        for attempt in tries {
            refused += u64::from(matches!(attempt.await.unwrap(), Err(AuthError::Busy)));
        }
        let work = pool.work();
        assert!(refused >= (FLOOD - HASHES_WAITING_MAX - 2) as u64);
        assert_eq!((work.refused, work.hashes), (refused, FLOOD as u64 - refused));
        assert!(work.at_once_max <= 2, "{work:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_refused() {
        let pool = HashPool::new(1);
        let held = pool.permits.clone().acquire_owned().await.unwrap();
        let since = tokio::time::Instant::now();
        assert!(matches!(pool.compare(&password("what ever"), None).await, Err(AuthError::Busy)));
        assert_eq!((since.elapsed().as_secs(), pool.work().hashes), (HASH_WAIT_MAX.as_secs(), 0));
        drop(held);
        assert_eq!(pool.compare(&password("what ever"), None).await.unwrap(), Compared::Wrong);
    }
}
