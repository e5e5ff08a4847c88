"""The order of the tests, and which of them share a process when pytest-xdist runs several at once.

A group runs in one process, one test after the other, so that what its fixtures start is started once. A file is a
group unless a test of it has a mark ``xdist_group``. Groups that take longest begin first, so that none is left over
when all others are done.
"""

from __future__ import annotations

import pytest

LONGEST: list[str] = [
    "tests/service/test_resume.py",
    "tests/cluster/test_cluster.py",
    "tests/execution/test_node_loss.py",
    "tests/service/test_sweep.py",
    "tests/config/test_filesystem.py",
    "tests/execution/test_executor.py",
    "tests/service/test_confirm.py",
]
"""Groups in the order in which they begin; all others follow in the order of their names."""


def group_of(item: pytest.Item) -> str:
    """Returns the name of a test's group."""
    marker = item.get_closest_marker("xdist_group")
    return str(marker.args[0]) if marker else item.location[0]


def arrange(items: list[pytest.Item]) -> None:
    """Sorts the tests by their groups, and gives a group to those that have none."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.location[0]))
    items.sort(key=lambda item: ranks.get(group_of(item), len(ranks)))
