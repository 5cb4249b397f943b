use super::{Kind, Notification, kind::cut};

/// The longest template, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 1_024;

/// The longest rendered text, in bytes; a longer one is cut at a character and ends with `…`.
pub const RENDERED_BYTES_MAX: usize = 2_048;

/// What a template may name for every kind; a home or device that a notification does not have is rendered as nothing.
const COMMON: [&str; 3] = ["device", "home", "at"];

/// A text with `{fields}` for the notifications of one kind. `{{` and `}}` stand for the braces themselves.
///
/// That it exists proves that every field is one of its kind's, or `device`, `home` or `at`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    kind: Kind,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Field(&'static str),
}

/// The text is no template for notifications of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// Longer than [`TEMPLATE_BYTES_MAX`].
    #[error("a template is at most {TEMPLATE_BYTES_MAX} bytes long")]
    TooLong,
    /// A brace that opens or closes nothing.
    #[error("a brace stands alone: write {{{{ or }}}} for the brace itself")]
    Brace,
    /// A field that notifications of this kind do not have.
    #[error("{kind} has no field {field:?}")]
    UnknownField {
        /// The kind.
        kind: Kind,
        /// What the template names.
        field: String,
    },
}

impl Template {
    /// Reads a template for notifications of `kind`.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, TemplateError> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::TooLong);
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
            } else {
                let (name, after) = rest
                    .split_once('}')
                    .filter(|(name, _)| brace == "{" && !name.contains('{'))
                    .ok_or(TemplateError::Brace)?;
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                pieces.push(Piece::Field(known(kind, name)?));
                rest = after;
            }
        }
        literal.push_str(rest);
        pieces.push(Piece::Literal(literal));
        Ok(Self { kind, pieces })
    }

    /// The text for a notification; `None` if it is of another kind.
    pub fn render(&self, notification: &Notification) -> Option<String> {
        if notification.kind != self.kind {
            return None;
        }
        let rendered: String = self.pieces.iter().map(|piece| piece.render(notification)).collect();
        Some(if rendered.len() > RENDERED_BYTES_MAX { cut(&rendered, RENDERED_BYTES_MAX) } else { rendered })
    }
}

impl Notification {
    /// Its text by the template of its kind.
    pub fn text(&self) -> String {
        let template = Template::parse(self.kind, self.kind.template()).ok();
        template.and_then(|template| template.render(self)).unwrap_or_default()
    }
}

fn known(kind: Kind, name: &str) -> Result<&'static str, TemplateError> {
    let common = COMMON.into_iter().find(|common| *common == name);
    let found = common.or_else(|| kind.field(name).map(|field| field.name));
    found.ok_or_else(|| TemplateError::UnknownField { kind, field: name.to_owned() })
}

impl Piece {
    fn render(&self, notification: &Notification) -> String {
        match self {
            Self::Literal(text) => text.clone(),
            Self::Field("device") => notification.device.as_ref().map(|(id, _)| id.to_string()).unwrap_or_default(),
            Self::Field("home") => notification.home.as_ref().map(ToString::to_string).unwrap_or_default(),
            Self::Field("at") => notification.at.to_string(),
            Self::Field(name) => notification.fields.get(name).map(ToString::to_string).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::TenantId,
        push::{FieldValue, NotificationId},
        time::Timestamp,
    };

    fn raised(text: &str) -> Notification {
        let fields = [
            ("name", FieldValue::from("heat")),
            ("text", FieldValue::from(text)),
            ("since", FieldValue::Time(Timestamp::EPOCH)),
        ];
        let id = NotificationId::parse("a").unwrap();
        Notification::new(id, TenantId::parse("t").unwrap(), Kind::AlarmRaised, Timestamp::EPOCH, fields).unwrap()
    }

    #[test]
    fn every_kind_has_a_template_that_it_understands() {
        for kind in Kind::ALL {
            assert!(Template::parse(kind, kind.template()).is_ok(), "{kind}");
        }
    }

    #[test]
    fn fields_and_braces_are_rendered_and_values_are_not_read_again() {
        let template = Template::parse(Kind::AlarmRaised, "{{{name}}} is {text} since {since}").unwrap();
        let rendered = template.render(&raised("{since}")).unwrap();
        assert_eq!(rendered, "{heat} is {since} since 1970-01-01T00:00:00Z");
    }

    #[test]
    fn what_it_does_not_know_is_refused_when_it_is_made() {
        let unknown =
            |field: &str| Err(TemplateError::UnknownField { kind: Kind::AlarmRaised, field: field.to_owned() });
        for (text, expected) in [
            ("{cause}", unknown("cause")),
            ("{}", unknown("")),
            ("{ name }", unknown(" name ")),
            ("{name", Err(TemplateError::Brace)),
            ("name}", Err(TemplateError::Brace)),
            ("{na{me}", Err(TemplateError::Brace)),
            (&"x".repeat(TEMPLATE_BYTES_MAX + 1), Err(TemplateError::TooLong)),
        ] {
            assert_eq!(Template::parse(Kind::AlarmRaised, text), expected, "{text}");
        }
    }

    #[test]
    fn a_rendered_text_is_bounded_and_of_its_kind() {
        let template = Template::parse(Kind::AlarmRaised, &"{text}".repeat(100)).unwrap();
        let long = template.render(&raised(&"é".repeat(200))).unwrap();
        assert!(long.len() <= RENDERED_BYTES_MAX && long.ends_with('…'));
        let other = Template::parse(Kind::AlarmCleared, "x").unwrap();
        assert_eq!(other.render(&raised("x")), None);
    }
}
