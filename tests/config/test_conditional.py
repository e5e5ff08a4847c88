"""Conditional hyperparameters in a study file: which a point has, and what is refused before any trial."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from sweep.config.errors import ConfigError
from sweep.config.grid import count_points
from sweep.config.study_config import StudyConfig
from sweep.config.study_file import parse_study, read_yaml, to_yaml

from ..conftest import MakeConfig

FORM = {"choices": ["reciprocal", "target"]}
SPACE: dict[str, Any] = {
    "guidance.target": {"low": -4.0, "high": 1.0, "when": {"guidance.form": "target"}},
    "epsilon": {"low": 1e-3, "high": 10.0, "log": True, "when": {"guidance.form": "reciprocal", "depth": [3, 4]}},
    "lambda1": {"low": 1e-5, "high": 1e-1, "log": True},
    "guidance.form": FORM,
    "depth": {"low": 1, "high": 4},
    "width": 8,
    "training.grad_clip": {"low": 0.5, "high": 5.0, "when": "depth * 2 >= 6"},
    "training.momentum": {"low": 0.1, "high": 0.9, "when": "training.grad_clip < 2"},
}


def has(point: dict[str, Any]) -> set[str]:
    """The names that a point of SPACE has, by hand."""
    names = {"lambda1", "guidance.form", "depth"}
    names |= {"guidance.target"} if point["guidance.form"] == "target" else set()
    names |= {"epsilon"} if point["guidance.form"] == "reciprocal" and point["depth"] in (3, 4) else set()
    if point["depth"] >= 3:
        names |= {"training.grad_clip"} | ({"training.momentum"} if point["training.grad_clip"] < 2 else set())
    return names


def test_a_point_has_what_its_values_ask_for(study_config: MakeConfig) -> None:
    config = study_config(space=SPACE)
    other = {"guidance.target": -1.0, "epsilon": 0.1, "lambda1": 1e-3, "training.momentum": 0.5}
    for form, depth, clip in itertools.product(FORM["choices"], range(1, 5), (0.6, 3.0)):
        whole = {**other, "guidance.form": form, "depth": depth, "training.grad_clip": clip}
        point = config.active(whole)
        assert point.keys() == has(whole)
        assert config.is_point(point)
        assert not config.is_point(whole)
        trial = config.trial(whole)
        assert trial.guidance.epsilon == (0.1 if "epsilon" in point else config.guidance.epsilon)
        assert trial.training.grad_clip == point.get("training.grad_clip")
        assert config.hyperparameters(trial).keys() - {"lambda2", "width"} == point.keys()


def test_a_hyperparameter_stands_behind_those_of_its_condition_however_the_file_orders_them(
    study_config: MakeConfig,
) -> None:
    names = list(study_config(space=SPACE).searched)
    assert names.index("guidance.form") < min(names.index("guidance.target"), names.index("epsilon"))
    assert names.index("depth") < names.index("training.grad_clip") < names.index("training.momentum")


def test_a_study_file_keeps_its_conditions_and_differs_where_they_do(study_config: MakeConfig) -> None:
    config, plain = study_config(space=SPACE), {k: v for k, v in SPACE.items() if k != "training.momentum"}
    again, problems = parse_study(read_yaml(to_yaml(config), "file"))
    assert (again, problems) == (config, [])
    other = study_config(name=config.name, space={**plain, "training.momentum": {"low": 0.1, "high": 0.9}})
    with pytest.raises(ConfigError, match=r"space\.training\.momentum\.when"):
        config.require_agreement(other)
    stored = study_config(space=plain).identity()
    assert [key for key in stored if key.endswith(".when")] == ["space.training.grad_clip.when"]


def test_the_points_of_a_grid_are_counted_without_what_they_do_not_have(study_config: MakeConfig) -> None:
    space = {"depth": {"low": 1, "high": 3}, "width": {"choices": [8, 16], "when": "depth >= 3"}}
    raw = {k: v for k, v in study_config().model_dump(exclude_unset=True).items() if k not in ("model", "data")}
    config = StudyConfig.model_validate({**raw, "function": "loop:train", "training": {}, "space": space})
    assert count_points(config.searched) == 2 + 2


@pytest.mark.parametrize(
    ("name", "when", "said"),
    [
        ("lambda1", {"lambda": 1}, "lambda1: when: no such hyperparameter: lambda (did you mean lambda1?)"),
        ("lambda1", "depht >= 2", "'depht >= 2' names what is not in the space: depht (did you mean depth?)"),
        ("lambda1", {"width": 8}, "lambda1: when: width is the constant 8: leave the condition out, or lambda1"),
        ("lambda1", "lambda1 > 0.01", "lambda1: when: a hyperparameter cannot depend on itself"),
        ("lambda1", {"depth": 7}, "lambda1: when: depth is never 7"),
        ("lambda1", {"guidance.form": ["target", "none"]}, "lambda1: when: guidance.form is never 'none'"),
        ("lambda1", "depth > 4", "lambda1: when: 'depth > 4' holds nowhere in the space"),
        ("lambda1", "depth / 0 > 4", "'depth / 0 > 4' divides by zero"),
        ("lambda1", "depth >", "'depth >' is not a constraint"),
        ("lambda1", "guidance.form > 2", "'guidance.form > 2' compares what is not a number"),
        ("lambda1", "__import__('os').system('true')", "is not a constraint"),
        ("depth", {"guidance.form": "target"}, "depth: when: a model has its sizes"),
        (
            "training.lr",
            "lambda1 > 0.01",
            "lambda1 is of guidance, which its control lacks: training.lr cannot depend on",
        ),
    ],
)
def test_a_condition_that_cannot_hold_is_refused_with_one_sentence(
    study_config: MakeConfig, name: str, when: object, said: str
) -> None:
    space = {"lambda1": {"low": 1e-5, "high": 1e-1}, "guidance.form": FORM, "depth": {"low": 1, "high": 4}, "width": 8}
    space["training.lr"] = {"low": 1e-4, "high": 1e-2}
    raw = study_config().model_dump(exclude_unset=True)
    config, problems = parse_study({**raw, "space": {**space, name: {**space[name], "when": when}}})  # type: ignore[dict-item]
    assert config is None
    assert len(problems) == 1
    assert said in problems[0]


def test_all_problems_of_conditions_are_said_at_once_and_so_is_a_circle(study_config: MakeConfig) -> None:
    raw = study_config().model_dump(exclude_unset=True)
    lr, momentum = {"low": 1e-4, "high": 1e-2}, {"low": 0.1, "high": 0.9}
    space = {"lambda1": {**lr, "when": {"nothing": 1}}, "training.momentum": {**momentum, "when": {"depth": 9}}}
    _, problems = parse_study({**raw, "space": {**space, "depth": {"low": 1, "high": 4}, "width": 8}})
    assert len(problems) == 2
    assert "no such hyperparameter: nothing" in problems[0]
    assert "depth is never 9" in problems[1]
    circle = {
        "training.lr": {**lr, "when": "training.momentum > 0.2"},
        "training.momentum": {**momentum, "when": "training.lr > 0.001"},
    }
    _, problems = parse_study({**raw, "space": {**circle, "depth": 2, "width": 8}})
    assert len(problems) == 1
    assert "training.lr, training.momentum: when: they depend on each other in a circle" in problems[0]


def test_a_command_has_no_conditions(study_config: MakeConfig) -> None:
    raw = {k: v for k, v in study_config().model_dump(exclude_unset=True).items() if k not in ("model", "data")}
    space = {"lr": {"low": 0.1, "high": 1.0, "when": "depth > 1"}, "depth": {"low": 1, "high": 3}}
    command = ["python", "train.py", "{lr}", "{depth}"]
    _, problems = parse_study({**raw, "training": {}, "command": command, "space": space})
    assert len(problems) == 1
    assert "lr: when: a model has its sizes, and a command its words, in every trial" in problems[0]
