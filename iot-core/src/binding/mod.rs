//! Binding: how a device comes to an owner and leaves them again. Pure rules; time and codes are passed in.
//!
//! A device that is beside someone shows a code, which the cloud gave it over the device's own connection. Who brings the code
//! to the cloud binds the device to a home. An id or a P code alone binds nothing. While a device has an owner it gets no code:
//! the owner must release it first. Binding and releasing each begin a new ownership epoch, in which nothing of the one before
//! is valid.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    access::Permission,
    device::{Device, Stage},
    home::Home,
    id::{AccountId, DeviceId, OwnershipEpoch, PCode, TenantId},
    push::Notification,
    store::{Document, IndexKey, Key},
    time::Timestamp,
};

/// The longest that a code is good.
pub const BINDING_TTL: Duration = Duration::from_secs(120);

/// How many codes of a device are remembered, the newest included, so that a late one gets its exact answer.
pub const CODES_KEPT: usize = 4;

/// How soon a device gets another code after one, so that a stuck button costs no write each time.
pub const CODE_INTERVAL: Duration = Duration::from_secs(2);

/// How many attempts to bind a device that has an owner are remembered for that owner.
pub const ATTEMPTS_KEPT: usize = 8;

/// How often the owner of a device is told that somebody has tried to bind it. Each attempt is remembered; who presses its button
/// all day sends one message in this time.
pub const ATTEMPT_TOLD_EVERY: Duration = Duration::from_secs(600);

/// What became of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Fate {
    /// It can bind the device until it expires.
    Alive,
    /// It has.
    Used,
    /// A newer one took its place.
    Superseded,
    /// The device said that nobody is beside it any more.
    Withdrawn,
}

/// A code that a device got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedCode {
    /// Keyed code of its text.
    pub code: String,
    /// When the device got it.
    pub issued: Timestamp,
    /// Until when it is good, excluded.
    pub expires: Timestamp,
    /// What became of it.
    pub fate: Fate,
}

/// The codes of one device. At most one is alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Whose.
    pub tenant: TenantId,
    /// Of which device.
    pub device: DeviceId,
    /// In which of its epochs the newest was issued: it is good in that one only.
    pub epoch: OwnershipEpoch,
    /// Newest last; at most [`CODES_KEPT`].
    pub codes: Vec<IssuedCode>,
    /// When somebody tried to bind the device although it has its owner. Newest last; at most [`ATTEMPTS_KEPT`].
    #[serde(default)]
    pub attempts: Vec<Timestamp>,
    /// When the owner was last told of one.
    #[serde(default)]
    pub told: Option<Timestamp>,
}

impl Binding {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, device: &DeviceId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{device}"))
    }

    /// The same with the alive code, if there is one, come to this end.
    fn ended(&self, fate: Fate) -> Self {
        let mut ended = self.clone();
        ended.codes.iter_mut().filter(|code| code.fate == Fate::Alive).for_each(|code| code.fate = fate);
        ended
    }
}

impl Document for Binding {
    const KIND: &'static str = "binding";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.device)
    }

    /// `code` (unique): of each code that is remembered.
    fn index_keys(&self) -> Vec<IndexKey> {
        self.codes.iter().map(|code| IndexKey::unique("code", &code.code)).collect()
    }
}

/// Whether a device is bound: it stands in a home that somebody owns.
pub fn is_bound(device: &Device, home: Option<&Home>) -> bool {
    home.is_some_and(|home| device.home.as_ref() == Some(&home.id) && home.owner().is_some())
}

/// The answer to a device beside which somebody is.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Its codes are to become these; the newest is the one that was passed in.
    Issued(Binding),
    /// It gets none.
    Refused(PresenceRefusal),
}

/// Why a device gets no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PresenceRefusal {
    /// It is not in service.
    NotActivated,
    /// It has an owner, who must release it first.
    AlreadyBound,
    /// It got one within [`CODE_INTERVAL`].
    TooSoon,
}

impl PresenceRefusal {
    /// Stable, `snake_case`.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotActivated => "not_activated",
            Self::AlreadyBound => "already_bound",
            Self::TooSoon => "too_soon",
        }
    }
}

