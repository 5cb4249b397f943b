use std::time::Duration;

use iot_core::{
    id::TokenId,
    keys::Purpose,
    secret::Secret,
    store::{Batch, MetaStoreExt, Step, Stored},
};

use super::{base32, random_bytes, random_id, record::Pending};
use crate::auth::{Auth, AuthError, same_code};

/// For how long a mailed code is good.
pub const CODE_VALIDITY: Duration = Duration::from_secs(15 * 60);
/// How often a code may be tried before it is dead. With 40 random bits, one in 2 × 10¹¹ is guessed.
pub const CODE_TRIES_MAX: u32 = 5;

const CODE_BYTES: usize = 5;

/// A code that a person reads in a mail and types: eight characters in two groups.
pub(super) struct CodeText(Secret);

impl CodeText {
    pub(super) fn random() -> Result<Self, AuthError> {
        Ok(Self(Secret::new(base32(&random_bytes::<CODE_BYTES>()?))))
    }

    /// What was typed; blanks, hyphens and case do not count.
    pub(super) fn typed(text: &Secret) -> Self {
        let counts = |c: &char| !c.is_whitespace() && *c != '-';
        Self(Secret::new(text.expose().chars().filter(counts).map(|c| c.to_ascii_lowercase()).collect::<String>()))
    }

    pub(super) fn shown(&self) -> String {
        let (first, second) = self.0.expose().split_at(4);
        format!("{first}-{second}")
    }
}

/// What is told to whoever asks for something that a mailed code confirms; also where there is nothing to confirm.
pub(crate) fn confirmation_id() -> Result<TokenId, AuthError> {
    random_id(TokenId::parse)
}

/// What a code turned out to be.
#[must_use]
pub(super) enum Checked {
    /// Right, and in time: the record is there to be used up.
    Right(Box<Stored<Pending>>),
    /// Right, but too late.
    Expired,
    /// Wrong, used, tried too often, or never made.
    Wrong,
}

impl Auth {
    /// Its stored form, bound to the confirmation.
    pub(super) async fn mailed_code(&self, id: &TokenId, code: &CodeText) -> Result<String, AuthError> {
        let data = Secret::new(["mailed-code", id.as_str(), code.0.expose()].join("\n"));
        Ok(self.keys.code(Purpose::TokenHash, data.expose().as_bytes()).await?)
    }

    /// Compares; a wrong one is counted before this returns, and the last allowed one ends the confirmation.
    pub(super) async fn check_code(&self, id: &TokenId, code: &Secret) -> Result<Checked, AuthError> {
        let code = self.mailed_code(id, &CodeText::typed(code)).await?;
        self.settle(|| async {
            let Some(stored) = self.meta.find::<Pending>(&Pending::key_of(id)).await? else {
                return Ok(Step::Answer(Checked::Wrong));
            };
            let pending = &stored.document;
            if same_code(&pending.code, &code) {
                let late = pending.expires <= self.now();
                return Ok(Step::Answer(if late { Checked::Expired } else { Checked::Right(Box::new(stored)) }));
            }
            let tries_left = pending.tries_left.saturating_sub(1);
            let batch = match tries_left {
                0 => Batch::default().remove(&stored),
                _ => Batch::default().replace(&stored, &Pending { tries_left, ..pending.clone() }),
            };
            Ok(Step::Commit(batch, Checked::Wrong))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_typed_as_people_type() {
        let code = CodeText::random().unwrap();
        let shown = code.shown();
        assert_eq!(shown.len(), 9);
        for typed in [shown.clone(), shown.to_uppercase(), format!(" {} ", shown.replace('-', " "))] {
            assert_eq!(CodeText::typed(&Secret::new(typed)).0.expose(), code.0.expose());
        }
    }
}
