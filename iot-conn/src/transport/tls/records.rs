//! TLS 1.3 after the handshake: records (RFC 8446, section 5) with keys from rustls ([`rustls::kernel`]).
//!
//! A connection of rustls holds two AEAD contexts with their tables, which make up most of it. Here they are made of the keys
//! when something is read or written and gone at rest. Key updates (section 4.6.3) and alerts (section 6) are understood;
//! nothing else may follow a handshake that this server takes part in.

use std::io;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::{
    ConnectionTrafficSecrets,
    kernel::KernelConnection,
    server::{ServerConnectionData, UnbufferedServerConnection},
};

use super::{PLAIN_BYTES, Processed, broken};

const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
/// Section 5.2: what a record may hold beyond its plaintext.
const EXPANSION_BYTES_MAX: usize = 256;

/// Section 5.1.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// Section 6.
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// A key update that wants none in return (section 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// So many key updates without application data between them are taken: each costs computing, and an answer.
const KEY_UPDATES_MAX: u8 = 32;

/// Why a connection is ended.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("a record was changed on its way")]
    BadRecordMac,
    #[error("a record is longer than allowed")]
    RecordOverflow,
    #[error("a message that has no place here")]
    UnexpectedMessage,
    #[error("a key update that is none")]
    IllegalParameter,
    #[error("an alert of another length")]
    DecodeError,
    #[error("the keys are used up")]
    InternalError,
    #[error("the client ended the connection with alert {0}")]
    Alerted(u8),
}

impl Fault {
    /// What the client is told; a client that has told is not.
    fn alert(&self) -> Option<u8> {
        match self {
            Self::UnexpectedMessage => Some(10),
            Self::BadRecordMac => Some(20),
            Self::RecordOverflow => Some(22),
            Self::IllegalParameter => Some(47),
            Self::DecodeError => Some(50),
            Self::InternalError => Some(80),
            Self::Alerted(_) => None,
        }
    }
}

/// One direction.
struct Keys {
    secrets: ConnectionTrafficSecrets,
    /// Of the next record.
    number: u64,
    context: Option<LessSafeKey>,
}

impl Keys {
    fn new((number, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        Self { secrets, number, context: None }
    }

    fn parts(&self) -> Option<(&'static Algorithm, &[u8], &[u8])> {
        match &self.secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => Some((&AES_128_GCM, key.as_ref(), iv.as_ref())),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => Some((&AES_256_GCM, key.as_ref(), iv.as_ref())),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                Some((&CHACHA20_POLY1305, key.as_ref(), iv.as_ref()))
            }
            _ => None,
        }
    }

    /// What encrypts or decrypts the next record, and its nonce (section 5.3). A number is never used twice.
    fn next(&mut self) -> Result<(&LessSafeKey, Nonce), Fault> {
        let (algorithm, key, iv) = self.parts().ok_or(Fault::InternalError)?;
        let mut nonce: [u8; NONCE_LEN] = iv.try_into().map_err(|_| Fault::InternalError)?;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.number.to_be_bytes()) {
            *byte ^= number;
        }
        if self.context.is_none() {
            let key = UnboundKey::new(algorithm, key).map_err(|_| Fault::InternalError)?;
            self.context = Some(LessSafeKey::new(key));
        }
        self.number = self.number.checked_add(1).ok_or(Fault::InternalError)?;
        let context = self.context.as_ref().ok_or(Fault::InternalError)?;
        Ok((context, Nonce::assume_unique_for_key(nonce)))
    }
}

/// The records of a connection, both ways.
pub(super) struct Records {
    kernel: KernelConnection<ServerConnectionData>,
    sealing: Keys,
    opening: Keys,
    /// So many records are encrypted with a key (section 5.5).
    records_max: u64,
    key_updates: u8,
}

impl Records {
    /// Takes over once the handshake is done and what it has to say was encoded.
    pub(super) fn new(tls: UnbufferedServerConnection) -> io::Result<Self> {
        let (secrets, kernel) = tls.dangerous_into_kernel_connection().map_err(broken)?;
        let suite = kernel.negotiated_cipher_suite();
        let suite = suite.tls13().ok_or_else(|| broken(Fault::InternalError))?;
        let (sealing, opening) = (Keys::new(secrets.tx), Keys::new(secrets.rx));
        Ok(Self { kernel, sealing, opening, records_max: suite.common.confidentiality_limit, key_updates: 0 })
    }

