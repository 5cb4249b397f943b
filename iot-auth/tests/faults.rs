//! Stores that refuse, that are slow, and that lose the answer after they have written.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use iot_auth::registry::{Claim, Claimed};
use iot_core::{home::Ruling, store::Stores};
use iot_store::{
    StoreLimits,
    faulty::{Faults, Faulty, Odds},
    memory::Memory,
};
use rcgen::KeyPair;
use support::{Cloud, device, operator, peer, person, request};

const UNITS: usize = 12;

/// The same cloud, whose records from now on fail by a seed.
async fn hurt(cloud: Cloud, seed: u64) -> (Cloud, Stores, Arc<Faulty>) {
    let sound = cloud.stores.clone();
    let odds = Odds { refused: 0.15, crashed: 0.15, delayed: 0.3, delay_max: Duration::from_micros(100) };
    let faulty = Arc::new(Faulty::new(sound.clone(), Faults::with_seed(seed).everywhere(odds)));
    let cloud = cloud.restarted(Stores { meta: faulty.clone(), ..sound.clone() }).await;
    (cloud, sound, faulty)
}

/// Units that claim with one token at once, and ask again after each error, as a device does: each is claimed once, and the
/// token has lost one use for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_settle_through_refusals_and_lost_answers() {
    for seed in 1..=3 {
        let cloud = Cloud::over(Stores::new(Memory::new(StoreLimits::default()))).await;
        let by = operator("acme");
        cloud.with_units(&by, "lamp", UNITS + 1).await;
        let token = Arc::new(cloud.claim_token(&by, "lamp", u32::try_from(UNITS).unwrap()).await);
        let (cloud, sound, faulty) = hurt(cloud, seed).await;
        let claims: Vec<_> = (0..UNITS)
            .map(|n| {
                let (auth, token) = (cloud.auth.clone(), token.clone());
                tokio::spawn(async move {
                    let (key, unit) = (KeyPair::generate().unwrap(), device(&format!("lamp-{n}")));
                    let request = request(&key);
                    loop {
                        match auth.claim(&token, &request, Some(&unit), peer().ip()).await {
                            Ok(Claimed::Done(claim)) => return *claim,
                            Ok(Claimed::Refused(why)) => panic!("{unit}: {why:?}"),
                            Err(_) => tokio::task::yield_now().await,
                        }
                    }
                })
            })
            .collect();
        let mut done: Vec<Claim> = Vec::new();
        for claim in claims {
            done.push(claim.await.unwrap());
        }
        let devices: BTreeSet<String> = done.iter().map(|claim| claim.device.to_string()).collect();
        assert_eq!(devices, (0..UNITS).map(|n| format!("lamp-{n}")).collect());
        let told = faulty.told();
        assert!(told.refused > 5 && told.crashed > 5, "{told:?}");
        let cloud = cloud.restarted(sound).await;
        for claim in &done {
            assert_eq!(cloud.device(&by, claim.device.as_str()).await.keys.len(), 1, "one key");
        }
        let one_more = cloud.claim(&token, &KeyPair::generate().unwrap(), Some(&format!("lamp-{UNITS}"))).await;
        assert!(matches!(one_more, Claimed::Refused(_)), "the token has no use left");
    }
}

/// People who rename one home at once, each again and again until it is done: the home has one of the names, and what was
/// told as done is in the audit log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn homes_settle_through_refusals_and_lost_answers() {
    let cloud = Cloud::new().await;
    let owner = person("ann");
    let home = cloud.home_of(&owner).await;
    let (cloud, sound, faulty) = hurt(cloud, 4).await;
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let (auth, owner, home) = (cloud.auth.clone(), owner.clone(), home.clone());
            tokio::spawn(async move {
                let mut done = 0;
                while done < 10 {
                    match auth.rename_home(&owner, &home, &format!("name {writer}-{done}")).await {
                        Ok(Ruling::Changed(_)) => done += 1,
                        Ok(Ruling::Refused(why)) => panic!("{why:?}"),
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(faulty.told().refused > 10 && faulty.told().crashed > 10, "{:?}", faulty.told());
    let cloud = cloud.restarted(sound).await;
    assert!(cloud.home_record(&home).await.name.starts_with("name "));
    let renamed = cloud.audit(&owner.tenant).await;
    let renamed = renamed.iter().filter(|entry| entry.refused.is_none() && entry.action.contains("rename")).count();
    assert!(renamed >= 60, "{renamed}");
}
