//! For how long telemetry is kept, as options say it.

use std::{fmt, str::FromStr};

use iot_auth::Auth;
use iot_core::{
    id::{Metric, ProductId, TenantId},
    store::{Policies, Retention},
};
use serde::{Deserialize, Deserializer, de};

/// One rule: `[[TENANT/]PRODUCT[:METRIC]=]RAW,MINUTE,HOUR,DAY`, in days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    of: Option<(TenantId, ProductId, Option<Metric>)>,
    retention: Retention,
}

/// What the rules say together; of two about the same the later one counts.
pub(crate) fn policies(rules: &[Rule]) -> Policies {
    let mut policies = Policies::default();
    for Rule { of, retention } in rules {
        match of.clone() {
            None => policies.default = *retention,
            Some((tenant, product, None)) => {
                policies.products.insert((tenant, product), *retention);
            }
            Some((tenant, product, Some(metric))) => {
                policies.metrics.insert((tenant, product, metric), *retention);
            }
        }
    }
    policies
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &dyn fmt::Display| {
            format!(
                "'{text}' is not [[TENANT/]PRODUCT[:METRIC]=]RAW,MINUTE,HOUR,DAY in days, for example 90,400,1827,7305 or lamp:power=30,400,1827,7305: {what}"
            )
        };
        let (of, days) = text.split_once('=').map_or((None, text), |(of, days)| (Some(of), days));
        let numbers: Vec<u32> = days
            .split(',')
            .map(|days| days.trim().parse().map_err(|_| wrong(&format_args!("'{days}' is not a number of days"))))
            .collect::<Result<_, _>>()?;
        let [raw, minute, hour, day] = numbers[..] else { return Err(wrong(&"there must be four numbers")) };
        let retention = Retention::new(raw, minute, hour, day).map_err(|error| wrong(&error))?;
        let of = of.map(|of| {
            let (product, metric) = of.split_once(':').map_or((of, None), |(product, metric)| (product, Some(metric)));
            let (tenant, product) = match product.split_once('/') {
                Some((tenant, product)) => (TenantId::parse(tenant).map_err(|error| wrong(&error))?, product),
                None => (Auth::default_tenant(), product),
            };
            let product = ProductId::parse(product).map_err(|error| wrong(&error))?;
            let metric = metric.map(Metric::parse).transpose().map_err(|error| wrong(&error))?;
            Ok::<_, String>((tenant, product, metric))
        });
        Ok(Self { of: of.transpose()?, retention })
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_rule_counts() {
        let rules = ["10,20,30,40", "lamp=1,2,3,4", "lamp:power=5,5,5,5", "acme/lamp=7,7,7,7", "10,20,30,50"];
        let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let policies = policies(&rules);
        let days = |days: [u32; 4]| Retention::new(days[0], days[1], days[2], days[3]).unwrap();
        let (tenant, acme) = (Auth::default_tenant(), TenantId::parse("acme").unwrap());
        let (lamp, plug) = (ProductId::parse("lamp").unwrap(), ProductId::parse("plug").unwrap());
        let power = Metric::parse("power").unwrap();
        assert_eq!(policies.of(&tenant, &lamp, Some(&power)), days([5, 5, 5, 5]));
        assert_eq!(policies.of(&tenant, &lamp, None), days([1, 2, 3, 4]));
        assert_eq!(policies.of(&acme, &lamp, Some(&power)), days([7, 7, 7, 7]));
        assert_eq!(policies.of(&acme, &plug, None), days([10, 20, 30, 50]));
        assert_eq!(super::policies(&[]), Policies::default());
    }

    #[test]
    fn wrong_rules_say_what_is_wrong() {
        for (rule, what) in [
            ("90", "four numbers"),
            ("90,80,70,60", "no shorter"),
            ("1,2,3,soon", "'soon'"),
            ("1,2,3,99999999", "at most"),
            ("l amp=1,2,3,4", "PRODUCT"),
            ("lamp:=1,2,3,4", "PRODUCT"),
            ("=1,2,3,4", "PRODUCT"),
        ] {
            let error = rule.parse::<Rule>().unwrap_err();
            assert!(error.contains(what) && error.lines().count() == 1, "{error}");
        }
    }
}
