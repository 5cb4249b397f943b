use iot_core::{
    access::Principal,
    device::Product,
    home::Home,
    id::HomeId,
    store::{Batch, Document, MetaStoreExt, Step},
};

use crate::auth::{Auth, AuthError};

/// The longest name of a product or home, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// What a `PUT` did.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// There was none.
    Created,
    /// It was there, and is now as was asked.
    Replaced,
    /// It is a home that somebody owns: it is theirs to name.
    Owned,
}

impl Auth {
    /// Creates or changes a product. It becomes one of the tenant of `by`, who may do so, whichever it names.
    pub async fn put_product(&self, by: &Principal, product: Product) -> Result<Put, AuthError> {
        self.put(by, "product_put", &Product { tenant: by.tenant.clone(), ..product }).await
    }

    /// Creates or renames a home of the tenant of `by`, who may do so for the vendor. A home of people is left to them.
    pub async fn put_home(&self, by: &Principal, id: &HomeId, name: &str) -> Result<Put, AuthError> {
        let new = Home::without_owner(by.tenant.clone(), id.clone(), name);
        let key = new.key();
        let put = self
            .settle(|| async {
                let batch = Batch::default().audited(self.done(by, "home_put", &key));
                Ok(match self.meta.find::<Home>(&key).await? {
                    Some(former) if former.document.owner().is_some() => Step::Answer(Put::Owned),
                    Some(former) => Step::Commit(batch.replace(&former, &new), Put::Replaced),
                    None => Step::Commit(batch.create(&new), Put::Created),
                })
            })
            .await?;
        if put == Put::Owned {
            self.refused(self.done(by, "home_put", &key), "home_of_people").await?;
        }
        Ok(put)
    }

    async fn put<T: Document>(&self, by: &Principal, action: &str, document: &T) -> Result<Put, AuthError> {
        let key = document.key();
        self.settle(|| async {
            let batch = Batch::default().audited(self.done(by, action, &key));
            Ok(match self.meta.find::<T>(&key).await? {
                Some(former) => Step::Commit(batch.replace(&former, document), Put::Replaced),
                None => Step::Commit(batch.create(document), Put::Created),
            })
        })
        .await
    }
}
