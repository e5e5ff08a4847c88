"""The samplers that a study file can name: each entry is one that Optuna has, and says whether it learns."""

from __future__ import annotations

from typing import get_args

import optuna
import pytest

from sweep.config.search_methods import SAMPLERS, SamplerName
from sweep.study.distributions import distributions
from sweep.study.samplers import build_sampler, presampled_params

from ..conftest import MakeConfig


def test_the_schema_names_the_samplers_of_the_dict() -> None:
    assert get_args(SamplerName) == tuple(SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_built_and_learns_or_has_its_points_beforehand(study_config: MakeConfig, name: str) -> None:
    config = study_config(search={"sampler": name, "trials": 8})
    space = distributions(config.searched)
    sampler = build_sampler(config, space, seed=2**33 + 1)
    assert isinstance(sampler, getattr(optuna.samplers, SAMPLERS[name].optuna))
    points = [presampled_params(config, space, number) for number in range(8)]
    assert SAMPLERS[name].learns == (points == [{}] * 8)
    assert SAMPLERS[name].learns or len({str(point) for point in points}) == 8


def test_one_more_line_is_one_more_sampler(study_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweep.config.search_methods import Sampler

    monkeypatch.setitem(SAMPLERS, "nsga2", Sampler("NSGAIISampler"))
    config = study_config()
    config = config.model_copy(update={"search": config.search.model_copy(update={"sampler": "nsga2"})})
    assert isinstance(build_sampler(config, {}, seed=1), optuna.samplers.NSGAIISampler)
