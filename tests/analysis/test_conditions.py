"""Conditions on hyperparameters: what they hold for, and that nothing in them is ever run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.analysis.conditions import parse_conditions
from sweep.config.errors import SweepError

NAMES = {"depth": None, "lambda1": None, "training.init": None, "model.norm": None}


@pytest.mark.parametrize(
    ("text", "name", "holds", "fails"),
    [
        ("depth >= 4", "depth", [4, 5], [3]),
        ("4 <= depth", "depth", [4, 5], [3]),
        ("2 < depth <= 4", "depth", [3, 4], [2, 5]),
        ("depth > 2 and depth != 4", "depth", [3, 5], [2, 4]),
        ("lambda1 < 1e-3 and depth == 2", "lambda1", [1e-4], [1e-3]),
        ("training.init == 'he'", "training.init", ["he"], ["default"]),
        ("training.init in ['he', 'default']", "training.init", ["he", "default"], ["orthogonal"]),
        ("training.init not in ('he',)", "training.init", ["default"], ["he"]),
        ("model.norm == True", "model.norm", [True], [False]),
        ("model.norm != None", "model.norm", [True], [None]),
        ("lambda1 > -1", "lambda1", [0.0], [-2.0]),
        (" depth\t>= 4 ", "depth", [4], [3]),
    ],
)
def test_conditions_hold_for_what_they_say(text: str, name: str, holds: list[object], fails: list[object]) -> None:
    condition = parse_conditions(text, NAMES)[name]
    assert all(condition(value) for value in holds)
    assert not any(condition(value) for value in fails)


def test_each_hyperparameter_has_its_own_condition() -> None:
    conditions = parse_conditions("depth >= 4 and lambda1 < 1e-3 and depth < 6", NAMES)
    assert set(conditions) == {"depth", "lambda1"}
    assert [depth for depth in range(9) if conditions["depth"](depth)] == [4, 5]


def test_a_text_is_neither_above_nor_below_a_number() -> None:
    assert not parse_conditions("depth >= 4", NAMES)["depth"]("deep")
    assert not parse_conditions("depth >= 'deep'", NAMES)["depth"](4)


@pytest.mark.parametrize(
    "text",
    [
        "", "depth", "depth >=", "depth >= 4 or depth < 2", "not depth >= 4", "depth = 4", "depth >= lambda1", "4 >= 2",
        "depth >= 2 + 2", "depth >= int('4')", "len(depth) > 2", "depth[0] == 1", "depth is None", "(depth := 4) > 2",
        "lambda: depth", "depth >= 4; depth < 9", "depth >= 4\ndepth < 9", "depth >= 9**9**9", "(" * 5000 + "depth",
        "-" * 100_000 + "depth > 1", "depth >= \x00", "depth in {[1]}", "depth in 4", "4 in depth", "depth in 'he'",
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused_with_what_is_one(text: str) -> None:
    with pytest.raises(SweepError, match=r"not a condition; compare hyperparameters with values"):
        parse_conditions(text, NAMES)


def test_unknown_names_are_listed_with_those_there_are() -> None:
    with pytest.raises(SweepError) as error:
        parse_conditions("dept >= 4 and colour == 'red'", NAMES)
    assert "dept (did you mean depth?), colour" in str(error.value)
    assert "there are depth, lambda1, training.init, model.norm" in str(error.value)


def test_nothing_in_a_condition_is_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for text in (
        f"depth >= __import__('pathlib').Path({str(touched)!r}).touch()",
        f"__import__('pathlib').Path({str(touched)!r}).touch() == depth",
        f"depth in [open({str(touched)!r}, 'w')]",
        f"depth == f'{{open({str(touched)!r}, chr(119))}}'",
    ):
        with pytest.raises(SweepError):
            parse_conditions(text, NAMES)
    assert not touched.exists()


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        conditions = parse_conditions(text, NAMES)
    except SweepError:
        return
    assert conditions
    assert set(conditions) <= set(NAMES)
