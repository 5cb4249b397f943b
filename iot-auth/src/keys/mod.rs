//! The key ring of a single machine: a file that only its owner may read.
//!
//! Whoever has the file can open what the ring sealed; whoever loses it must claim the devices and issue the tokens anew. It
//! belongs into a backup of its own, apart from the data.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hmac, rand,
};
use data_encoding::{BASE64, HEXLOWER};
use iot_core::{
    keys::{KeyError, KeyRing, Purpose},
    secret::Secret,
};
use serde::{Deserialize, Serialize};

use crate::files::{SetupError, create_folder, read_private, write_private};

/// The file's name in the data folder.
pub const FILE_NAME: &str = "keyring.json";

const FORMAT: u16 = 1;
const KEY_BYTES: usize = 32;
const SEALED_FORMAT: u8 = 1;
const HEADER_BYTES: usize = 1 + 4 + NONCE_LEN;

/// Seals with AES-256-GCM under the newest of its keys and a random nonce, opens with any of them, and makes codes with
/// HMAC-SHA256. A key seals at most 2³² times safely (NIST SP 800-38D §8.3): far above what a machine asks of it, and
/// [`rotate`](Self::rotate) begins a new one.
pub struct FileKeyRing {
    path: PathBuf,
    text: RingText,
    sealing: BTreeMap<u32, RandomizedNonceKey>,
    coding: hmac::Key,
}

/// As in the file.
#[derive(Clone, Serialize, Deserialize)]
struct RingText {
    format: u16,
    /// Number of the code key. A new one would make every token unknown; there is only ever one.
    code_id: u32,
    code_key: String,
    /// By number; the highest seals.
    seal_keys: BTreeMap<u32, String>,
}

impl FileKeyRing {
    /// Opens the ring of a data folder, or makes both if there is none. Blocks on the file system.
    pub fn open_or_create(folder: &Path) -> Result<Self, SetupError> {
        let path = folder.join(FILE_NAME);
        if let Some(bytes) = read_private(&path)? {
            let text: RingText = serde_json::from_slice(&bytes).map_err(|e| SetupError::broken(&path, &e))?;
            return Self::from_text(path, text);
        }
        create_folder(folder)?;
        let seal_keys = [(1, new_key()?)].into();
        let ring = Self::from_text(path, RingText { format: FORMAT, code_id: 1, code_key: new_key()?, seal_keys })?;
        ring.write()?;
        Ok(ring)
    }

    /// Begins a new sealing key; what older ones sealed stays readable. Blocks on the file system.
    pub fn rotate(&mut self) -> Result<(), SetupError> {
        let mut text = self.text.clone();
        let newest = text.seal_keys.last_key_value().map_or(0, |(id, _)| *id);
        text.seal_keys.insert(newest + 1, new_key()?);
        let rotated = Self::from_text(self.path.clone(), text)?;
        rotated.write()?;
        *self = rotated;
        Ok(())
    }

    fn from_text(path: PathBuf, text: RingText) -> Result<Self, SetupError> {
        let broken = |what: &str| SetupError::broken(&path, &what);
        if text.format != FORMAT {
            return Err(broken(&format!("format {} is not of this version", text.format)));
        }
        let read = |key: &String| BASE64.decode(key.as_bytes()).ok().filter(|key| key.len() == KEY_BYTES);
        let sealing = |key: &String| read(key).and_then(|key| RandomizedNonceKey::new(&AES_256_GCM, &key).ok());
        let sealing: Option<BTreeMap<_, _>> =
            text.seal_keys.iter().map(|(id, key)| Some((*id, sealing(key)?))).collect();
        let sealing = sealing.filter(|keys| !keys.is_empty()).ok_or_else(|| broken("seal_keys is damaged"))?;
        let coding = read(&text.code_key).ok_or_else(|| broken("code_key is damaged"))?;
        let coding = hmac::Key::new(hmac::HMAC_SHA256, &coding);
        Ok(Self { path, text, sealing, coding })
    }

    fn write(&self) -> Result<(), SetupError> {
        let text = Secret::new(serde_json::to_string_pretty(&self.text).map_err(SetupError::crypto)?);
        write_private(&self.path, text.expose().as_bytes())
    }
}

#[async_trait]
impl KeyRing for FileKeyRing {
    async fn seal(&self, purpose: Purpose, context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, KeyError> {
        let (id, key) = self.sealing.last_key_value().ok_or_else(|| unavailable("the ring has no key"))?;
        let mut ciphertext = plaintext.to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(bound_to(purpose, context)), &mut ciphertext)
            .map_err(|_| unavailable("sealing failed"))?;
        Ok([&[SEALED_FORMAT], id.to_be_bytes().as_slice(), nonce.as_ref(), &ciphertext].concat())
    }

