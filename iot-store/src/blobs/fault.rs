use std::{error::Error, io::ErrorKind, iter};

use iot_core::store::BlobError;

/// By what its reader can do about it.
pub(super) fn of(backend: &'static str, error: object_store::Error) -> BlobError {
    let kind = io_kind(&error);
    let denied =
        matches!(error, object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. });
    let source = Box::new(error);
    match kind {
        _ if denied => BlobError::Denied { backend, source },
        Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => BlobError::Denied { backend, source },
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge) => {
            BlobError::Full { backend, source }
        }
        _ => BlobError::Unavailable { backend, source },
    }
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let mut chain = iter::successors(Some(error), |&error| error.source());
    chain.find_map(|error| error.downcast_ref::<std::io::Error>()).map(std::io::Error::kind)
}
