use iot_core::{
    access::Principal,
    binding::released,
    device::Device,
    home::{HOME_DEVICES_MAX, Home, HomeRefusal, Role, Ruling},
    id::{AccountId, HomeId},
    push::Notification,
    store::{Batch, Document, MetaStoreExt, Step},
    time::Timestamp,
};

use super::{account_of, homes_of};
use crate::{
    auth::{Auth, AuthError},
    token::random_text,
};

const HOME_ID_BYTES: usize = 10;

/// How an account leaves all of its homes.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaving {
    /// It is in none once this batch is committed, whose checks hold only for as long as that is so.
    Ready(Batch),
    /// It owns these, and must transfer or dissolve them first.
    Owner(Vec<HomeId>),
}

impl Auth {
    /// Makes a home of the account `by`, with a new id.
    pub async fn create_home(&self, by: &Principal, name: &str) -> Result<Ruling, AuthError> {
        let id = HomeId::parse(&random_text::<HOME_ID_BYTES>()?).map_err(|_| AuthError::Random)?;
        let key = Home::key_of(&by.tenant, &id);
        let ruling = self
            .settle(|| async {
                let Some(account) = account_of(by) else {
                    return Ok(Step::Answer(Ruling::Refused(HomeRefusal::Forbidden)));
                };
                let Some(room) = self.room_for_home(&by.tenant, account).await? else {
                    return Ok(Step::Answer(Ruling::Refused(HomeRefusal::HomesFull)));
                };
                let home = Home::create(by.tenant.clone(), id.clone(), name, account.clone(), self.now());
                let mut batch = Batch::default().create(&home).audited(self.done(by, "home_create", &key));
                batch.checks.push(room);
                batch.writes.extend(self.bells(&by.tenant, [account.clone()].into()));
                Ok(Step::Commit(batch, Ruling::Changed(home)))
            })
            .await?;
        self.ruled(by, "home_create", &key, ruling).await
    }

    /// Gives a home another name.
    pub async fn rename_home(&self, by: &Principal, home: &HomeId, name: &str) -> Result<Ruling, AuthError> {
        self.rule(by, home, "home_rename", |home, account, now| home.rename(account, name, now)).await
    }

    /// Makes a member something else, until `expires`.
    pub async fn set_role(
        &self,
        by: &Principal,
        home: &HomeId,
        member: &AccountId,
        role: Role,
        expires: Option<Timestamp>,
    ) -> Result<Ruling, AuthError> {
        self.rule(by, home, "member_role", |home, account, now| home.set_role(account, member, role, expires, now))
            .await
    }

    /// Ends a membership, with everything that was granted by it. Sessions that stand on any of it end within a second.
    pub async fn remove_member(&self, by: &Principal, home: &HomeId, member: &AccountId) -> Result<Ruling, AuthError> {
        self.rule(by, home, "member_remove", |home, account, now| home.remove(account, member, now)).await
    }

    /// Ends one's own membership, also one that has ended by its time.
    pub async fn leave_home(&self, by: &Principal, home: &HomeId) -> Result<Ruling, AuthError> {
        self.rule(by, home, "home_leave", |home, account, _| home.leave(account)).await
    }

    /// Makes a member the owner, and the owner a manager. Devices and their ownership epochs stay as they are.
    pub async fn transfer_home(&self, by: &Principal, home: &HomeId, to: &AccountId) -> Result<Ruling, AuthError> {
        self.rule(by, home, "home_transfer", |home, account, now| home.transfer(account, to, now)).await
    }

    /// Deletes a home and releases its devices, each into a new ownership epoch, in one commit.
    pub async fn dissolve_home(&self, by: &Principal, id: &HomeId) -> Result<Ruling, AuthError> {
        let key = Home::key_of(&by.tenant, id);
        let ruling = self
            .settle(|| async {
                let (Some(read), Some(account)) = (self.meta.find::<Home>(&key).await?, account_of(by)) else {
                    return Ok(Step::Answer(Ruling::Refused(HomeRefusal::Forbidden)));
                };
                let Ruling::Changed(empty) = read.document.dissolve(account, self.now()) else {
                    return Ok(Step::Answer(Ruling::Refused(HomeRefusal::Forbidden)));
                };
                let mut batch = Batch::default().remove(&read).audited(self.done(by, "home_dissolve", &key));
                batch.writes.extend(self.bells(&by.tenant, empty.affected(&read.document)));
                let place = format!("{}/{id}", by.tenant);
                // Whoever binds a device to this home checks the bound, and the home's version orders it with this.
                let devices = self.meta.page::<Device>("home", &place, None, HOME_DEVICES_MAX).await?.items;
                for device in &devices {
                    let entry = self.done(by, "unbind", &device.document.key());
                    let released = released(&device.document);
                    let told = Notification::unbound(&released, self.now());
                    batch = batch.replace(device, &released).audited(entry).announced(told);
                }
                Ok(Step::Commit(batch, Ruling::Changed(empty)))
            })
            .await?;
        self.ruled(by, "home_dissolve", &key, ruling).await
    }

    /// What is to be committed for an account of the tenant of `by` to be in no home any more, as before its deletion: the caller
    /// adds its own writes. On a conflict, ask again.
    pub async fn leaving_all_homes(&self, by: &Principal, account: &AccountId) -> Result<Leaving, AuthError> {
        let (mut batch, mut owned) = (Batch::default(), vec![]);
        for read in homes_of(&*self.meta, &by.tenant, account).await? {
            match read.document.leave(account) {
                Ruling::Changed(home) => {
                    let change = self.home_change(by, "home_leave", &read, &home);
                    batch.checks.extend(change.checks);
                    batch.writes.extend(change.writes);
                    batch.audit.extend(change.audit);
                }
                Ruling::Refused(_) => owned.push(read.document.id),
            }
        }
        Ok(if owned.is_empty() { Leaving::Ready(batch) } else { Leaving::Owner(owned) })
    }
}
