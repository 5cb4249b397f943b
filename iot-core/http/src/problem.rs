//! Errors as responses.

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use iot_core::{id::InvalidId, keys::KeyError, problem::Problem, store::StoreError};
use serde_json::{error::Category, json};

/// A [`Problem`] as `application/problem+json` (RFC 9457); the error type of handlers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemResponse(pub Problem);

impl IntoResponse for ProblemResponse {
    fn into_response(self) -> Response {
        let Problem { code, status, detail } = self.0;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let title = status.canonical_reason().unwrap_or("Error");
        let body = json!({ "code": code, "status": status.as_u16(), "title": title, "detail": detail });
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Problem> for ProblemResponse {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<StoreError> for ProblemResponse {
    /// `503 unavailable`; the cause goes to the log only.
    fn from(error: StoreError) -> Self {
        unavailable(&error)
    }
}

impl From<KeyError> for ProblemResponse {
    /// `503 unavailable`; the cause goes to the log only.
    fn from(error: KeyError) -> Self {
        unavailable(&error)
    }
}

impl From<InvalidId> for ProblemResponse {
    /// `400 id_invalid`.
    fn from(error: InvalidId) -> Self {
        Self(Problem::invalid("id_invalid", error.to_string()))
    }
}

/// `503 unavailable`, and `error` with its sources to the log.
pub fn unavailable(error: &(dyn std::error::Error + 'static)) -> ProblemResponse {
    let causes: String = std::iter::successors(error.source(), |e| e.source()).map(|e| format!(": {e}")).collect();
    tracing::error!(error = %format!("{error}{causes}"), "a request failed");
    ProblemResponse(Problem::unavailable())
}

/// `400 body_invalid` of a JSON body: where it is wrong and what is expected there. What the body says is not repeated, for it may be
/// a secret in the wrong place.
pub fn body_invalid(error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let (what, place) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
    let told = match error.classify() {
        Category::Data => of_another_shape(what),
        Category::Eof => "this is no JSON: it ends too early".to_owned(),
        _ => format!("this is no JSON: {what}"),
    };
    let place = if error.line() > 0 && error.column() > 0 { format!(" at line {place}") } else { String::new() };
    Problem::invalid("body_invalid", format!("{told}{place}"))
}

/// serde's words for a value of another type or range, without the value.
fn of_another_shape(what: &str) -> String {
    let value = what.strip_prefix("invalid type: ").or_else(|| what.strip_prefix("invalid value: "));
    if let Some((found, expected)) = value.and_then(|rest| rest.rsplit_once(", expected ")) {
        let found = found.split(['"', '`']).next().unwrap_or_default().trim();
        return format!("expected {}, found {}", in_json(expected), in_json(found));
    }
    match what.strip_prefix("unknown variant ").and_then(|rest| rest.rsplit_once("`, expected ")) {
        Some((_, expected)) => format!("expected {expected}"),
        None => what.to_owned(),
    }
}

/// A type as JSON calls it.
fn in_json(name: &str) -> &str {
    match name.trim_start_matches("a ") {
        "string" | "borrowed string" | "character" => "a text",
        "boolean" => "true or false",
        "integer" | "floating point" | "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "sequence" => "an array",
        "map" => "an object",
        "unit value" => "null",
        rust if rust.starts_with("struct ") || rust.contains(" variant") || rust.starts_with("internally tagged") => {
            "an object"
        }
        "" => "another value",
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, de::DeserializeOwned};

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only how it is refused is looked at")]
    struct Form {
        name: String,
        #[serde(default)]
        uses: u8,
        #[serde(default)]
        role: Role,
        #[serde(default)]
        on: bool,
        #[serde(default)]
        kinds: Vec<String>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Role {
        #[default]
        Guest,
        Member,
    }

    fn told<T: DeserializeOwned + std::fmt::Debug>(body: &str) -> String {
        body_invalid(&serde_json::from_str::<T>(body).unwrap_err()).detail.to_string()
    }

    #[test]
    fn what_is_wrong_with_a_body_is_told_in_words_of_json() {
        for (body, expected) in [
            ("", "this is no JSON: it ends too early"),
            ("{\"name\":", "this is no JSON: it ends too early at line 1 column 8"),
            ("{name: 1}", "this is no JSON: key must be a string at line 1 column 2"),
            ("{}", "missing field `name` at line 1 column 2"),
            (
                "{\"nome\":1}",
                "unknown field `nome`, expected one of `name`, `uses`, `role`, `on`, `kinds` at line 1 column 7",
            ),
            ("{\"name\":null}", "expected a text, found null at line 1 column 12"),
            ("{\"name\":\"\",\"uses\":-1}", "expected a whole number from 0, found a number at line 1 column 20"),
            ("{\"name\":\"\",\"uses\":300}", "expected a whole number from 0, found a number at line 1 column 21"),
            ("{\"name\":\"\",\"on\":[]}", "expected true or false, found an array at line 1 column 16"),
            ("{\"name\":\"\",\"kinds\":{}}", "expected an array, found an object at line 1 column 19"),
            ("{\"name\":\"\",\"role\":\"king\"}", "expected `guest` or `member` at line 1 column 24"),
        ] {
            assert_eq!(told::<Form>(body), expected, "{body}");
        }
    }

    #[test]
    fn what_a_body_says_is_not_repeated() {
        let secret = "K3J9, expected `nothing` at line 9";
        let quoted = serde_json::to_string(secret).unwrap();
        for body in [
            quoted.clone(),
            format!("{{\"name\":\"\",\"uses\":{quoted}}}"),
            format!("{{\"name\":\"\",\"role\":{quoted}}}"),
            format!("{{\"name\":\"\",\"on\":{quoted}}}"),
            "{\"name\":12345678}".to_owned(),
        ] {
            let told = told::<Form>(&body);
            assert!(!told.contains("K3J9") && !told.contains("12345678") && !told.contains("Form"), "{told}");
            assert!(told.contains(" at line 1 column "), "{told}");
        }
    }
}
