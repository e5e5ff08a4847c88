"""A study config: what it accepts, what it makes of it, and that it is the same after every way of writing it down."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from sweep.config.resources import Resources
from sweep.config.search_space import ALIASES, Choices, Range
from sweep.config.sections import GuidanceConfig, Objective, TrainingConfig
from sweep.config.study_config import StudyConfig
from sweep.config.study_file import parse_study, read_yaml, to_yaml
from sweep.losses import EntropyGuidance
from sweep.losses.options import PAPER

from ..conftest import MakeConfig

# -- random configs ----------------------------------------------------------------------------------------------------


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    # + 0.0 makes a 0 of -0, which is equal to a default of 0 and so left out of a study file.
    return st.floats(low, high, allow_nan=False, allow_subnormal=False).map(lambda x: x + 0.0)


positive = floats(1e-12, 1e6)
fraction = floats(0.01, 0.99)


@st.composite
def float_ranges(draw: st.DrawFn) -> dict[str, Any]:
    low, high = sorted(draw(st.lists(floats(1e-9, 1e3), min_size=2, max_size=2, unique=True)))
    kinds: list[dict[str, Any]] = [{}, {"log": True}, {"log": False}, {"step": (high - low) / 4}]
    return {"low": low, "high": high, **draw(st.sampled_from(kinds))}


@st.composite
def int_ranges(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.integers(1, 50))
    kinds: list[dict[str, Any]] = [{}, {"log": True}, {"step": 2}]
    return {"low": low, "high": low + draw(st.integers(1, 50)), **draw(st.sampled_from(kinds))}


def dimensions(numbers: st.SearchStrategy[Any], ranges: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Any]:
    choices = st.lists(numbers, min_size=1, max_size=4, unique=True).map(lambda values: {"choices": values})
    return numbers | ranges | choices


spaces = st.fixed_dictionaries(
    {},
    optional={
        **{name: dimensions(floats(1e-9, 1.0), float_ranges()) for name in ("lambda1", "lambda2", "epsilon")},
        "depth": dimensions(st.integers(1, 30), int_ranges()),
        "width": dimensions(st.integers(1, 300), int_ranges()),
        "training.lr": dimensions(floats(1e-6, 1.0), float_ranges()),
        "training.init": st.just("he") | st.just({"choices": ["default", "he"]}),
        "training.grad_clip": st.none() | st.just({"choices": [None, 1.0]}),
        "guidance.max_ratio": st.none() | st.just({"choices": [None, 0.1]}),
        "guidance.every": st.just("auto") | int_ranges(),
        "model.latent": dimensions(st.integers(1, 64), int_ranges()),
        "model.odd": st.sampled_from(["true", "1e-5", "null", "", "0", "é", "a: b"]) | st.none() | st.booleans(),
    },
)
guidance = st.sampled_from(["default", "paper"]) | st.fixed_dictionaries(
    {},
    optional={
        "lambda1": floats(0.0, 10.0),
        "lambda2": floats(0.0, 10.0),
        "epsilon": positive,
        "measure": st.sampled_from(["volume", "minor"]),
        "conv_form": st.sampled_from(["log", "reciprocal", "target"]),
        "target": floats(-2.0, 2.0),
        "layers": st.just("all")
        | st.fixed_dictionaries({"first": st.integers(1, 9)})
        | st.fixed_dictionaries({"last": st.integers(1, 9)})
        | st.lists(st.text("abc.01", min_size=1), min_size=1, max_size=2),
        "every": st.just("auto") | st.integers(1, 100),
        "max_ratio": st.none() | positive,
        "until": st.none() | fraction,
    },
)
training = st.fixed_dictionaries(
    {},
    optional={
        "max_epochs": st.integers(1, 100),
        "lr": positive,
        "optimizer": st.sampled_from(["adam", "adamw", "sgd"]),
        "lr_schedule": st.sampled_from(["constant", "cosine"]),
        "weight_decay": floats(0.0, 1.0),
        "grad_clip": st.none() | positive,
        "seed": st.integers(0, 2**31),
    },
)
search = st.fixed_dictionaries(
    {},
    optional={
        "trials": st.integers(20, 1000),
        "design": st.integers(0, 20),
        "sampler": st.sampled_from(["tpe", "random", "qmc", "gp"]),
        "hours": st.none() | positive,
        "target": st.none() | floats(-10.0, 10.0),
        "finalists": st.fixed_dictionaries({}, optional={"top": st.integers(0, 5), "seeds": st.integers(1, 5)}),
    },
)
raw_configs = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True).filter(
            lambda name: not name.endswith(".controls")
        ),
        "model": st.fixed_dictionaries({"name": st.just("mlp")}, optional={"latent": st.integers(1, 64)}),
        "data": st.fixed_dictionaries(
            {"name": st.just("mnist")},
            optional={
                "train_size": st.none() | st.integers(1, 999),
                "val_fraction": fraction,
                "augment": st.sampled_from([[], ["crop"], ["crop", "flip"]]),
            },
        ),
        "objective": st.fixed_dictionaries(
            {"metric": st.just("val_loss"), "direction": st.sampled_from(["minimize", "maximize"])},
            optional={"at": st.sampled_from(["last", "best"]), "target": st.none() | floats(-10.0, 10.0)},
        ),
        "space": spaces,
    },
    optional={
        "guidance": guidance,
        "training": training,
        "search": search,
        "resources": st.fixed_dictionaries(
            {},
            optional={
                "cpus": st.sampled_from([0.5, 1, 4]),
                "gpus": st.sampled_from(["auto", 0, 0.25, 2]),
                "memory": st.none() | st.sampled_from([0.5, 64]),
                "accelerator_type": st.none() | st.just("A10G"),
                "max_concurrent": st.none() | st.integers(1, 9),
            },
        ),
    },
)


def exactly(config: StudyConfig) -> str:
    """The config with the types of its numbers, which == does not see."""
    return config.model_dump_json()


@given(raw_configs)
def test_a_config_is_the_same_after_a_study_file(raw: dict[str, Any]) -> None:
    config = StudyConfig.model_validate(raw)
    again, problems = parse_study(read_yaml(to_yaml(config), "again"))
    assert problems == []
    assert again == config
    assert exactly(again) == exactly(config)


@given(raw_configs)
def test_a_config_is_the_same_after_the_json_that_the_storage_keeps(raw: dict[str, Any]) -> None:
    config = StudyConfig.model_validate(raw)
    again = StudyConfig.model_validate(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert again == config
    assert exactly(again) == exactly(config)
    assert again.identity() == config.identity()


# -- types -------------------------------------------------------------------------------------------------------------


def test_numbers_have_the_type_of_their_field(study_config: MakeConfig) -> None:
    config = study_config(
        space={
            "lambda1": {"low": 0, "high": 1},
            "lambda2": 1,
            "epsilon": {"choices": [1, 2]},
            "depth": {"low": 2.0, "high": 6.0, "step": 2.0},
            "width": {"choices": [8.0, 16]},
            "training.batch_size": {"low": 16, "high": 64},
            "training.lr": {"low": 1, "high": 2, "step": 1},
            "model.latent": {"low": 1, "high": 8},
            "model.slope": {"low": 0, "high": 0.5},
        }
    )
    space = config.space
    assert repr(space["lambda1"]) == repr(Range(low=0.0, high=1.0))
    assert repr(space["lambda2"]) == "1.0"
    assert repr(space["epsilon"]) == repr(Choices(choices=(1.0, 2.0)))
    assert repr(space["depth"]) == repr(Range(low=2, high=6, step=2))
    assert repr(space["width"]) == repr(Choices(choices=(8, 16)))
    assert repr(space["training.batch_size"]) == repr(Range(low=16, high=64))
    assert repr(space["training.lr"]) == repr(Range(low=1.0, high=2.0, step=1.0))
    assert repr(space["model.latent"]) == repr(Range(low=1, high=8))
    assert repr(space["model.slope"]) == repr(Range(low=0.0, high=0.5))
    ints = {name for name, dimension in config.searched.items() if isinstance(dimension, Range) and dimension.is_int}
    assert ints == {"depth", "training.batch_size", "model.latent"}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "section",
    [
        lambda x: {"space": {"lambda1": x, "depth": 2, "width": 8}},
        lambda x: {"space": {"lambda1": {"low": 0.0, "high": x}, "depth": 2, "width": 8}},
        lambda x: {"space": {"depth": {"low": 1, "high": x}, "width": 8}},
        lambda x: {"space": {"depth": 1, "width": {"choices": [8, x]}}},
        lambda x: {"training": {"lr": x}},
        lambda x: {"guidance": {"epsilon": x}},
        lambda x: {"search": {"hours": x}},
        lambda x: {"objective": {"target": x}},
    ],
)
def test_every_number_is_finite(study_config: MakeConfig, section: Any, number: float) -> None:
    with pytest.raises(ValidationError):
        study_config(**section(number))


@pytest.mark.parametrize(
    "section",
    [
        {"training": {"max_epochs": True}},
        {"training": {"lr": True}},
        {"search": {"trials": True}},
        {"resources": {"gpus": True}},
        {"guidance": {"every": True}},
        {"space": {"lambda1": True, "depth": 2, "width": 8}},
        {"space": {"lambda1": {"low": False, "high": True}, "depth": 2, "width": 8}},
        {"space": {"depth": True, "width": 8}},
        {"space": {"depth": {"choices": [True, 2]}, "width": 8}},
    ],
)
def test_true_is_not_a_number(study_config: MakeConfig, section: Any) -> None:
    with pytest.raises(ValidationError):
        study_config(**section)


# -- guidance ----------------------------------------------------------------------------------------------------------


def test_the_defaults_of_guidance_are_those_of_the_loss() -> None:
    parameters = inspect.signature(EntropyGuidance).parameters
    defaults = {name: p.default for name, p in parameters.items() if name not in ("model", "batch_size")}
    assert GuidanceConfig().model_dump() == defaults


def test_the_preset_paper_is_that_of_the_loss(study_config: MakeConfig) -> None:
    def added(guidance: Callable[..., EntropyGuidance], **options: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Conv2d(2, 3, 3))
        guidance(model, lambda2=1e-3, **{**options, "max_ratio": None}).add_gradients()
        return [p.grad for p in model.parameters() if p.grad is not None]

    preset = study_config(guidance={**PAPER}).guidance
    assert study_config(guidance="paper").guidance == preset
    different = {key for key, value in preset.model_dump().items() if value != GuidanceConfig().model_dump()[key]}
    assert different == {"measure", "conv_form", "scale", "reduction", "ridge", "every", "max_ratio"}
    options = {key: value for key, value in preset.model_dump().items() if key != "lambda2"}
    torch.testing.assert_close(added(EntropyGuidance, **options), added(EntropyGuidance.paper), rtol=0, atol=0)
    assert not torch.allclose(added(EntropyGuidance)[0], added(EntropyGuidance.paper)[0])


@pytest.mark.parametrize(
    "layers", ["some", "", [], [""], [3], None, {"first": 0}, {"first": True}, {"middle": 1}, {"first": 1, "last": 1}]
)
def test_layers_are_all_or_some_of_them(study_config: MakeConfig, layers: Any) -> None:
    with pytest.raises(
        ValidationError, match=r"must be all, \{first: n\}, \{last: n\} with n >= 1, or a list of names"
    ):
        study_config(guidance={"layers": layers})


def test_layers_are_not_searched_and_target_and_forms_are(study_config: MakeConfig) -> None:
    sizes = {"depth": 2, "width": 8}
    with pytest.raises(ValidationError, match=r"guidance.layers: unknown hyperparameter"):
        study_config(space={**sizes, "guidance.layers": {"choices": ["all"]}})
    searched = {
        "guidance.target": {"low": -1, "high": 1},
        "guidance.until": {"low": 0.1, "high": 1.0},
        "guidance.form": {"choices": ["log", "target"]},
        "guidance.conv_form": {"choices": ["log", "target"]},
    }
    assert set(study_config(space={**sizes, **searched}).searched) == set(searched)
    with pytest.raises(ValidationError, match=r"guidance.form: must be"):
        study_config(space={**sizes, "guidance.form": {"choices": ["log", "exp"]}})


def test_every_field_of_guidance_is_described_in_a_sentence() -> None:
    for name, field in GuidanceConfig.model_fields.items():
        assert field.description, name
        assert field.description[0].isupper(), name
        assert field.description.endswith("."), name


def test_the_preset_default_is_what_stands_there_without_a_word(study_config: MakeConfig) -> None:
    assert study_config(guidance="default") == study_config(guidance={}) == study_config()


# -- one trial of a study ----------------------------------------------------------------------------------------------


def test_a_trial_has_the_hyperparameters_where_they_act(study_config: MakeConfig) -> None:
    config = study_config(
        model={"name": "autoencoder", "latent": 32},
        space={
            "lambda1": {"low": 1e-5, "high": 1e-1},
            "lambda2": 0.25,
            "epsilon": {"low": 1e-3, "high": 10.0},
            "depth": {"low": 2, "high": 8, "step": 2},
            "width": {"choices": [128, 256]},
            "training.lr": {"low": 1e-4, "high": 1e-2},
            "guidance.ridge": 0.5,
        },
        resources={"cpus": 2.5},
    )
    drawn = {"lambda1": 0.01, "epsilon": 2.0, "depth": 4, "width": 256, "training.lr": 3e-3}
    trial = config.trial(drawn, seed=7)
    assert trial.model == {"name": "autoencoder", "latent": 32, "depth": 4, "width": 256}
    assert trial.guidance == GuidanceConfig(lambda1=0.01, lambda2=0.25, epsilon=2.0, ridge=0.5)
    assert trial.training == TrainingConfig(max_epochs=9, batch_size=64, lr=3e-3, seed=7)
    assert (trial.data, trial.objective, trial.threads) == (config.data, config.objective, 2)
    assert config.hyperparameters(trial) == {**drawn, "lambda2": 0.25, "guidance.ridge": 0.5}
    assert set(config.searched) == set(drawn)
    assert config.constants == {"lambda2": 0.25, "guidance.ridge": 0.5}


def test_hyperparameters_that_are_not_in_the_space_are_those_of_their_section(study_config: MakeConfig) -> None:
    config = study_config(model={"name": "mlp", "depth": 3, "width": 12}, space={}, guidance={"lambda1": 0.5})
    assert config.hyperparameters(config.trial({})) == {
        "lambda1": 0.5,
        "lambda2": 0.0,
        "epsilon": 1e-3,
        "depth": 3,
        "width": 12,
    }
    assert set(config.hyperparameters(config.trial({}))) == set(ALIASES)


def test_a_control_differs_in_the_lambdas_alone(study_config: MakeConfig) -> None:
    trial = study_config(guidance={"lambda2": 0.3, "epsilon": 2.0}).trial({"lambda1": 0.1})
    different = {
        key for key, value in trial.guidance.model_dump().items() if trial.control.guidance.model_dump()[key] != value
    }
    assert different == {"lambda1", "lambda2"}
    assert (trial.control.guidance.lambda1, trial.control.guidance.lambda2) == (0.0, 0.0)
    assert trial.control.model_copy(update={"guidance": trial.guidance}) == trial


def test_the_budget_and_the_resources_are_not_the_identity_of_a_study(study_config: MakeConfig) -> None:
    one = study_config()
    assert one.identity() == study_config(search={"trials": 99, "sampler": "tpe"}, resources={"cpus": 2}).identity()
    for other in (
        study_config(training={"lr": 0.5}),
        study_config(space={"lambda1": {"low": 1e-5, "high": 1.0, "log": True}, "depth": 2, "width": 8}),
        study_config(space={"lambda1": 0.1, "depth": 2, "width": 8}),
        study_config(objective={"at": "best"}),
        study_config(guidance="paper"),
    ):
        assert other.identity() != one.identity()


@pytest.mark.parametrize(
    ("direction", "target", "value", "reached"),
    [
        ("minimize", 0.5, 0.4, True),
        ("minimize", 0.5, 0.5, True),
        ("minimize", 0.5, 0.6, False),
        ("maximize", 0.5, 0.4, False),
        ("maximize", 0.5, 0.5, True),
        ("maximize", 0.5, 0.6, True),
        ("maximize", None, 1e9, False),
    ],
)
def test_a_target_is_reached_at_it_or_beyond(direction: Any, target: float | None, value: float, reached: bool) -> None:
    assert Objective(metric="val_loss", direction=direction, target=target).reached(value) is reached


@pytest.mark.parametrize(
    ("cpus", "gpus", "machine", "trials"),
    [
        (1, 0, (8, 0), 8),
        (1, 0, (8, 2), 8),
        (3, 0, (8, 0), 2),
        (1, 1, (8, 2), 2),
        (1, 1, (1, 2), 1),
        (0.5, 0.5, (8, 2), 4),
        (0.1, 0.4, (8, 2), 4),  # two on each GPU: the rests of both are not a share
        (1, 2, (8, 1), 0),
    ],
)
def test_the_room_of_a_machine(cpus: float, gpus: float, machine: tuple[float, float], trials: int) -> None:
    assert Resources(cpus=cpus, gpus=gpus).room(*machine, gpus) == trials


@pytest.mark.parametrize(
    ("asked", "processes", "trials"),
    [
        ({"gpus": 4, "cpus": 2}, 4, 2),  # a process on each GPU, with two CPUs
        ({"workers": 3, "gpus": 0}, 3, 5),
        ({"workers": 3}, 3, 5),  # `auto` gives no GPU to processes on CPUs
        ({"gpus": 0.5}, 1, 16),
        ({}, 1, 8),
    ],
)
def test_all_processes_of_a_trial_need_room(asked: dict[str, float], processes: int, trials: int) -> None:
    resources = Resources.model_validate(asked)
    assert resources.processes == processes
    assert resources.total_cpus == asked.get("cpus", 1) * processes
    assert resources.room(16, 8, resources.gpus_per_trial(8)) == trials


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"resources": {"workers": 2, "gpus": 1}},
            ("resources.workers", "resources.gpus to 0", "each GPU has its own"),
        ),
        ({"resources": {"workers": 0}}, ("resources.workers", "greater than or equal to 1")),
        ({"resources": {"workers": 65}}, ("resources", "65 processes", "batch_size of at least 130", "it is 64")),
        ({"resources": {"gpus": 8}, "training": {"batch_size": 8}}, ("8 processes", "at least 16", "it is 8")),
        (
            {"resources": {"workers": 2}, "space": {"training.batch_size": {"choices": [2, 64]}}},
            ("2 processes", "at least 4", "it is 2"),
        ),
    ],
)
def test_processes_that_cannot_be_are_refused(
    study_config: MakeConfig, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match="(?s)" + ".*".join(map(re.escape, words))):
        study_config(**changes)


def test_main_memory_is_room_too() -> None:
    asked = Resources(cpus=1, gpus=0, memory=0.7)
    assert asked.room(8, 0, 0, memory=3.5) == 5
    assert asked.room(8, 0, 0, memory=0.6) == 0
    assert asked.room(8, 0, 0) == 8, "of a machine whose memory is not known"
    assert Resources(cpus=1, gpus=0).room(8, 0, 0, memory=0.1) == 8, "nothing was asked for"


@pytest.mark.parametrize(
    ("metric", "constant", "refused"), [("val_accuracy", 1.5, True), ("val_iou", 1, True), ("val_f1", 1.5, False)]
)
def test_the_constant_of_a_share_is_below_1(metric: str, constant: float, refused: bool) -> None:
    section: dict[str, Any] = {"metric": metric, "direction": "maximize", "constant": constant}
    if refused:
        with pytest.raises(ValidationError, match=f"at least 0 and below 1 for {metric}"):
            Objective(**section)
    else:
        assert Objective(**section).constant == constant
