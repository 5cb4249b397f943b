use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// The certificate of listeners: shown to clients that ask for one of its names, or for none, and replaced while they run.
#[derive(Debug)]
pub struct ServerCertificate {
    current: RwLock<Named>,
}

#[derive(Debug)]
struct Named {
    /// In lower case.
    names: BTreeSet<String>,
    key: Arc<CertifiedKey>,
}

impl Named {
    fn new(names: impl IntoIterator<Item = impl AsRef<str>>, key: Arc<CertifiedKey>) -> Self {
        Self { names: names.into_iter().map(|name| name.as_ref().to_ascii_lowercase()).collect(), key }
    }
}

impl ServerCertificate {
    /// For these DNS names. A client that names another one (RFC 6066, section 3) is refused before anything is computed with
    /// the key.
    pub fn new(names: impl IntoIterator<Item = impl AsRef<str>>, key: Arc<CertifiedKey>) -> Self {
        Self { current: RwLock::new(Named::new(names, key)) }
    }

    /// From the next handshake on. Connections go on with what they were shown.
    pub fn replace(&self, names: impl IntoIterator<Item = impl AsRef<str>>, key: Arc<CertifiedKey>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Named::new(names, key);
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let is_ours = hello.server_name().is_none_or(|name| current.names.contains(&name.to_ascii_lowercase()));
        is_ours.then(|| current.key.clone())
    }
}
