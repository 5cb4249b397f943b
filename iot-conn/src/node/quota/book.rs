//! The quotas of a tenant, in memory.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use iot_core::{
    id::TenantId,
    quota::{Quota, Scope, StoredQuota},
    store::{INDEX_PAGE_MAX, MetaStore, MetaStoreExt, StoreError},
};

use super::QuotaUse;

/// How often reading a book begins again because a quota has changed meanwhile. Then it is used once, as it was read.
const ATTEMPTS_MAX: usize = 3;

/// A quota, and what it has limited.
#[derive(Debug, Clone)]
pub(super) struct Limited {
    pub(super) quota: Quota,
    pub(super) tally: Arc<Tally>,
}

/// What a quota has limited since the node has known of it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) publishes_slowed: AtomicU64,
    pub(super) publishes_refused: AtomicU64,
    pub(super) connections_refused: AtomicU64,
    pub(super) subscriptions_refused: AtomicU64,
}

impl Tally {
    pub(super) fn counted(&self) -> QuotaUse {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        QuotaUse {
            connections: None,
            publishes_slowed: read(&self.publishes_slowed),
            publishes_refused: read(&self.publishes_refused),
            connections_refused: read(&self.connections_refused),
            subscriptions_refused: read(&self.subscriptions_refused),
        }
    }
}

/// The quotas of one tenant. Bounded by [`QUOTAS_MAX`](iot_core::quota::QUOTAS_MAX).
#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    by_scope: HashMap<Scope, Limited>,
}

impl Book {
    pub(super) fn is_empty(&self) -> bool {
        self.by_scope.is_empty()
    }

    pub(super) fn get(&self, scope: &Scope) -> Option<Limited> {
        self.by_scope.get(scope).cloned()
    }

    /// What a scope has limited goes on being counted when its quota is another.
    fn set(&mut self, scope: Scope, quota: Quota) {
        match self.by_scope.get_mut(&scope) {
            Some(known) => known.quota = quota,
            None => _ = self.by_scope.insert(scope, Limited { quota, tally: Arc::default() }),
        }
    }

    async fn read(meta: &dyn MetaStore, tenant: &TenantId) -> Result<Self, StoreError> {
        let (mut book, mut after) = (Self::default(), None);
        loop {
            let page = meta.page::<StoredQuota>("tenant", tenant.as_str(), after.as_ref(), INDEX_PAGE_MAX).await?;
            for stored in page.items {
                book.set(stored.document.scope, stored.document.quota);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(book),
            }
        }
    }
}

/// The books of the tenants that had a connection.
#[derive(Debug, Default)]
pub(super) struct Books {
    // Small sections, never across an await.
    by_tenant: RwLock<HashMap<TenantId, Arc<Book>>>,
    /// Counts the changes, so that a read which began before one is not kept.
    generation: AtomicU64,
}

impl Books {
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn known(&self, tenant: &TenantId) -> Option<Arc<Book>> {
        self.by_tenant.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }

    /// A tenant's, with the generation that it is not older than.
    pub(super) async fn of(&self, meta: &dyn MetaStore, tenant: &TenantId) -> Result<(Arc<Book>, u64), StoreError> {
        let mut attempt = 1;
        loop {
            let generation = self.generation();
            if let Some(book) = self.known(tenant) {
                return Ok((book, generation));
            }
            let book = Arc::new(Book::read(meta, tenant).await?);
            let mut books = self.by_tenant.write().unwrap_or_else(PoisonError::into_inner);
            if self.generation() == generation {
                return Ok((books.entry(tenant.clone()).or_insert(book).clone(), generation));
            }
            if attempt == ATTEMPTS_MAX {
                return Ok((book, generation));
            }
            attempt += 1;
        }
    }

    /// Takes over one change. What cannot be read now is read when it is needed.
    pub(super) async fn refresh(&self, meta: &dyn MetaStore, tenant: &TenantId, scope: &Scope) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        if self.known(tenant).is_none() {
            return;
        }
        let found = meta.find::<StoredQuota>(&StoredQuota::key_of(tenant, scope)).await;
        let mut books = self.by_tenant.write().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(found) => {
                if let Some(book) = books.get_mut(tenant).map(Arc::make_mut) {
                    match found {
                        Some(stored) => book.set(scope.clone(), stored.document.quota),
                        None => _ = book.by_scope.remove(scope),
                    }
                }
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, %tenant, %scope, "a quota cannot be read");
                books.remove(tenant);
            }
        }
        // Also a read that began after the first and before this one is older than what is here now.
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Reads all again, because changes were missed.
    pub(super) async fn reload(&self, meta: &dyn MetaStore) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let tenants: Vec<_> = self.by_tenant.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        for tenant in tenants {
            let read = Book::read(meta, &tenant).await;
            let mut books = self.by_tenant.write().unwrap_or_else(PoisonError::into_inner);
            match (read, books.get(&tenant)) {
                (Ok(mut book), Some(former)) => {
                    for (scope, limited) in &mut book.by_scope {
                        if let Some(former) = former.by_scope.get(scope) {
                            limited.tally = former.tally.clone();
                        }
                    }
                    books.insert(tenant, Arc::new(book));
                }
                (Ok(_), None) => {}
                (Err(error), _) => {
                    tracing::error!(error = &error as &dyn std::error::Error, %tenant, "quotas cannot be read");
                    books.remove(&tenant);
                }
            }
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}
