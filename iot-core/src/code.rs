//! Codes that devices show and people hand on: 128 random bits, as text that can be read aloud.

use std::fmt;

use crate::secret::Secret;

/// The characters of a code without its hyphens.
pub const CODE_CHARACTERS: usize = 26;

/// Crockford's base32: no I, L, O and U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

const GROUP: usize = 4;

/// A code. Each has one spelling inside; people may write it in lower case, with other groups, and with `O`, `I` and `L` for
/// `0` and `1`.
#[derive(Clone)]
pub struct Code(Secret);

impl Code {
    /// From 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        let number = u128::from_be_bytes(bytes);
        let digit = |place: usize| char::from(ALPHABET[usize::try_from((number >> (5 * place)) & 31).unwrap_or(0)]);
        Self(Secret::new((0..CODE_CHARACTERS).rev().map(digit).collect::<String>()))
    }

    /// Reads what a person or an application wrote; `None` if it cannot be a code.
    pub fn parse(text: &str) -> Option<Self> {
        let mut spelled = String::with_capacity(CODE_CHARACTERS);
        for character in text.chars().filter(|c| !matches!(c, '-' | ' ')) {
            spelled.push(canonical(character).filter(|_| spelled.len() < CODE_CHARACTERS)?);
        }
        // 26 characters are 130 bits: the first has three.
        let fits = spelled.len() == CODE_CHARACTERS && matches!(spelled.as_bytes().first(), Some(b'0'..=b'7'));
        fits.then(|| Self(Secret::new(spelled)))
    }

    /// The one spelling, from which stored hashes are made; the name is long so that a reviewer sees it.
    pub fn expose_canonical(&self) -> &str {
        self.0.expose()
    }

    /// In groups of four, to be shown.
    pub fn grouped(&self) -> Secret {
        let groups: Vec<&str> = (0..CODE_CHARACTERS.div_ceil(GROUP))
            .filter_map(|n| self.0.expose().get(n * GROUP..CODE_CHARACTERS.min((n + 1) * GROUP)))
            .collect();
        Secret::new(groups.join("-"))
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code")
    }
}

fn canonical(character: char) -> Option<char> {
    let upper = character.to_ascii_uppercase();
    let upper = match upper {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    ALPHABET.iter().any(|byte| char::from(*byte) == upper).then_some(upper)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_code_reads_back_however_it_is_written(bytes: [u8; 16], other: [u8; 16]) {
            let code = Code::from_random(bytes);
            let shown = code.grouped().expose().to_owned();
            for text in [shown.clone(), shown.to_lowercase(), shown.replace('-', " "), shown.replace('0', "o").replace('1', "l")] {
                let read = Code::parse(&text).unwrap();
                prop_assert_eq!(read.expose_canonical(), code.expose_canonical());
            }
            let same = Code::from_random(other).expose_canonical() == code.expose_canonical();
            prop_assert_eq!(same, bytes == other, "no bit is lost");
            let debug = format!("{code:?}");
            prop_assert!(!debug.contains(&shown[..4]));
        }

        #[test]
        fn other_text_is_no_code(text: String) {
            let digits = text.chars().filter(|c| c.is_ascii_alphanumeric()).count();
            prop_assert!(digits == CODE_CHARACTERS || Code::parse(&text).is_none());
        }
    }

    #[test]
    fn codes_of_another_length_or_value_are_refused() {
        let largest = Code::from_random([255; 16]);
        assert_eq!(largest.grouped().expose(), "7ZZZ-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZZ");
        assert_eq!(Code::from_random([0; 16]).expose_canonical(), "0".repeat(26));
        for bad in ["", " - ", &"0".repeat(25), &"0".repeat(27), &format!("8{}", "0".repeat(25)), &"U".repeat(26)] {
            assert!(Code::parse(bad).is_none(), "{bad}");
        }
    }
}
