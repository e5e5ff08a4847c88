"""One trial on a worker: what it reports, what it leaves on disk, and that going on from there changes nothing."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sweep.config import filesystem
from sweep.config.errors import DataError
from sweep.config.trial_config import TrialConfig
from sweep.training import checkpoint, loop, trial
from sweep.training.loop import fit
from sweep.training.reports import EpochMetrics
from sweep.training.trial import TrialPaths, TrialReport, assemble, run_trial

from ..support.training import VARIANTS, numbers, same, trial_config, weights

SHARE = trial.CHECKPOINT_SHARE


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits are prepared once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> TrialPaths:
    """A trial's place; with ``interval=0`` every epoch is checkpointed, however long that takes."""
    monkeypatch.setattr(trial, "CHECKPOINT_SHARE", math.inf)
    return TrialPaths(folder=tmp_path / "0000", data=tmp_path / "data", cache=cache)


def elsewhere(place: TrialPaths, name: str) -> TrialPaths:
    return dataclasses.replace(place, folder=place.folder.parent / name)


def saved_weights(place: TrialPaths) -> dict[str, Tensor]:
    saved = checkpoint.load_latest(place.folder)
    assert saved is not None
    state: dict[str, Tensor] = saved.state["model"]
    return state


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def epochs_of(reports: list[TrialReport]) -> list[EpochMetrics]:
    return [metrics for report in reports for metrics in report.epochs]


# -- reports -----------------------------------------------------------------------------------------------------------


def test_every_epoch_is_reported_once_and_is_in_the_checkpoint_it_came_with(place: TrialPaths) -> None:
    reports = []
    for report in run_trial(trial_config(), place, interval=0):
        reports.append(report)
        assert report.checkpoint is not None
        held = checkpoint.load(Path(report.checkpoint)).history
        assert held == epochs_of(reports)
    assert [[m.epoch for m in r.epochs] for r in reports] == [[1], [2], [3]]
    assert [r.outcome for r in reports] == [None, None, "completed"]
    assert [r.error for r in reports] == [None] * 3
    assert files(place.folder) == ["attempt-01/epoch-0002.pt", "attempt-01/epoch-0003.pt"]


def test_short_epochs_are_reported_together(place: TrialPaths) -> None:
    (report,) = run_trial(trial_config(), place, interval=3600)
    assert [m.epoch for m in report.epochs] == [1, 2, 3]
    assert report.outcome == "completed"
    assert files(place.folder) == ["attempt-01/epoch-0003.pt"]


