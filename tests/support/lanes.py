"""The order of the tests, and which of them share a process when pytest-xdist runs several at once.

A group runs in one process, one test after the other, so that what its fixtures start is started once. A file is a
group. Groups that take longest begin first, so that none is left over when all others are done.

The groups of pytest-xdist itself (``--dist loadgroup``) do nothing under pytest 9.2, which keeps the ids of tests
elsewhere.
"""

from __future__ import annotations

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

LONGEST = [
    "tests/service/test_resume.py",
    "tests/service/test_sweep.py",
    "tests/execution/test_executor.py",
    "tests/cluster/test_cluster.py",
    "tests/service/test_killed_functions.py",
    "tests/service/test_old_workspace.py",
    "tests/test_pages.py",
    "tests/evidence/test_evidence.py",
    "tests/config/test_shadowed_packages.py",
    "tests/service/test_confirm.py",
    "tests/config/test_user_code.py",
    "tests/tracking/test_tracker.py",
    "tests/config/test_filesystem.py",
    "tests/execution/test_node_loss.py",
    "tests/service/maintenance/test_archive.py",
    "tests/study/test_study.py",
    "tests/cli/test_cli.py",
    "tests/tracking/test_server.py",
    "tests/service/test_new_space.py",
    "tests/analysis/test_sensitivity.py",
]
"""Groups in the order in which they begin; all others follow in the order of their names."""

SLOW = {
    "tests/analysis/report/test_report.py",
    "tests/analysis/test_paired_tests.py::test_intervals_of_few_pairs_cover_the_truth",
    "tests/analysis/test_paired_tests.py::test_one_network_against_nine_equal_ones_hardly_ever_claims_a_difference",
    "tests/analysis/test_sensitivity.py",
    "tests/analysis/test_sensitivity_honesty.py",
    "tests/analysis/test_speedup.py::test_two_equal_networks_are_neither_late_nor_sooner",
    "tests/analysis/test_weight_profile.py::test_a_picture_is_drawn_of_any_network",
    "tests/cli/test_cli.py::test_a_bad_study_in_a_process_of_its_own",
    "tests/cli/test_cli.py::test_a_tracking_server_out_of_reach_is_named_without_its_password",
    "tests/cli/test_verbosity.py::test_a_run_is_quiet_verbose_or_neither",
    "tests/config/test_shadowed_packages.py",
    "tests/config/test_study_file.py::test_the_schema_describes_every_key_of_a_study",
    "tests/config/test_user_code.py::test_a_study_of_a_model_that_cannot_be_exported_keeps_its_weights",
    "tests/data/test_image_folders.py::test_a_shipped_study_suits_its_data",
    "tests/data/test_loading.py::test_cifar10",
    "tests/data/test_loading.py::test_processes_may_prepare_at_once",
    "tests/data/test_loading.py::test_two_processes_that_prepare_at_once_make_one_download",
    "tests/data/test_loading.py::test_workers_that_map_the_cache_load_no_reader",
    "tests/evidence/test_evidence.py",
    "tests/execution/test_dispatcher.py::test_a_source_that_never_answers_keeps_no_process_alive",
    "tests/execution/test_local.py::test_a_study_runs_where_there_is_no_ray_and_its_trials_may_print",
    "tests/execution/test_local.py::test_sigterm_checkpoints_the_trial_and_the_study_goes_on",
    "tests/losses/test_guidance.py::test_taps_come_to_their_target",
    "tests/losses/test_own_loops.py::test_hugging_face",
    "tests/losses/test_own_loops.py::test_lightning",
    "tests/losses/test_own_loops.py::test_losses_import_pytorch_alone",
    "tests/losses/test_unguided.py::test_gpt2_of_transformers",
    "tests/models/test_models.py::test_an_exported_program_takes_any_number_of_images",
    "tests/models/test_models.py::test_one_batch_is_overfitted",
    "tests/service/maintenance/test_archive.py",
    "tests/service/maintenance/test_damaged.py",
    "tests/service/preflight/test_data_agreement.py::test_a_study_goes_on_with_the_data_that_it_began_with",
    "tests/service/test_collapse.py::test_a_collapsed_trial_is_complete_and_never_among_the_best",
    "tests/service/test_confirm.py::test_a_run_that_goes_on_meanwhile_keeps_the_studys_own_run",
    "tests/service/test_confirm.py::test_an_interrupted_study_is_confirmed_as_it_is_and_stays_interrupted",
    "tests/service/test_driver.py::test_a_trial_that_was_taken_over_is_given_up",
    "tests/service/test_driver.py::test_the_pruner_decides_alike_whether_epochs_come_one_by_one_or_all_at_once",
    "tests/service/test_driver.py::test_while_the_storage_is_away_trials_go_on_and_nothing_is_lost",
    "tests/service/test_functions.py",
    "tests/service/test_killed_functions.py",
    "tests/service/test_library.py::test_a_run_is_stopped_by_the_button_of_a_notebook_and_the_same_call_goes_on",
    "tests/service/test_new_space.py",
    "tests/service/test_pruned_tags.py::test_a_pruned_trial_has_the_tags_whoever_sends_them",
    "tests/service/test_results.py",
    "tests/service/test_resume.py",
    "tests/service/test_retry.py::test_failed_trials_are_trained_again_and_count_once",
    "tests/service/test_saved_model.py::test_the_page_predicts_as_well_as_train_says",
    "tests/service/test_stored_bounds.py::test_a_stored_study_goes_on_with_numbers_that_a_new_one_must_not_have",
    "tests/service/test_webhook.py::test_a_confirmation_does_so_too",
    "tests/study/storages/test_rdb_cache.py",
    "tests/study/test_dataframe.py::test_trials_that_diverged_later_count_at_an_earlier_epoch",
    "tests/study/test_pruners.py",
    "tests/study/test_study.py",
    "tests/study/test_warm_start.py::test_a_sampler_learns_from_what_it_is_shown",
    "tests/test_examples.py::test_an_example_gives_what_it_shows",
    "tests/tracking/test_database.py",
    "tests/tracking/test_server.py::test_a_database_that_is_not_there_is_told_with_the_end_of_the_log",
    "tests/tracking/test_server.py::test_postgres_is_ended_with_the_server",
    "tests/tracking/test_tracker.py",
    "tests/training/test_trial.py::test_a_full_disk_leaves_the_checkpoint_before_and_nothing_else",
}
"""Files and tests that take some seconds of a processor each although they start no Ray and no server."""

ELSEWHERE = {
    "tests/cli/test_browser.py::test_the_report_draws_every_figure_and_fetches_nothing": (
        "tests/analysis/report/test_report.py"  # has made the report
    ),
    "tests/service/test_results.py::test_a_notebook_shows_what_the_commands_say": (
        "tests/analysis/report/test_report.py"
    ),
    "tests/service/test_results.py::test_what_is_not_there_is_named": ("tests/analysis/report/test_report.py"),
}
"""Tests that run in the group of another file."""


def is_slow(nodeid: str) -> bool:
    """Returns True for a test that `make test-fast` leaves out for its time alone."""
    return not SLOW.isdisjoint((nodeid.partition("::")[0], nodeid.partition("[")[0]))


def group_of(nodeid: str) -> str:
    """Returns the name of a test's group."""
    return ELSEWHERE.get(nodeid.partition("[")[0], nodeid.partition("::")[0])


def arrange(items: list[pytest.Item]) -> None:
    """Sorts the tests by their groups, those of a group as they were."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(group_of(item.nodeid), len(ranks)))


class Lanes(LoadScopeScheduling):
    """Gives the next group to the process that is free first, in the order of the tests."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
