//! What listeners and the tenant may take, as options say it.

use std::{fmt, str::FromStr};

use iot_auth::Auth;
use iot_core::{
    quota::{self, PutQuota, Quota, Scope, StoredQuota},
    rate::Rate,
    store::{MetaStore, MetaStoreExt, Stored},
    time::Timestamp,
};
use serde::{Deserialize, Deserializer, de};

use crate::failure::Failure;

/// Whom the audit log names.
const ACTOR: &str = "option --quota";

/// One rule: `WHO:LIMIT=VALUE,…`, of a listener or of the tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    who: Who,
    quota: Quota,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Listener(&'static str),
    Tenant,
}

const LISTENERS: [&str; 5] = ["mqtt", "mqtts", "ws", "wss", "tls"];

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &dyn fmt::Display| {
            format!(
                "'{text}' is not WHO:LIMIT=VALUE,…, for example mqtts:connections=10000 or tenant:publishes=500/2000,bytes=100000/400000: {what}"
            )
        };
        let Some((who, limits)) = text.split_once(':') else { return Err(wrong(&"there is no ':'")) };
        let who = match LISTENERS.into_iter().find(|name| *name == who) {
            Some(name) => Who::Listener(name),
            None if who == "tenant" => Who::Tenant,
            None => return Err(wrong(&format_args!("WHO is {} or tenant", LISTENERS.join(", ")))),
        };
        let mut quota = Quota::default();
        for limit in limits.split(',') {
            let Some((name, value)) = limit.trim().split_once('=') else {
                return Err(wrong(&format_args!("'{limit}' has no '='")));
            };
            set(&mut quota, name, value).map_err(|what| wrong(&what))?;
        }
        quota.check().map_err(|invalid| wrong(&invalid))?;
        Ok(Self { who, quota })
    }
}

fn set(quota: &mut Quota, name: &str, value: &str) -> Result<(), String> {
    let number = || value.parse().map_err(|_| format!("'{value}' is not a number of {name}"));
    let rate = || {
        let (per_s, burst) = value.split_once('/').unwrap_or((value, value));
        match (per_s.parse(), burst.parse()) {
            (Ok(per_s), Ok(burst)) => Ok(Rate { per_s, burst }),
            _ => Err(format!("'{value}' is not a number of {name} a second, nor PER_SECOND/AT_ONCE")),
        }
    };
    match name {
        "connections" => quota.connections_max = Some(number()?),
        "publishes" => quota.publishes = Some(rate()?),
        "bytes" => quota.bytes = Some(rate()?),
        "payload" => quota.payload_bytes_max = Some(number()?),
        "subscriptions" => quota.subscriptions_max = Some(number()?),
        "inflight" => {
            let max = u16::try_from(number()?).map_err(|_| format!("inflight is at most {}", u16::MAX))?;
            quota.inflight_max = Some(max);
        }
        _ => {
            return Err(format!("'{name}' is none of connections, publishes, bytes, payload, subscriptions, inflight"));
        }
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A listener's own; of two about the same the later one counts.
pub(crate) fn of_listener(rules: &[Rule], name: &'static str) -> Quota {
    last(rules, Who::Listener(name)).unwrap_or_default()
}

fn last(rules: &[Rule], who: Who) -> Option<Quota> {
    rules.iter().rev().find(|rule| rule.who == who).map(|rule| rule.quota)
}

/// Brings what is on record for the tenant in line with the options: they are the only place where it is set.
pub(crate) async fn keep(meta: &dyn MetaStore, rules: &[Rule], now: Timestamp) -> Result<(), Failure> {
    let (tenant, scope) = (Auth::default_tenant(), Scope::Tenant);
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::of("--quota: ", error);
    let found: Option<Stored<StoredQuota>> =
        meta.find(&StoredQuota::key_of(&tenant, &scope)).await.map_err(|error| failed(&error))?;
    let (wanted, found) = (last(rules, Who::Tenant), found.map(|stored| stored.document.quota));
    match wanted {
        _ if wanted == found => {}
        Some(quota) => {
            let stored = StoredQuota { tenant, scope, quota, changed: now };
            match quota::put(meta, ACTOR, &stored).await.map_err(|error| failed(&error))? {
                PutQuota::Done => {}
                refused => return Err(Failure::options(format!("--quota: the tenant's cannot be set: {refused:?}"))),
            }
        }
        None => _ = quota::remove(meta, ACTOR, &tenant, &scope, now).await.map_err(|error| failed(&error))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_says_every_limit() {
        let text = "mqtts:connections=7,publishes=10/20,bytes=1000,payload=65536,subscriptions=5, inflight=16";
        let rules = [text.parse().unwrap(), "tenant:connections=9".parse().unwrap()];
        let rate = |per_s, burst| Some(Rate { per_s, burst });
        let wanted = Quota {
            connections_max: Some(7),
            publishes: rate(10, 20),
            bytes: rate(1_000, 1_000),
            payload_bytes_max: Some(65_536),
            subscriptions_max: Some(5),
            inflight_max: Some(16),
        };
        assert_eq!(of_listener(&rules, "mqtts"), wanted);
        assert_eq!(of_listener(&rules, "mqtt"), Quota::default());
        assert_eq!(last(&rules, Who::Tenant).unwrap().connections_max, Some(9));
    }

    #[test]
    fn of_two_rules_the_later_one_counts() {
        let rules = ["ws:connections=1", "ws:payload=2"].map(|rule| rule.parse().unwrap());
        assert_eq!(of_listener(&rules, "ws"), Quota { payload_bytes_max: Some(2), ..Quota::default() });
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, told) in [
            ("mqtt", "there is no ':'"),
            ("http:connections=1", "WHO is mqtt, mqtts, ws, wss, tls or tenant"),
            ("mqtt:", "has no '='"),
            ("mqtt:connections", "has no '='"),
            ("mqtt:conections=1", "is none of connections"),
            ("mqtt:connections=x", "'x' is not a number"),
            ("mqtt:publishes=1/", "PER_SECOND/AT_ONCE"),
            ("mqtt:inflight=65536", "at most 65535"),
            ("mqtt:connections=0", "at least 1"),
            ("tenant:bytes=0/5", "per_s is at least 1"),
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert!(error.contains(told) && error.contains(text), "{text}: {error}");
        }
    }
}