    /// Drops what can be made again.
    pub(super) fn rest(&mut self) {
        (self.sealing.context, self.opening.context) = (None, None);
    }

    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.sealing.context.is_none() && self.opening.context.is_none()
    }

    #[cfg(test)]
    pub(super) fn set_records_max(&mut self, records_max: u64) {
        self.records_max = records_max;
    }

    /// Takes whole records from the front of `incoming`. After an error, what the client is told is in `outgoing`.
    pub(super) fn process(
        &mut self,
        incoming: &mut [u8],
        plain: &mut dyn FnMut(&[u8]),
        outgoing: &mut Vec<u8>,
    ) -> io::Result<Processed> {
        let mut processed = Processed { consumed: 0, ended: false };
        while !processed.ended {
            match self.take(&mut incoming[processed.consumed..], plain, outgoing) {
                Ok(Some((count, ended))) => {
                    processed.consumed += count;
                    processed.ended = ended;
                }
                Ok(None) => return Ok(processed),
                Err(fault) => {
                    if let Some(alert) = fault.alert() {
                        // If that fails as well, the connection ends without a word.
                        let _told = self.append(ALERT, &[FATAL, alert], outgoing);
                    }
                    return Err(broken(fault));
                }
            }
        }
        // What follows the end is not looked at (section 6.1).
        processed.consumed = incoming.len();
        Ok(processed)
    }

    /// The first record, if it is whole: its length, and whether it was the last.
    fn take(
        &mut self,
        incoming: &mut [u8],
        plain: &mut dyn FnMut(&[u8]),
        outgoing: &mut Vec<u8>,
    ) -> Result<Option<(usize, bool)>, Fault> {
        let Some((header, rest)) = incoming.split_first_chunk_mut::<HEADER_BYTES>() else { return Ok(None) };
        let [outer, _, _, length @ ..] = *header;
        let length = usize::from(u16::from_be_bytes(length));
        if outer != APPLICATION_DATA {
            return Err(Fault::UnexpectedMessage);
        }
        if length > PLAIN_BYTES + EXPANSION_BYTES_MAX {
            return Err(Fault::RecordOverflow);
        }
        let Some(sealed) = rest.get_mut(..length) else { return Ok(None) };
        let (context, nonce) = self.opening.next()?;
        let inner = context.open_in_place(nonce, Aad::from(*header), sealed).map_err(|_| Fault::BadRecordMac)?;
        let end = inner.iter().rposition(|byte| *byte != 0).ok_or(Fault::UnexpectedMessage)?;
        let (kind, content) = (inner[end], &inner[..end]);
        if content.len() > PLAIN_BYTES {
            return Err(Fault::RecordOverflow);
        }
        let mut ended = false;
        match (kind, content) {
            (APPLICATION_DATA, content) => {
                self.key_updates = 0;
                plain(content);
            }
            (ALERT, &[_, CLOSE_NOTIFY]) => ended = true,
            (ALERT, &[_, USER_CANCELED]) => {}
            (ALERT, &[_, alert]) => return Err(Fault::Alerted(alert)),
            (ALERT, _) => return Err(Fault::DecodeError),
            (HANDSHAKE, &[24, 0, 0, 1, is_wanted]) => self.update(is_wanted, outgoing)?,
            _ => return Err(Fault::UnexpectedMessage),
        }
        Ok(Some((HEADER_BYTES + length, ended)))
    }

    /// The client encrypts with its next key from now on.
    fn update(&mut self, is_wanted: u8, outgoing: &mut Vec<u8>) -> Result<(), Fault> {
        self.key_updates += 1;
        if self.key_updates > KEY_UPDATES_MAX {
            return Err(Fault::UnexpectedMessage);
        }
        self.opening = Keys::new(self.kernel.update_rx_secret().map_err(|_| Fault::InternalError)?);
        match is_wanted {
            0 => Ok(()),
            1 => {
                self.append(HANDSHAKE, &KEY_UPDATE, outgoing)?;
                self.sealing = Keys::new(self.kernel.update_tx_secret().map_err(|_| Fault::InternalError)?);
                Ok(())
            }
            _ => Err(Fault::IllegalParameter),
        }
    }

    /// A record of at most [`PLAIN_BYTES`], at the end of `outgoing`.
    fn append(&mut self, kind: u8, content: &[u8], outgoing: &mut Vec<u8>) -> Result<(), Fault> {
        let start = outgoing.len();
        outgoing.resize(start + HEADER_BYTES + content.len() + 1 + TAG_BYTES, 0);
        self.seal(kind, content, &mut outgoing[start..]).map(drop)
    }

    /// Encrypts `content`, with a new key when the old one has served; answers how long it has become in `space`. An empty
    /// `space` of [`super::RECORD_BYTES`] is enough for [`PLAIN_BYTES`].
    pub(super) fn encrypt(&mut self, content: &[u8], space: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        if self.sealing.number >= self.records_max {
            count = self.seal(HANDSHAKE, &KEY_UPDATE, space).map_err(broken)?;
            self.sealing = Keys::new(self.kernel.update_tx_secret().map_err(broken)?);
        }
        let rest = space.get_mut(count..).unwrap_or_default();
        Ok(count + self.seal(APPLICATION_DATA, content, rest).map_err(broken)?)
    }

    /// Says that nothing more comes.
    pub(super) fn close(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.seal(ALERT, &[WARNING, CLOSE_NOTIFY], space).map_err(broken)
    }

    fn seal(&mut self, kind: u8, content: &[u8], space: &mut [u8]) -> Result<usize, Fault> {
        let inner = content.len() + 1;
        let length = u16::try_from(inner + TAG_BYTES).map_err(|_| Fault::InternalError)?;
        let [high, low] = length.to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        let record = space.get_mut(..HEADER_BYTES + usize::from(length)).ok_or(Fault::InternalError)?;
        let (front, sealed) = record.split_at_mut(HEADER_BYTES);
        let (plain, tag) = sealed.split_at_mut(inner);
        front.copy_from_slice(&header);
        plain[..content.len()].copy_from_slice(content);
        plain[content.len()] = kind;
        let (context, nonce) = self.sealing.next()?;
        let sealed = context.seal_in_place_separate_tag(nonce, Aad::from(header), plain);
        tag.copy_from_slice(sealed.map_err(|_| Fault::InternalError)?.as_ref());
        Ok(HEADER_BYTES + usize::from(length))
    }
}
