"""The samplers that a study file can name: each entry is one that Optuna has, and says whether it learns."""

from __future__ import annotations

from typing import get_args

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial

from sweep.config.search_methods import SAMPLERS, SamplerName
from sweep.study.distributions import distributions
from sweep.study.samplers import build_sampler, presampled_points

from ..conftest import MakeConfig

LAMBDA = {"lambda1": {"low": 1e-5, "high": 1e-1, "log": True}}
WIDTHS = (4, 8, 16, 32, 64, 128)


def test_the_schema_names_the_samplers_of_the_dict() -> None:
    assert get_args(SamplerName) == tuple(SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_built_and_learns_or_has_its_points_beforehand(study_config: MakeConfig, name: str) -> None:
    grid = {"space": {"lambda1": 0.0, "depth": {"low": 1, "high": 8}, "width": 8}} if name == "grid" else {}
    config = study_config(search={"sampler": name, "trials": 8}, **grid)
    space = distributions(config.searched)
    sampler = build_sampler(config, space, seed=2**33 + 1)
    assert isinstance(sampler, getattr(optuna.samplers, SAMPLERS[name].optuna))
    points = list(presampled_points(config, space, range(8)))
    assert SAMPLERS[name].learns == (points == [{}] * 8)
    assert SAMPLERS[name].learns or len({str(point) for point in points}) == 8


def test_one_more_line_is_one_more_sampler(study_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweep.config.search_methods import Sampler

    monkeypatch.setitem(SAMPLERS, "nsga2", Sampler("NSGAIISampler"))
    config = study_config()
    config = config.model_copy(update={"search": config.search.model_copy(update={"sampler": "nsga2"})})
    assert isinstance(build_sampler(config, {}, seed=1), optuna.samplers.NSGAIISampler)


@pytest.mark.parametrize(("name", "optunas"), [("tpe", "TPESampler"), ("gp", "GPSampler")])
@pytest.mark.parametrize("listed", [WIDTHS, WIDTHS[::-1]], ids=["ascending", "descending"])
def test_choices_that_are_numbers_are_whole_numbers_to_a_sampler(
    study_config: MakeConfig, name: str, optunas: str, listed: tuple[int, ...]
) -> None:
    config = study_config(search={"sampler": name}, space={**LAMBDA, "width": {"choices": listed}, "depth": 2})
    space = distributions(config.searched)
    ranked = {"lambda1": space["lambda1"], "width": IntDistribution(0, len(WIDTHS) - 1)}
    ours, theirs = optuna.create_study(), optuna.create_study()
    for trial in told(12, seed=0):
        ours.add_trial(create_trial(value=trial.value, params=trial.params, distributions=space))
        rank = {**trial.params, "width": WIDTHS.index(trial.params["width"])}
        theirs.add_trial(create_trial(value=trial.value, params=rank, distributions=ranked))
    for seed in range(1 if name == "gp" else 3):
        ours.sampler = build_sampler(config, space, seed=seed)
        theirs.sampler = getattr(optuna.samplers, optunas)(seed=seed)
        mine, other = ours.ask(space), theirs.ask(ranked)
        assert mine.params == {**other.params, "width": WIDTHS[other.params["width"]]}
        assert mine.distributions == space


@pytest.mark.parametrize(("name", "optunas"), [("tpe", "TPESampler"), ("gp", "GPSampler")])
@pytest.mark.parametrize("width", [{"choices": WIDTHS, "ordered": False}, {"choices": list(map(str, WIDTHS))}])
def test_other_choices_have_no_order(
    study_config: MakeConfig, name: str, optunas: str, width: dict[str, object]
) -> None:
    config = study_config(search={"sampler": name}, space={**LAMBDA, "depth": 2, "width": 8, "model.size": width})
    space = distributions(config.searched)
    ours, theirs = optuna.create_study(), optuna.create_study()
    choices = space["model.size"].choices  # type: ignore[attr-defined]
    for trial in told(12, seed=0):
        params = {"lambda1": trial.params["lambda1"], "model.size": choices[WIDTHS.index(trial.params["width"])]}
        for study in (ours, theirs):
            study.add_trial(create_trial(value=trial.value, params=params, distributions=space))
    ours.sampler, theirs.sampler = build_sampler(config, space, seed=1), getattr(optuna.samplers, optunas)(seed=1)
    assert ours.ask(space).params == theirs.ask(space).params


def told(count: int, seed: int) -> list[FrozenTrial]:
    """Uniform trials, best at lambda1 1e-3 and width 32."""
    rng, space = np.random.default_rng(seed), {"lambda1": FloatDistribution(1e-5, 0.1, log=True)}
    points = [{"lambda1": 10 ** rng.uniform(-5, -1), "width": int(rng.choice(WIDTHS))} for _ in range(count)]
    whole = {**space, "width": CategoricalDistribution(WIDTHS)}
    values = [(np.log10(p["lambda1"]) + 3) ** 2 + (np.log2(p["width"]) - 5) ** 2 for p in points]
    return [create_trial(value=v, params=p, distributions=whole) for v, p in zip(values, points, strict=True)]
