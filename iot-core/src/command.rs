//! Commands: what an application asks of a device, and how it is told what became of it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    access::{Principal, Subject},
    id::{AccountId, CommandId, DeviceId, LoginId, OwnershipEpoch, TenantId, TokenId},
    store::{Document, IndexKey, Key},
    time::Timestamp,
};

/// The longest name of a command, in bytes.
pub const COMMAND_NAME_BYTES_MAX: usize = 64;
/// The largest arguments of a command, as JSON, in bytes.
pub const COMMAND_ARGS_BYTES_MAX: usize = 16 * 1024;
/// The longest time a command may be given.
pub const COMMAND_TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The time a command is given when its sender names none.
pub const COMMAND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// What to do while the device is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offline {
    /// Refuse the command at once.
    #[default]
    Fail,
    /// Keep it, durably, until the device connects or the deadline passes.
    Wait,
}

/// Who asked for a command. One that still waits is given to its device only while its sender may control that device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CommandSender {
    /// A person.
    Account {
        /// Which account.
        account: AccountId,
        /// By which of its sign-ins.
        login: LoginId,
    },
    /// An application.
    Token(TokenId),
}

impl CommandSender {
    /// A principal as a sender; `None` for one that sends no commands.
    pub fn of(principal: &Principal) -> Option<Self> {
        match &principal.subject {
            Subject::Account { account, login } => {
                Some(Self::Account { account: account.clone(), login: login.clone() })
            }
            Subject::Token(token) => Some(Self::Token(token.clone())),
            _ => None,
        }
    }

    /// The principal that it was.
    pub fn principal(&self, tenant: &TenantId) -> Principal {
        let subject = match self {
            Self::Account { account, login } => Subject::Account { account: account.clone(), login: login.clone() },
            Self::Token(token) => Subject::Token(token.clone()),
        };
        Principal { tenant: tenant.clone(), subject }
    }
}

/// A command as its sender asks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandRequest {
    /// Who asks; `None` for the cloud's own logic.
    pub by: Option<CommandSender>,
    /// Unique; a request with an id that is known already is the same request.
    pub id: CommandId,
    /// Whose device.
    pub tenant: TenantId,
    /// To which device.
    pub device: DeviceId,
    /// The device's word for it.
    pub name: String,
    /// Its arguments.
    pub args: serde_json::Value,
    /// How long it stays worth carrying out, from now.
    pub timeout: Duration,
    /// While the device is not connected.
    pub offline: Offline,
    /// Replaces commands of the same name to this device that have not been sent yet.
    pub supersede: bool,
}

/// How far a command has come. The words are part of the HTTP interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandState {
    /// The node has taken it.
    Accepted,
    /// It waits, durably, for the device to connect.
    Queued,
    /// It was written to the device's connection.
    Sent,
    /// The device's MQTT client has acknowledged it.
    Acknowledged,
    /// The device says that it has done it.
    Applied,
    /// The device says that it has not and will not.
    Rejected,
    /// The deadline passed before the device answered.
    Expired,
    /// A newer command of the same name took its place.
    Superseded,
    /// Its sender took it back before it was sent.
    Cancelled,
    /// The node that waited for the answer stopped: it may have been carried out or not.
    Unknown,
}

impl CommandState {
    /// Whether nothing more will happen to it.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Accepted | Self::Queued | Self::Sent | Self::Acknowledged)
    }

    /// The word used outside.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Acknowledged => "acknowledged",
            Self::Applied => "applied",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for CommandState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What is known of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Which command.
    pub id: CommandId,
    /// Whose device.
    pub tenant: TenantId,
    /// To which device.
    pub device: DeviceId,
    /// The device's word for it.
    pub name: String,
    /// How far it has come.
    pub state: CommandState,
    /// When each state was reached, oldest first.
    pub history: Vec<(CommandState, Timestamp)>,
    /// When it expires.
    pub deadline: Timestamp,
    /// What the device answered, if it answered with a value.
    pub result: Option<serde_json::Value>,
    /// Why it was rejected, in the device's words.
    pub error: Option<String>,
    /// Who asked for it; `None` for the cloud's own logic.
    #[serde(default)]
    pub by: Option<CommandSender>,
    /// The ownership epoch in which it was asked for; it is told to nobody in another.
    #[serde(default)]
    pub epoch: OwnershipEpoch,
}

/// A command that waits in a store for its device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DurableCommand {
    /// The ownership epoch in which it was asked for; it dies with it.
    pub epoch: OwnershipEpoch,
    /// Its arguments.
    pub args: serde_json::Value,
    /// How far it has come.
    pub receipt: Receipt,
}

impl DurableCommand {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, id: &CommandId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{id}"))
    }
}

impl Document for DurableCommand {
    const KIND: &'static str = "command";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.receipt.tenant, &self.receipt.id)
    }

    /// `open` while not final, so that a restarted node finds what it owes; `closed` afterwards, by the deadline's day.
    fn index_keys(&self) -> Vec<IndexKey> {
        let state = if self.receipt.state.is_final() { "closed" } else { "open" };
        vec![IndexKey::many(state, "")]
    }
}
