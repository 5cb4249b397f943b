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
//!     fn capabilities(&self) -> &'static [Capability] {
//!         &[Capability::DurableRecords, Capability::DurableTelemetry, Capability::DurableSessions]
//!     }
//!
//!     async fn open(&mut self) -> iot_core::store::Stores {
//!         Stores::new(MyStore::open(self.0.path(), LIMITS).await.unwrap())
//!     }
//! }
//!
//! iot_store::conformance!(Mine(tempfile::tempdir().unwrap()), skips: [
//!     "shared::commits_are_seen_at_once",
//!     // …
//! ]);
//! ```
//!
//! Most cases need nothing but what every backend must do. A case that needs a [`Capability`] which the backend does not
//! declare says so and ends; which cases those are is written in the test file, and a test of its own fails if the list
//! says more or less than is skipped. The functions panic where a promise is broken.
//!
//! The last case, `model`, carries out random histories on the backend and on [`memory`](crate::memory), and compares all
//! answers and all that can be read.
#![allow(clippy::unwrap_used, reason = "an exam fails by panicking")]

#[cfg(feature = "blobs")]
pub mod blob;
pub mod bounds;
mod capability;
pub mod durable;
pub mod maintenance;
pub mod meta;
pub mod model;
pub mod queue;
pub mod races;
pub mod retained;
pub mod rollups;
mod samples;
pub mod session;
pub mod shared;
pub mod telemetry;

use async_trait::async_trait;
pub use capability::{Capability, Case, check_skips, is_skipped, tell};
use iot_core::store::Stores;

use crate::StoreLimits;

/// The bounds with which a backend is examined: small, so that they can be reached.
pub const LIMITS: StoreLimits = StoreLimits {
    queue_messages_max: 20,
    retained_max: 5,
    changes_kept: 500,
    queue_bytes_max: 2_000,
    retained_bytes_max: 1_000,
};

/// A backend that can be opened: empty at first, afterwards as it was left.
#[async_trait]
pub trait Backend: Send {
    /// What it can do beyond what every backend must.
    fn capabilities(&self) -> &'static [Capability];

    /// Opens it with [`LIMITS`]; all that an earlier call returned has been dropped, unless it declares
    /// [`Capability::Shared`].
    async fn open(&mut self) -> Stores;

    /// How many random histories are compared with memory.
    fn histories(&self) -> u32 {
        HISTORIES
    }

    /// Looks for what no answer shows, at the end of each history, and panics if it is wrong.
    async fn inspect(&mut self) {}
}

/// How many random histories are compared with memory, if a backend does not say otherwise.
pub const HISTORIES: u32 = 48;

