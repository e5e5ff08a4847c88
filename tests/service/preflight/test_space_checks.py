"""Checks before the first trial: all causes of failure at once, and none that would have worked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.config.study_file import built_in, built_in_names, parse_study, read_yaml
from sweep.service.preflight.space_checks import check_names, check_study

from ...conftest import MakeConfig


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An empty data folder, and no network to download from."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    return Settings(workspace=tmp_path / "results", data=tmp_path / "data")


AUTOENCODER = {"model": {"name": "autoencoder", "latent": 16}}
CNN = {"model": {"name": "cnn", "downsample": 1}}


def space(**dimensions: Any) -> dict[str, Any]:
    return {"space": {"lambda1": {"low": 1e-5, "high": 0.1, "log": True}, "depth": 2, "width": 16, **dimensions}}


# -- what works --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {**AUTOENCODER, **space(depth={"low": 4, "high": 8, "step": 2}, width={"choices": [16, 32]})},
        {**AUTOENCODER, "objective": {"metric": "val_psnr", "direction": "maximize"}},
        {**CNN, **space(lambda2={"low": 1e-5, "high": 0.1, "log": True}, depth={"low": 2, "high": 6})},
        {**CNN, **space(**{"model.hidden": {"choices": [None, 16]}})},
        {"objective": {"metric": "val_accuracy", "direction": "maximize"}},
        {"model": {"name": "mlp", "depth": 2, "width": 4}, "space": {}},
        {"guidance": {"lambda1": 0.0}, "space": {"depth": 1, "width": 4}},
        {"data": {"train_size": 1150}},
        {"model": {"name": "mlp", "dropout": 0.2}, **space(**{"model.activation": {"choices": ["relu", "gelu"]}})},
        {"model": {"name": "conv_autoencoder", "batch_norm": False}, **space(depth={"low": 4, "high": 8, "step": 2})},
        {"model": {"name": "resnet"}, "guidance": {"form": "target"}, **space(depth={"choices": [18, 20]}, width=4)},
    ],
)
def test_a_study_that_works_has_no_problem_and_no_warning(
    study_config: MakeConfig, settings: Settings, changes: dict[str, Any]
) -> None:
    assert check_study(study_config(**changes), settings) == ([], [])


@pytest.mark.parametrize("name", built_in_names())
def test_built_in_studies_lack_nothing_but_their_data(name: str, settings: Settings) -> None:
    path = built_in(name)
    assert path is not None
    config, _ = parse_study(read_yaml(path.read_text(), name))
    assert config is not None
    problems, _ = check_study(config, settings)
    if config.data.name == "digits":  # in scikit-learn's package
        assert problems == []
    else:
        (problem,) = problems
        assert problem.startswith("data.folder: " if config.data.folder else f"{config.data.name}: ")
        assert str(settings.data) in problem
        assert "SWEEP_DATA" in problem


def test_sizes_are_checked_without_memory_for_weights(study_config: MakeConfig, settings: Settings) -> None:
    huge = study_config(**space(width={"choices": [8, 10**6]}))  # a layer of 4 TB, for a cluster's machines
    assert check_study(huge, settings.model_copy(update={"address": "auto"})) == ([], [])


# -- problems ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"name": "mpl"}}, ["model.name: ", "'mpl'", "did you mean mlp?", "mlp, autoencoder, cnn"]),
        ({"data": {"name": "cifar"}}, ["data.name: ", "'cifar'", "did you mean cifar10", "digits, mnist"]),
        (
            {"objective": {"metric": "val_acuracy"}},
            ["objective.metric: ", "'val_acuracy'", "mean val_accuracy?", "it has val_loss, val_accuracy"],
        ),
        ({"objective": {"metric": "val_psnr"}}, ["objective.metric: ", "mlp", "'val_psnr'", "val_loss, val_accuracy"]),
        (
            {**AUTOENCODER, "objective": {"metric": "val_accuracy"}},
            ["objective.metric: ", "autoencoder", "'val_accuracy'", "val_loss, val_psnr"],
        ),
        ({"objective": {"metric": "train_loss"}}, ["objective.metric: ", "'train_loss'", "val_loss"]),
        (
            {"model": {"name": "autoencoder", "latnet": 16}},
            ["model.latnet: ", "autoencoder", "mean latent?", "depth, width, latent"],
        ),
        (
            space(depth=3, width=10_000_000),
            ["mlp on digits", "depth 3, width 10000000", "weights", "GB; this machine has"],
        ),
        (space(**{"model.latent": 3}), ["model.latent: ", "mlp has no such option", "depth, width"]),
        ({"space": {"depth": 2}}, ["space.width: ", "required"]),
        ({"data": {"train_size": 1151}}, ["data.train_size", "1151", "1150", "digits"]),
        ({"data": {"val_fraction": 1e-4}}, ["data.val_fraction", "0.0001", "1438"]),
        ({**AUTOENCODER, **space(depth=3)}, ["autoencoder on digits", "depth = 3", "even"]),
        ({**AUTOENCODER, **space(depth=4, width={"choices": [8, 16]})}, ["width = 8", "latent = 16", "depth 4"]),
        ({**CNN, "model": {"name": "cnn", "downsample": 4}, **space(depth=6)}, ["cnn on digits", "downsample = 4"]),
        ({**CNN, **space(**{"model.downsample": {"low": 1, "high": 3}})}, ["cnn on digits", "downsample = 3"]),
        (
            {"space": {"depth": 2, "width": 8}, "guidance": {"lambda1": 0, "lambda2": 1}},
            ["no layer to guide", "lambda2 guides the other nn.Conv1d, Conv2d"],
        ),
        (
            {"guidance": {"layers": ["nope", "hidden"]}},
            ["no layer is called nope", "; layers: hidden.0, hidden.1, output"],
        ),
        ({"model": {"name": "mlp", "batch_norm": True}, "training": {"batch_size": 1}}, ["batch norm", "batch_size"]),
        (
            space(**{"model.batch_norm": {"choices": [False, True]}, "training.batch_size": {"choices": [8, 1]}}),
            ["batch norm", "at least 2 images"],
        ),
        ({"model": {"name": "resnet"}, **space(depth={"low": 18, "high": 20})}, ["depth = 19", "18, 20, 32, 34"]),
        (space(**{"model.activation": {"choices": ["relu", "swish"]}}), ["activation = 'swish'", "relu, leaky_relu"]),
        (space(**{"model.dropout": {"low": 0, "high": 1}}), ["dropout = 1", "0 <= dropout < 1"]),
    ],
)
def test_a_problem_says_what_is_wrong_and_what_there_is(
    study_config: MakeConfig, settings: Settings, changes: dict[str, Any], words: list[str]
) -> None:
    problems, warnings = check_study(study_config(**changes), settings)
    assert len(problems) == 1, problems
    assert warnings == []
    for word in words:
        assert word in problems[0]


def test_every_impossible_depth_within_a_range_is_found(study_config: MakeConfig, settings: Settings) -> None:
    config = study_config(**AUTOENCODER, **space(depth={"low": 2, "high": 5}))
    problems, _ = check_study(config, settings)
    assert [any(f"depth = {d}" in p for p in problems) for d in (2, 3, 4, 5)] == [False, True, False, True]
    assert len(problems) == 2


def test_all_problems_are_said_at_once(study_config: MakeConfig, settings: Settings) -> None:
    config = study_config(
        model={"name": "autoencoder", "latnet": 16},
        data={"name": "digits", "train_size": 10**6},
        objective={"metric": "val_acc"},
        space={"depth": 3, "model.wdith": 3},
    )
    problems, _ = check_study(config, settings)
    for start in ("model.latnet: ", "model.wdith: ", "space.width: ", "objective.metric: ", "data.train_size"):
        assert len([p for p in problems if p.startswith(start)]) == 1
    assert len(problems) == 5


def test_sizes_are_looked_at_beside_a_wrong_metric_and_missing_data(
    study_config: MakeConfig, settings: Settings
) -> None:
    config = study_config(**AUTOENCODER, **space(depth=3), data={"name": "mnist"}, objective={"metric": "val_acc"})
    problems, _ = check_study(config, settings)
    assert [next(w for w in ("val_acc", "SWEEP_DATA", "depth = 3") if w in p) for p in problems] == [
        "val_acc",
        "SWEEP_DATA",
        "depth = 3",
    ]


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats()
    | st.sampled_from(["mlp", "digits", "val_loss", "x"]),
    lambda part: (
        st.lists(part, max_size=2)
        | st.dictionaries(
            st.sampled_from(["name", "low", "high", "choices", "step", "log", "depth", "x"]), part, max_size=3
        )
    ),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {"name": st.just("a"), "model": st.just({"name": "mlp"}) | junk, "data": st.just({"name": "digits"}) | junk},
        optional={
            "objective": st.just({"metric": "val_loss", "direction": "minimize"}) | junk,
            "space": junk | st.dictionaries(st.sampled_from(["lambda1", "depth", "model.x", "training.lr"]), junk),
            "training": junk,
            "guidance": junk,
            "search": junk,
            "resources": junk,
            "x": junk,
        },
    )
)
def test_whatever_stands_in_a_file_there_is_a_config_or_a_list_of_problems(raw: dict[str, Any]) -> None:
    config, problems = parse_study(raw)
    assert (config is None) == bool(problems)
    assert all(isinstance(p, str) and p for p in problems + check_names(raw))
    if config is not None:
        assert StudyConfig.model_validate(config.model_dump(mode="json")) == config


# -- warnings ----------------------------------------------------------------------------------------------------------

LAMBDA2 = {"lambda2": {"low": 1e-5, "high": 0.1, "log": True}}
EPSILON = {"epsilon": {"low": 1e-3, "high": 1.0}}
FORMS = {"guidance.form": {"choices": ["log", "target"]}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (space(**LAMBDA2), ["space.lambda2", "mlp has no convolutions"]),
        (
            {"guidance": {"form": "log"}, **space(**EPSILON)},
            ["space.epsilon", "only the reciprocal form", "the form is log"],
        ),
        ({**AUTOENCODER, "training": {"label_smoothing": 0.1}}, ["training.label_smoothing", "autoencoder", "labels"]),
        (
            {**AUTOENCODER, **space(depth=4, **{"training.label_smoothing": {"low": 0.0, "high": 0.2}})},
            ["training.label_smoothing", "autoencoder"],
        ),
        (
            {"guidance": {"form": "target", "lambda2": 0.1, "conv_form": "log"}, **CNN, **space(**EPSILON)},
            ["space.epsilon", "only the reciprocal form", "the form is log and target"],
        ),
        ({"guidance": {"conv_form": "reciprocal"}, **CNN, **space(**EPSILON, **FORMS)}, ["space.epsilon"]),
        (
            space(**{"guidance.target": {"low": -1.0, "high": 1.0}}),
            ["space.guidance.target", "only the target form", "the form is reciprocal"],
        ),
        (
            {**AUTOENCODER, **space(depth={"low": 2, "high": 6, "step": 2}, width={"choices": [16, 32]})},
            ["space.width", "depth 2 of autoencoder"],
        ),
        (
            {**CNN, "model": {"name": "cnn", "downsample": 1, "batch_norm": True}, **space(**LAMBDA2)},
            ["space.lambda2 cannot act", "all convolutions of cnn", "conv.0", "guidance.conv_form: target"],
        ),
        (
            {"model": {"name": "mlp", "batch_norm": True}, **space(depth={"low": 4, "high": 6})},
            ["guidance.layers: all skips", "hidden.0", "...", "guidance.form: target"],
        ),
    ],
)
def test_a_hyperparameter_that_cannot_act_is_a_warning(
    study_config: MakeConfig, settings: Settings, changes: dict[str, Any], words: list[str]
) -> None:
    problems, (warning,) = check_study(study_config(**changes), settings)
    assert problems == []
    for word in words:
        assert word in warning


@pytest.mark.parametrize(
    "changes",
    [
        space(lambda2=0.0),
        {"training": {"label_smoothing": 0.1}},
        space(**{"training.label_smoothing": {"low": 0.0, "high": 0.2}}),
        {**CNN, **space(**LAMBDA2)},
        space(**EPSILON),
        {"guidance": {"form": "log"}, **space(**EPSILON, **{"guidance.form": {"choices": ["log", "reciprocal"]}})},
        {"guidance": {"form": "log", "lambda2": 0.1, "conv_form": "reciprocal"}, **CNN, **space(**EPSILON)},
        {**AUTOENCODER, **space(depth={"low": 4, "high": 6, "step": 2}, width={"choices": [16, 32]})},
        space(width={"low": 4, "high": 8}),
        space(**FORMS, **{"guidance.target": {"low": -1.0, "high": 1.0}}),
        {"model": {"name": "mlp", "batch_norm": True}, "guidance": {"form": "target"}, **space()},
        {"model": {"name": "mlp", "batch_norm": True}, "guidance": {"layers": ["hidden"]}, **space()},
        {**CNN, "model": {"name": "cnn", "downsample": 1, "batch_norm": True}, **space()},
    ],
)
def test_one_that_can_act_is_not(study_config: MakeConfig, settings: Settings, changes: dict[str, Any]) -> None:
    assert check_study(study_config(**changes), settings) == ([], [])
