//! Binding devices to homes, and releasing them, as `iot_core::binding` rules.
//!
//! Each change checks and rewrites the device, its codes and the homes on both sides in one commit, so that of any number who show
//! one code at once exactly one binds the device. The same commit announces it. Each refusal is an audit entry, and a wrong code counts against its account and
//! address.

mod device;

use std::{net::IpAddr, time::Duration};

use iot_core::{
    access::{Permission, Principal},
    binding::{Asked, Bind, BindRefusal, Binding, Owned, attempted, bind, move_home, unbind},
    code::Code,
    device::Device,
    home::{HOME_DEVICES_MAX, Home},
    id::{AccountId, DeviceId, HomeId, PCode, TenantId},
    keys::Purpose,
    network::Network,
    push::Notification,
    secret::Secret,
    store::{Audit, Batch, Document, Index, Key, MetaStoreExt, Step, Stored},
};

pub use self::device::BINDING_SERVICE;
use crate::{
    account::Limit,
    auth::{Auth, AuthError},
    home::account_of,
};

/// For how long a wrong code counts, from the first of several.
pub const WRONG_CODES_PERIOD: Duration = Duration::from_secs(600);

/// After how many wrong codes, of devices and of invitations, an account is not listened to until the period is over.
pub const WRONG_CODES_PER_ACCOUNT: u32 = 10;

/// The same for a network, behind which there may be many people. Both are counted on each node, in a bounded table: a code of
/// 128 bits does not fall to guesses, the counting only keeps them from costing much.
pub const WRONG_CODES_PER_NETWORK: u32 = 100;

/// What an application asks that wants to bind a device.
#[derive(Debug, Clone)]
pub struct BindAsked {
    /// The code that the device showed. Nothing else about a device proves that somebody is beside it.
    pub code: Option<Secret>,
    /// To which home.
    pub home: HomeId,
    /// Which device, if that was read off it. A code of another one is refused.
    pub device: Option<DeviceId>,
    /// Which P code, if that was read off it. A code of another device is refused.
    pub p_code: Option<PCode>,
}

/// The answer to an attempt to bind.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// The device as it is now.
    Done(Box<Device>),
    /// Nothing has changed.
    Refused(BindRefusal),
}

impl Auth {
    /// Binds a device to a home of the account `by`.
    pub async fn bind(&self, by: &Principal, asked: &BindAsked, from: IpAddr) -> Result<Bound, AuthError> {
        let Ok(tries) = self.spend_code(by, from) else {
            let entry = self.done(by, "bind", &Key::new(Home::KIND, format!("{}/-", by.tenant)));
            self.stranger_refused(entry, BindRefusal::Throttled.code()).await?;
            return Ok(Bound::Refused(BindRefusal::Throttled));
        };
        let code = match asked.code.as_ref().map(|code| code.expose().trim()).filter(|code| !code.is_empty()) {
            None => Err(BindRefusal::CodeRequired),
            Some(text) => Code::parse(text).ok_or(BindRefusal::CodeMismatch),
        };
        let code = match code {
            Ok(code) => Ok(self.binding_code(&by.tenant, &code).await?),
            Err(why) => Err(why),
        };
        let bound = self.settle(|| self.decide_bind(by, asked, code.as_deref().map_err(|why| *why))).await?;
        if let Bound::Refused(why) = &bound {
            tracing::info!(%by, why = why.code(), "not bound");
        }
        if !matches!(bound, Bound::Refused(BindRefusal::CodeRequired | BindRefusal::CodeMismatch)) {
            self.refund_code(&tries);
        }
        Ok(bound)
    }

    /// Counts a try to show a code, before anything is looked at; an error if there were too many wrong ones of late.
    pub(crate) fn spend_code(&self, by: &Principal, from: IpAddr) -> Result<[String; 2], Duration> {
        let limit = |tries| Limit { tries, period: WRONG_CODES_PERIOD };
        let [account, network] = [format!("code {by}"), format!("code {}", Network::of_customer(from))];
        self.spend(&account, limit(WRONG_CODES_PER_ACCOUNT))?;
        if let Err(wait) = self.spend(&network, limit(WRONG_CODES_PER_NETWORK)) {
            self.refund(&account);
            return Err(wait);
        }
        Ok([account, network])
    }

