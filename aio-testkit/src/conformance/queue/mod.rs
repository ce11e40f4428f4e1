//! The contract of [`IoBackend`] and its queues.

mod ending;
mod errors;
mod leaks;
mod reaping;
mod registered;
mod transfers;
mod waking;

use super::checks;
use aio_core::backend::IoBackend;

/// Checks everything that the engine relies on in a queue and in [`IoBackend::transfer`].
///
/// Skips loudly, as [`require`](super::require) does, where the backend is not available.
///
/// # Panics
///
/// When a check fails, after all of them have run.
pub fn queue(backend: &dyn IoBackend) {
    super::run(
        backend,
        &checks![
            transfers::move_the_right_bytes,
            transfers::of_any_size_when_buffered,
            transfers::of_large_blocks,
            transfers::of_several_files_in_one_batch,
            transfers::of_neighbours_in_both_directions,
            transfers::keep_the_queue_full,
            transfers::one_system_call_each,
            transfers::without_a_queue,
            transfers::on_two_threads,
            transfers::respect_the_capacity,
            transfers::fit_the_smallest_queue,
            transfers::give_every_token_back,
            errors::short_reads_at_the_end_of_the_file,
            errors::a_bad_descriptor_fails_alone,
            errors::a_wrong_access_mode_fails_alone,
            errors::a_directory_fails_alone,
            errors::a_bad_address_fails_alone,
            errors::a_misaligned_direct_block_fails_alone,
            reaping::waits_for_the_minimum,
            reaping::clamps_the_minimum,
            reaping::appends,
            reaping::does_not_wait_when_told_so,
            reaping::ends_with_the_timeout,
            reaping::takes_any_timeout,
            reaping::survives_signals,
            waking::before_a_reap,
            waking::during_a_reap,
            waking::many_times_is_waking_once,
            waking::is_over_after_the_reap,
            waking::with_a_full_queue,
            waking::is_never_lost,
            waking::is_never_lost_among_completions,
            waking::after_the_queue_is_gone,
            ending::drain_leaves_memory_alone,
            ending::drop_leaves_memory_alone,
            ending::drain_and_drop_of_writes,
            ending::nothing_in_flight,
            registered::regions_move_the_right_bytes,
            registered::regions_live_as_long_as_the_queue,
            registered::regions_are_let_go_when_removed,
            registered::slots_of_removed_regions_are_used_again,
            registered::regions_beyond_the_room_are_refused,
            registered::files_move_the_right_bytes,
            registered::files_are_let_go_when_removed,
            registered::files_are_let_go_with_the_queue,
            registered::stale_files_are_not_the_new_ones,
            registered::files_that_are_unknown_go_by_their_descriptor,
            registered::files_beyond_the_room_are_refused,
            leaks::queues_leave_nothing_behind,
        ],
    );
}