/// Somebody is beside a device: it gets `code`, the keyed code of a new text, for `valid` or [`BINDING_TTL`], whichever is less.
/// `home`: where the device stands.
pub fn present(
    former: Option<&Binding>,
    device: &Device,
    home: Option<&Home>,
    code: String,
    valid: Duration,
    now: Timestamp,
) -> Presence {
    if device.stage != Stage::Activated {
        return Presence::Refused(PresenceRefusal::NotActivated);
    }
    if is_bound(device, home) {
        return Presence::Refused(PresenceRefusal::AlreadyBound);
    }
    let newest = former.and_then(|binding| binding.codes.last());
    if newest.is_some_and(|code| code.issued <= now && now < code.issued.plus(CODE_INTERVAL)) {
        return Presence::Refused(PresenceRefusal::TooSoon);
    }
    let mut codes = former.map(|binding| binding.ended(Fate::Superseded).codes).unwrap_or_default();
    codes.push(IssuedCode { code, issued: now, expires: now.plus(valid.min(BINDING_TTL)), fate: Fate::Alive });
    codes.drain(..codes.len().saturating_sub(CODES_KEPT));
    let (tenant, device, epoch) = (device.tenant.clone(), device.id.clone(), device.epoch);
    Presence::Issued(Binding { tenant, device, epoch, codes, attempts: vec![], told: None })
}

/// An attempt to bind a device that has an owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// What the device's codes are to become: the attempt is remembered there.
    pub codes: Binding,
    /// What its owner is to be told, unless they were told of another one within [`ATTEMPT_TOLD_EVERY`].
    pub tells: Option<Notification>,
}

/// Somebody has tried to bind a device that has an owner, who is to know. `None` within [`CODE_INTERVAL`] of the attempt before.
pub fn attempted(former: Option<&Binding>, device: &Device, now: Timestamp) -> Option<Attempt> {
    let mut binding = former.cloned().unwrap_or_else(|| Binding {
        tenant: device.tenant.clone(),
        device: device.id.clone(),
        epoch: device.epoch,
        codes: vec![],
        attempts: vec![],
        told: None,
    });
    if binding.attempts.last().is_some_and(|last| *last <= now && now < last.plus(CODE_INTERVAL)) {
        return None;
    }
    binding.attempts.push(now);
    binding.attempts.drain(..binding.attempts.len().saturating_sub(ATTEMPTS_KEPT));
    let told = binding.told.is_some_and(|told| told <= now && now < told.plus(ATTEMPT_TOLD_EVERY));
    let tells = (!told).then(|| Notification::binding_attempted(device, now));
    binding.told = if told { binding.told } else { Some(now) };
    Some(Attempt { codes: binding, tells })
}

/// Nobody is beside the device any more: its codes are to become these; `None` if none is alive.
pub fn absent(former: &Binding) -> Option<Binding> {
    let alive = former.codes.iter().any(|code| code.fate == Fate::Alive);
    alive.then(|| former.ended(Fate::Withdrawn))
}

/// What somebody says who wants to bind a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The keyed code of the text that was shown.
    pub code: &'a str,
    /// Which device it is, if that was read off it.
    pub device: Option<&'a DeviceId>,
    /// Which P code it has, if that was read off it.
    pub p_code: Option<&'a PCode>,
}

/// How an attempt to bind ends.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// The device and its codes are to become these.
    Bound(Box<(Device, Binding)>),
    /// Nothing is to change.
    Refused(BindRefusal),
}

/// Why a device is not bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BindRefusal {
    /// Who asks may not bind devices to that home, or there is none.
    Forbidden,
    /// No code was shown; an id or a P code proves nothing.
    CodeRequired,
    /// The code is not one of the device that was named. Codes that never were get the same answer.
    CodeMismatch,
    /// The code has bound the device already.
    CodeUsed,
    /// The code's time is over, or the device has withdrawn it.
    CodeExpired,
    /// The device has got a newer code.
    CodeSuperseded,
    /// The device has an owner, who must release it first.
    AlreadyBound,
    /// The home has as many devices as it can have.
    DevicesFull,
    /// Too many wrong codes came from this account or address.
    Throttled,
}