/// Makes a test of each case; the expression gives a new, empty [`Backend`](crate::conformance::Backend). Further tests
/// compare the cases that are skipped with those that are named after it, and print which case is run.
#[macro_export]
macro_rules! conformance {
    ($backend:expr $(,)?) => {
        $crate::conformance! { $backend, skips: [] }
    };
    ($backend:expr, skips: [$($skip:literal),* $(,)?] $(,)?) => {
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
            what_is_erased_is_gone_and_nothing_else,
            an_erased_series_begins_anew,
            a_checkpoint_never_goes_back,
            concurrent_appends_show_no_gap_to_a_reader,
        ] }
        $crate::conformance_cases! { $backend, maintenance, telemetry: [
            maintenance_changes_no_answer,
            usage_grows_with_what_is_kept,
            what_arrives_late_is_found_and_counted,
            nothing_is_forgotten_early_and_everything_in_the_end,
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
            bytes_bound_a_queue_and_a_page,
            a_session_that_is_gone_is_said,
            finished_released_and_forgotten_are_kept,
            steps_of_an_old_epoch_are_ignored,
            positions_grow_also_when_the_queue_is_empty,
            a_message_is_placed_with_the_epoch_of_its_session,
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
            too_many_bytes_are_refused_by_tenant,
            expired_ones_make_room,
            tenants_are_apart,
        ] }
        $crate::conformance_cases! { $backend, races, all: [
            one_index_value_is_won_once,
            no_increment_of_a_twin_is_lost,
            openings_and_offers_are_fenced,
            a_cancelled_batch_is_whole_or_absent,
            a_conflict_at_the_end_undoes_the_beginning,
            records_inserted_around_the_cursor_are_met_once,
            a_queue_is_read_on_while_it_grows,
            what_has_returned_is_told,
        ] }
        $crate::conformance_cases! { $backend, bounds, all: [
            times_reach_from_the_first_to_the_last,
            ranges_end_where_time_ends,
            buckets_hold_at_the_ends_of_time,
            a_year_is_not_a_bound,
            whole_numbers_keep_every_bit,
            texts_are_compared_by_bytes_also_when_long,
            batches_may_be_large,
            a_queue_drops_nothing_by_itself,
        ] }
        $crate::conformance_opened! { $backend, durable: [
            records_and_changes_are_there_again: DurableRecords,
            telemetry_is_there_again: DurableTelemetry,
            maintained_telemetry_is_there_again: DurableTelemetry Rollups,
            sessions_are_there_again: DurableSessions,
            queues_are_there_again: DurableSessions,
            retained_messages_are_there_again: DurableSessions,
            counters_go_on: DurableTelemetry DurableSessions,
            writes_from_many_tasks_are_there_again: DurableRecords,
        ] }
        $crate::conformance_opened! { $backend, rollups: [
            each_metric_is_kept_for_its_time: Rollups,
            rollups_outlive_what_they_were_made_from: Rollups,
        ] }
        $crate::conformance_opened! { $backend, shared: [
            commits_are_seen_at_once: Shared,
            one_of_many_handles_wins: Shared,
            changes_are_complete_from_every_handle: Shared,
            a_session_passes_from_node_to_node: Shared,
            what_one_node_appends_another_reads: Shared,
        ] }

        #[test]
        fn model() {
            $crate::conformance::model::compare_histories(|| $backend);
        }

        fn conformance_cases() -> Vec<$crate::conformance::Case> {
            [
                meta::CASES,
                telemetry::CASES,
                maintenance::CASES,
                session::CASES,
                queue::CASES,
                retained::CASES,
                races::CASES,
                bounds::CASES,
                durable::CASES,
                rollups::CASES,
                shared::CASES,
            ]
            .concat()
        }

        #[test]
        fn skips_are_those_that_are_listed() {
            $crate::conformance::check_skips(&$backend, &conformance_cases(), &[$($skip),*]);
        }

        #[test]
        fn conformance_table() {
            $crate::conformance::tell(&$backend, &conformance_cases());
        }
    };
}

/// One test per case of a module.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ($backend:expr, $module:ident, $store:ident: [$($case:ident),* $(,)?]) => {
        mod $module {
            use super::*;
            pub(super) const CASES: &[$crate::conformance::Case] = &[
                $($crate::conformance::Case { module: stringify!($module), name: stringify!($case), needs: &[] },)*
            ];
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let mut backend = $backend;
                    let stores = $crate::conformance::Backend::open(&mut backend).await;
                    $crate::conformance::$module::$case($crate::conformance_store!(stores, $store)).await;
                }
            )*
        }
    };
}

/// What a case is given.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_store {
    ($stores:ident, all) => {
        &$stores
    };
    ($stores:ident, $store:ident) => {
        &$stores.$store
    };
}

/// One test per case that opens the stores itself, with the capabilities that it needs.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_opened {
    ($backend:expr, $module:ident: [$($case:ident: $($needs:ident)+),* $(,)?]) => {
        mod $module {
            use super::*;
            pub(super) const CASES: &[$crate::conformance::Case] = &[
                $($crate::conformance::Case {
                    module: stringify!($module),
                    name: stringify!($case),
                    needs: &[$($crate::conformance::Capability::$needs),+],
                },)*
            ];
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let mut backend = $backend;
                    if !$crate::conformance::is_skipped(&backend, CASES, stringify!($case)) {
                        $crate::conformance::$module::$case(&mut backend).await;
                    }
                }
            )*
        }
    };
}

/// Makes a test of each case for blobs; the expression gives a guard, which is held, and a new, empty
/// [`BlobStore`](iot_core::store::BlobStore).
#[cfg(feature = "blobs")]
#[macro_export]
macro_rules! conformance_blobs {
    ($store:expr) => {
        $crate::conformance_blobs! { $store, [
            what_was_put_is_read,
            pieces_make_one_blob,
            ranges_are_read,
            nothing_is_there_that_was_not_put,
            what_was_not_announced_is_not_kept,
            the_same_content_is_kept_once,
            blobs_are_listed_in_pages,
            what_has_no_name_is_removed_when_it_is_old,
            a_pause_keeps_everything_until_it_is_over,
            what_is_stored_survives_a_removal_at_the_same_time,
        ] }
    };
    ($store:expr, [$($case:ident),* $(,)?]) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (_guard, store) = $store;
                $crate::conformance::blob::$case(&store).await;
            }
        )*
    };
}