def test_checkpoints_are_the_rarer_the_longer_they_take(place: TrialPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's own an epoch takes a second and a checkpoint half of one, so 17 s lie between them."""
    clock, saved_at, save = [0.0], list[float](), checkpoint.save
    monkeypatch.setattr(trial, "CHECKPOINT_SHARE", SHARE)
    monkeypatch.setattr(trial, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def second_epochs(run: Any) -> Iterator[EpochMetrics]:
        for metrics in fit(run):
            clock[0] += 1.0
            yield metrics

    def slow_save(*args: Any, **kwargs: Any) -> Path:
        saved_at.append(clock[0])
        clock[0] += 0.5
        return save(*args, **kwargs)

    monkeypatch.setattr(loop, "fit", second_epochs)
    monkeypatch.setattr(checkpoint, "save", slow_save)
    config = trial_config(training={"max_epochs": 60})
    reported = epochs_of(list(run_trial(config, place)))
    assert [m.epoch for m in reported] == list(range(1, 61))
    assert saved_at[0] == 1.0
    assert saved_at[-1] == clock[0] - 0.5, "the end is saved whatever it costs"
    gaps = [later - before - 0.5 for before, later in itertools.pairwise(saved_at[:-1])]
    assert gaps == [17.0] * len(gaps)
    assert 0.5 / (17.0 + 0.5) < SHARE == 0.03
    assert len(gaps) >= 2


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        (None, [2, 4, 6, 8, 10, 12]),  # each half second
        ({1, 4, 5, 8, 12}, [2, 4, 6, 8, 12]),  # at 1 and 5 it has just begun, or reported
        (set(), [7, 12]),  # two seconds
    ],
)
def test_a_report_waits_for_an_epoch_at_which_the_trial_may_be_stopped(
    place: TrialPaths, monkeypatch: pytest.MonkeyPatch, judged: set[int] | None, expected: list[int]
) -> None:
    """By a clock of the test's own an epoch takes 0.3 s and a checkpoint nothing."""
    clock = [0.0]
    monkeypatch.setattr(trial, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def short_epochs(run: Any) -> Iterator[EpochMetrics]:
        for metrics in fit(run):
            clock[0] += 0.3
            yield metrics

    monkeypatch.setattr(loop, "fit", short_epochs)
    reports = list(run_trial(trial_config(training={"max_epochs": 12}), place, pruning_epochs=judged))
    assert [report.epochs[-1].epoch for report in reports] == expected
    assert [m.epoch for m in epochs_of(reports)] == list(range(1, 13))


def test_a_report_is_not_changed_by_what_comes_after_it(place: TrialPaths) -> None:
    copies, reports = [], []
    for report in run_trial(trial_config(), place, interval=0):
        reports.append(report)
        copies.append([m.epoch for m in report.epochs])
    assert copies == [[m.epoch for m in r.epochs] for r in reports]


def test_a_trial_is_what_fit_gives(place: TrialPaths) -> None:
    run, _ = assemble(trial_config(), elsewhere(place, "none"))
    expected = numbers(list(fit(run)))
    assert numbers(epochs_of(list(run_trial(trial_config(), place, interval=0)))) == expected
    assert same(saved_weights(place), weights(run.model))


def test_a_trial_has_the_threads_it_was_given(place: TrialPaths) -> None:
    before = torch.get_num_threads()
    try:
        next(run_trial(trial_config().model_copy(update={"threads": 2}), place, interval=0))
        assert torch.get_num_threads() == 2
        next(run_trial(trial_config(), elsewhere(place, "b"), interval=0))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_missing_data_and_impossible_sizes_are_said_so(place: TrialPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with pytest.raises(DataError, match="mnist"):
        next(run_trial(trial_config(data={"name": "mnist"}), place))
    with pytest.raises(ValueError, match="depth = 3"):
        next(run_trial(trial_config(model={"name": "autoencoder", "depth": 3}), place))
    assert not place.folder.exists()


# -- going on ----------------------------------------------------------------------------------------------------------


def interrupted(config: TrialConfig, place: TrialPaths, epochs: int, attempt: int = 1) -> None:
    """A worker that is gone after an epoch."""
    reports = run_trial(config, place, attempt=attempt, interval=0)
    while next(reports).epochs[-1].epoch < epochs:
        pass
    reports.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_trial_resumed_after_any_epoch_is_the_uninterrupted_one(place: TrialPaths, variant: str) -> None:
    config = trial_config(**VARIANTS[variant])
    whole = epochs_of(list(run_trial(config, place, interval=0)))
    for epoch in (1, 2):
        other = elsewhere(place, f"after-{epoch}")
        interrupted(config, other, epoch)
        first, *rest = run_trial(config, other, attempt=2, interval=0)
        # What it finds comes first, with the times of then; what is new goes to a folder of the new attempt.
        assert [m.epoch for m in first.epochs] == list(range(1, epoch + 1))
        assert first.checkpoint == str(other.folder / "attempt-01" / f"epoch-{epoch:04d}.pt")
        assert first.epochs == checkpoint.load(Path(first.checkpoint)).history
        assert [m.epoch for m in epochs_of(rest)] == list(range(epoch + 1, 4))
        assert rest[-1].checkpoint == str(other.folder / "attempt-02" / "epoch-0003.pt")
        assert numbers([*first.epochs, *epochs_of(rest)]) == numbers(whole)
        assert same(saved_weights(other), saved_weights(place))


def test_a_trial_resumed_at_every_epoch_is_the_uninterrupted_one(place: TrialPaths) -> None:
    config = trial_config(training={"max_epochs": 5, "lr_schedule": "cosine"}, guidance={"lambda1": 0.1, "every": 2})
    whole = epochs_of(list(run_trial(config, place, interval=0)))
    other = elsewhere(place, "often")
    for epoch in range(1, 5):
        interrupted(config, other, epoch, attempt=epoch)
    reports = list(run_trial(config, other, attempt=5, interval=0))
    assert numbers(epochs_of(reports)) == numbers(whole)
    assert same(saved_weights(other), saved_weights(place))
    optimizers = [checkpoint.load_latest(p.folder).state["optimizer"]["state"] for p in (place, other)]  # type: ignore[union-attr]
    assert all(same(a, b) for a, b in zip(optimizers[0].values(), optimizers[1].values(), strict=True))


def test_the_target_is_reached_once_even_across_a_resume(place: TrialPaths) -> None:
    config = trial_config(objective={"metric": "val_loss", "direction": "minimize", "target": 100.0})
    interrupted(config, place, 1)
    history = epochs_of(list(run_trial(config, place, attempt=2, interval=0)))
    assert [m.values.get("epochs_to_target") for m in history] == [1, None, None]


def test_a_completed_trial_only_reports(place: TrialPaths) -> None:
    reports = list(run_trial(trial_config(), place, interval=0))
    before = files(place.folder)
    (again,) = run_trial(trial_config(), place, attempt=2)
    assert again == TrialReport(epochs_of(reports), reports[-1].checkpoint, "completed")
    assert files(place.folder) == before


@pytest.mark.parametrize("first_epoch", [True, False])
def test_a_diverged_trial_stays_diverged(place: TrialPaths, first_epoch: bool) -> None:
    config = trial_config(training={"optimizer": "sgd", "lr": 1e6, "max_epochs": 4})
    healthy = 0
    if not first_epoch:  # two good epochs, then the learning rate of a madman
        interrupted(trial_config(training={"optimizer": "sgd", "lr": 0.01, "max_epochs": 4}), place, 2)
        healthy = 2
        saved = checkpoint.load_latest(place.folder)
        assert saved is not None
        for group in saved.state["optimizer"]["param_groups"]:
            group["lr"] = 1e6
        checkpoint.save(place.folder / "attempt-01", saved.history, saved.state)
    *_, last = run_trial(config, place, attempt=2, interval=0)
    assert (last.outcome, last.error) == ("diverged", f"the loss is not finite in epoch {healthy + 1}")
    assert last.checkpoint == str(place.folder / "attempt-02" / f"epoch-{healthy + 1:04d}.pt")
    saved = checkpoint.load_latest(place.folder)
    assert saved is not None
    assert (str(saved.path), saved.diverged, len(saved.history)) == (last.checkpoint, healthy + 1, healthy)
    before = files(place.folder)
    (again,) = run_trial(config, place, attempt=3, interval=0)
    assert again == TrialReport(saved.history, last.checkpoint, "diverged", last.error)
    assert files(place.folder) == before


def test_epochs_before_a_divergence_that_were_not_reported_come_with_it(place: TrialPaths) -> None:
    # One step an epoch, with a decay that multiplies the weights by -100: the fourth overflows.
    rush = {"optimizer": "sgd", "lr": 100.0, "weight_decay": 1.0, "batch_size": 300, "max_epochs": 9}
    (report,) = run_trial(trial_config(training=rush), place, interval=3600)
    assert (report.outcome, report.error) == ("diverged", "the loss is not finite in epoch 4")
    assert [m.epoch for m in report.epochs] == [1, 2, 3]
    assert report.checkpoint is not None
    assert checkpoint.load(Path(report.checkpoint)).history == report.epochs


# -- checkpoints -------------------------------------------------------------------------------------------------------


def history(last: int) -> list[EpochMetrics]:
    return [
        EpochMetrics(e, {"val_loss": 1 / e, "entropy/a": -0.1 * e}, 1_700_000_000_000 + e) for e in range(1, last + 1)
    ]


STATE = {"model": {"w": torch.arange(6.0).view(2, 3)}, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}}


def test_a_checkpoint_comes_back_as_it_was(folder: Path) -> None:
    path = checkpoint.save(folder / "a", history(7), STATE)
    assert path == folder / "a" / "epoch-0007.pt"
    saved = checkpoint.load(path)
    assert (saved.path, saved.history, saved.diverged) == (path, history(7), None)
    assert same(saved.state["model"], STATE["model"])  # type: ignore[arg-type]
    assert set(saved.state) == {"model", "optimizer"}
    diverged = checkpoint.load(checkpoint.save(folder / "a", history(7), STATE, diverged=8))
    assert (diverged.path.name, diverged.history, diverged.diverged) == ("epoch-0008.pt", history(7), 8)
    at_once = checkpoint.load(checkpoint.save(folder / "b", [], STATE, diverged=1))
    assert (at_once.path.name, at_once.history, at_once.diverged) == ("epoch-0001.pt", [], 1)


@pytest.mark.parametrize("start", [1, 9997])  # names are sorted as numbers, also where they grow a digit
def test_the_last_two_are_kept(folder: Path, start: int) -> None:
    for last in range(start, start + 6):
        checkpoint.save(folder / "attempt-01", [EpochMetrics(last, {}, 0)], STATE)
        kept = {int(p.stem[6:]) for p in filesystem.glob_files(folder, "*/*")}
        assert kept == {last, max(start, last - 1)}
        saved = checkpoint.load_latest(folder)
        assert saved is not None
        assert saved.history[-1].epoch == last


def test_the_last_attempt_counts_however_far_one_got_that_was_taken_for_dead(folder: Path) -> None:
    assert checkpoint.load_latest(folder / "nothing") is None
    for attempt, last in (("attempt-02", 3), ("attempt-99.2", 9), ("attempt-100", 5), ("attempt-100.1", 4)):
        checkpoint.save(folder / attempt, history(last), STATE)
    (folder / "attempt-101").mkdir()  # died before its first checkpoint
    saved = checkpoint.load_latest(folder)
    assert saved is not None
    assert str(saved.path.relative_to(folder)) == "attempt-100.1/epoch-0004.pt"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def garbled(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(2000))


def flipped(path: Path) -> None:
    """One bit of the weights."""
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(6.0).numpy().tobytes())
    content[place + 5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, emptied, garbled, flipped])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(folder: Path, damage: Any) -> None:
    for last in (1, 2):
        checkpoint.save(folder / "attempt-01", history(last), STATE)
    damage(folder / "attempt-01" / "epoch-0002.pt")
    with pytest.warns(UserWarning, match=r"epoch-0002\.pt is damaged"):
        saved = checkpoint.load_latest(folder)
    assert saved is not None
    assert saved.history == history(1)
    damage(folder / "attempt-01" / "epoch-0001.pt")
    with pytest.warns(UserWarning, match="is damaged"):
        assert checkpoint.load_latest(folder) is None


