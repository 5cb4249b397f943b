//! The exam that every backend passes: one public function per behaviour that a contract in
//! [`iot_core::store`] promises, and a macro that makes a test of each.
//!
//! A backend's test file is this:
//!
//! ```ignore
//! struct Mine(tempfile::TempDir);
//!
//! #[async_trait::async_trait]
//! impl iot_store::conformance::Backend for Mine {
//!     async fn open(&mut self) -> iot_core::store::Stores {
//!         Stores::new(MyStore::open(self.0.path(), LIMITS).await.unwrap())
//!     }
//! }
//!
//! iot_store::conformance!(Mine(tempfile::tempdir().unwrap()));
//! iot_store::conformance_durable!(Mine(tempfile::tempdir().unwrap()));
//! ```
//!
//! The functions panic where a promise is broken.
#![allow(clippy::unwrap_used, reason = "an exam fails by panicking")]

pub mod durable;
pub mod maintenance;
pub mod meta;
pub mod queue;
pub mod retained;
mod samples;
pub mod session;
pub mod telemetry;

use async_trait::async_trait;
use iot_core::store::Stores;

use crate::StoreLimits;

/// The bounds with which a backend is examined: small, so that they can be reached.
pub const LIMITS: StoreLimits = StoreLimits { queue_messages_max: 20, retained_max: 5, changes_kept: 500 };

/// A backend that can be opened: empty at first, afterwards as it was left.
#[async_trait]
pub trait Backend: Send {
    /// Opens it with [`LIMITS`]; all that an earlier call returned has been dropped.
    async fn open(&mut self) -> Stores;
}

/// Makes a test of each case; the expression gives a new, empty [`Backend`](crate::conformance::Backend).
#[macro_export]
macro_rules! conformance {
    ($backend:expr) => {
        $crate::conformance_cases! { $backend, meta, meta: [
            a_record_is_created_replaced_and_deleted,
            records_are_read_in_the_order_of_the_keys,
            a_check_that_does_not_hold_writes_nothing,
            a_batch_without_writes_only_checks,
            a_unique_value_has_one_record,
            a_unique_value_is_free_after_deletion_or_replacement,
            a_unique_value_passes_between_records_of_a_batch,
            former_index_keys_are_gone,
            a_page_goes_on_while_records_are_written,
            a_list_is_ordered_by_bytes_and_counted,
            a_foreign_cursor_does_no_harm,
            revisions_grow_by_commit,
            changes_tell_every_commit_in_order,
            changes_are_complete_under_concurrent_writers,
            forgotten_changes_are_refused,
            one_of_many_claims_wins,
            no_increment_is_lost,
            audit_is_paged_newest_first,
            audit_belongs_to_a_tenant,
        ] }
        $crate::conformance_cases! { $backend, telemetry, telemetry: [
            sequences_grow_within_a_node,
            a_repeat_is_stored_once,
            epochs_and_tenants_are_apart,
            every_value_survives,
            every_field_survives,
            a_range_is_half_open,
            a_range_is_paged_both_ways,
            a_range_of_a_metric_shows_only_it,
            a_bucket_has_all_statistics,
            buckets_begin_at_multiples_also_before_1970,
            buckets_are_limited_to_the_earliest,
            odd_numbers_are_aggregated_as_ieee_754_says,
            latest_goes_by_the_time_of_the_device,
            latest_ignores_repeats_and_events,
            the_log_is_paged_by_node,
            a_checkpoint_never_goes_back,
            concurrent_appends_show_no_gap_to_a_reader,
        ] }
        $crate::conformance_cases! { $backend, maintenance, telemetry: [
            maintenance_changes_no_answer,
            what_arrives_late_is_found_and_counted,
            nothing_is_forgotten_early_and_everything_in_the_end,
            each_metric_is_kept_for_its_time,
            rollups_outlive_what_they_were_made_from,
            the_log_waits_for_its_consumers_for_a_week,
            repeats_are_recognised_while_the_report_is_young,
            sequences_are_not_reused_after_forgetting,
            many_small_portions_are_one_series,
            odd_reports_survive_maintenance,
        ] }
        $crate::conformance_cases! { $backend, session, sessions: [
            a_new_session_has_nothing_to_resume,
            a_session_is_resumed_with_all_it_had,
            a_later_opening_has_a_higher_epoch_also_after_removal,
            the_former_owner_is_fenced,
            a_clean_opening_drops_everything,
            an_opening_that_ends_a_session_tells_its_waiting_will,
            a_passing_opening_takes_the_session_away,
            a_session_expires_by_the_time_of_the_opening,
            a_session_that_is_not_kept_is_removed,
            subscriptions_are_replaced_and_removed,
            sent_through_is_all_after_a_crash,
            sessions_are_listed_by_id,
            one_of_many_openings_is_the_last,
            a_will_is_due_after_its_delay,
            a_will_is_due_when_its_session_ends,
            a_will_is_forgotten_or_replaced,
            discharging_is_fenced,
            due_is_limited_and_earliest_first,
        ] }
        $crate::conformance_cases! { $backend, queue, sessions: [
            a_queue_keeps_order_and_is_paged,
            a_queued_message_survives_with_every_field,
            a_full_queue_refuses_and_takes_again,
            a_session_that_is_gone_is_said,
            finished_released_and_forgotten_are_kept,
            steps_of_an_old_epoch_are_ignored,
            positions_grow_also_when_the_queue_is_empty,
            a_message_is_shared_until_the_last_has_it,
            a_session_named_twice_gets_it_twice,
            a_publication_of_a_former_owner_is_not_carried_out,
            received_ids_belong_to_the_session,
            many_publications_go_in_one_offer,
        ] }
        $crate::conformance_cases! { $backend, retained, sessions: [
            a_retained_message_is_set_replaced_and_removed,
            wildcards_match_as_mqtt_says,
            dollar_topics_are_hidden_from_wildcards,
            expired_ones_are_left_out,
            retained_messages_are_paged_by_topic,
            too_many_are_refused_by_tenant,
            expired_ones_make_room,
            tenants_are_apart,
        ] }
    };
}

/// Makes a test of each case that drops the stores and opens them again; for backends that keep what they were given.
#[macro_export]
macro_rules! conformance_durable {
    ($backend:expr) => {
        mod durable {
            use super::*;
            $crate::conformance_durable! { @cases $backend, [
                records_and_changes_are_there_again,
                telemetry_is_there_again,
                maintained_telemetry_is_there_again,
                sessions_are_there_again,
                queues_are_there_again,
                retained_messages_are_there_again,
                counters_go_on,
            ] }
        }
    };
    (@cases $backend:expr, [$($case:ident),* $(,)?]) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::conformance::durable::$case(&mut $backend).await;
            }
        )*
    };
}

/// One test per case of a module.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ($backend:expr, $module:ident, $store:ident: [$($case:ident),* $(,)?]) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let mut backend = $backend;
                    let stores = $crate::conformance::Backend::open(&mut backend).await;
                    $crate::conformance::$module::$case(&stores.$store).await;
                }
            )*
        }
    };
}
