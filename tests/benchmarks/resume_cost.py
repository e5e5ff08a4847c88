"""Times the resume of a long study: from the start of the process to the first busy worker.

`python -m tests.benchmarks.resume_cost`, three minutes on two quiet cores. 2,000 finished trials are written into a
journal file and into MLflow, as a study leaves them; then two more are run, several times, beside a study that has
none. A worker is busy when Ray has named its process after what it was handed. Exits 1 when the bar is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from optuna.trial import TrialState, create_trial

from sweep.config import study_file as studyfile
from sweep.config.study_config import StudyConfig
from sweep.study.distributions import distributions, random_point
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.tracking.tracker import RunKey, Tracker
from sweep.training.reports import EpochMetrics

from ..support.processes import Command, title, wait_for

BAR = 10.0  # seconds
EPOCHS = 10
STUDY = f"""
name: long
model: {{name: mlp}}
data: {{name: digits}}
objective: {{metric: val_loss, direction: minimize}}
space:
  lambda1: {{low: 1e-4, high: 1e-2, log: true}}
  epsilon: {{low: 1e-3, high: 10, log: true}}
  depth: {{low: 1, high: 3}}
  width: {{choices: [32, 64]}}
  training.lr: {{low: 1e-4, high: 1e-2, log: true}}
training: {{max_epochs: {EPOCHS}, batch_size: 64}}
search: {{trials: 1, sampler: tpe, pruner: median, finalists: {{top: 0}}}}
"""


def make(workspace: Path, count: int, file: Path) -> None:
    """Leaves in a workspace what a study with so many completed trials leaves, checkpoints aside."""
    config, _ = studyfile.parse_study(studyfile.read_yaml(file.read_text(), "benchmark"))
    assert config is not None
    storage = open_storage(f"journal:///{workspace}/optuna.journal")
    study = Study(config, storage, workspace=workspace)
    Study(config, storage, workspace=workspace, sister=True)
    space = distributions(config.searched)
    trials = []
    for number in range(count):
        params = random_point(space, seed=0, number=number)
        values = {epoch: 1 / epoch + number / count for epoch in range(1, EPOCHS + 1)}
        owner = {"host": "elsewhere", "boot": "another", "pid": 1, "started": 0.0, "attempt": 1}
        checkpoint = str(workspace / "long" / f"{number:04d}" / "attempt-01" / "epoch-0010.pt")
        attrs = {"seed": 0, "design": False, "owner": owner, "epochs": EPOCHS, "checkpoint": checkpoint}
        attrs |= {"outcome": "completed", "tags": {"sweep.host": "elsewhere", "sweep.device": "cpu"}}
        trials.append(
            create_trial(
                state=TrialState.COMPLETE,
                params=dict(params),
                distributions=dict(space),
                value=values[EPOCHS],
                intermediate_values=values,
                user_attrs=attrs,
            )
        )
    study._study.add_trials(trials)
    record(config, workspace, [trial.params for trial in trials])


def record(config: StudyConfig, workspace: Path, params: list[dict[str, object]]) -> None:
    """Tells MLflow of the trials."""
    tracker = Tracker(f"sqlite:///{workspace}/mlflow.db", config.name, artifacts=workspace / "artifacts")
    tracker.open(description="", params={}, tags={})
    for number, each in enumerate(params):
        key = RunKey(config.name, "trial", number)
        tracker.start_trial(key, params=each, tags={"sweep.design": "false"}, start_time=1_000_000)
        tracker.log_epochs(key, [EpochMetrics(EPOCHS, {"val_loss": 1.0, "train_loss": 1.0}, 1_000_000)])
        tracker.end_trial(key, outcome="completed", metrics={"objective": 1.0}, tags={}, end_time=2_000_000)
    assert tracker.close(status="FINISHED", timeout=600)


def resume(workspace: Path, file: Path, trials: int) -> tuple[float, float]:
    """Seconds from the start of the process until a worker has a trial, and until it has said that it has ended."""
    began = time.monotonic()
    command = Command(workspace, "run", str(file), "--trials", str(trials))
    try:

        def busy() -> bool:
            return command.over or any(title(process).startswith("ray::Worker") for process in command.look())

        wait_for(busy, "a worker")
        handed = time.monotonic() - began
        assert command.end() == 0, command.out
        return handed, time.monotonic() - began
    finally:
        command.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "long.yaml"
        file.write_text(STUDY)
        seconds: dict[int, list[tuple[float, float]]] = {arguments.trials: [], 0: []}
        for count in seconds:
            began = time.monotonic()
            make(Path(folder) / str(count) / "results", count, file)
            print(f"made a study of {count} finished trials in {time.monotonic() - began:.0f} s", flush=True)
        for turn in range(arguments.rounds):
            for count, measured in seconds.items():
                measured.append(resume(Path(folder) / str(count) / "results", file, count + 2 * (turn + 1)))
        for count, measured in seconds.items():
            handed, ended = zip(*measured, strict=True)
            print(
                f"{count:5d} finished trials: first worker busy after {statistics.median(handed):.1f} s "
                f"({min(handed):.1f} to {max(handed):.1f}), all over after {statistics.median(ended):.1f} s"
            )
    median = statistics.median(handed for handed, _ in seconds[arguments.trials])
    print(f"first worker busy after {median:.1f} s, the bar is {BAR:g} s: {'met' if median <= BAR else 'MISSED'}")
    return int(median > BAR)


if __name__ == "__main__":
    sys.exit(main())
