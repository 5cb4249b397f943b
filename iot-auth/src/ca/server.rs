use std::{collections::BTreeSet, path::Path, time::Duration};

use iot_core::{keys::KeyRing, secret::Secret, time::Timestamp};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};

use super::{DAY, DeviceCa, FORMAT, SERVER_VALIDITY, common_name, new_serial, params, seal, unseal};
use crate::files::{SetupError, read_private, write_private};

/// A server's certificate that ends sooner is made anew.
pub const SERVER_RENEWAL: Duration = Duration::from_secs(30 * DAY.as_secs());

/// Names that every server's certificate has.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Certificate and key of the deployment's own server, sealed.
const SEALED_FILE: &str = "server.key";

/// Certificate and private key of a server.
#[derive(Debug, Clone)]
pub struct ServerIdentity {
    /// PEM: the certificate; the authority's own is what peers pin and is not in it.
    pub certificate_pem: String,
    /// PEM, PKCS#8.
    pub key_pem: Secret,
    /// Its end.
    pub not_after: Timestamp,
    /// The DNS names and IP addresses that it is for.
    pub names: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
struct SealedServer {
    format: u16,
    ca_pem: String,
    names: BTreeSet<String>,
    key_pem: String,
    certificate_pem: String,
    not_after: Timestamp,
}

impl DeviceCa {
    /// A new key and its certificate for one year, for the local names and `names` (DNS names or IP addresses).
    pub fn issue_server(&self, names: &[String], now: Timestamp) -> Result<ServerIdentity, SetupError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(SetupError::crypto)?;
        let not_after = now.plus(SERVER_VALIDITY).min(self.not_after);
        let (_, serial) = new_serial().map_err(SetupError::crypto)?;
        let mut params = params(now, not_after, &serial);
        let names = all_names(names);
        let all: Vec<_> = names.iter().cloned().collect();
        params.subject_alt_names = CertificateParams::new(all).map_err(SetupError::crypto)?.subject_alt_names;
        params.distinguished_name = common_name("IoT cloud");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate_pem = self.sign(&params, &key)?;
        Ok(ServerIdentity { certificate_pem, key_pem: Secret::new(key.serialize_pem()), not_after, names })
    }

    /// The server's identity that is kept in a data folder; a new one if there is none, it ends within
    /// [`SERVER_RENEWAL`], other names are asked for, or another authority made it. Blocks on the file system.
    pub async fn server_identity(
        &self,
        folder: &Path,
        keys: &dyn KeyRing,
        names: &[String],
        now: Timestamp,
    ) -> Result<ServerIdentity, SetupError> {
        let path = folder.join(SEALED_FILE);
        if let Some(sealed) = read_private(&path)? {
            let text = unseal(&path, keys, SEALED_FILE, &sealed).await?;
            let kept: SealedServer = serde_json::from_str(text.expose()).map_err(|e| SetupError::broken(&path, &e))?;
            let fits = kept.format == FORMAT && kept.ca_pem == self.certificate_pem && kept.names == all_names(names);
            if fits && kept.not_after.since(now) >= SERVER_RENEWAL {
                let SealedServer { certificate_pem, key_pem, not_after, names, .. } = kept;
                return Ok(ServerIdentity { certificate_pem, key_pem: Secret::new(key_pem), not_after, names });
            }
        }
        let identity = self.issue_server(names, now)?;
        let kept = SealedServer {
            format: FORMAT,
            ca_pem: self.certificate_pem.clone(),
            names: identity.names.clone(),
            key_pem: identity.key_pem.expose().to_owned(),
            certificate_pem: identity.certificate_pem.clone(),
            not_after: identity.not_after,
        };
        let text = Secret::new(serde_json::to_string(&kept).map_err(SetupError::crypto)?);
        write_private(&path, &seal(keys, SEALED_FILE, text.expose()).await?)?;
        Ok(identity)
    }
}

fn all_names(names: &[String]) -> BTreeSet<String> {
    LOCAL_NAMES.into_iter().map(str::to_owned).chain(names.iter().cloned()).collect()
}
