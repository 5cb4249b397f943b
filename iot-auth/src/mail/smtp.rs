use std::{fmt, time::Duration};

use async_trait::async_trait;
use iot_core::{
    mail::{Mail, MailError, Mailer},
    secret::Secret,
};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::Mailbox,
    transport::smtp::{
        SUBMISSION_PORT, SUBMISSIONS_PORT,
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
    },
};

use crate::files::SetupError;

/// How long one exchange with the server may take.
pub const SMTP_TIMEOUT: Duration = Duration::from_secs(20);

const BACKEND: &str = "smtp";

/// How the connection to the server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SmtpSecurity {
    /// TLS from the first byte, port 465 (RFC 8314 §3.3).
    Tls,
    /// STARTTLS, demanded, port 587 (RFC 3207).
    StartTls,
    /// None: for a relay on the machine itself only.
    Plain,
}

/// A server that takes mail.
#[derive(Debug, Clone)]
pub struct SmtpOptions {
    /// Its name, which its certificate must have.
    pub host: String,
    /// Its port; by default that of `security`.
    pub port: Option<u16>,
    /// How the connection is protected.
    pub security: SmtpSecurity,
    /// Authorities (PEM) whose certificates are believed besides those that the operating system trusts, such as that of a relay
    /// of one's own.
    pub authorities_pem: Option<String>,
    /// User and password. They are sent over TLS only, but for [`SmtpSecurity::Plain`].
    pub credentials: Option<(String, Secret)>,
    /// The sender, `name <local@domain>`.
    pub from: String,
}

/// Hands messages to an SMTP server, which has taken responsibility for them when it answers 250 (RFC 5321 §4.2.5). One
/// connection per message; none is kept.
pub struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Smtp {
    /// Connects when the first message is sent.
    pub fn new(options: &SmtpOptions) -> Result<Self, SetupError> {
        type Transport = AsyncSmtpTransport<Tokio1Executor>;
        let from = options.from.parse().map_err(SetupError::crypto)?;
        let builder = Transport::builder_dangerous(&options.host);
        let builder = match options.security {
            SmtpSecurity::Tls => builder.port(SUBMISSIONS_PORT).tls(Tls::Wrapper(parameters(options)?)),
            SmtpSecurity::StartTls => builder.port(SUBMISSION_PORT).tls(Tls::Required(parameters(options)?)),
            SmtpSecurity::Plain => builder,
        };
        let builder = options.port.into_iter().fold(builder, |builder, port| builder.port(port));
        let credentials = options.credentials.as_ref();
        let credentials =
            credentials.map(|(user, password)| Credentials::new(user.clone(), password.expose().to_owned()));
        let builder = credentials.into_iter().fold(builder, |builder, known| builder.credentials(known));
        Ok(Self { transport: builder.timeout(Some(SMTP_TIMEOUT)).build(), from })
    }
}

#[async_trait]
impl Mailer for Smtp {
    async fn send(&self, mail: Mail) -> Result<(), MailError> {
        let rejected =
            |source: Box<dyn std::error::Error + Send + Sync>| MailError::Rejected { backend: BACKEND, source };
        let to: Mailbox = mail.to.expose().parse().map_err(|e: lettre::address::AddressError| rejected(e.into()))?;
        let message = Message::builder().from(self.from.clone()).to(to).subject(mail.subject);
        let message = message.body(mail.text.expose().to_owned()).map_err(|e| rejected(e.into()))?;
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_permanent() => Err(rejected(cause(error))),
            Err(error) => Err(MailError::Unavailable { backend: BACKEND, source: cause(error) }),
        }
    }
}

fn parameters(options: &SmtpOptions) -> Result<TlsParameters, SetupError> {
    let authorities = options.authorities_pem.as_ref().map(|pem| Certificate::from_pem(pem.as_bytes()));
    let builder = TlsParameters::builder(options.host.clone());
    let builder = match authorities.transpose().map_err(SetupError::crypto)? {
        Some(certificates) => builder.add_root_certificate(certificates),
        None => builder,
    };
    builder.build_rustls().map_err(SetupError::crypto)
}

/// What may be logged: servers repeat the address in the text of their refusals.
fn cause(error: lettre::transport::smtp::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error.status() {
        Some(code) => format!("the server answered {code}").into(),
        None => error.into(),
    }
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smtp").finish_non_exhaustive()
    }
}
