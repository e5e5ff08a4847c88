"""Guidance on top of the strongest control: its configuration is fixed, and lambda1 alone grows, on the same seeds.

`make results` trains what is missing. Every run is in the JSON file as soon as it has ended, and a run that was
interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.config import filesystem
from sweep.config.search_space import Scalar
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.config.study_file import read_file
from sweep.config.trial_config import TrialConfig
from sweep.study.baselines import FIRST_SEED
from sweep.study.provenance import environment, followed_by
from sweep.training.reports import TrialPaths
from sweep.training.trial import run_trial

from . import gathering


@dataclass(frozen=True)
class Dose:
    """One dose-response of the plan.

    Attributes:
        name: name of the JSON file.
        label: description in tables.
        strongest_of: study whose strongest control is guided.
        lambda1: the strengths of guidance, 0 being the control.
        seeds: number of seeds; the first is that of the pairs of `sweep confirm`.
    """

    name: str
    label: str
    strongest_of: str
    lambda1: tuple[float, ...]
    seeds: int

    @property
    def path(self) -> Path:
        """The JSON file of the evidence."""
        return gathering.FOLDER / f"{self.name}.json"

    def wanted(self) -> Iterator[tuple[int, float]]:
        """Yields (seed, lambda1) of all runs; whole pairs come early."""
        for seed in range(FIRST_SEED, FIRST_SEED + self.seeds):
            for strength in self.lambda1:
                yield seed, strength

    def hyperparameters(self) -> dict[str, Scalar]:
        """Returns the strongest control's hyperparameters, and the form of guidance that the study found best."""
        confirmed = self._study()["confirm"]
        [found] = (rival for rival in confirmed["rivals"] if rival["arm"] == "strongest")
        [guided, *_] = confirmed["configurations"].values()
        own = {key: value for key, value in found["hyperparameters"].items() if key != "lambda1"}
        return {**own, "guidance.form": guided["guidance.form"]}

    def trial(self, seed: int, strength: float) -> TrialConfig:
        """Returns the configuration of one run, which is measured on the test set after each epoch."""
        config = StudyConfig.model_validate(self._study()["config"])
        trial = config.trial({**self.hyperparameters(), "lambda1": strength}, seed=seed)
        return trial.model_copy(update={"test": True})

    def is_made(self) -> bool:
        """Returns True if all runs are there."""
        return self.path.exists() and bool(self.read()["complete"])

    def read(self) -> dict[str, Any]:
        """Returns the evidence, complete if each wanted run is in it."""
        found: dict[str, Any] = json.loads(self.path.read_text())
        there = {(run["seed"], run["lambda1"]) for run in found["runs"]}
        return {**found, "complete": there >= set(self.wanted())}

    def make(self, settings: Settings) -> None:
        """Trains the runs that are missing, one after the other."""
        found = self.read() if self.path.exists() else self._begun()
        there = {(run["seed"], run["lambda1"]) for run in found["runs"]}
        found["code"] = followed_by(found["code"], environment())
        for seed, strength in self.wanted():
            if (seed, strength) in there:
                continue
            run = self._run(seed, strength, settings)
            found["runs"].append(run)
            found["complete"] = len(found["runs"]) == len(list(self.wanted()))
            filesystem.write_bytes(self.path, (json.dumps(found, indent=1) + "\n").encode())
            shutil.rmtree(self._folder(seed, strength, settings), ignore_errors=True)
            print(f"{self.name}: seed {seed}, lambda1 {strength:g}: {run['outcome']}", flush=True)  # noqa: T201

    def _study(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((gathering.FOLDER / f"{self.strongest_of}.json").read_text())
        return found

    def _begun(self) -> dict[str, Any]:
        """Returns the evidence without a run."""
        config = self._study()["config"]
        objective = config["objective"]
        return {
            "strongest_of": self.strongest_of,
            "complete": False,
            "metric": f"test_{objective['metric'].removeprefix('val_')}",
            "direction": objective["direction"],
            "hyperparameters": self.hyperparameters(),
            "code": [],
            "runs": [],
        }

    def _folder(self, seed: int, strength: float, settings: Settings) -> Path:
        """Returns the folder of a run's checkpoints."""
        return settings.local_dir / self.name / f"{seed}-{strength:g}"

    def _run(self, seed: int, strength: float, settings: Settings) -> dict[str, Any]:
        """Trains one network, from its checkpoint if there is one, and returns its test curve."""
        folder = self._folder(seed, strength, settings)
        paths = TrialPaths(folder=folder, data=settings.data, cache=settings.cache)
        metric, epochs, outcome = self._begun()["metric"], [], "interrupted"
        for report in run_trial(self.trial(seed, strength), paths):
            epochs += report.epochs
            outcome = report.outcome or outcome
        return {
            "seed": seed,
            "lambda1": strength,
            "outcome": outcome,
            "curve": [epoch.values[metric] for epoch in epochs],
            "seconds": sum(epoch.values["seconds"] for epoch in epochs),
            "hardware": gathering.hardware(),
        }


def read_doses() -> dict[str, Dose]:
    """Returns the dose-responses of the plan by name."""
    raw = read_file(gathering.FOLDER / "plan.yaml", "plan.yaml")
    found = {name: entry for name, entry in raw.items() if "strongest_of" in entry}
    return {
        name: Dose(name=name, **{**entry, "lambda1": tuple(map(float, entry["lambda1"]))})
        for name, entry in found.items()
    }
