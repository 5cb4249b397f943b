//! What a device and the cloud say to each other about updates: JSON on the topics of the device service `update`.
//!
//! ```text
//! up/service/update     {"type": "hello", "version": "1.0.0", "sequence": 1, "security_version": 0, "hardware": "r1", "slot": "a"}
//! down/service/update   {"type": "offer", "rollout": "…", "release": {"manifest": "…", "signatures": […]}, "url": "…", "expires": "…"}
//! down/service/update   {"type": "nothing"}
//! down/service/update   {"type": "cancelled", "rollout": "…"}
//! up/service/update     {"type": "report", "rollout": "…", "state": "downloading", "progress_percent": 40}
//! up/service/update     {"type": "report", "rollout": "…", "state": "failed", "reason": "chunk_hash"}
//! ```
//!
//! A device says `hello` after it has connected and whenever it needs an offer anew, for instance because the link has
//! expired. Unknown members are refused on both sides.

use iot_core::{id::RolloutId, time::Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::release::{Hardware, SIGNED_BYTES_MAX, SignedRelease, Version};

/// The service's name in the topics.
pub const SERVICE: &str = "update";
/// The longest message of a device, in bytes.
pub const UP_BYTES_MAX: usize = 4 * 1024;
/// The longest message of the cloud, in bytes: an offer with the longest release and the longest link.
pub const DOWN_BYTES_MAX: usize = SIGNED_BYTES_MAX + URL_BYTES_MAX + 1024;
/// The longest link, in bytes.
pub const URL_BYTES_MAX: usize = 2 * 1024;
/// The longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 256;

/// From the cloud to a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Down {
    /// A release for this device.
    Offer(Box<Offer>),
    /// There is no release for it now.
    Nothing {},
    /// The rollout offers its release no more. A device that still loads it stops; one that tries it goes on.
    Cancelled {
        /// Which.
        rollout: RolloutId,
    },
}

/// A release for one device, and where to load it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "the form of a message")]
pub struct Offer {
    /// Under which rollout to report.
    pub rollout: RolloutId,
    /// What; the device trusts its signatures and nothing else here.
    pub release: SignedRelease,
    /// Where the image is loaded, by ranges (RFC 9110 §14).
    pub url: String,
    /// The end of this offer and of its link.
    pub expires: Timestamp,
}

/// From a device to the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Up {
    /// What it runs; asks for an offer.
    Hello(Hello),
    /// How far it is.
    Report(Report),
}

/// What a device runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "the form of a message")]
pub struct Hello {
    /// For people.
    pub version: Version,
    /// Of the release that runs.
    pub sequence: u64,
    /// Of the release that runs.
    pub security_version: u64,
    /// The revision of its hardware.
    pub hardware: Hardware,
    /// From where it runs.
    pub slot: Slot,
}

/// One of a device's two places for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "there are two")]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The one that is not this one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// How far a device is with a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "the form of a message")]
pub struct Report {
    /// Of which rollout.
    pub rollout: RolloutId,
    /// Where it is.
    pub state: ReportState,
    /// While it loads: how much it has, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_percent: Option<u8>,
    /// Why it ended without success: a stable `snake_case` code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where a device is with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReportState {
    /// It loads the image.
    Downloading,
    /// The image is whole and is what was signed.
    Verified,
    /// It is about to start the image, or has started it, and may still go back.
    Installed,
    /// It runs the image for good.
    Confirmed,
    /// It tried the image and runs the former one again.
    RolledBack,
    /// It will not install the release.
    Refused,
    /// It could not load or store the image; a later offer may succeed.
    Failed,
}

impl ReportState {
    /// Whether nothing follows it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Confirmed | Self::RolledBack | Self::Refused | Self::Failed)
    }
}

/// The bytes are not a message of this service.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Longer than any message; it was not read.
    #[error("the message is longer than {0} bytes")]
    TooLong(usize),
    /// Not such a message.
    #[error("the message cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A member breaks its bound.
    #[error("{0}")]
    Bound(&'static str),
}

