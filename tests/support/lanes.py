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
    "tests/cluster/test_cluster.py",
    "tests/execution/test_node_loss.py",
    "tests/service/test_sweep.py",
    "tests/config/test_filesystem.py",
    "tests/execution/test_executor.py",
    "tests/service/test_confirm.py",
    "tests/service/maintenance/test_archive.py",
    "tests/study/test_study.py",
    "tests/cli/test_cli.py",
    "tests/tracking/test_tracker.py",
    "tests/tracking/test_server.py",
    "tests/service/test_new_space.py",
    "tests/analysis/test_sensitivity.py",
    "tests/evidence/test_evidence.py",
    "tests/config/test_user_code.py",
]
"""Groups in the order in which they begin; all others follow in the order of their names."""

SLOW = {
    "tests/config/test_shadowed_packages.py",
    "tests/config/test_study_file.py::test_the_schema_describes_every_key_of_a_study",
    "tests/data/test_loading.py::test_processes_may_prepare_at_once",
    "tests/data/test_loading.py::test_two_processes_that_prepare_at_once_make_one_download",
    "tests/evidence/test_evidence.py",
    "tests/execution/test_local.py::test_a_study_runs_where_there_is_no_ray_and_its_trials_may_print",
    "tests/execution/test_local.py::test_sigterm_checkpoints_the_trial_and_the_study_goes_on",
    "tests/service/maintenance/test_archive.py",
    "tests/service/test_confirm.py::test_a_run_that_goes_on_meanwhile_keeps_the_studys_own_run",
    "tests/service/test_confirm.py::test_an_interrupted_study_is_confirmed_as_it_is_and_stays_interrupted",
    "tests/service/test_driver.py::test_a_trial_that_was_taken_over_is_given_up",
    "tests/service/test_driver.py::test_the_pruner_decides_alike_whether_epochs_come_one_by_one_or_all_at_once",
    "tests/service/test_new_space.py",
    "tests/service/test_resume.py",
    "tests/service/test_saved_model.py::test_the_page_predicts_as_well_as_train_says",
    "tests/study/storages/test_rdb_cache.py::test_any_order_of_writes_leaves_memory_as_the_database",
    "tests/tracking/test_tracker.py::test_a_logged_model_predicts_without_this_project_and_without_unpickling",
}
"""Files and tests that take some seconds of a processor each although they start no Ray and no server."""

ELSEWHERE = {
    "tests/cli/test_browser.py::test_the_report_draws_every_figure_and_fetches_nothing": (
        "tests/analysis/report/test_report.py"  # has made the report
    ),
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
