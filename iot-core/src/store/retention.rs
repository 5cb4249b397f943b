use std::collections::BTreeMap;

use crate::{
    id::{Metric, ProductId, TenantId},
    time::Timestamp,
};

/// The longest that anything is kept, in days: a hundred years.
pub const KEPT_DAYS_MAX: u32 = 36_525;

const DAY_MICROS: i64 = 86_400_000_000;

/// For how many days telemetry is kept, in which form.
///
/// A form is forgotten in whole [partitions](Partition): what was received within one of its spans goes when so many days have
/// passed since the end of that span, never earlier. Rollups are statistics of all values of a metric in buckets of a minute,
/// an hour and a day (see [`Bucket`](super::Bucket)); they outlive what they were made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Retention {
    raw: u32,
    minute: u32,
    hour: u32,
    day: u32,
}

/// The forms in which telemetry is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// Each report as it came.
    Raw,
    /// Buckets of a minute.
    Minute,
    /// Buckets of an hour.
    Hour,
    /// Buckets of a day.
    Day,
}

/// Days that cannot be kept so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("retention must be at most {KEPT_DAYS_MAX} days, and no shorter for a coarser form: raw, minute, hour, day")]
pub struct RetentionError;

impl Retention {
    /// Days for reports and for rollups of a minute, an hour and a day; a coarser form is kept at least as long as a finer one.
    pub fn new(raw: u32, minute: u32, hour: u32, day: u32) -> Result<Self, RetentionError> {
        let grows = raw <= minute && minute <= hour && hour <= day && day <= KEPT_DAYS_MAX;
        grows.then_some(Self { raw, minute, hour, day }).ok_or(RetentionError)
    }

    /// The days of a form.
    pub fn days(&self, form: Form) -> u32 {
        match form {
            Form::Raw => self.raw,
            Form::Minute => self.minute,
            Form::Hour => self.hour,
            Form::Day => self.day,
        }
    }
}

impl Default for Retention {
    /// Reports for 90 days; minutes for 400 days, hours for five years, days for twenty.
    fn default() -> Self {
        Self { raw: 90, minute: 400, hour: 1_827, day: 7_305 }
    }
}

impl Form {
    /// All, the finest first.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Minute, Self::Hour, Self::Day];

    /// The width of its buckets in microseconds; `None` for reports.
    pub fn bucket_micros(self) -> Option<i64> {
        match self {
            Self::Raw => None,
            Self::Minute => Some(60_000_000),
            Self::Hour => Some(3_600_000_000),
            Self::Day => Some(DAY_MICROS),
        }
    }

    /// How many days of receipt one partition holds.
    pub fn partition_days(self) -> i64 {
        match self {
            Self::Raw | Self::Minute => 1,
            Self::Hour => 30,
            Self::Day => 365,
        }
    }
}

/// What is forgotten together: everything of one form that is kept equally long and was received within the same days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// In which form.
    pub form: Form,
    /// For how many days.
    pub kept: u32,
    /// Which span of [`Form::partition_days`] days, counted from 1970 (UTC).
    pub span: i64,
}

impl Partition {
    /// Where something belongs that was received at a time.
    pub fn of(form: Form, retention: &Retention, received: Timestamp) -> Self {
        let width = form.partition_days() * DAY_MICROS;
        Self { form, kept: retention.days(form), span: received.as_micros().div_euclid(width) }
    }

    /// Whether it is to be forgotten.
    pub fn is_over(&self, now: Timestamp) -> bool {
        let days = (i128::from(self.span) + 1) * i128::from(self.form.partition_days()) + i128::from(self.kept);
        i128::from(now.as_micros()) >= days * i128::from(DAY_MICROS)
    }
}

/// For how long whose telemetry is kept: the first that is said of a metric of a product, of the product, of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// What nothing else is said of.
    pub default: Retention,
    /// By product, named events included.
    pub products: BTreeMap<(TenantId, ProductId), Retention>,
    /// By metric of a product.
    pub metrics: BTreeMap<(TenantId, ProductId, Metric), Retention>,
}

impl Policies {
    /// What counts for a metric, or, without one, for named events.
    pub fn of(&self, tenant: &TenantId, product: &ProductId, metric: Option<&Metric>) -> Retention {
        let by_metric = metric
            .filter(|_| !self.metrics.is_empty())
            .and_then(|metric| self.metrics.get(&(tenant.clone(), product.clone(), metric.clone())));
        let by_product = || (!self.products.is_empty()).then(|| self.products.get(&(tenant.clone(), product.clone())));
        *by_metric.or_else(|| by_product().flatten()).unwrap_or(&self.default)
    }
}

/// What [`TelemetryStore::maintain`](super::TelemetryStore::maintain) did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintained {
    /// How many reports were brought into their compact form.
    pub sealed: u64,
    /// How many reports were forgotten. With retention by metric a report counts once for each part of it.
    pub forgotten: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(day: i64) -> Timestamp {
        Timestamp::from_micros(day * DAY_MICROS)
    }

    #[test]
    fn a_partition_is_over_so_many_days_after_its_end_and_not_a_moment_earlier() {
        let retention = Retention::new(2, 3, 3, 3).unwrap();
        for received in [day(10), Timestamp::from_micros(day(11).as_micros() - 1)] {
            let raw = Partition::of(Form::Raw, &retention, received);
            assert!(!raw.is_over(Timestamp::from_micros(day(13).as_micros() - 1)));
            assert!(raw.is_over(day(13)));
        }
        let hours = Partition::of(Form::Hour, &retention, day(31));
        assert!(!hours.is_over(Timestamp::from_micros(day(63).as_micros() - 1)) && hours.is_over(day(63)));
        let early = Partition::of(Form::Raw, &retention, Timestamp::from_micros(i64::MIN));
        assert!(early.is_over(day(0)) && !Partition::of(Form::Raw, &retention, Timestamp::MAX).is_over(Timestamp::MAX));
    }

    #[test]
    fn coarser_forms_are_kept_at_least_as_long() {
        assert!(Retention::new(0, 0, 0, 0).is_ok() && Retention::new(1, 2, 3, KEPT_DAYS_MAX).is_ok());
        for (raw, minute, hour, day) in [(2, 1, 3, 4), (1, 3, 2, 4), (1, 2, 4, 3), (1, 2, 3, KEPT_DAYS_MAX + 1)] {
            assert_eq!(Retention::new(raw, minute, hour, day), Err(RetentionError));
        }
    }

    #[test]
    fn the_nearest_policy_counts() {
        let (tenant, product, other) = ("t".parse().unwrap(), "p".parse().unwrap(), "q".parse().unwrap());
        let metric = Metric::parse("m").unwrap();
        let (long, short) = (Retention::new(9, 9, 9, 9).unwrap(), Retention::new(1, 1, 1, 1).unwrap());
        let mut policies = Policies::default();
        policies.products.insert((tenant, product), long);
        let (tenant, product): (TenantId, ProductId) = ("t".parse().unwrap(), "p".parse().unwrap());
        policies.metrics.insert((tenant.clone(), product.clone(), metric.clone()), short);
        assert_eq!(policies.of(&tenant, &product, Some(&metric)), short);
        assert_eq!(policies.of(&tenant, &product, Some(&Metric::parse("n").unwrap())), long);
        assert_eq!(policies.of(&tenant, &product, None), long);
        assert_eq!(policies.of(&tenant, &other, Some(&metric)), Retention::default());
    }
}
