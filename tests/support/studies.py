"""Small studies that several test files run, and the one that is run once for all of them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from sweep.config import study_file as studyfile
from sweep.config.study_config import StudyConfig

from .commands import Ended, sweep
from .invariants import Left, left_by

TINY = """
name: tiny
model: {name: cnn, downsample: 1, hidden: 8, activation: tanh}
data: {name: digits, train_size: 400}
objective: {metric: val_loss, direction: minimize}
space:
  lambda1: {low: 1e-4, high: 1e-2, log: true}
  lambda2: 1e-4
  epsilon: 0.01
  depth: {low: 1, high: 3}
  width: {choices: [4, 8]}
  training.init: {choices: [default, he]}
training: {max_epochs: 4, batch_size: 64, lr: 5e-3}
search: {trials: 6, design: 2, sampler: random, pruner: none, finalists: {top: 1, seeds: 2, tuned: 2}}
"""


SEARCHED = {"lambda1", "depth", "width", "training.init"}


@dataclass(frozen=True)
class Finished:
    """A study that was run to its end."""

    workspace: Path
    file: Path
    ended: Ended
    left: Left


CONTROLS = 2 + 2 + 2 + 2  # finalists, plain controls, trials that tune, the tuned control's fresh seeds


OUTCOMES = """
name: outcomes
model: {name: mlp, depth: 1}
data: {name: digits, train_size: 300}
objective: {metric: val_loss, direction: minimize}
space:
  lambda1: {low: 1e-4, high: 1e-2, log: true}
  width: {low: 4, high: 64}
  training.lr: {choices: [1e-2, 3e-2, 1e-1, 1e8]}
training: {max_epochs: 4, batch_size: 32, optimizer: sgd}
search: {trials: 12, sampler: random, pruner: successive_halving, finalists: {top: 0}}
resources: {max_concurrent: 1}
"""


def config_of(text: str) -> StudyConfig:
    config, problems = studyfile.parse_study(studyfile.read_yaml(text, "a test"))
    assert config is not None, problems
    return config


SHORT = """
name: NAME
model: {name: mlp}
data: {name: digits, train_size: 300}
objective: {metric: val_loss, direction: minimize}
space:
  lambda1: {low: 1e-4, high: 1e-2, log: true}
  depth: {low: 1, high: 3}
  width: {choices: [8, 16]}
training: {max_epochs: 12, batch_size: 32, lr: 1e-2}
search: {trials: 4, design: 1, sampler: random, pruner: none, finalists: {top: 1, seeds: 1, tuned: 2}}
"""


SMALL = SHORT.replace("NAME", "small").replace("max_epochs: 12", "max_epochs: 3").replace("top: 1", "top: 0")


def finished(folder: Path) -> Finished:
    """Returns the study TINY, run in this folder by the first that asks; its workspace must be left alone."""
    workspace, file, printed = folder / "finished", folder / "tiny.yaml", folder / "finished.json"
    if not printed.exists():
        file.write_text(TINY)
        ended = sweep(workspace, "run", str(file), "--json", "--report")
        assert ended.code == 0, ended.err
        printed.write_text(json.dumps(dataclasses.asdict(ended)))
    return Finished(workspace, file, Ended(**json.loads(printed.read_text())), left_by(workspace, "tiny"))
