"""The true value of the configuration that a search chooses, with racing over three seeds and with one seed.

`python -m tests.benchmarks.racing [--repeats 20] [--trials 64] [--seeds 3] [--sampler tpe]`: functions of
`sampler_quality` with noise between seeds, as many trainings each time, paired by the search's seed. The noise is
normal and depends on the point and the seed alone. Exits 1 where a paired test (Wilcoxon's, one-sided, p < 0.05) does
not show that racing is better in all functions together, at each of two levels of noise. Five minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from sweep.config.study_config import StudyConfig
from sweep.study.finalists import best_rows
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study

from .sampler_quality import FUNCTIONS, best_possible, study_of

Function = Callable[[Mapping[str, Any]], float]
NOISE = {"branin": (3.0, 9.0), "valley": (0.3, 0.9), "ackley": (1.0, 3.0)}  # standard deviations between seeds


def noise(values: Mapping[str, Any], seed: int) -> float:
    digest = hashlib.blake2b(repr((sorted(values.items()), seed)).encode(), digest_size=8).digest()
    return float(np.random.default_rng(int.from_bytes(digest)).standard_normal())


def chosen_value(config: StudyConfig, function: Function, sd: float) -> float:
    """Returns the value without noise of the configuration that is best after the search."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study(config, open_storage(f"journal:///{folder}/journal"), workspace=Path(folder))
        study.enqueue_budget()
        while (trial := study.ask()) is not None:
            seed = trial.config.training.seed
            trial.best, trial.epochs = function(trial.hyperparameters) + sd * noise(trial.hyperparameters, seed), 1
            study.tell(trial, "completed", checkpoint=None, error=None)
        [best] = best_rows(config, study.rows(), 1)
    return function(best.hyperparameters)


def with_budget(config: StudyConfig, trials: int, seeds: int) -> StudyConfig:
    return config.model_copy(update={"search": config.search.model_copy(update={"trials": trials, "seeds": seeds})})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sampler", choices=["tpe", "gp", "random"], default="tpe")
    arguments = parser.parse_args()
    print(f"{arguments.sampler}, {arguments.trials} trainings, n {arguments.repeats}: true regret, median [quartiles]")
    missed = False
    for level in (0, 1):
        scaled = list[float]()
        for name, deviations in NOISE.items():
            (function, space, _), sd = FUNCTIONS[name], deviations[level]
            configs = [study_of(name, space, None, arguments.sampler, repeat) for repeat in range(arguments.repeats)]
            least = best_possible(configs[0], function)
            one, several = (
                np.array([chosen_value(with_budget(c, arguments.trials, seeds), function, sd) - least for c in configs])
                for seeds in (1, arguments.seeds)
            )
            scaled += list((several - one) / sd)
            p = float(wilcoxon(several, one, alternative="less").pvalue)
            quartiles = (np.quantile(each, [0.5, 0.25, 0.75]) for each in (one, several))
            first, second = (f"{middle:.3g} [{low:.3g}, {high:.3g}]" for middle, low, high in quartiles)
            print(f"{name:8} noise {sd}: one seed {first}, {arguments.seeds} seeds {second}; p {p:.3f}", flush=True)
        together = float(wilcoxon(scaled, alternative="less").pvalue)
        print(f"together, in units of the noise: {np.median(scaled):+.3g} (median), p {together:.4f}", flush=True)
        missed |= together >= 0.05
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
