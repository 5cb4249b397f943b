//! The folder in which one device keeps its key and its certificate.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use iot_core::{
    id::{DeviceId, TenantId},
    secret::Secret,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use x509_parser::pem::parse_x509_pem;

use super::{
    claim::ClaimResponse,
    key::{DeviceKey, InvalidKey},
};

const KEY_FILE: &str = "key.pem";
const CERTIFICATE_FILE: &str = "identity.json";
const FORMAT: u32 = 1;

/// Why a folder could not be used. Only [`IdentityError::Io`] may go away by trying again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file system said no.
    #[error("{path}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what this module wrote: cut off, edited, or of another device. Nothing was changed.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The answer to a claim does not fit the key with which it was asked for; nothing was saved.
    #[error("the cloud's answer is not for this device: {0}")]
    Answer(&'static str),
    /// No key could be made.
    #[error("cannot make a key")]
    Key(#[source] InvalidKey),
}

/// Who a device is, and the proof.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Identity {
    /// Its id within the tenant; the client identifier over MQTT.
    pub device_id: DeviceId,
    /// Whose product it is.
    pub tenant: TenantId,
    /// Its private key, PKCS#8 PEM.
    pub key_pem: Secret,
    /// Its certificate, perhaps followed by intermediate ones, in PEM. It is the certificate of `key_pem`.
    pub certificate_pem: String,
    /// The authority that it trusts, in PEM.
    pub ca_pem: String,
    /// When the certificate ends.
    pub not_after: Timestamp,
}

/// How far a device has come.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a device has nothing, a key, or a key and a certificate")]
pub enum State {
    /// There is nothing yet.
    New,
    /// It has a key. A claim may have been sent, with an answer that was lost.
    Keyed(DeviceKey),
    /// It has its certificate.
    Claimed(Box<Identity>),
}

#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    device_id: DeviceId,
    tenant: TenantId,
    certificate_pem: String,
    ca_pem: String,
    not_after: Timestamp,
}

/// A folder of one device. Its files are readable by their owner only, and each is replaced as a whole: after a crash
/// there is the old file or the new one.
#[derive(Debug)]
pub struct IdentityFolder {
    path: PathBuf,
}

impl IdentityFolder {
    /// Makes the folder where it is missing.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path).map_err(|source| IdentityError::Io { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned() })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is there. A half-written or foreign file is [`IdentityError::Damaged`], never taken for an empty folder.
    pub fn load(&self) -> Result<State, IdentityError> {
        let (key, certificate) = (self.read(KEY_FILE)?, self.read(CERTIFICATE_FILE)?);
        let Some(key) = key.map(Secret::new) else {
            return match certificate {
                None => Ok(State::New),
                Some(_) => Err(self.damaged(KEY_FILE, "it is missing, but the certificate is there")),
            };
        };
        let key = DeviceKey::from_pem(&key).map_err(|error| self.damaged(KEY_FILE, error.to_string()))?;
        let Some(text) = certificate else { return Ok(State::Keyed(key)) };
        let saved: Saved =
            serde_json::from_str(&text).map_err(|error| self.damaged(CERTIFICATE_FILE, error.to_string()))?;
        if saved.format != FORMAT {
            return Err(self.damaged(CERTIFICATE_FILE, format!("format {} instead of {FORMAT}", saved.format)));
        }
        check_certificate(&saved.certificate_pem, &key).map_err(|what| self.damaged(CERTIFICATE_FILE, what))?;
        Ok(State::Claimed(Box::new(identity(&key, saved))))
    }

    /// Makes a key; when this returns it is on disk. Refuses where there is one already.
    pub fn create_key(&self) -> Result<DeviceKey, IdentityError> {
        let path = self.path.join(KEY_FILE);
        if path.exists() {
            return Err(IdentityError::Io { path, source: io::ErrorKind::AlreadyExists.into() });
        }
        let key = DeviceKey::generate().map_err(IdentityError::Key)?;
        self.write(KEY_FILE, key.to_pem().expose().as_bytes())?;
        Ok(key)
    }

    /// Keeps the answer to a claim that was made with `key`; when this returns it is on disk. An answer with a certificate
    /// for another key is refused.
    pub fn save(&self, key: &DeviceKey, answer: ClaimResponse) -> Result<Identity, IdentityError> {
        check_certificate(&answer.certificate, key).map_err(IdentityError::Answer)?;
        let saved = Saved {
            format: FORMAT,
            device_id: answer.device_id,
            tenant: answer.tenant,
            certificate_pem: answer.certificate,
            ca_pem: answer.ca,
            not_after: answer.not_after,
        };
        let text = serde_json::to_vec_pretty(&saved).expect("a struct of texts is valid JSON");
        self.write(CERTIFICATE_FILE, &text)?;
        Ok(identity(key, saved))
    }

    fn read(&self, name: &str) -> Result<Option<String>, IdentityError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(self.damaged(name, "not text")),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IdentityError::Io { path, source }),
        }
    }

    fn write(&self, name: &str, contents: &[u8]) -> Result<(), IdentityError> {
        let path = self.path.join(name);
        replace_file(&path, contents).map_err(|source| IdentityError::Io { path, source })
    }

    fn damaged(&self, name: &str, what: impl Into<String>) -> IdentityError {
        IdentityError::Damaged { path: self.path.join(name), what: what.into() }
    }
}

