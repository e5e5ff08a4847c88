"""The plan of ``losses/RESULTS.md``, and the evidence of its studies: results of commands, metrics of checkpoints.

The evidence of an entry is a JSON file in the repository. So every number can be looked up, and the page can be written
again without any training.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sweep.analysis.confirmation import BaselineResult, best_hyperparameters
from sweep.analysis.summary import Summary, summarise
from sweep.config.errors import ConfigError
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig, TrialConfig
from sweep.config.study_file import built_in, override, parse_study, read_file
from sweep.study.baselines import configurations, pair_members, trained
from sweep.study.storages.catalog import get_storage, load_stored_config
from sweep.training import checkpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from sweep.data.batches import DataPart
    from sweep.study.records import TrialRecord


FOLDER = Path(__file__).parent / "RESULTS"
PROBED = 10_000  # training images for a linear probe


@dataclass(frozen=True)
class Entry:
    """One study of the plan.

    Attributes:
        name: name of the study and of the JSON file.
        label: description in tables.
        study: built-in study that it derives from.
        sets: settings that differ from the built-in study, by path.
        confirm: options of `sweep confirm`; None for a study without pairs.
        sensitivity: True to run `sweep sensitivity`.
        probe: True to classify the codes of its autoencoders with a linear probe.
        long: True if the study takes many hours without a GPU.
    """

    name: str
    label: str
    study: str
    sets: dict[str, Any] = field(default_factory=dict)
    confirm: dict[str, Any] | None = None
    sensitivity: bool = False
    probe: bool = False
    long: bool = False

    @property
    def path(self) -> Path:
        """The JSON file of the evidence."""
        return FOLDER / f"{self.name}.json"

    def commands(self) -> list[list[str]]:
        """Returns the arguments of its commands, after ``sweep``."""
        sets = [word for key, value in self.sets.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        commands = [["run", self.study, "--set", f"name={self.name}", *sets]]
        if self.confirm is not None:
            options = [word for key, value in self.confirm.items() for word in _option(key, value)]
            commands.append(["confirm", self.name, *options, "--json"])
        return [*commands, *([["sensitivity", self.name]] if self.sensitivity else [])]

    def config(self) -> StudyConfig:
        """Returns the study that the commands run.

        Raises:
            ConfigError: the plan or the study file is invalid.
        """
        [run, *_] = self.commands()
        raw, problems = override(read_file(cast("Path", built_in(self.study)), self.study), run[3::2])
        config, more = parse_study(raw)
        if config is None or problems:
            raise ConfigError(f"plan.yaml: {self.name}", problems + more)
        return config

    def is_made(self) -> bool:
        """Returns True if there is evidence, made by the same commands on the same study."""
        if not self.path.exists():
            return False
        found, commands = self.read(), [shlex.join(words) for words in self.commands()]
        return bool(found["commands"] == commands and found["config"] == self.config().model_dump(mode="json"))

    def read(self) -> dict[str, Any]:
        """Returns the evidence."""
        found: dict[str, Any] = json.loads(self.path.read_text())
        return found


def _option(key: str, value: object) -> list[str]:
    if value is True:
        return [f"--{key}"]
    return [f"--{key}", ",".join(value) if isinstance(value, list) else str(value)]


def read_plan() -> dict[str, Entry]:
    """Returns the studies of the page by name, in the order in which they run."""
    raw = read_file(FOLDER / "plan.yaml", "plan.yaml")
    studies = {name: entry for name, entry in raw.items() if "study" in entry}
    return {name: Entry(name=name, sets=entry.pop("set", {}), **entry) for name, entry in studies.items()}


def evidence(entry: Entry, printed: Mapping[str, str], settings: Settings) -> dict[str, Any]:
    """Gathers the evidence of an entry after its commands have run.

    Args:
        entry: the entry.
        printed: output of `sweep confirm` and `sweep sensitivity`, by command.
        settings: workspace and storage of the commands.
    """
    from sweep.study.storages.storage import get_user_attr

    summary, config = summarise(entry.name, settings), load_stored_config(entry.name, settings)
    confirmed = json.loads(printed.get("confirm", "null"))
    found = [BaselineResult(**each) for each in (confirmed or {"rivals": ()})["rivals"]]
    rivals = [summarise(each.study, settings) for each in found]
    runs = [row for each in (summary, *rivals) for row in each.rows] + summary.controls
    [best] = configurations(config, summary.rows)[:1] if confirmed else [None]
    arms = (
        pair_members(config, best, best_hyperparameters(found), placebo=bool((entry.confirm or {}).get("placebo")))
        if best
        else {}
    )
    pairs = [row for arm, values in arms.items() for row in trained(arm, values, summary.controls).values()]
    return {
        "commands": [shlex.join(words) for words in entry.commands()],
        "code": get_user_attr(entry.name, "code", get_storage(settings.storage)),
        "hardware": hardware(),
        "hours": sum(row.seconds or 0.0 for row in runs) / 3600,
        "config": config.model_dump(mode="json"),
        "trials": [_trial(row, config, settings) for row in summary.rows],
        "curves": _curves(pairs, config, settings),
        **({"probe": _probes(pairs, summary, settings)} if entry.probe else {}),
        "confirm": confirmed,
        "sensitivity": printed.get("sensitivity"),
    }


def hardware() -> dict[str, Any]:
    """Returns the processor, its cores and the GPU."""
    import torch

    processors = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": (processors or [platform.processor() or platform.machine()])[0],
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _trial(row: TrialRecord, config: StudyConfig, settings: Settings) -> dict[str, Any]:
    """Returns one trial of the search; a completed one with the spread of its taps, if it has convolutions."""
    found = {
        "number": row.number,
        "outcome": row.outcome,
        "value": row.value,
        "epochs": row.epochs,
        "hyperparameters": row.hyperparameters,
        "guidance": row.tags.get("sweep.guidance"),
    }
    if row.outcome == "completed" and (saved := checkpoint.load_latest(settings.checkpoints(config.name, row.number))):
        found["log_tap_spread"] = tap_spread(saved.state.get("model", {}))
    return found


def tap_spread(weights: dict[str, Any]) -> float | None:
    """Returns the spread of log|c11| over the filters of a layer, mean over convolutions, in nats.

    It measures how unevenly the filters keep entropy. None for a network without kernels larger than 1 x 1.

    Args:
        weights: a state dict.
    """
    from sweep.losses.conv import taps

    kernels = [w for w in weights.values() if w.ndim == 4 and w[0, 0].numel() > 1]
    spreads = [float(taps(kernel).std()) for kernel in kernels]
    return sum(spreads) / len(spreads) if spreads else None


def _curves(
    pairs: list[TrialRecord], config: StudyConfig, settings: Settings
) -> dict[str, dict[int, list[float | None]]]:
    """Returns the objective's metric on the test set by epoch, for each arm and seed.

    Args:
        pairs: rows of one configuration.
        config: the study.
        settings: the workspace.
    """
    name = f"test_{config.objective.metric.removeprefix('val_')}"
    curves: dict[str, dict[int, list[float | None]]] = {}
    for row in pairs:
        if saved := checkpoint.load_latest(settings.checkpoints(f"{config.name}.controls", row.number)):
            curves.setdefault(row.kind, {})[row.seed] = [epoch.values.get(name) for epoch in saved.history]
    return curves


def _probes(pairs: list[TrialRecord], summary: Summary, settings: Settings) -> dict[str, dict[int, float]]:
    """Returns the test accuracy of a linear probe for each arm and seed."""
    found: dict[str, dict[int, float]] = {}
    for row in pairs:
        if row.outcome != "completed":
            continue
        trial = summary.config.trial(row.hyperparameters, seed=row.seed)
        folder = settings.checkpoints(f"{summary.config.name}.controls", row.number)
        found.setdefault(row.kind, {})[row.seed] = probe(trial, folder, settings)
    return found


def probe(trial: TrialConfig, folder: Path, settings: Settings) -> float:
    """Returns the test accuracy of a logistic regression on the codes of a trained autoencoder.

    Args:
        trial: configuration of the autoencoder.
        folder: checkpoints of the autoencoder.
        settings: the data root.
    """
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from sweep.data.batches import batches
    from sweep.data.loading import load_dataset
    from sweep.training.trial import build

    dataset = load_dataset(trial.data, root=settings.data, cache=settings.cache)
    model = build(trial, dataset.info)
    saved = checkpoint.load_latest(folder)
    if saved is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint")
    model.load_state_dict(saved.state["model"])
    encoder = cast("nn.Module", model.encoder)

    def coded(part: DataPart) -> tuple[NDArray[Any], NDArray[Any]]:
        with torch.no_grad():
            ordered = batches(part, batch_size=1000, device="cpu", shuffle=None, scale=dataset.info.scale)
            made = [(encoder(x.flatten(1)), y) for x, y in ordered]
        return torch.cat([code for code, _ in made]).numpy(), torch.cat([y for _, y in made]).numpy()

    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(*coded(dataset.train.first(PROBED)))
    return float(fitted.score(*coded(dataset.test)))
