//! Mail to people: files in the data folder, or a mail server.

use std::sync::Arc;

use iot_auth::mail::FileOutbox;
use iot_core::{clock::Clock, mail::Mailer};

use crate::{data_folder::DataFolder, failure::Failure, options::Options};

/// What the settings say.
pub(crate) fn mailer(
    options: &Options,
    folder: &DataFolder,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn Mailer>, Failure> {
    match &options.smtp {
        Some(server) => smtp::mailer(server, options.mail_from.as_deref()),
        None => {
            let outbox = FileOutbox::open(&folder.outbox(), clock).map_err(|error| Failure::of("--data: ", &error))?;
            Ok(Arc::new(outbox))
        }
    }
}

#[cfg(not(feature = "smtp"))]
mod smtp {
    use super::*;
    use crate::options::MailServer;

    pub(super) fn mailer(_: &MailServer, _: Option<&str>) -> Result<Arc<dyn Mailer>, Failure> {
        Err(Failure::options("--smtp: this server was built without it; build with --features smtp".to_owned()))
    }
}

#[cfg(feature = "smtp")]
mod smtp {
    use iot_auth::mail::{Smtp, SmtpOptions, SmtpSecurity};
    use iot_core::secret::Secret;
    use url::Url;

    use super::*;
    use crate::options::MailServer;

    const EXPECTED: &str = "--smtp: expected smtps://USER:PASSWORD@HOST or smtp://USER:PASSWORD@HOST (STARTTLS); \
                            smtp+plain:// is for a relay on this machine";

    pub(super) fn mailer(server: &MailServer, from: Option<&str>) -> Result<Arc<dyn Mailer>, Failure> {
        let from = from.ok_or_else(|| Failure::options("--smtp needs --mail-from, the sender's address".to_owned()))?;
        let options = options(server.0.expose(), from).ok_or_else(|| Failure::options(EXPECTED.to_owned()))?;
        let smtp = Smtp::new(&options).map_err(|error| Failure::of("--smtp: ", &error))?;
        Ok(Arc::new(smtp))
    }

    fn options(text: &str, from: &str) -> Option<SmtpOptions> {
        let url = Url::parse(text).ok()?;
        let host = url.host_str()?.to_owned();
        let security = match url.scheme() {
            "smtps" => SmtpSecurity::Tls,
            "smtp" => SmtpSecurity::StartTls,
            "smtp+plain" if matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]") => SmtpSecurity::Plain,
            _ => return None,
        };
        let user = decoded(url.username())?;
        let credentials = match (user.is_empty(), url.password()) {
            (false, Some(password)) => Some((user, Secret::new(decoded(password)?))),
            (true, None) => None,
            _ => return None,
        };
        Some(SmtpOptions {
            host,
            port: url.port(),
            security,
            authorities_pem: None,
            credentials,
            from: from.to_owned(),
        })
    }

    /// Percent-encoding (RFC 3986 §2.1) undone.
    fn decoded(text: &str) -> Option<String> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            bytes.push(match byte {
                b'%' => u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?,
                other => other,
            });
        }
        String::from_utf8(bytes).ok()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn an_address_says_how_the_connection_is_protected_and_who_asks() {
            let read = |text| options(text, "cloud@example.org");
            let tls = read("smtps://ann:p%40ss@mail.example.org").unwrap();
            assert_eq!((tls.host.as_str(), tls.port, tls.security), ("mail.example.org", None, SmtpSecurity::Tls));
            let (user, password) = tls.credentials.unwrap();
            assert_eq!((user.as_str(), password.expose()), ("ann", "p@ss"));
            assert_eq!(read("smtp://mail.example.org:2525").unwrap().security, SmtpSecurity::StartTls);
            assert_eq!(read("smtp+plain://127.0.0.1:25").unwrap().security, SmtpSecurity::Plain);
            for bad in [
                "",
                "mail.example.org",
                "http://mail.example.org",
                "smtp+plain://mail.example.org",
                "smtps://ann@h",
                "smtps://%zz:x@h",
            ] {
                assert!(read(bad).is_none(), "{bad}");
            }
        }
    }
}