fn identity(key: &DeviceKey, saved: Saved) -> Identity {
    Identity {
        device_id: saved.device_id,
        tenant: saved.tenant,
        key_pem: key.to_pem(),
        certificate_pem: saved.certificate_pem,
        ca_pem: saved.ca_pem,
        not_after: saved.not_after,
    }
}

fn check_certificate(pem: &str, key: &DeviceKey) -> Result<(), &'static str> {
    let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| "the certificate is not PEM")?;
    let certificate = block.parse_x509().map_err(|_| "the certificate is not X.509")?;
    if certificate.public_key().raw != key.public_key_info() {
        return Err("the certificate is for another key");
    }
    Ok(())
}

/// Replaces a file as a whole, readable by its owner only: after a crash it has the old contents or the new ones, and
/// when this returns the new ones are on disk.
pub fn replace_file(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let new = folder.join(name);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&new)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    fn answer(key: &DeviceKey) -> ClaimResponse {
        let authority = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&authority).unwrap();
        let issuer = Issuer::new(params, authority);
        let subject = KeyPair::from_pem(key.to_pem().expose()).unwrap();
        let certificate = CertificateParams::default().signed_by(&subject, &issuer).unwrap();
        ClaimResponse {
            device_id: DeviceId::parse("lamp").unwrap(),
            tenant: TenantId::parse("acme").unwrap(),
            certificate: certificate.pem(),
            ca: ca.pem(),
            not_after: Timestamp::from_millis(1_800_000_000_000),
        }
    }

    fn folder() -> (tempfile::TempDir, IdentityFolder) {
        let parent = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::open(&parent.path().join("a/0")).unwrap();
        (parent, folder)
    }

    #[test]
    fn a_device_finds_its_key_again_when_the_answer_was_lost_and_then_its_identity() {
        let (_parent, folder) = folder();
        assert!(matches!(folder.load().unwrap(), State::New));
        let key = folder.create_key().unwrap();
        let State::Keyed(again) = folder.load().unwrap() else { panic!("no key") };
        assert_eq!(again.public_key_info(), key.public_key_info());

        let answer = answer(&key);
        let identity = folder.save(&again, answer.clone()).unwrap();
        let State::Claimed(loaded) = folder.load().unwrap() else { panic!("no identity") };
        assert_eq!(loaded.certificate_pem, answer.certificate);
        assert_eq!(loaded.key_pem.expose(), identity.key_pem.expose());
        assert_eq!((&loaded.device_id, loaded.not_after), (&identity.device_id, answer.not_after));
    }

    #[test]
    fn a_second_key_does_not_replace_the_first() {
        let (_parent, folder) = folder();
        let key = folder.create_key().unwrap();
        assert!(matches!(folder.create_key(), Err(IdentityError::Io { .. })));
        let State::Keyed(kept) = folder.load().unwrap() else { panic!("no key") };
        assert_eq!(kept.public_key_info(), key.public_key_info());
    }

    #[test]
    fn a_certificate_for_another_key_is_not_saved() {
        let (_parent, folder) = folder();
        let key = folder.create_key().unwrap();
        let foreign = answer(&DeviceKey::generate().unwrap());
        assert!(matches!(folder.save(&key, foreign), Err(IdentityError::Answer(_))));
        assert!(matches!(folder.load().unwrap(), State::Keyed(_)));
    }

    #[test]
    fn every_cut_off_file_is_recognised() {
        let (_parent, folder) = folder();
        let key = folder.create_key().unwrap();
        let _ = folder.save(&key, answer(&key)).unwrap();
        for name in [KEY_FILE, CERTIFICATE_FILE] {
            let path = folder.path().join(name);
            let whole = fs::read(&path).unwrap();
            let text_end = whole.trim_ascii_end().len();
            for length in (0..text_end).step_by(37).chain([text_end - 1]) {
                fs::write(&path, &whole[..length]).unwrap();
                let outcome = folder.load();
                assert!(matches!(outcome, Err(IdentityError::Damaged { .. })), "{name} cut to {length}: {outcome:?}");
            }
            fs::write(&path, &whole).unwrap();
        }
        fs::remove_file(folder.path().join(KEY_FILE)).unwrap();
        assert!(matches!(folder.load(), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn what_a_crash_left_beside_the_file_changes_nothing() {
        let (_parent, folder) = folder();
        fs::write(folder.path().join("key.pem.new"), "half a k").unwrap();
        assert!(matches!(folder.load().unwrap(), State::New));
        let key = folder.create_key().unwrap();
        let State::Keyed(kept) = folder.load().unwrap() else { panic!("no key") };
        assert_eq!(kept.public_key_info(), key.public_key_info());
    }

    #[cfg(unix)]
    #[test]
    fn others_may_not_read() {
        use std::os::unix::fs::PermissionsExt;
        let (_parent, folder) = folder();
        let key = folder.create_key().unwrap();
        let _ = folder.save(&key, answer(&key)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(folder.path()), 0o700);
        assert_eq!(mode(&folder.path().join(KEY_FILE)), 0o600);
        assert_eq!(mode(&folder.path().join(CERTIFICATE_FILE)), 0o600);
    }
}
