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
from sweep.config.study_config import StudyConfig
from sweep.config.study_file import built_in, override, parse_study, read_file
from sweep.config.trial_config import TrialConfig
from sweep.study.baselines import pair_members, trained
from sweep.study.storages.catalog import get_storage, load_stored_config
from sweep.training import checkpoint

from .judging import merged

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

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
        confirm: options of `sweep confirm`, of each one that runs; none for a study without pairs.
        sensitivity: True to run `sweep sensitivity`.
        probe: True to classify the codes of its autoencoders with a linear probe.
        long: True if the study takes many hours without a GPU.
        group: name of the plan's entry if that is several searches, which differ in their seed; else None.
    """

    name: str
    label: str
    study: str
    sets: dict[str, Any] = field(default_factory=dict)
    confirm: tuple[dict[str, Any], ...] = ()
    sensitivity: bool = False
    probe: bool = False
    long: bool = False
    group: str | None = None

    @property
    def path(self) -> Path:
        """The JSON file of the evidence."""
        return FOLDER / f"{self.name}.json"

    def commands(self) -> list[list[str]]:
        """Returns the arguments of its commands, after ``sweep``."""
        sets = [word for key, value in self.sets.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        commands = [["run", self.study, "--set", f"name={self.name}", *sets]]
        for each in self.confirm:
            options = [word for key, value in each.items() for word in _option(key, value)]
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
        # What the study file could not say when the evidence was made has its default.
        return bool(found["commands"] == commands and StudyConfig.model_validate(found["config"]) == self.config())

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
    found: dict[str, Entry] = {}
    for name, entry in raw.items():
        if "study" not in entry:
            continue
        confirm, sets, seeds = entry.pop("confirm", []), entry.pop("set", {}), entry.pop("searches", None)
        many = tuple(confirm if isinstance(confirm, list) else [confirm])
        if seeds is None:
            found[name] = Entry(name=name, sets=sets, confirm=many, **entry)
        for seed in seeds or ():
            own = {**sets, "training.seed": seed}
            found[f"{name}-{seed}"] = Entry(name=f"{name}-{seed}", sets=own, confirm=many, group=name, **entry)
    return found


def evidence(entry: Entry, printed: Mapping[str, list[str]], settings: Settings) -> dict[str, Any]:
    """Gathers the evidence of an entry after its commands have run.

    Args:
        entry: the entry.
        printed: outputs of `sweep confirm` and `sweep sensitivity`, by command.
        settings: workspace and storage of the commands.
    """
    from sweep.study.storages.storage import get_user_attr

    summary, config = summarise(entry.name, settings), load_stored_config(entry.name, settings)
    confirmed = merged([json.loads(said) for said in printed.get("confirm", ())])
    found = [BaselineResult(**each) for each in (confirmed or {"rivals": ()})["rivals"]]
    rivals = [summarise(each.study, settings) for each in found]
    runs = [row for each in (summary, *rivals) for row in each.rows] + summary.controls
    [best] = summary.best[:1] if confirmed else [None]
    arms = (
        pair_members(
            config, best, best_hyperparameters(found), placebo=any("placebo" in each for each in entry.confirm)
        )
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
        "trials": [_trial(row) for row in summary.rows],
        "curves": _curves(pairs, config, settings),
        **({"probe": _probes(pairs, summary, settings)} if entry.probe else {}),
        "confirm": confirmed,
        "constant": constant_level(config, settings) if confirmed else None,
        "sensitivity": "".join(printed.get("sensitivity", ())) or None,
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


def constant_level(config: StudyConfig, settings: Settings) -> float:
    """Returns the objective's metric on the test set of the best constant output, which sees the training set alone.

    That is the mean training image for an autoencoder's loss, and the most frequent class for accuracy.
    """
    from sweep.data.loading import load_dataset

    dataset = load_dataset(config.data, root=settings.data, cache=settings.cache)
    (x, y), (seen, classes) = (_whole(part, dataset.info.scale) for part in (dataset.test, dataset.train))
    if config.objective.metric == "val_accuracy":
        return float((y == classes.mode().values).float().mean())
    return float((x - seen.mean(dim=0)).square().mean())


def _whole(part: DataPart, scale: float) -> tuple[Tensor, Tensor]:
    """Returns all images and labels of a part of a data set."""
    import torch

    from sweep.data.batches import batches

    ordered = list(batches(part, batch_size=1000, device="cpu", shuffle=None, scale=scale))
    return torch.cat([x for x, _ in ordered]), torch.cat([y for _, y in ordered])


def _trial(row: TrialRecord) -> dict[str, Any]:
    """Returns one trial of the search."""
    return {
        "number": row.number,
        "outcome": row.outcome,
        "value": row.value,
        "epochs": row.epochs,
        "hyperparameters": row.hyperparameters,
        "guidance": row.tags.get("sweep.guidance"),
    }


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
        x, y = _whole(part, dataset.info.scale)
        with torch.no_grad():
            return encoder(x.flatten(1)).numpy(), y.numpy()

    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(*coded(dataset.train.first(PROBED)))
    return float(fitted.score(*coded(dataset.test)))
