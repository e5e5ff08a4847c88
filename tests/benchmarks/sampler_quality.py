"""The best of 64 trials by our search beside that of plain Optuna, define-by-run, with the same sampler.

`python -m tests.benchmarks.sampler_quality [--seeds 10] [--sampler tpe]`: four functions, each on its box, with a
constraint, and with conditions. The regret is the best value less that of 20,000 uniform points, so it may be below 0.
Ours asks and tells through `Study` in a journal; a constraint is fulfilled by every point of ours, and given to
Optuna's sampler as its ``constraints_func``. Exits 1 where a median of ours is larger and a paired test (Wilcoxon's,
one-sided) shows it, p < 0.05. Five minutes.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy.stats import wilcoxon

from sweep.config.constraints import parse_constraint
from sweep.config.study_config import StudyConfig
from sweep.study.constrained import violated
from sweep.study.distributions import distributions, random_points, suggest_point
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study

TRIALS, DENSE = 64, 20_000
Values = Mapping[str, Any]


def branin(x: Values) -> float:
    a, b = 15 * x["x"] - 5, 15 * x["y"]
    square = (b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6) ** 2
    return float(square + 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10)


def valley(x: Values) -> float:
    """Best at lr 1e-3 and decay 1e-5, along a curved valley."""
    u, v = math.log10(x["lr"]) + 3, math.log10(x["decay"]) + 5
    return (u * u + v * v) / 4 + 2 * abs(u + v * v / 4)


def sizes(x: Values) -> float:
    """Best at the choice 32 and six layers."""
    return abs(math.log2(x["width"]) - 5) + abs(x["layers"] - 6) / 2 + 0.3 * abs(x["width"] * x["layers"] / 192 - 1)


def ackley(x: Values) -> float:
    z = np.array([x[name] - 0.3 for name in ("a", "b", "c", "d")]) * 8
    waves = math.exp(np.cos(2 * math.pi * z).mean())
    return float(-20 * math.exp(-0.2 * math.sqrt((z**2).mean())) - waves + 20 + math.e)


UNIT = {"low": 0.0, "high": 1.0}
FUNCTIONS: dict[str, tuple[Callable[[Values], float], dict[str, Any], str]] = {  # with a constraint
    "branin": (branin, {"x": UNIT, "y": UNIT}, "x + y <= 0.9"),
    "valley": (
        valley,
        {"lr": {"low": 1e-5, "high": 1e-1, "log": True}, "decay": {"low": 1e-7, "high": 1e-2, "log": True}},
        "lr * 0.01 > decay",
    ),
    "sizes": (
        sizes,
        {"width": {"choices": [8, 16, 32, 64, 128, 256]}, "layers": {"low": 1, "high": 12}},
        "width * layers <= 150",
    ),
    "ackley": (ackley, dict.fromkeys("abcd", UNIT), "a + b <= 0.5"),
}


def switched(function: Callable[[Values], float]) -> Callable[[Values], float]:
    """The function in one branch; in the other a parabola of its own hyperparameter, which is best at 0.7."""

    def value(x: Values) -> float:
        return function(x) if x["branch"] == "main" else 1.0 + 10 * (x["other"] - 0.7) ** 2

    return value


def study_of(name: str, space: dict[str, Any], constraint: str | None, sampler: str, seed: int) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": name,
            "function": "none:none",
            "objective": {"metric": "loss", "direction": "minimize"},
            "space": space,
            "constraints": [constraint] if constraint else [],
            "training": {"max_epochs": 1, "seed": seed},
            "search": {"trials": TRIALS, "sampler": sampler, "pruner": "none", "finalists": {"top": 0}},
        }
    )


def ours(config: StudyConfig, function: Callable[[Values], float]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        study, values = Study(config, open_storage(f"journal:///{folder}/journal"), workspace=Path(folder)), []
        study.enqueue_budget()
        while (trial := study.ask()) is not None:
            trial.best, trial.epochs = function(trial.hyperparameters), 1
            values.append(trial.best)
            study.tell(trial, "completed", checkpoint=None, error=None)
    return min(values)


def theirs(config: StudyConfig, function: Callable[[Values], float]) -> float:
    space, values = distributions(config.searched), []
    holds = [parse_constraint(each, config.space) for each in config.constraints]
    seed = config.training.seed

    def broken(trial: optuna.trial.FrozenTrial) -> list[float]:
        return [0.0 if each.holds(trial.params) else 1.0 for each in holds]

    options = {"constraints_func": broken} if holds else {}
    kind = optuna.samplers.TPESampler if config.search.sampler == "tpe" else optuna.samplers.GPSampler
    study = optuna.create_study(sampler=kind(seed=seed, **options))  # type: ignore[arg-type]

    def objective(trial: optuna.Trial) -> float:
        point = suggest_point(trial, config, space)
        if not violated(config, point):
            values.append(function(point))
        return function(point)

    study.optimize(objective, n_trials=TRIALS)
    return min(values, default=math.inf)


def best_possible(config: StudyConfig, function: Callable[[Values], float]) -> float:
    drawn = random_points(distributions(config.searched), seed=0, number=0)
    points = (config.active(next(drawn)) for _ in range(DENSE))
    return min(function(point) for point in points if not violated(config, point))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sampler", choices=["tpe", "gp"], default="tpe")
    arguments = parser.parse_args()
    sampler, missed = arguments.sampler, False
    print(
        f"{sampler}, {TRIALS} trials, n {arguments.seeds}: median regret [lowest, highest]; optuna {optuna.__version__}"
    )
    for name, (function, space, constraint) in FUNCTIONS.items():
        branch = {"branch": {"choices": ["main", "other"]}, "other": {**UNIT, "when": {"branch": "other"}}}
        conditional = branch | {n: {**d, "when": {"branch": "main"}} for n, d in space.items()}
        kinds = {"free": (function, space, None), "constrained": (function, space, constraint)}
        kinds["conditional"] = (switched(function), conditional, None)
        for kind, (of_kind, its_space, its_constraint) in kinds.items():
            configs = [
                study_of(f"{name}-{kind}", its_space, its_constraint, sampler, seed) for seed in range(arguments.seeds)
            ]
            least = best_possible(configs[0], of_kind)
            a, b = (np.array([run(config, of_kind) - least for config in configs]) for run in (ours, theirs))
            worse = 1.0 if np.allclose(a, b) else float(wilcoxon(a, b, alternative="greater").pvalue)
            lost = bool(np.median(a) > np.median(b) and worse < 0.05)
            missed |= lost
            shown = "  ".join(f"{np.median(each):8.4f} [{each.min():.4f}, {each.max():.4f}]" for each in (a, b))
            print(f"{name:8}{kind:13} ours {shown} Optuna; p {worse:.2f}{'  MISSED' * lost}", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
