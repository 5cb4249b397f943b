//! [`Auth`]: the registry as a node and an HTTP face hold it.

mod authenticate;
mod standing;

use std::{
    fmt,
    path::Path,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use iot_core::{
    access::Principal,
    clock::Clock,
    id::TenantId,
    keys::{KeyError, KeyRing},
    mail::MailError,
    store::{self, Audit, Batch, Contended, Key, MetaStore, MetaStoreExt, SessionStore, Step, StoreError, Stores},
    time::{Monotonic, Timestamp},
};

pub(crate) use self::authenticate::same_code;
use crate::{
    account::{AccountOptions, Accounts},
    ca::{DeviceCa, ServerIdentity},
    files::SetupError,
};

/// The tenant of a deployment that has one only.
pub const DEFAULT_TENANT: &str = "default";

/// How many refusals of strangers are written to the audit log within [`REFUSALS_PERIOD`]. Further ones are counted in one line
/// of the log, so that a flood of bad credentials fills no disk. Refusals of principals are always written.
pub const REFUSALS_MAX: u32 = 600;

/// See [`REFUSALS_MAX`].
pub const REFUSALS_PERIOD: Duration = Duration::from_secs(60);

/// The operation could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// Try again later.
    #[error("the registry's store failed")]
    Store(#[from] StoreError),
    /// Try again later, or repair the ring.
    #[error("the key ring failed")]
    Keys(#[from] KeyError),
    /// The certificate authority failed.
    #[error("the certificate authority failed")]
    Ca(#[from] SetupError),
    /// The mail was not taken: try again later.
    #[error("mail cannot be sent")]
    Mail(#[from] MailError),
    /// Nothing sends mail: give the deployment a mailer.
    #[error("there is no mailer")]
    NoMailer,
    /// Too many ask at once: try again in a second.
    #[error("too many ask at once")]
    Busy,
    /// The system has no randomness.
    #[error("no randomness")]
    Random,
    /// Others changed the same records again and again. Nothing was written; try again.
    #[error(transparent)]
    Contended(#[from] Contended),
}

/// Authenticates, answers for standing principals ([`iot_core::access::Access`]) and keeps the registry. One for a node.
///
/// Nothing is cached: each question is asked of the store.
///
/// ```
/// # async fn example(folder: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use iot_auth::{Auth, ca::DeviceCa, keys::FileKeyRing};
/// use iot_core::{clock::{Clock, SystemClock}, store::Stores};
/// use iot_store::{StoreLimits, memory::Memory};
///
/// let stores = Stores::new(Memory::new(StoreLimits::default()));
/// let clock = Arc::new(SystemClock::default());
/// let keys = Arc::new(FileKeyRing::open_or_create(folder)?);
/// let ca = DeviceCa::open_or_create(folder, &*keys, clock.timestamp()).await?;
/// let auth = Arc::new(Auth::new(&stores, keys, ca, clock));
/// let password = auth.first_start().await?.expect("nobody has started it before");
/// println!("sign in once as admin with {}", password.expose());
/// let authenticator = auth.authenticator();
/// # drop(authenticator);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(example(tempfile::tempdir()?.path()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Auth {
    pub(crate) meta: Arc<dyn MetaStore>,
    /// Those of people, which end with them.
    pub(crate) sessions: Arc<dyn SessionStore>,
    pub(crate) keys: Arc<dyn KeyRing>,
    pub(crate) ca: DeviceCa,
    pub(crate) clock: Arc<dyn Clock>,
    /// Claims of one node do not race each other for uses of a token; between nodes the versions of records decide.
    pub(crate) claiming: tokio::sync::Mutex<()>,
    pub(crate) accounts: Accounts,
    // Small sections, never across an await.
    refusals: Mutex<RefusalBudget>,
}

impl Auth {
    /// Over a deployment's records.
    pub fn new(stores: &Stores, keys: Arc<dyn KeyRing>, ca: DeviceCa, clock: Arc<dyn Clock>) -> Self {
        let refusals = Mutex::new(RefusalBudget::default());
        let accounts = Accounts::new(AccountOptions::default(), None);
        let claiming = tokio::sync::Mutex::default();
        Self {
            meta: stores.meta.clone(),
            sessions: stores.sessions.clone(),
            keys,
            ca,
            clock,
            claiming,
            accounts,
            refusals,
        }
    }

    /// The certificate that devices and applications pin, PEM.
    pub fn ca_pem(&self) -> &str {
        self.ca.certificate_pem()
    }

    /// The server's identity in a data folder, by this authority; a new one if that ends soon. See
    /// [`DeviceCa::server_identity`].
    pub async fn server_identity(&self, folder: &Path, names: &[String]) -> Result<ServerIdentity, SetupError> {
        self.ca.server_identity(folder, &*self.keys, names, self.clock.timestamp()).await
    }

    /// The records that it reads and writes.
    pub fn meta(&self) -> &Arc<dyn MetaStore> {
        &self.meta
    }

    /// The tenant of a deployment that has one only.
    pub fn default_tenant() -> TenantId {
        static TENANT: LazyLock<TenantId> =
            LazyLock::new(|| TenantId::parse(DEFAULT_TENANT).expect("it is an identifier"));
        TENANT.clone()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.timestamp()
    }

    /// An entry that goes into the batch of a change.
    pub(crate) fn done(&self, by: &Principal, action: &str, subject: &Key) -> Audit {
        self.entry(&by.tenant, by, action, subject)
    }

    pub(crate) fn entry(
        &self,
        tenant: &TenantId,
        actor: impl fmt::Display,
        action: &str,
        subject: impl fmt::Display,
    ) -> Audit {
        Audit::done(self.now(), tenant, actor, action, subject)
    }

    /// Records that a principal was refused.
    pub(crate) async fn refused(&self, entry: Audit, why: &str) -> Result<(), AuthError> {
        let entry = entry.refused(why);
        tracing::info!(actor = entry.actor, action = entry.action, subject = entry.subject, why, "refused");
        // Without checks and writes nothing can conflict.
        self.meta.commit_or_conflict(Batch::default().audited(entry)).await?;
        Ok(())
    }

    /// Records that a stranger was refused, within [`REFUSALS_MAX`].
    pub(crate) async fn stranger_refused(&self, entry: Audit, why: &str) -> Result<(), AuthError> {
        let spent = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).spend(self.clock.monotonic());
        match spent {
            Spent::Written => self.refused(entry, why).await,
            Spent::First => {
                tracing::warn!("more than {REFUSALS_MAX} refusals a minute: further ones are not in the audit log");
                Ok(())
            }
            Spent::Further => Ok(()),
        }
    }

    /// Decides and commits until nothing that was decided by has changed in between.
    pub(crate) async fn settle<T, F>(&self, decide: impl FnMut() -> F) -> Result<T, AuthError>
    where
        F: Future<Output = Result<Step<T>, AuthError>>,
    {
        store::settle(&*self.meta, decide).await
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("ca", &self.ca).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct RefusalBudget {
    since: Monotonic,
    spent: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Spent {
    Written,
    First,
    Further,
}

impl RefusalBudget {
    fn spend(&mut self, now: Monotonic) -> Spent {
        if now.since(self.since) >= REFUSALS_PERIOD {
            *self = Self { since: now, spent: 0 };
        }
        self.spent = self.spent.saturating_add(1);
        match self.spent {
            0..=REFUSALS_MAX => Spent::Written,
            n if n == REFUSALS_MAX + 1 => Spent::First,
            _ => Spent::Further,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_written_up_to_its_bound_and_then_again() {
        let mut budget = RefusalBudget::default();
        let written = (0..REFUSALS_MAX + 10).filter(|_| budget.spend(Monotonic::ZERO) == Spent::Written).count();
        assert_eq!(written, REFUSALS_MAX as usize);
        assert_eq!(budget.spend(Monotonic::from_duration(REFUSALS_PERIOD)), Spent::Written);
    }
}
