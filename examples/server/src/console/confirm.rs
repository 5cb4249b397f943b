//! A page of its own that asks before something is lost, and says what.

use askama::Template;
use axum::http::StatusCode;
use iot_http::Identity;
use serde::Deserialize;

use super::{
    Console,
    page::{Answer, Shell, page_as},
};

/// What is said where a record has changed between the question and its answer.
const STALE: &str = "It has changed since you looked. Read again what is said here, and confirm once more.";

/// What is asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Question {
    /// Which entry of the navigation is current.
    pub(super) section: &'static str,
    /// The question; ends with its mark.
    pub(super) asks: String,
    /// Where the reader came from, and goes back to: its path and its name.
    pub(super) from: (String, String),
    /// What is over afterwards, each a sentence.
    pub(super) ends: Vec<String>,
    /// What stays as it is, each a sentence.
    pub(super) stays: Vec<String>,
    /// Where the form goes.
    pub(super) action: String,
    /// The version of the record that the reader looks at; empty where it does not matter.
    pub(super) seen: String,
    /// What the button says.
    pub(super) button: &'static str,
}

/// The form's one field.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Confirmed {
    #[serde(default)]
    seen: String,
}

impl Confirmed {
    /// Whether the record is still the one that was looked at.
    pub(super) fn is_of(&self, version: u64) -> bool {
        self.seen == version.to_string()
    }
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmPage {
    shell: Shell,
    question: Question,
    refused: String,
}

/// Asks.
pub(super) async fn ask(console: &Console, who: &Identity, question: Question) -> Answer {
    again(console, who, question, StatusCode::OK, String::new()).await
}

/// Asks again, of a record that has changed meanwhile.
pub(super) async fn stale(console: &Console, who: &Identity, question: Question) -> Answer {
    again(console, who, question, StatusCode::CONFLICT, STALE.to_owned()).await
}

/// Says why it was not done.
pub(super) async fn refuse(console: &Console, who: &Identity, question: Question, why: impl Into<String>) -> Answer {
    again(console, who, question, StatusCode::UNPROCESSABLE_ENTITY, why.into()).await
}

async fn again(console: &Console, who: &Identity, question: Question, status: StatusCode, refused: String) -> Answer {
    let shell = Shell::of(console, who, question.section, question.asks.as_str()).await?;
    Ok(page_as(status, &ConfirmPage { shell, question, refused }))
}
