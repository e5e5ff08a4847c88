"""Builds and checks a sampler or pruner of the user's own: a function ``make(space, seed)`` that a study file names.

It is called in the driver alone, with the space as Optuna's distributions and a seed; nothing is unpickled.
"""

from __future__ import annotations

import inspect
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler

from ..config.errors import SweepError
from ..config.study_config import StudyConfig
from ..config.user_code import ImportPathError, import_object, is_import_path, user_error_location
from .distributions import Distributions, distributions


def build_own(path: str, kind: type, space: Distributions, seed: int) -> Any:
    """Calls the function that an import path names; raises SweepError if it does not return one of that ``kind``."""
    try:
        make = import_object(path)
        inspect.signature(make).bind(dict(space), seed)
    except ImportPathError as error:
        raise SweepError(str(error)) from error
    except (TypeError, ValueError):
        raise SweepError(f"{path} must be a function of two arguments, the space and a seed") from None
    try:
        made = make(dict(space), seed)
    except Exception as error:
        raise SweepError(f"{path}: {user_error_location(error)}") from error
    if not isinstance(made, kind):
        raise SweepError(f"{path} must return an optuna {kind.__name__}, not a {type(made).__name__}")
    return made


def check_own(config: StudyConfig) -> list[str]:
    """Tries a sampler and a pruner of the user's own on one trial in memory; returns their problems."""
    search, space, seed = config.search, distributions(config.searched), config.training.seed
    study = optuna.create_study(direction=config.objective.direction)

    def choose() -> None:
        study.sampler = build_own(search.sampler, BaseSampler, space, seed)
        study.ask(dict(space))

    def decide() -> None:
        study.sampler, study.pruner = RandomSampler(), build_own(search.pruner, BasePruner, space, seed)
        trial = study.ask(dict(space))
        trial.report(1.0, 1)
        trial.should_prune()

    problems = []
    for key, path, attempt in (("sampler", search.sampler, choose), ("pruner", search.pruner, decide)):
        try:
            if is_import_path(path):
                attempt()
        except SweepError as error:
            problems.append(f"search.{key}: {error}")
        except Exception as error:  # noqa: BLE001 (whatever the user's code raises)
            problems.append(f"search.{key}: {path}: {user_error_location(error)}")
    return problems
