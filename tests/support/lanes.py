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
]
"""Groups in the order in which they begin; all others follow in the order of their names."""

ELSEWHERE = {
    "tests/cli/test_browser.py::test_the_report_draws_every_figure_and_fetches_nothing": (
        "tests/analysis/report/test_report.py"  # has made the report
    ),
}
"""Tests that run in the group of another file."""


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
