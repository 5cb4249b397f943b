use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use iot_core::{
    clock::Clock,
    mail::{Mail, MailError, Mailer},
};

use crate::files::{SetupError, create_folder, write_private};

/// How many messages a folder holds. A further one takes the place of the oldest.
pub const OUTBOX_MAILS_MAX: usize = 1_000;

const BACKEND: &str = "outbox";
const EXTENSION: &str = "eml";

/// Puts each message into a file of its own: for one machine, where its owner reads them, or another program sends them and
/// deletes the file. A file appears whole and is readable by its owner only; the oldest sorts first.
#[derive(Debug, Clone)]
pub struct FileOutbox {
    folder: Arc<Path>,
    clock: Arc<dyn Clock>,
    mails_max: usize,
    /// Tells messages of one microsecond apart.
    count: Arc<AtomicU64>,
}

impl FileOutbox {
    /// Opens a folder, or makes it. Blocks on the file system.
    pub fn open(folder: &Path, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        create_folder(folder)?;
        Ok(Self { folder: folder.into(), clock, mails_max: OUTBOX_MAILS_MAX, count: Arc::default() })
    }

    /// Holds `mails_max` messages in place of [`OUTBOX_MAILS_MAX`], at least one.
    #[must_use]
    pub fn with_mails_max(self, mails_max: usize) -> Self {
        Self { mails_max: mails_max.max(1), ..self }
    }

    /// Where the messages are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn write(&self, mail: &Mail) -> Result<(), Failed> {
        let at = self.clock.timestamp();
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        // The process keeps two servers that share a folder from writing the same file.
        let name = format!("{:020}-{:010}-{count:08}.{EXTENSION}", at.as_micros(), std::process::id());
        let Mail { to, subject, text } = mail;
        let (to, text) = (to.expose(), text.expose().replace('\n', "\r\n"));
        let bytes = format!(
            "To: {to}\r\nSubject: {subject}\r\nX-Created: {at}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n"
        );
        self.make_room()?;
        Ok(write_private(&self.folder.join(name), bytes.as_bytes())?)
    }

    fn make_room(&self) -> Result<(), Failed> {
        let mut mails = self.mails()?;
        let surplus = (mails.len() + 1).saturating_sub(self.mails_max);
        if surplus > 0 {
            mails.sort();
        }
        for oldest in mails.drain(..surplus) {
            tracing::warn!(folder = %self.folder.display(), "the outbox is full: its oldest message is dropped");
            match fs::remove_file(oldest) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn mails(&self) -> io::Result<Vec<PathBuf>> {
        let paths = fs::read_dir(&self.folder)?.map(|entry| entry.map(|entry| entry.path()));
        paths
            .filter(|path| path.as_ref().map_or(true, |path| path.extension().is_some_and(|e| e == EXTENSION)))
            .collect()
    }
}

/// Why a message is not in the folder.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Setup(#[from] SetupError),
}

#[async_trait]
impl Mailer for FileOutbox {
    async fn send(&self, mail: Mail) -> Result<(), MailError> {
        let outbox = self.clone();
        let unavailable = |source: Box<dyn std::error::Error + Send + Sync>| {
            let backend = BACKEND;
            MailError::Unavailable { backend, source }
        };
        match tokio::task::spawn_blocking(move || outbox.write(&mail)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failed)) => Err(unavailable(failed.into())),
            Err(ended) => Err(unavailable(ended.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use iot_core::{clock::ManualClock, secret::Secret, time::Timestamp};

    use super::*;

    fn mail(number: u32) -> Mail {
        let text = Secret::new(format!("Code:\nabcd-{number}"));
        Mail { to: Secret::new("ann@example.org"), subject: "Your code".to_owned(), text }
    }

    fn texts(outbox: &FileOutbox) -> Vec<String> {
        let mut mails = outbox.mails().unwrap();
        mails.sort();
        mails.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    #[tokio::test]
    async fn a_message_is_a_file_of_its_owner_and_the_oldest_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::EPOCH));
        let outbox = FileOutbox::open(&folder.path().join("outbox"), clock).unwrap().with_mails_max(3);
        for number in 0..5 {
            outbox.send(mail(number)).await.unwrap();
        }
        fs::write(outbox.folder().join("notes.txt"), "not a message").unwrap();
        let held = texts(&outbox);
        assert_eq!(held.len(), 3);
        assert!(held[0].starts_with("To: ann@example.org\r\nSubject: Your code\r\n"));
        assert!(held[0].ends_with("\r\n\r\nCode:\r\nabcd-2\r\n") && held[2].contains("abcd-4"), "{held:?}");
        #[cfg(unix)]
        for path in outbox.mails().unwrap() {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[tokio::test]
    async fn a_folder_that_is_gone_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::EPOCH));
        let outbox = FileOutbox::open(&folder.path().join("outbox"), clock).unwrap();
        fs::remove_dir_all(outbox.folder()).unwrap();
        let error = outbox.send(mail(0)).await.unwrap_err();
        assert!(matches!(error, MailError::Unavailable { .. }) && !format!("{error:?}").contains("abcd"));
    }
}