    /// Takes a try back that was none with a wrong code.
    pub(crate) fn refund_code(&self, tries: &[String; 2]) {
        tries.iter().for_each(|key| self.refund(key));
    }

    /// A code that is missing or cannot be one is answered without a look at any device: the same whatever was named.
    async fn decide_bind(
        &self,
        by: &Principal,
        asked: &BindAsked,
        code: Result<&str, BindRefusal>,
    ) -> Result<Step<Bound>, AuthError> {
        let key = Home::key_of(&by.tenant, &asked.home);
        let to = self.meta.find::<Home>(&key).await?;
        // What names no home is not written down: it may be anything, such as the code in the wrong place.
        let key = if to.is_some() { key } else { Key::new(Home::KIND, format!("{}/-", by.tenant)) };
        let refused = |why| Ok(self.not_bound(by, &key, Batch::default(), why));
        let allowed = account_of(by).zip(to).filter(|(account, to)| self.may_bind(&to.document, account));
        let Some((account, to)) = allowed else { return refused(BindRefusal::Forbidden) };
        let code = match code {
            Ok(code) => code,
            Err(why) => return refused(why),
        };
        let Some(codes) = self.meta.find_by::<Binding>("code", code).await? else {
            return refused(BindRefusal::CodeMismatch);
        };
        let device = Device::key_of(&codes.document.tenant, &codes.document.device);
        let Some(device) = self.meta.find::<Device>(&device).await? else { return refused(BindRefusal::CodeMismatch) };
        let at = self.home_at(&device.document).await?;
        // A refusal too holds only for what was read together: of those who come late none must hear of another reason.
        let read = Batch::default().unchanged(&codes).unchanged(&device);
        let place = at.as_ref().map(|home| &home.document);
        let shown = Asked { code, device: asked.device.as_ref(), p_code: asked.p_code.as_ref() };
        let decided = bind((&codes.document, &device.document), place, &shown, (account, &to.document), self.now());
        Ok(match decided {
            Bind::Refused(BindRefusal::AlreadyBound) => self.owner_told(by, &codes, &device),
            Bind::Refused(why) => self.not_bound(by, &key, read, why),
            Bind::Bound(_) if self.is_full(&to.document).await? => {
                self.not_bound(by, &key, read, BindRefusal::DevicesFull)
            }
            Bind::Bound(bound) => {
                let (bound, used) = *bound;
                let entry = self.done(by, "bind", &bound.key());
                let batch = Batch::default().replace(&device, &bound).replace(&codes, &used).audited(entry);
                let batch = touched(touched(batch, Some(&to)), at.as_ref());
                let batch = batch.announced(Notification::bound(&bound, self.now()));
                Step::Commit(batch, Bound::Done(Box::new(bound)))
            }
        })
    }

    /// A refusal with its entry, if `read` is still so.
    fn not_bound(&self, by: &Principal, about: &Key, read: Batch, why: BindRefusal) -> Step<Bound> {
        let entry = Audit { refused: Some(why.code().to_owned()), ..self.done(by, "bind", about) };
        Step::Commit(read.audited(entry), Bound::Refused(why))
    }

    fn may_bind(&self, home: &Home, account: &AccountId) -> bool {
        home.allows(account, Permission::Bind, self.now())
    }

    /// The refusal of an attempt on a device that has its owner, who finds it with the device.
    fn owner_told(&self, by: &Principal, codes: &Stored<Binding>, device: &Stored<Device>) -> Step<Bound> {
        let told = attempted(Some(&codes.document), &device.document, self.now());
        let read = Batch::default().unchanged(device);
        let batch = match told {
            Some(told) => told.tells.into_iter().fold(read.replace(codes, &told.codes), Batch::announced),
            None => read,
        };
        self.not_bound(by, &device.document.key(), batch, BindRefusal::AlreadyBound)
    }

    /// Releases a device from its owner: it has no home, and nothing of its ownership epoch is valid any more.
    pub async fn unbind(&self, by: &Principal, device: &DeviceId) -> Result<Owned, AuthError> {
        self.owned(by, device, "unbind", None).await
    }

