//! Binding devices to homes, and releasing them, as `iot_core::binding` rules.
//!
//! Each change checks and rewrites the device, its codes and the homes on both sides in one commit, so that of any number who show
//! one code at once exactly one binds the device. Each refusal is an audit entry, and a wrong code counts against its account and
//! address.

mod device;
mod throttle;

use std::net::IpAddr;

use iot_core::{
    access::{Permission, Principal},
    binding::{Asked, Bind, BindRefusal, Binding, Owned, attempted, bind, move_home, unbind},
    code::Code,
    device::Device,
    home::{HOME_DEVICES_MAX, Home},
    id::{AccountId, DeviceId, HomeId, PCode, TenantId},
    keys::Purpose,
    secret::Secret,
    store::{Batch, Document, Index, Key, MetaStoreExt, Stored},
};

pub(crate) use self::throttle::Throttle;
pub use self::{
    device::BINDING_SERVICE,
    throttle::{WRONG_CODES_PER_ACCOUNT, WRONG_CODES_PER_ADDRESS, WRONG_CODES_PERIOD, WRONG_CODES_SOURCES_MAX},
};
use crate::{
    auth::{Auth, AuthError, Step},
    home::account_of,
};

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

/// An attempt as far as it was decided, and what it is recorded about.
type Attempt = (Key, Bound);

impl Auth {
    /// Binds a device to a home of the account `by`.
    pub async fn bind(&self, by: &Principal, asked: &BindAsked, from: IpAddr) -> Result<Bound, AuthError> {
        let key = Home::key_of(&by.tenant, &asked.home);
        if self.is_throttled(by, from) {
            self.stranger_refused(self.done(by, "bind", &key), BindRefusal::Throttled.code()).await?;
            return Ok(Bound::Refused(BindRefusal::Throttled));
        }
        let (key, bound) = match account_of(by) {
            Some(account) => self.bind_as(by, account, asked).await?,
            None => (key, Bound::Refused(BindRefusal::Forbidden)),
        };
        if let Bound::Refused(why) = &bound {
            if matches!(why, BindRefusal::CodeRequired | BindRefusal::CodeMismatch) {
                self.wrong_code(by, from);
            }
            // The owner's is recorded together with what the owner sees of it.
            if *why != BindRefusal::AlreadyBound {
                self.refused(self.done(by, "bind", &key), why.code()).await?;
            }
        }
        Ok(bound)
    }

    /// A code that is missing or cannot be one is answered without a look at any device.
    async fn bind_as(&self, by: &Principal, account: &AccountId, asked: &BindAsked) -> Result<Attempt, AuthError> {
        let key = Home::key_of(&by.tenant, &asked.home);
        let text = asked.code.as_ref().map(|code| code.expose().trim()).filter(|code| !code.is_empty());
        let code = match text.map(Code::parse) {
            Some(Some(code)) => Some(self.binding_code(&by.tenant, &code).await?),
            Some(None) => None,
            None => return self.bind_without(by, account, asked, BindRefusal::CodeRequired).await,
        };
        let Some(code) = code else { return self.bind_without(by, account, asked, BindRefusal::CodeMismatch).await };
        self.settle(|| async {
            let refused = |why| Ok(Step::Answer((key.clone(), Bound::Refused(why))));
            let to = self.meta.find::<Home>(&key).await?.filter(|to| self.may_bind(&to.document, account));
            let Some(to) = to else { return refused(BindRefusal::Forbidden) };
            let Some(codes) = self.meta.find_by::<Binding>("code", &code).await? else {
                return refused(BindRefusal::CodeMismatch);
            };
            let device = Device::key_of(&codes.document.tenant, &codes.document.device);
            let Some(device) = self.meta.find::<Device>(&device).await? else {
                return refused(BindRefusal::CodeMismatch);
            };
            let at = self.home_at(&device.document).await?;
            let (id, p_code) = (asked.device.as_ref(), asked.p_code.as_ref());
            let asked = Asked { code: &code, device: id, p_code };
            let place = at.as_ref().map(|home| &home.document);
            let pair = (&codes.document, &device.document);
            match bind(pair, place, &asked, (account, &to.document), self.now()) {
                Bind::Refused(BindRefusal::AlreadyBound) => Ok(self.owner_told(by, &codes, &device)),
                Bind::Refused(why) => refused(why),
                Bind::Bound(_) if self.is_full(&to.document).await? => refused(BindRefusal::DevicesFull),
                Bind::Bound(bound) => {
                    let (bound, used) = *bound;
                    let entry = self.done(by, "bind", &bound.key());
                    let batch = Batch::default().replace(&device, &bound).replace(&codes, &used).audited(entry);
                    let batch = touched(touched(batch, Some(&to)), at.as_ref());
                    Ok(Step::Commit(batch, (bound.key(), Bound::Done(Box::new(bound)))))
                }
            }
        })
        .await
    }

    /// Without a code that could be one: forbidden for those who may not bind, and else the same whatever was named.
    async fn bind_without(
        &self,
        by: &Principal,
        account: &AccountId,
        asked: &BindAsked,
        why: BindRefusal,
    ) -> Result<Attempt, AuthError> {
        let key = Home::key_of(&by.tenant, &asked.home);
        let to = self.meta.find::<Home>(&key).await?;
        let may = to.is_some_and(|to| self.may_bind(&to.document, account));
        Ok((key, Bound::Refused(if may { why } else { BindRefusal::Forbidden })))
    }

    fn may_bind(&self, home: &Home, account: &AccountId) -> bool {
        home.allows(account, Permission::Bind, self.now())
    }

    /// The refusal of an attempt on a device that has its owner, who finds it with the device.
    fn owner_told(&self, by: &Principal, codes: &Stored<Binding>, device: &Stored<Device>) -> Step<Attempt> {
        let why = BindRefusal::AlreadyBound;
        let entry = self.done(by, "bind", &device.document.key());
        let entry = iot_core::store::Audit { refused: Some(why.code().to_owned()), ..entry };
        let mut batch = Batch::default().unchanged(device).audited(entry);
        if let Some(told) = attempted(Some(&codes.document), &device.document, self.now()) {
            batch = batch.replace(codes, &told);
        }
        Step::Commit(batch, (device.document.key(), Bound::Refused(why)))
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
                    return Ok(Step::Answer(Owned::Forbidden));
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
                let Owned::Changed(changed) = owned else { return Ok(Step::Answer(owned)) };
                let is_elsewhere = changed.home != read.document.home;
                if let Some(target) = target.as_ref().filter(|_| is_elsewhere)
                    && self.is_full(&target.document).await?
                {
                    return Ok(Step::Answer(Owned::DevicesFull));
                }
                let batch = Batch::default().replace(&read, &changed).audited(self.done(by, action, &key));
                let batch = touched(batch, at.as_ref());
                let batch = touched(batch, target.as_ref().filter(|_| is_elsewhere));
                Ok(Step::Commit(batch, Owned::Changed(changed)))
            })
            .await?;
        let why = match &owned {
            Owned::Changed(_) => return Ok(owned),
            Owned::NotBound => "not_bound",
            Owned::DevicesFull => "devices_full",
            Owned::Forbidden => "forbidden",
        };
        self.refused(self.done(by, action, &key), why).await?;
        Ok(owned)
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

/// With a home whose devices change: its version orders this with everything else about it.
fn touched(batch: Batch, home: Option<&Stored<Home>>) -> Batch {
    match home {
        Some(home) => batch.replace(home, &home.document),
        None => batch,
    }
}
