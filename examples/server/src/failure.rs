//! How the process ends when it must not go on.

use std::{fmt, process::ExitCode};

/// One line for people, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    /// What the server was told, or found, cannot work: nothing was started.
    pub(crate) fn options(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 2 }
    }

    /// Something that ran has ended.
    pub(crate) fn part(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 1 }
    }

    /// From an error and all that is behind it, in one line.
    pub(crate) fn of(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let chain = std::iter::successors(Some(error), |error| error.source());
        let mut texts: Vec<String> = Vec::new();
        for text in chain.map(ToString::to_string) {
            if !texts.iter().any(|known| known.contains(&text)) {
                texts.push(text);
            }
        }
        Self::options(format!("{what}{}", texts.join(": ").replace('\n', " ")))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