    /// Moves a device to another home of its owner.
    pub async fn move_bound(&self, by: &Principal, device: &DeviceId, to: &HomeId) -> Result<Owned, AuthError> {
        self.owned(by, device, "device_move", Some(to)).await
    }

    async fn owned(
        &self,
        by: &Principal,
        device: &DeviceId,
        action: &str,
        to: Option<&HomeId>,
    ) -> Result<Owned, AuthError> {
        let key = Device::key_of(&by.tenant, device);
        let owned = self
            .settle(|| async {
                let (Some(read), Some(account)) = (self.meta.find::<Device>(&key).await?, account_of(by)) else {
                    return Ok(self.not_owned(by, action, &key, Batch::default(), Owned::Forbidden));
                };
                let at = self.home_at(&read.document).await?;
                let place = at.as_ref().map(|home| &home.document);
                let target = match to {
                    Some(id) => self.meta.find::<Home>(&Home::key_of(&by.tenant, id)).await?,
                    None => None,
                };
                let owned = match (to, &target) {
                    (None, _) => unbind(&read.document, place, account, self.now()),
                    (Some(_), Some(target)) => move_home(&read.document, place, &target.document, account, self.now()),
                    (Some(_), None) => Owned::Forbidden,
                };
                let Owned::Changed(changed) = owned else {
                    return Ok(self.not_owned(by, action, &key, Batch::default().unchanged(&read), owned));
                };
                let target = target.filter(|_| changed.home != read.document.home);
                if let Some(target) = &target
                    && self.is_full(&target.document).await?
                {
                    return Ok(self.not_owned(by, action, &key, Batch::default(), Owned::DevicesFull));
                }
                let batch = Batch::default().replace(&read, &changed).audited(self.done(by, action, &key));
                let batch = touched(touched(batch, at.as_ref()), target.as_ref());
                let released = to.is_none().then(|| Notification::unbound(&changed, self.now()));
                let batch = released.into_iter().fold(batch, Batch::announced);
                Ok(Step::Commit(batch, Owned::Changed(changed)))
            })
            .await?;
        if let Some(why) = reason(&owned) {
            tracing::info!(%by, action, subject = %key, why, "refused");
        }
        Ok(owned)
    }

    /// The same for what only owners do.
    fn not_owned(&self, by: &Principal, action: &str, about: &Key, read: Batch, owned: Owned) -> Step<Owned> {
        let entry = Audit { refused: reason(&owned).map(str::to_owned), ..self.done(by, action, about) };
        Step::Commit(read.audited(entry), owned)
    }

    /// The record of where a device stands.
    pub(crate) async fn home_at(&self, device: &Device) -> Result<Option<Stored<Home>>, AuthError> {
        let Some(home) = &device.home else { return Ok(None) };
        Ok(self.meta.find(&Home::key_of(&device.tenant, home)).await?)
    }

    async fn is_full(&self, home: &Home) -> Result<bool, AuthError> {
        let index = Index::new(Device::KIND, "home", format!("{}/{}", home.tenant, home.id));
        Ok(self.meta.count(&index).await? >= u64::from(HOME_DEVICES_MAX))
    }

    /// The stored form of a binding code. Bound to the tenant: what is shown to another is unknown there.
    async fn binding_code(&self, tenant: &TenantId, code: &Code) -> Result<String, AuthError> {
        let data = [tenant.as_str(), code.expose_canonical()].join("\n");
        Ok(self.keys.code(Purpose::BindingCode, data.as_bytes()).await?)
    }
}

/// Why it is no change, `snake_case` and stable.
fn reason(owned: &Owned) -> Option<&'static str> {
    match owned {
        Owned::Changed(_) => None,
        Owned::NotBound => Some("not_bound"),
        Owned::DevicesFull => Some("devices_full"),
        Owned::Forbidden => Some("forbidden"),
    }
}

/// With a home whose devices change: its version orders this with everything else about it.
fn touched(batch: Batch, home: Option<&Stored<Home>>) -> Batch {
    match home {
        Some(home) => batch.replace(home, &home.document),
        None => batch,
    }
}
