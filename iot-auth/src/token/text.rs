use aws_lc_rs::rand;
use data_encoding::BASE32_NOPAD;
use iot_core::{code::Code, id::TokenId, secret::Secret};

use crate::AuthError;

/// The length of a token's secret part: 160 random bits in base32.
pub const SECRET_CHARACTERS: usize = 32;

const SECRET_BYTES: usize = SECRET_CHARACTERS * 5 / 8;
const ID_BYTES: usize = 10;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `at_…`: an application asks.
    Api,
    /// `ct_…`: a unit claims its certificate.
    Claim,
}

impl Kind {
    /// What its text begins with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Api => "at",
            Self::Claim => "ct",
        }
    }
}

/// `<prefix>_<token id>_<32 characters>`.
#[derive(Debug, Clone)]
pub struct TokenText {
    /// What it is for.
    pub kind: Kind,
    /// The public part.
    pub id: TokenId,
    /// The part that proves.
    pub secret: Secret,
}

impl TokenText {
    /// A new one.
    pub fn random(kind: Kind) -> Result<Self, AuthError> {
        let id = TokenId::parse(&random_text::<ID_BYTES>()?).map_err(|_| AuthError::Random)?;
        Ok(Self { kind, id, secret: random_secret()? })
    }

    /// Takes a text apart; `None` if it is no token of that kind.
    pub fn parse(kind: Kind, text: &Secret) -> Option<Self> {
        let rest = text.expose().strip_prefix(kind.prefix())?.strip_prefix('_')?;
        let (id, secret) = rest.rsplit_once('_')?;
        let shaped = secret.len() == SECRET_CHARACTERS && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
        shaped.then(|| Some(Self { kind, id: TokenId::parse(id).ok()?, secret: Secret::new(secret) }))?
    }

    /// The whole text, to be shown once.
    pub fn reveal(&self) -> Secret {
        Secret::new(format!("{}_{}_{}", self.kind.prefix(), self.id, self.secret.expose()))
    }
}

/// 160 random bits.
pub(super) fn random_secret() -> Result<Secret, AuthError> {
    random_text::<SECRET_BYTES>().map(Secret::new)
}

pub(crate) fn random_text<const BYTES: usize>() -> Result<String, AuthError> {
    let mut bytes = [0; BYTES];
    rand::fill(&mut bytes).map_err(|_| AuthError::Random)?;
    Ok(BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

/// A new code, to be shown by a device or handed on by people.
pub(crate) fn random_code() -> Result<Code, AuthError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| AuthError::Random)?;
    Ok(Code::from_random(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_as_its_own_kind_only() {
        let token = TokenText::random(Kind::Api).unwrap();
        let text = token.reveal();
        let read = TokenText::parse(Kind::Api, &text).unwrap();
        assert_eq!((&read.id, read.secret.expose()), (&token.id, token.secret.expose()));
        assert_eq!(token.secret.expose().len(), SECRET_CHARACTERS);
        assert!(TokenText::parse(Kind::Claim, &text).is_none());
        assert_ne!(TokenText::random(Kind::Api).unwrap().reveal().expose(), text.expose());
        for bad in ["", "at_", "at__", "at_a_b", &text.expose()[1..], &format!("{}x", text.expose())] {
            assert!(TokenText::parse(Kind::Api, &Secret::new(bad)).is_none(), "{bad}");
        }
    }
}