impl BindRefusal {
    /// Stable, `snake_case`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::CodeRequired => "code_required",
            Self::CodeMismatch => "code_mismatch",
            Self::CodeUsed => "code_used",
            Self::CodeExpired => "code_expired",
            Self::CodeSuperseded => "code_superseded",
            Self::AlreadyBound => "already_bound",
            Self::DevicesFull => "devices_full",
            Self::Throttled => "throttled",
        }
    }
}

/// Binds a device to the home `to`, in a new ownership epoch. `home`: where it stands now. The codes and the device are those that
/// belong together by their key.
pub fn bind(
    (binding, device): (&Binding, &Device),
    home: Option<&Home>,
    asked: &Asked<'_>,
    (by, to): (&AccountId, &Home),
    now: Timestamp,
) -> Bind {
    let refused = if !to.allows(by, Permission::Bind, now) {
        Some(BindRefusal::Forbidden)
    } else if let Some(why) = objection_to_code(binding, device, asked, now) {
        Some(why)
    } else {
        is_bound(device, home).then_some(BindRefusal::AlreadyBound)
    };
    match refused {
        Some(why) => Bind::Refused(why),
        None => {
            let bound = Device { home: Some(to.id.clone()), epoch: next(device.epoch), ..device.clone() };
            Bind::Bound(Box::new((bound, binding.ended(Fate::Used))))
        }
    }
}

fn objection_to_code(binding: &Binding, device: &Device, asked: &Asked<'_>, now: Timestamp) -> Option<BindRefusal> {
    let named =
        asked.device.is_none_or(|id| *id == device.id) && asked.p_code.is_none_or(|code| *code == device.p_code);
    let same_device =
        binding.device == device.id && binding.tenant == device.tenant && device.stage == Stage::Activated;
    let known = binding.codes.iter().find(|known| known.code == asked.code);
    let Some(known) = known.filter(|_| named && same_device) else { return Some(BindRefusal::CodeMismatch) };
    match known.fate {
        Fate::Used => Some(BindRefusal::CodeUsed),
        Fate::Superseded => Some(BindRefusal::CodeSuperseded),
        Fate::Withdrawn => Some(BindRefusal::CodeExpired),
        Fate::Alive => {
            let good = known.issued <= now && now < known.expires && binding.epoch == device.epoch;
            (!good).then_some(BindRefusal::CodeExpired)
        }
    }
}

/// How an owner's change of a binding ends.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owned {
    /// The device is to become this.
    Changed(Box<Device>),
    /// It is not bound.
    NotBound,
    /// Where it is to go there is no room.
    DevicesFull,
    /// Who asks is not its owner, or not the owner of where it is to go.
    Forbidden,
}

/// Releases a device from `home`, where it stands: it has no home, in a new ownership epoch.
pub fn unbind(device: &Device, home: Option<&Home>, by: &AccountId, now: Timestamp) -> Owned {
    match home.filter(|home| is_bound(device, Some(home))) {
        None => Owned::NotBound,
        Some(home) if !home.allows(by, Permission::OwnHome, now) => Owned::Forbidden,
        Some(_) => Owned::Changed(Box::new(released(device))),
    }
}

/// The device without a home, in a new ownership epoch.
pub fn released(device: &Device) -> Device {
    Device { home: None, epoch: next(device.epoch), ..device.clone() }
}

/// Moves a device from `home`, where it stands, to another home of the same owner. The owner does not change, and so neither does
/// the epoch.
pub fn move_home(device: &Device, home: Option<&Home>, to: &Home, by: &AccountId, now: Timestamp) -> Owned {
    let owns = |home: &Home| home.allows(by, Permission::OwnHome, now);
    match home.filter(|home| is_bound(device, Some(home))) {
        None => Owned::NotBound,
        Some(home) if owns(home) && owns(to) => {
            Owned::Changed(Box::new(Device { home: Some(to.id.clone()), ..device.clone() }))
        }
        Some(_) => Owned::Forbidden,
    }
}

fn next(epoch: OwnershipEpoch) -> OwnershipEpoch {
    OwnershipEpoch(epoch.0.saturating_add(1))
}

#[cfg(test)]
mod tests;
