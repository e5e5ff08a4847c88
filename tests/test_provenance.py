"""What code made a number, over a study's runs; a study that is run with another code is in test_archive."""

from __future__ import annotations

import importlib.metadata
import re

from sweep.provenance import all_tags, changes, code_at, environment, followed_by

OLD = {"sweep.version.torch": "2.5.0", "sweep.git_commit": "a1", "since": 100.0}
NEW = {"sweep.version.torch": "2.6.0", "sweep.git_commit": "a1", "since": 200.0}


def test_the_present_code_is_known_by_versions_and_commit() -> None:
    here = environment()
    assert here["sweep.version.optuna"] == importlib.metadata.version("optuna")
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", here["sweep.git_commit"])


def test_a_code_is_added_when_it_changes_and_again_when_it_changes_back() -> None:
    present = {k: v for k, v in NEW.items() if k != "since"}
    assert followed_by([OLD, NEW], present) == [OLD, NEW]
    for before in ([], [OLD], [NEW, OLD]):
        *kept, last = followed_by(before, present)
        assert kept == before
        assert {k: v for k, v in last.items() if k != "since"} == present
        assert float(last["since"]) > 200


def test_a_time_has_the_code_that_the_study_then_ran_with() -> None:
    assert [code_at([OLD, NEW], t)["sweep.version.torch"] for t in (150, 200, 300)] == ["2.5.0", "2.6.0", "2.6.0"]
    assert code_at([OLD, NEW], 50)["sweep.version.torch"] == "2.5.0"  # a clock that was set back
    assert code_at([], 50) == {}


def test_what_has_changed_is_said_in_few_words() -> None:
    assert changes(code_at([OLD], 0), code_at([NEW], 0)) == ["torch 2.5.0 -> 2.6.0"]
    assert changes({}, {"sweep.git_commit": "b2"}) == ["git_commit none -> b2"]
    assert all_tags([OLD, NEW, OLD]) == {"sweep.version.torch": "2.5.0, 2.6.0", "sweep.git_commit": "a1"}