impl Down {
    /// Reads a message of the cloud. An offer's release is read and not believed.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let down = parse(bytes, DOWN_BYTES_MAX)?;
        match &down {
            Self::Offer(offer) if offer.url.len() > URL_BYTES_MAX => Err(WireError::Bound("the link is too long")),
            _ => Ok(down),
        }
    }

    /// In JSON.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl Up {
    /// Reads a message of a device.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let up = parse(bytes, UP_BYTES_MAX)?;
        match &up {
            Self::Report(report) => report.check().map(|()| up),
            Self::Hello(_) => Ok(up),
        }
    }

    /// In JSON.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl Report {
    fn check(&self) -> Result<(), WireError> {
        if self.progress_percent.is_some_and(|percent| percent > 100) {
            return Err(WireError::Bound("the progress is at most 100 percent"));
        }
        if self.reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
            return Err(WireError::Bound("the reason is at most 256 bytes"));
        }
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, WireError> {
    if bytes.len() > bytes_max {
        return Err(WireError::TooLong(bytes_max));
    }
    Ok(serde_json::from_slice(bytes)?)
}

fn to_json(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("these types have text keys and no failing parts")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str =
        r#"{"type":"hello","version":"1.0.0","sequence":1,"security_version":0,"hardware":"r1","slot":"a"}"#;

    fn offer(url: String) -> Down {
        let release = SignedRelease { manifest: "{}".into(), signatures: Vec::new() };
        let expires = Timestamp::from_millis(1);
        Down::Offer(Box::new(Offer { rollout: RolloutId::parse("r").unwrap(), release, url, expires }))
    }

    #[test]
    fn messages_survive_json() {
        let report = r#"{"type":"report","rollout":"r","state":"rolled_back","reason":"unhealthy"}"#;
        for text in [HELLO, report] {
            assert_eq!(String::from_utf8(Up::parse(text.as_bytes()).unwrap().to_json()).unwrap(), text);
        }
        let cancelled = Down::Cancelled { rollout: RolloutId::parse("r").unwrap() };
        for down in [offer("http://h/x".into()), Down::Nothing {}, cancelled] {
            assert_eq!(Down::parse(&down.to_json()).unwrap(), down);
        }
        assert_eq!(Down::Nothing {}.to_json(), br#"{"type":"nothing"}"#);
    }

    #[test]
    fn unknown_members_and_types_are_refused() {
        for bad in [
            HELLO.replace("\"slot\"", "\"more\":1,\"slot\""),
            HELLO.replace("\"a\"", "\"c\""),
            HELLO.replace("hello", "hullo"),
            HELLO.replace("\"1.0.0\"", "\"\""),
            HELLO.replace("\"sequence\":1,", ""),
        ] {
            assert!(matches!(Up::parse(bad.as_bytes()), Err(WireError::Malformed(_))), "{bad}");
        }
        assert!(Down::parse(br#"{"type":"nothing","more":1}"#).is_err());
        assert!(Down::parse(br#"{"type":"cancelled","rollout":"r","more":1}"#).is_err());
    }

    #[test]
    fn every_text_is_bounded() {
        let report = |reason: usize, percent: u8| {
            let reason = "x".repeat(reason);
            format!(
                r#"{{"type":"report","rollout":"r","state":"failed","progress_percent":{percent},"reason":"{reason}"}}"#
            )
        };
        assert!(Up::parse(report(REASON_BYTES_MAX, 100).as_bytes()).is_ok());
        assert!(matches!(Up::parse(report(REASON_BYTES_MAX + 1, 100).as_bytes()), Err(WireError::Bound(_))));
        assert!(matches!(Up::parse(report(1, 101).as_bytes()), Err(WireError::Bound(_))));
        assert!(matches!(Up::parse(&vec![b' '; UP_BYTES_MAX + 1]), Err(WireError::TooLong(_))));
        assert!(matches!(Down::parse(&offer("x".repeat(URL_BYTES_MAX + 1)).to_json()), Err(WireError::Bound(_))));
        assert!(matches!(Down::parse(&vec![b' '; DOWN_BYTES_MAX + 1]), Err(WireError::TooLong(_))));
    }
}
