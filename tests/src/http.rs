//! HTTP as an application speaks it.

use std::time::Duration;

use serde_json::Value;
use ureq::{Agent, SendBody, http::Request};

/// How long an answer may take; longer than any `wait_ms` of a journey.
const WITHIN: Duration = Duration::from_secs(60);

/// The HTTP side of a cloud for one credential, or none.
#[derive(Debug, Clone)]
pub struct Api {
    root: String,
    authorization: Option<String>,
    agent: Agent,
}

/// What was answered.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "a journey looks at all of it")]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: String,
    /// The body.
    pub text: String,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// The body, of an answer with this status.
    #[track_caller]
    pub fn is(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json()
    }

    /// A problem with this status and code, in its media type.
    #[track_caller]
    pub fn fails(&self, status: u16, code: &str) {
        let problem = self.json();
        assert_eq!((self.status, problem["code"].as_str()), (status, Some(code)), "{}", self.text);
        assert_eq!(self.content_type, "application/problem+json");
        assert_eq!(problem["status"], status);
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    }
}

impl Api {
    /// Without a credential.
    pub fn new(root: &str) -> Self {
        let agent = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .timeout_global(Some(WITHIN))
            .build()
            .new_agent();
        Self { root: root.to_owned(), authorization: None, agent }
    }

    /// The same cloud with this token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { authorization: Some(format!("Bearer {token}")), ..self.clone() }
    }

    /// The same cloud with this user and password.
    pub fn with_password(&self, user: &str, password: &str) -> Self {
        let basic = data_encoding::BASE64.encode(format!("{user}:{password}").as_bytes());
        Self { authorization: Some(format!("Basic {basic}")), ..self.clone() }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None)
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], None)
    }

    /// POST of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.json("POST", path, &[], body)
    }

    /// POST of JSON with an idempotency key.
    pub fn post_once(&self, path: &str, key: &str, body: &Value) -> Answer {
        self.json("POST", path, &[("Idempotency-Key", key)], body)
    }

    /// PUT of JSON.
    pub fn put(&self, path: &str, body: &Value) -> Answer {
        self.json("PUT", path, &[], body)
    }

    fn json(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut all = vec![("Content-Type", "application/json")];
        all.extend_from_slice(headers);
        self.send(method, path, &all, Some(body.to_string()))
    }

    /// Any request.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<String>) -> Answer {
        self.try_send(method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Any request; an error if there is no answer.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.root));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut response = match body {
            Some(body) => self.agent.run(request.body(body)?)?,
            None => self.agent.run(request.body(SendBody::none())?)?,
        };
        let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        Ok(Answer { status: response.status().as_u16(), content_type, text: response.body_mut().read_to_string()? })
    }
}
