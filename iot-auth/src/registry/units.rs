use iot_core::{
    access::Principal,
    device::{Device, KeyState, Stage},
    home::Home,
    id::{DeviceId, HomeId},
    store::{Batch, Document, MetaStoreExt, Step, Stored},
};

use crate::auth::{Auth, AuthError};

/// The answer to a revocation of keys.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysRevoked {
    /// So many were active until now; none of those meant is accepted any more.
    Done(usize),
    /// The device has no key with that fingerprint.
    NoSuchKey,
    /// There is no such device.
    NoSuchDevice,
}

/// The answer to a move.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It stands there now.
    Done,
    /// There is no such device.
    NoSuchDevice,
    /// There is no such home.
    NoSuchHome,
    /// It is bound, or that home is somebody's: only an owner releases a device, and only a code binds one.
    Owned,
}

impl Auth {
    /// Revokes one key of a device, or all. Its sessions end within a second; it cannot claim another key.
    pub async fn revoke_keys(
        &self,
        by: &Principal,
        device: &DeviceId,
        fingerprint: Option<&str>,
    ) -> Result<KeysRevoked, AuthError> {
        self.settle(|| async {
            let Some(stored) = self.device(by, device).await? else {
                return Ok(Step::Answer(KeysRevoked::NoSuchDevice));
            };
            let mut revoked = stored.document.clone();
            let meant = |key: &str| fingerprint.is_none_or(|wanted| wanted == key);
            if fingerprint.is_some() && !revoked.keys.iter().any(|key| meant(&key.fingerprint)) {
                return Ok(Step::Answer(KeysRevoked::NoSuchKey));
            }
            let count = revoke(&mut revoked, meant);
            Ok(match count {
                0 => Step::Answer(KeysRevoked::Done(0)),
                _ => Step::Commit(self.change(by, "keys_revoke", &stored, &revoked), KeysRevoked::Done(count)),
            })
        })
        .await
    }

    /// Takes a device out of service for good, with all of its keys; `false` if there is none. Again is no error.
    pub async fn retire(&self, by: &Principal, device: &DeviceId) -> Result<bool, AuthError> {
        self.settle(|| async {
            let Some(stored) = self.device(by, device).await? else { return Ok(Step::Answer(false)) };
            if stored.document.stage == Stage::Retired {
                return Ok(Step::Answer(true));
            }
            let mut retired = Device { stage: Stage::Retired, ..stored.document.clone() };
            revoke(&mut retired, |_| true);
            Ok(Step::Commit(self.change(by, "retire", &stored, &retired), true))
        })
        .await
    }

    /// Places a device in a home that the vendor keeps, or in none, out of another such home or none. Both homes' records are checked and written, so that the move is
    /// ordered with everything else that touches them.
    pub async fn move_device(
        &self,
        by: &Principal,
        device: &DeviceId,
        home: Option<&HomeId>,
    ) -> Result<Moved, AuthError> {
        let moved = self
            .settle(|| async {
                let Some(stored) = self.device(by, device).await? else { return Ok(Step::Answer(Moved::NoSuchDevice)) };
                let former = stored.document.home.clone();
                if former.as_ref() == home {
                    return Ok(Step::Answer(Moved::Done));
                }
                let moved = Device { home: home.cloned(), ..stored.document.clone() };
                let mut batch = self.change(by, "device_move", &stored, &moved);
                for (id, must_be) in [(former.as_ref(), false), (home, true)] {
                    let Some(id) = id else { continue };
                    match self.meta.find::<Home>(&Home::key_of(&by.tenant, id)).await? {
                        Some(home) if home.document.owner().is_some() => return Ok(Step::Answer(Moved::Owned)),
                        Some(home) => batch = batch.replace(&home, &home.document),
                        None if must_be => return Ok(Step::Answer(Moved::NoSuchHome)),
                        None => {}
                    }
                }
                Ok(Step::Commit(batch, Moved::Done))
            })
            .await?;
        if moved == Moved::Owned {
            self.refused(self.done(by, "device_move", &Device::key_of(&by.tenant, device)), "home_of_people").await?;
        }
        Ok(moved)
    }

    async fn device(&self, by: &Principal, id: &DeviceId) -> Result<Option<Stored<Device>>, AuthError> {
        Ok(self.meta.find(&Device::key_of(&by.tenant, id)).await?)
    }

    fn change(&self, by: &Principal, action: &str, read: &Stored<Device>, device: &Device) -> Batch {
        Batch::default().replace(read, device).audited(self.done(by, action, &device.key()))
    }
}

/// Revokes the active keys that are meant; answers how many.
fn revoke(device: &mut Device, meant: impl Fn(&str) -> bool) -> usize {
    let active = device.keys.iter_mut().filter(|key| key.state == KeyState::Active && meant(&key.fingerprint));
    active.map(|key| key.state = KeyState::Revoked).count()
}
