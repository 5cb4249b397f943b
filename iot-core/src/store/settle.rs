use super::{Batch, MetaStore, MetaStoreExt, StoreError};

/// How often [`settle`] decides before it gives up.
pub const ATTEMPTS_MAX: u32 = 16;

/// What a decision comes to.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub enum Step<T> {
    /// This, with nothing to write.
    Answer(T),
    /// This, once the batch is committed.
    Commit(Batch, T),
}

/// Others changed the same records again and again. Nothing was written; try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the records changed {ATTEMPTS_MAX} times while the change was decided")]
pub struct Contended;

/// The way of every change of records: `decide` reads and decides, the batch it comes to is committed, and if one of its
/// checks does not hold, because others have changed meanwhile what it was decided by, it is decided again, at most
/// [`ATTEMPTS_MAX`] times.
///
/// ```
/// use iot_core::store::{self, Batch, Contended, Key, MetaStore, Step, StoreError, Write};
///
/// #[derive(Debug, thiserror::Error)]
/// #[error(transparent)]
/// enum Error { Store(#[from] StoreError), Contended(#[from] Contended) }
///
/// /// Makes a record unless it is there.
/// async fn ensure(meta: &dyn MetaStore, key: &Key) -> Result<bool, Error> {
///     store::settle(meta, || async {
///         if meta.get(std::slice::from_ref(key)).await?[0].is_some() {
///             return Ok(Step::Answer(false));
///         }
///         let write = Write::Put { key: key.clone(), format: 1, body: "{}".into(), index_keys: Vec::new() };
///         let checks = vec![store::Check::Absent(key.clone())];
///         Ok(Step::Commit(Batch { checks, writes: vec![write], audit: Vec::new() }, true))
///     })
///     .await
/// }
/// ```
pub async fn settle<T, E, F>(meta: &dyn MetaStore, mut decide: impl FnMut() -> F) -> Result<T, E>
where
    F: Future<Output = Result<Step<T>, E>>,
    E: From<StoreError> + From<Contended>,
{
    for _ in 0..ATTEMPTS_MAX {
        match decide().await? {
            Step::Answer(answer) => return Ok(answer),
            Step::Commit(batch, answer) => {
                if meta.commit_or_conflict(batch).await? {
                    return Ok(answer);
                }
            }
        }
    }
    Err(Contended.into())
}
