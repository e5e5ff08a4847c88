"""Measures how often a study's health is named where the truth is known: `python -m tests.benchmarks.health`.

Searches by TPE of five hyperparameters, 64 trials, the first 32 of them uniform: of pure noise, of a function whose
optimum is inside of the space, and of one whose optimum is on the edge of three hyperparameters.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import optuna

from sweep.analysis.health import health
from sweep.analysis.summary import Summary
from sweep.config.study_config import StudyConfig
from sweep.study.distributions import distributions

from ..support.records import row

STUDIES, TRIALS, DESIGN = 30, 64, 32
OPTIMUM = {"noise": None, "inside": 0.5, "edge": 1.0}  # on the unit scale of each hyperparameter that acts
CONFIG = StudyConfig.model_validate(
    {
        "name": "made",
        "model": {"name": "mlp"},
        "data": {"name": "digits"},
        "objective": {"metric": "val_loss", "direction": "minimize"},
        "space": {
            "lambda1": {"low": 1e-5, "high": 1e-1, "log": True},
            "depth": {"low": 2, "high": 6},
            "width": {"choices": [8, 16, 32]},
            "training.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "model.dropout": {"low": 0.1, "high": 0.5},
        },
        "search": {"trials": TRIALS, "design": DESIGN},
    }
)


def searched(seed: int, optimum: float | None) -> Summary:
    """Returns a search of a function with noise of 0.03; without an optimum, of noise alone."""
    random, space, rows = np.random.default_rng(seed), distributions(CONFIG.searched), []
    samplers = [optuna.samplers.RandomSampler(seed=seed), optuna.samplers.TPESampler(seed=seed)]
    study = optuna.create_study(sampler=samplers[0])
    for number in range(TRIALS):
        study.sampler = samplers[number >= DESIGN]
        trial = study.ask(space)
        value = 0.03 * random.normal()
        if optimum is not None:
            places = math.log10(trial.params["training.lr"]) / 2 + 2, (trial.params["depth"] - 2) / 4
            places = *places, math.log2(trial.params["width"] / 8) / 2
            value += sum((place - optimum) ** 2 for place in places)
        study.tell(trial, value)
        rows.append(row(number, value, trial.params, design=number < DESIGN))
    return Summary.of(CONFIG, rows, [])


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for truth, optimum in OPTIMUM.items():
        named: Counter[str] = Counter()
        for seed in range(STUDIES):
            found = health(searched(seed, optimum))
            named.update({each.check for each in found})
            named.update(
                each.sentence.partition(" at the ")[2].partition(" (")[0] for each in found if each.check == "edge"
            )
        print(f"{truth}, of {STUDIES} studies: {dict(named)}", flush=True)
