use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest version or hardware revision, in bytes.
pub const TEXT_BYTES_MAX: usize = 64;

/// The text is not a version or a hardware revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {TEXT_BYTES_MAX} characters of a-z, A-Z, 0-9, '-', '_', '.' and '+'")]
pub struct InvalidText;

macro_rules! short_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses 1 to 64 characters of a-z, A-Z, 0-9, '-', '_', '.' and '+'.
            pub fn parse(text: &str) -> Result<Self, InvalidText> {
                Self::try_from(text.to_owned())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidText;
            fn try_from(text: String) -> Result<Self, InvalidText> {
                if is_short_text(&text) { Ok(Self(text)) } else { Err(InvalidText) }
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> String {
                text.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

short_text!(
    /// A version as people read it, such as `2.1.0`. Nothing is decided by it: the manifest's `sequence` counts.
    Version
);
short_text!(
    /// A revision of a product's hardware, such as `r2`. Compared byte by byte.
    Hardware
);

fn is_short_text(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+');
    (1..=TEXT_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}