    async fn open(&self, purpose: Purpose, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
        let (header, ciphertext) = sealed.split_at_checked(HEADER_BYTES).ok_or(KeyError::Unopenable)?;
        let (&[SEALED_FORMAT, a, b, c, d], nonce) = header.split_first_chunk().ok_or(KeyError::Unopenable)? else {
            return Err(KeyError::Unopenable);
        };
        let key = self.sealing.get(&u32::from_be_bytes([a, b, c, d])).ok_or(KeyError::Unopenable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KeyError::Unopenable)?;
        let mut text = ciphertext.to_vec();
        let plaintext = key
            .open_in_place(nonce, Aad::from(bound_to(purpose, context)), &mut text)
            .map_err(|_| KeyError::Unopenable)?
            .len();
        text.truncate(plaintext);
        Ok(text)
    }

    async fn code(&self, purpose: Purpose, data: &[u8]) -> Result<String, KeyError> {
        let tag = hmac::sign(&self.coding, &bound_to(purpose, data));
        Ok(format!("{}.{}", self.text.code_id, HEXLOWER.encode(tag.as_ref())))
    }
}

impl fmt::Debug for FileKeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileKeyRing").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Names of purposes contain no zero byte, so that no two pairs read the same.
fn bound_to(purpose: Purpose, context: &[u8]) -> Vec<u8> {
    [purpose.name().as_bytes(), &[0], context].concat()
}

fn new_key() -> Result<String, SetupError> {
    let mut key = [0; KEY_BYTES];
    rand::fill(&mut key).map_err(SetupError::crypto)?;
    Ok(BASE64.encode(&key))
}

fn unavailable(what: &'static str) -> KeyError {
    KeyError::Unavailable(what.into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_ring_opens_what_it_sealed_also_after_a_restart_and_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let mut ring = FileKeyRing::open_or_create(folder.path()).unwrap();
        let sealed = ring.seal(Purpose::Response, b"c", b"text").await.unwrap();
        let code = ring.code(Purpose::TokenHash, b"x").await.unwrap();
        ring.rotate().unwrap();
        let newer = ring.seal(Purpose::Response, b"c", b"text").await.unwrap();
        assert_ne!(sealed[..5], newer[..5], "another key");
        let again = FileKeyRing::open_or_create(folder.path()).unwrap();
        for sealed in [&sealed, &newer] {
            assert_eq!(again.open(Purpose::Response, b"c", sealed).await.unwrap(), b"text");
        }
        assert_eq!(again.code(Purpose::TokenHash, b"x").await.unwrap(), code);
    }

    #[tokio::test]
    async fn what_was_altered_or_meant_for_something_else_stays_closed() {
        let folder = tempfile::tempdir().unwrap();
        let ring = FileKeyRing::open_or_create(folder.path()).unwrap();
        let sealed = ring.seal(Purpose::Response, b"c", b"text").await.unwrap();
        assert!(ring.open(Purpose::PrivateKey, b"c", &sealed).await.is_err());
        assert!(ring.open(Purpose::Response, b"d", &sealed).await.is_err());
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(ring.open(Purpose::Response, b"c", &altered).await.is_err(), "byte {at}");
            assert!(ring.open(Purpose::Response, b"c", &sealed[..at]).await.is_err(), "length {at}");
        }
        let codes = [
            ring.code(Purpose::TokenHash, b"x").await.unwrap(),
            ring.code(Purpose::Response, b"x").await.unwrap(),
            ring.code(Purpose::TokenHash, b"y").await.unwrap(),
        ];
        assert!(codes[0] != codes[1] && codes[0] != codes[2]);
        assert!(!format!("{ring:?}").contains(&ring.text.code_key));
    }

    #[test]
    fn a_broken_file_is_refused_with_one_line_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        drop(FileKeyRing::open_or_create(folder.path()).unwrap());
        let path = folder.path().join(FILE_NAME);
        let whole = fs::read_to_string(&path).unwrap();
        for broken in ["", "{", &whole[..whole.len() / 2], &whole.replace("\"format\": 1", "\"format\": 9")] {
            fs::write(&path, broken).unwrap();
            let error = FileKeyRing::open_or_create(folder.path()).unwrap_err().to_string();
            assert!(error.contains(FILE_NAME) && error.contains("restore") && !error.contains('\n'), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), broken);
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        drop(FileKeyRing::open_or_create(folder.path()).unwrap());
        let path = folder.path().join(FILE_NAME);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(FileKeyRing::open_or_create(folder.path()).unwrap_err().to_string().contains("chmod 600"));
    }
}