def test_a_trial_goes_on_from_the_one_before_a_damaged_checkpoint(place: TrialPaths) -> None:
    config = trial_config()
    whole = epochs_of(list(run_trial(config, place, interval=0)))
    other = elsewhere(place, "damaged")
    interrupted(config, other, 2)
    cut(other.folder / "attempt-01" / "epoch-0002.pt")
    reports = list(run_trial(config, other, attempt=2, interval=0))
    [notice] = [notice for report in reports for notice in report.notices]
    assert re.search(r"attempt-01/epoch-0002\.pt is damaged .*; using the one before", notice)
    assert numbers(epochs_of(reports)) == numbers(whole)
    assert same(saved_weights(other), saved_weights(place))


FULL_DISK = """
import errno, resource, sys
from pathlib import Path
import torch
from sweep.training import checkpoint
from sweep.training.reports import EpochMetrics
folder, size = Path(sys.argv[1]), int(sys.argv[2])
epochs = [EpochMetrics(e, {"val_loss": 0.5}, 0) for e in (1, 2)]
checkpoint.save(folder, epochs[:1], {"model": {"w": torch.zeros(10)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    checkpoint.save(folder, epochs, {"model": {"w": torch.zeros(100_000)}})
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_else(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "attempt-01"), "20000"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout == "EFBIG\n", ended.stderr
    assert files(tmp_path) == ["attempt-01/epoch-0001.pt"]
    saved = checkpoint.load_latest(tmp_path)
    assert saved is not None
    assert len(saved.history) == 1


class Trap:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "caught")


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    trap, folder = tmp_path / "trap", tmp_path / "trial" / "attempt-01"
    folder.mkdir(parents=True)
    torch.save({"model": Trap(trap), "progress": '{"history": [], "diverged": null}'}, folder / "epoch-0002.pt")
    (folder / "epoch-0001.pt").write_bytes(pickle.dumps(Trap(trap)))
    with pytest.warns(UserWarning, match="is damaged"):
        assert checkpoint.load_latest(tmp_path / "trial") is None
    assert not trap.exists()
    torch.load(folder / "epoch-0002.pt", weights_only=False)
    assert trap.exists()  # the trap does work


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Trials set the number of threads of their process: put it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
