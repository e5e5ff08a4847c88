"""Trials that several processes train: the numbers of one process, what ends a rank, and what a rank's end does."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from sweep.cluster import connect
from sweep.config.resources import Resources
from sweep.config.sections import TaskConfig
from sweep.config.trial_config import TrialConfig
from sweep.config.user_code import search_in
from sweep.data.batches import ArrayPart, batches, rows_of
from sweep.execution.local import LocalExecutor
from sweep.execution.tune_adapters import execute
from sweep.training import checkpoint, trial
from sweep.training.reports import EpochMetrics, RankLostError, TrialPaths, TrialReport
from sweep.training.trial import run_trial

from ..support.processes import ranks_of, wait_for
from ..support.training import VARIANTS, numbers, same, trial_config
from ..support.trial_lists import ENDLESS, Trials, job

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
OWN = """
import os, torch
from torch import nn

class Largest:
    def reset(self): self.value, self.images = -1.0, 0
    def update(self, outputs, targets):
        self.value, self.images = max(self.value, float(outputs.max())), self.images + len(targets)
    def compute(self): return self.value + self.images

def squares(outputs, targets):
    return outputs.square().mean() * len(targets)  # another number on each part of an epoch

class Idle(nn.Module):
    \"\"\"Has a layer that the loss does not depend on.\"\"\"
    def __init__(self, depth, width, in_shape, num_outputs):
        super().__init__()
        self.output, self.idle = nn.Linear(64, num_outputs), nn.Linear(4, 4)

    def forward(self, images):
        return self.output(images.flatten(1))

class Failing(Idle):
    def forward(self, images):
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            raise ValueError("nothing but trouble")
        return super().forward(images)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits are prepared once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialPaths]:
    """A trial's place; with ``interval=0`` every epoch is checkpointed. After the test no rank is left."""
    monkeypatch.setattr(trial, "CHECKPOINT_SHARE", math.inf)
    (tmp_path / "ranks_own.py").write_text(OWN)
    search_in(tmp_path)
    yield TrialPaths(folder=tmp_path / "0000", data=tmp_path / "data", cache=cache)
    sys.modules.pop("ranks_own", None)
    assert ranks_of(os.getpid()) == []
    assert not dist.is_initialized()


def config(workers: int, metrics: dict[str, str] | None = None, **changes: Any) -> TrialConfig:
    update = {"workers": workers, "task": TaskConfig(metrics=metrics or {})}
    return trial_config(**changes).model_copy(update=update)


def epochs(trained: TrialConfig, place: TrialPaths, name: str) -> list[EpochMetrics]:
    where = dataclasses.replace(place, folder=place.folder.parent / name)
    reports = list(run_trial(trained, where, interval=0))
    assert reports[-1].outcome in ("completed", "collapsed"), reports[-1].error
    return [metrics for report in reports for metrics in report.epochs]


def assert_close(one: list[EpochMetrics], several: list[EpochMetrics]) -> None:
    """All metrics of three epochs are within 1e-4, relative."""
    assert len(one) == len(several) == 3
    for expected, got in zip(numbers(one), numbers(several), strict=True):
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=1e-4, abs=1e-7), name


def test_the_shares_of_a_batch_are_the_batch_augmentation_included() -> None:
    images = torch.arange(5 * 64, dtype=torch.uint8).view(5, 1, 8, 8)
    part, options = ArrayPart(images, torch.arange(5)), {"batch_size": 3, "device": "cpu", "scale": 255}

    def epoch(share: tuple[int, int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0)
        return list(batches(part, shuffle=generator, augment=("crop", "flip"), share=share, **options))  # type: ignore[arg-type]

    for size in (2, 4):
        shares = [epoch((rank, size)) for rank in range(size)]
        for number, (x, y) in enumerate(epoch((0, 1))):
            assert torch.equal(torch.cat([share[number][0] for share in shares]), x)
            assert torch.equal(torch.cat([share[number][1] for share in shares]), y)
            rows = [rows_of((rank, size), len(y)) for rank in range(size)]
            assert max(r.stop - r.start for r in rows) - min(r.stop - r.start for r in rows) <= 1


def test_two_ranks_have_the_numbers_of_one_process(place: TrialPaths) -> None:
    # The last batch has one image, so that one rank has none; guidance, clipping and metrics act on the whole batch.
    changes: dict[str, Any] = {
        "guidance": {"lambda1": 1e-1, "every": 3},
        "training": {"batch_size": 13, "optimizer": "adamw", "lr_schedule": "cosine", "grad_clip": 0.5},
        "data": {"augment": ("crop", "flip"), "train_size": 300},
    }
    assert 300 % 13 == 1
    metrics = {"largest": "ranks_own:Largest", "squares": "ranks_own:squares"}
    both = [config(n, metrics, **changes) for n in (1, 2)]
    # A seed of a study that was stored before there were bounds.
    both = [each.model_copy(update={"training": each.training.model_copy(update={"seed": 2**40})}) for each in both]
    one, two = (epochs(each, place, str(each.workers)) for each in both)
    assert_close(one, two)
    assert one[-1].values["train_loss"] < one[0].values["train_loss"]


def test_a_rank_that_is_killed_takes_the_trial_with_it_at_once(place: TrialPaths) -> None:
    endless = config(2, training={"max_epochs": ENDLESS})
    reports = run_trial(endless, place, interval=0)
    first = next(reports)
    (other,) = ranks_of(os.getpid())
    other.kill()
    with pytest.raises(RankLostError, match="rank 1 was killed: SIGKILL"):
        list(reports)
    saved = checkpoint.load_latest(place.folder)
    assert saved is not None
    assert saved.history[0] == first.epochs[0]


@pytest.mark.exhaustive
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "bfloat16"])
def test_each_kind_of_trial_has_the_numbers_of_one_process(variant: str, place: TrialPaths) -> None:
    one, three = (epochs(config(n, **VARIANTS[variant]), place, str(n)) for n in (1, 3))
    assert_close(one, three)


