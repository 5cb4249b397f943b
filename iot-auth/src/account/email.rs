use std::fmt;

use iot_core::{id::TenantId, keys::Purpose, secret::Secret};

use crate::auth::{Auth, AuthError};

/// The longest address, in bytes (RFC 5321 §4.5.3.1.3, without the angle brackets).
pub const EMAIL_BYTES_MAX: usize = 254;

const LOCAL_BYTES_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 63;

/// An address to which mail can be sent: a dot-string and a domain of RFC 5321 §4.1.2, in ASCII; quoted local parts and address
/// literals are not taken. Its domain is in lower case; `Debug` shows nothing.
#[derive(Clone)]
pub struct EmailAddress(Secret);

/// The text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an e-mail address looks like name@example.org and has at most {EMAIL_BYTES_MAX} bytes of ASCII")]
pub struct InvalidEmail;

impl EmailAddress {
    /// Reads an address; blanks around it do not count.
    pub fn parse(text: &str) -> Result<Self, InvalidEmail> {
        let text = text.trim();
        let (local, domain) = text.rsplit_once('@').ok_or(InvalidEmail)?;
        let good = text.len() <= EMAIL_BYTES_MAX && is_local(local) && domain.split('.').all(is_label);
        good.then(|| Self(Secret::new(format!("{local}@{}", domain.to_ascii_lowercase())))).ok_or(InvalidEmail)
    }

    /// The address.
    pub fn secret(&self) -> &Secret {
        &self.0
    }

    /// As it is compared: nobody's mailboxes differ in case only, and people forget how they wrote theirs.
    fn folded(&self) -> Secret {
        Secret::new(self.0.expose().to_ascii_lowercase())
    }
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmailAddress")
    }
}

fn is_local(local: &str) -> bool {
    let atom = |part: &str| !part.is_empty() && part.bytes().all(is_atext);
    local.len() <= LOCAL_BYTES_MAX && local.split('.').all(atom)
}

/// `atext` of RFC 5322 §3.2.3.
fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl Auth {
    /// By which an address is found: nothing can be read off it without the key ring.
    pub(super) async fn email_code(&self, tenant: &TenantId, email: &EmailAddress) -> Result<String, AuthError> {
        let folded = email.folded();
        let data = Secret::new([tenant.as_str(), folded.expose()].join("\n"));
        Ok(self.keys.code(Purpose::Email, data.expose().as_bytes()).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_folded() {
        let address = EmailAddress::parse(" Ann.B+x@Example.ORG ").unwrap();
        assert_eq!(address.secret().expose(), "Ann.B+x@example.org");
        assert_eq!(address.folded().expose(), "ann.b+x@example.org");
        assert_eq!(format!("{address:?}"), "EmailAddress");
        assert!(EmailAddress::parse(&format!("{}@e.org", "x".repeat(64))).is_ok());
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long_local = format!("{}@e.org", "x".repeat(65));
        let long = format!("a@{}", vec!["x".repeat(60); 5].join("."));
        let label = format!("a@{}.org", "x".repeat(64));
        for bad in [
            "",
            "ann",
            "@e.org",
            "ann@",
            "a b@e.org",
            "a@e..org",
            "a@.org",
            "a@-e.org",
            "a@e-.org",
            ".a@e.org",
            "a..b@e.org",
            "a.@e.org",
            "\"a\"@e.org",
            "a@[192.0.2.1]",
            "a@e.org\nBcc: b@e.org",
            "ä@e.org",
            "a@ä.org",
            "a@b@e.org",
            "a\0@e.org",
            "a@e_x.org",
            &long_local,
            &long,
            &label,
        ] {
            assert!(EmailAddress::parse(bad).is_err(), "{bad:?}");
        }
    }
}
