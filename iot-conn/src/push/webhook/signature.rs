use aws_lc_rs::{hmac, rand};
use data_encoding::BASE64;
use iot_core::{keys::KeyError, secret::Secret, time::Timestamp};

/// Bytes of a secret: Standard Webhooks asks for 24 to 64.
const SECRET_BYTES: usize = 32;

const PREFIX: &str = "whsec_";

/// Draws a secret, in the form in which it is shown: `whsec_` and base64.
pub(super) fn draw() -> Result<Secret, KeyError> {
    let mut bytes = [0; SECRET_BYTES];
    rand::fill(&mut bytes).map_err(|_| KeyError::Unavailable("no random bytes".into()))?;
    Ok(Secret::new(format!("{PREFIX}{}", BASE64.encode(&bytes))))
}

/// The value of `webhook-signature` by Standard Webhooks: for each secret `v1,` and base64 of HMAC-SHA256 over
/// `id.timestamp.body`, separated by spaces.
pub(super) fn sign(secrets: &[Secret], id: &str, at: Timestamp, body: &str) -> Result<String, KeyError> {
    let signed = format!("{id}.{}.{body}", seconds(at));
    let one = |secret: &Secret| {
        let text = secret.expose().strip_prefix(PREFIX).ok_or(KeyError::Unopenable)?;
        let key = BASE64.decode(text.as_bytes()).map_err(|_| KeyError::Unopenable)?;
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
        Ok(format!("v1,{}", BASE64.encode(tag.as_ref())))
    };
    Ok(secrets.iter().map(one).collect::<Result<Vec<_>, KeyError>>()?.join(" "))
}

/// The value of `webhook-timestamp`: whole seconds since 1970.
pub(super) fn seconds(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn the_published_example_has_the_published_signature() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let at = Timestamp::from_millis(1_614_265_330_000);
        let signed = sign(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", at, "{\"test\": 2432232314}").unwrap();
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_make_two_signatures_and_none_is_drawn_twice() {
        let (one, two) = (draw().unwrap(), draw().unwrap());
        assert_ne!(one.expose(), two.expose());
        let signed = sign(&[one, two], "a", Timestamp::EPOCH, "{}").unwrap();
        let parts: Vec<_> = signed.split(' ').collect();
        assert!(parts.len() == 2 && parts[0] != parts[1] && parts.iter().all(|part| part.starts_with("v1,")));
    }
}