@pytest.mark.exhaustive
def test_a_stopped_trial_goes_on_bit_for_bit_and_leaves_no_rank(place: TrialPaths) -> None:
    dropping = config(2, model={"name": "cnn", "depth": 2, "width": 4, "downsample": 1, "dropout": 0.3})
    whole = epochs(dropping, place, "whole")
    reports = run_trial(dropping, place, interval=0)
    next(reports)
    (other,) = ranks_of(os.getpid())
    reports.close()  # type: ignore[attr-defined]
    assert not other.is_running()
    resumed = [m for report in run_trial(dropping, place, attempt=2, interval=0) for m in report.epochs]
    assert numbers(resumed) == numbers(whole)
    ends = [checkpoint.load_latest(folder) for folder in (place.folder, place.folder.parent / "whole")]
    assert all(end is not None for end in ends)
    assert same(ends[0].state["model"], ends[1].state["model"])  # type: ignore[union-attr]


@pytest.mark.exhaustive
def test_batch_norm_on_cpus_is_said(place: TrialPaths) -> None:
    normalised = config(2, model={"batch_norm": True}, training={"max_epochs": 1})
    (first, *_) = run_trial(normalised, place, interval=0)
    assert "batch norm takes its statistics over the share" in first.notices[0]


@pytest.mark.exhaustive
def test_the_error_of_a_rank_is_the_trials(place: TrialPaths) -> None:
    failing = config(2, model={"name": "ranks_own:Failing"})
    with pytest.raises(RuntimeError, match=r"(?s)in the process of rank 1:.*ranks_own.py.*nothing but trouble"):
        list(run_trial(failing, place, interval=0))


@pytest.mark.exhaustive
def test_a_layer_that_the_loss_does_not_depend_on_is_no_error(place: TrialPaths) -> None:
    assert_close(*(epochs(config(n, model={"name": "ranks_own:Idle"}), place, str(n)) for n in (1, 2)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_rank_outlives_rank_0(how: signal.Signals, place: TrialPaths) -> None:
    endless = config(3, training={"max_epochs": ENDLESS}).model_dump_json()
    code = (
        "import sys, pathlib, json; from sweep.config.trial_config import TrialConfig;"
        "from sweep.training.trial import run_trial, TrialPaths;"
        "folder, data, cache = map(pathlib.Path, sys.argv[2:]);"
        "[print(r.outcome, flush=True) for r in run_trial(TrialConfig.model_validate_json(sys.argv[1]),"
        " TrialPaths(folder, data, cache), interval=0)]"
    )
    words = [sys.executable, "-c", code, endless, *map(str, (place.folder, place.data, place.cache))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as rank_0:
        assert rank_0.stdout is not None
        assert rank_0.stdout.readline() == "None\n"
        others = ranks_of(rank_0.pid)
        assert len(others) == 2
        rank_0.send_signal(how)
        wait_for(lambda: not any(other.is_running() for other in others), "the other ranks end")


@pytest.mark.exhaustive
def test_a_trial_that_loses_a_rank_fails_in_the_executor_without_ray(place: TrialPaths) -> None:
    request = job(place, 0, ENDLESS)
    request = dataclasses.replace(request, config=request.config.model_copy(update={"workers": 2}))
    source = KillsARank([request], {0})
    LocalExecutor().execute(source, Resources(gpus=0, workers=2), stop=threading.Event())
    assert "rank 1 was killed: SIGKILL" in source.given_up[0]


class KillsARank(Trials):
    """Kills a rank of some trials after their first report."""

    def __init__(self, jobs: list[Any], mortal: set[int]):
        super().__init__(jobs)
        self.mortal = mortal

    def report(self, key: Any, result: TrialReport) -> bool:
        if key[1] in self.mortal and result.epochs:
            self.mortal.discard(key[1])
            ranks_of(os.getpid())[0].kill()
        return super().report(key, result)

    def enough(self, number: int) -> bool:
        return number == 3 and self.epochs(3)[-1] >= 5


@pytest.mark.exhaustive
@pytest.mark.ray
def test_a_study_of_four_trials_moves_the_one_that_loses_a_rank(place: TrialPaths) -> None:
    import ray

    options = {"num_cpus": 2, "num_gpus": 0, "include_dashboard": False, "log_to_driver": False}
    connect._init("local", options)  # once more where the machine is too busy for the first time
    try:
        jobs = [job(place, number, 30) for number in range(3)] + [job(place, 3, ENDLESS)]
        jobs = [dataclasses.replace(j, config=j.config.model_copy(update={"workers": 2})) for j in jobs]
        source = KillsARank(jobs, {1})
        execute(source, Resources(gpus=0, workers=2), stop=threading.Event())
        assert [source.outcome(number) for number in range(4)] == ["completed"] * 3 + [None]
        assert sorted(source.begun) == [0, 1, 1, 2, 3]
        assert source.given_up == {}
        assert all(sorted(set(source.epochs(number))) == list(range(1, 31)) for number in range(3))
        assert len({path.parent.name for path in (place.folder / "1").rglob("*.pt")}) == 2, "it was not moved"
        wait_for(lambda: not ranks_of(os.getpid()), "the stopped trial's ranks end")
    finally:
        ray.shutdown()
