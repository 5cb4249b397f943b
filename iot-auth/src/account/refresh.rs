use std::{net::IpAddr, time::Duration};

use aws_lc_rs::digest;
use data_encoding::BASE32_NOPAD;
use iot_core::{
    id::LoginId,
    keys::Purpose,
    secret::Secret,
    store::{Batch, Document, MetaStoreExt, Step, Stored},
};

use super::{
    LABEL_BYTES_MAX, SignedIn, base32, bounded, random_bytes,
    record::{Account, FormerCode, Login},
};
use crate::auth::{Auth, AuthError, same_code};

/// For how long the same client may use the last refresh token once more, since an answer can be lost on its way.
pub const REFRESH_GRACE: Duration = Duration::from_secs(30);

/// How many answers can be lost so within [`REFRESH_GRACE`]; one more counts as theft.
const SIBLINGS_MAX: usize = 4;

const PREFIX: &str = "ur_";
const RANDOM_BYTES: usize = 16;
const TAG_BYTES: usize = 16;

/// The answer to a refresh token.
#[must_use]
#[derive(Debug)]
pub enum Refreshed {
    /// It was good and is used up; these are the next ones.
    Granted(Box<SignedIn>),
    /// It was used before: it has been copied, or what it was exchanged for was. The sign-in is over for both who have it.
    Reused,
    /// It is not known, or its sign-in is over.
    Refused,
}

/// `ur_<login>_<52 characters>`: random bytes, and a tag that tells a token that this cloud once gave out from a guess. So a
/// token that was used is recognised for ever, and a guess ends nobody's sign-in.
struct RefreshText {
    login: LoginId,
    random: [u8; RANDOM_BYTES],
    tag: [u8; TAG_BYTES],
}

impl RefreshText {
    fn parse(text: &Secret) -> Option<Self> {
        let (login, rest) = text.expose().strip_prefix(PREFIX)?.rsplit_once('_')?;
        let lower = rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = BASE32_NOPAD.decode(rest.to_ascii_uppercase().as_bytes()).ok().filter(|_| lower)?;
        let (random, tag) = bytes.split_first_chunk()?;
        Some(Self { login: LoginId::parse(login).ok()?, random: *random, tag: tag.try_into().ok()? })
    }

    fn reveal(&self) -> Secret {
        let secret = [self.random.as_slice(), &self.tag].concat();
        Secret::new(format!("{PREFIX}{}_{}", self.login, base32(&secret)))
    }
}

impl Auth {
    /// Exchanges a refresh token for a new pair. `label` is the client's name for itself, as when it signed in.
    pub async fn refresh(&self, text: &Secret, label: &str, from: IpAddr) -> Result<Refreshed, AuthError> {
        let tenant = Self::default_tenant();
        let Some(text) = RefreshText::parse(text) else {
            self.stranger_refused(self.entry(&tenant, from, "refresh", "login"), "unknown_credential").await?;
            return Ok(Refreshed::Refused);
        };
        let (code, genuine) = (self.refresh_code(&text).await?, self.is_genuine(&text).await?);
        let label = bounded(label, LABEL_BYTES_MAX);
        let refreshed =
            self.settle(|| async { self.exchange(&text.login, &code, genuine, &label, from).await }).await?;
        if matches!(refreshed, Refreshed::Refused) {
            let entry = self.entry(&tenant, from, "refresh", Login::key_of(&text.login));
            self.stranger_refused(entry, "unknown_credential").await?;
        }
        Ok(refreshed)
    }

    async fn exchange(
        &self,
        id: &LoginId,
        code: &str,
        genuine: bool,
        label: &str,
        from: IpAddr,
    ) -> Result<Step<Refreshed>, AuthError> {
        let Some(stored) = self.meta.find::<Login>(&Login::key_of(id)).await? else {
            return Ok(Step::Answer(Refreshed::Refused));
        };
        let login = &stored.document;
        let account = self.meta.find::<Account>(&Account::key_of(&login.tenant, &login.account)).await?;
        let Some(account) = account.filter(|account| login.stands(&account.document, self.now())) else {
            return Ok(Step::Answer(Refreshed::Refused));
        };
        let next = if login.codes.iter().any(|known| same_code(known, code)) {
            let former = Some(FormerCode { code: code.to_owned(), used: self.now() });
            Login { codes: vec![], former, ..login.clone() }
        } else if self.is_repeat(login, code, label) {
            login.clone()
        } else if genuine {
            return Ok(self.reused(&stored, from));
        } else {
            return Ok(Step::Answer(Refreshed::Refused));
        };
        let (next, signed_in) = self.next_pair(next).await?;
        let batch = Batch::default().unchanged(&account).replace(&stored, &next);
        Ok(Step::Commit(batch, Refreshed::Granted(Box::new(signed_in))))
    }

    fn is_repeat(&self, login: &Login, code: &str, label: &str) -> bool {
        let last = |former: &FormerCode| {
            same_code(&former.code, code) && self.now() <= former.used.plus(REFRESH_GRACE) && login.label == label
        };
        login.codes.len() < SIBLINGS_MAX && login.former.as_ref().is_some_and(last)
    }

    fn reused(&self, stored: &Stored<Login>, from: IpAddr) -> Step<Refreshed> {
        let login = &stored.document;
        tracing::warn!(login = %login.id, account = %login.account, "a used refresh token came back: the sign-in is over");
        let mut entry = self.entry(&login.tenant, from, "refresh", login.key());
        entry.refused = Some("refresh_reused".to_owned());
        Step::Commit(Batch::default().remove(stored).audited(entry), Refreshed::Reused)
    }

    /// A refresh token and its stored form.
    pub(super) async fn new_refresh(&self, login: &LoginId) -> Result<(Secret, String), AuthError> {
        let random = random_bytes()?;
        let text = RefreshText { login: login.clone(), random, tag: self.refresh_tag(login, &random).await? };
        let code = self.refresh_code(&text).await?;
        Ok((text.reveal(), code))
    }

    async fn refresh_code(&self, text: &RefreshText) -> Result<String, AuthError> {
        let data = Secret::new(["refresh", text.reveal().expose()].join("\n"));
        Ok(self.keys.code(Purpose::TokenHash, data.expose().as_bytes()).await?)
    }

    async fn is_genuine(&self, text: &RefreshText) -> Result<bool, AuthError> {
        let tag = self.refresh_tag(&text.login, &text.random).await?;
        Ok(aws_lc_rs::constant_time::verify_slices_are_equal(&tag, &text.tag).is_ok())
    }

    async fn refresh_tag(&self, login: &LoginId, random: &[u8; RANDOM_BYTES]) -> Result<[u8; TAG_BYTES], AuthError> {
        let data = Secret::new(["refresh-tag", login.as_str(), &base32(random)].join("\n"));
        let code = self.keys.code(Purpose::TokenHash, data.expose().as_bytes()).await?;
        // The ring's code is text of its own form; its digest is as hard to guess and has the length that is needed.
        let digest = digest::digest(&digest::SHA256, code.as_bytes());
        let tag = digest.as_ref().first_chunk().copied();
        Ok(tag.expect("SHA-256 gives 32 bytes"))
    }
}
