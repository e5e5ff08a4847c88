"""gc on a study that was run: what it frees, and that all that may still be asked for is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sweep.config.settings import Settings
from sweep.service import load_stored_config
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.training import checkpoint
from sweep.training.reports import EpochMetrics

from ...support.commands import Ended, sweep_here
from ...support.invariants import assert_whole, left_by
from ...support.studies import CONTROLS, Finished

pytestmark = pytest.mark.filterwarnings("default")  # Ray's and MLflow's own deprecations are not ours


@pytest.fixture
def copy(tiny: Finished, tmp_path: Path) -> Path:
    """The workspace of a finished study, checkpoints included, to be written to."""
    return Path(shutil.copytree(tiny.workspace, tmp_path / "results"))


class Gc:
    """Runs ``sweep gc`` on a workspace."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], workspace: Path):
        self._monkeypatch, self._capsys, self.workspace = monkeypatch, capsys, workspace

    def sweep(self, *words: str) -> Ended:
        return sweep_here(self._monkeypatch, self._capsys, self.workspace, *words)

    def __call__(self, *words: str) -> dict[str, object]:
        ended = self.sweep("gc", *words, "--json")
        assert ended.code == 0, ended.err
        [freed] = json.loads(ended.out)
        return dict(freed)


@pytest.fixture
def gc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], copy: Path) -> Gc:
    return Gc(monkeypatch, capsys, copy)


def files(workspace: Path) -> dict[Path, bytes]:
    """All checkpoints of a workspace."""
    return {p.relative_to(workspace): p.read_bytes() for p in workspace.glob("tiny*/*/*/*.pt")}


def history(path: Path) -> list[EpochMetrics]:
    saved = checkpoint.load_latest(path)
    assert saved is not None
    return saved.history


def test_a_dry_run_says_what_would_be_freed_and_removes_nothing(gc: Gc, copy: Path) -> None:
    before = files(copy)
    said = gc("tiny", "--dry-run")
    assert files(copy) == before
    assert gc("tiny") == said
    assert sum(map(len, before.values())) - sum(map(len, files(copy).values())) == said["bytes"] != 0


def test_the_best_keep_their_weights_and_all_their_metrics(gc: Gc, copy: Path, tiny: Finished) -> None:
    ranked = [t.number for t in sorted(tiny.left.trials, key=lambda t: t.value or 0)]
    before = files(copy)
    freed = gc("tiny", "--keep", "2")
    assert freed["kept"] == ranked[:2]
    assert freed["trials"] == 4 + CONTROLS
    for number in range(6):
        folder = copy / "tiny" / f"{number:04d}"
        kept = {path: data for path, data in before.items() if path.parts[:2] == ("tiny", folder.name)}
        now = {path: data for path, data in files(copy).items() if path in kept}
        assert (now == kept) == (number in ranked[:2])
        assert history(folder) == history(tiny.workspace / "tiny" / folder.name)
        assert bool(checkpoint.load(next(folder.glob("*/*.pt"))).state) == (number in ranked[:2])
    assert gc("tiny", "--keep", "2")["bytes"] == gc("tiny")["bytes"] == 0
    text = gc.sweep("gc", "tiny", "--keep", "1").out
    assert text.startswith("tiny: freed 0.")
    assert f"the best ({ranked[0]})" in text


def test_what_is_not_finished_keeps_its_checkpoints(gc: Gc, copy: Path) -> None:
    """Interrupted or running, alive or dead: whoever goes on with it needs them."""
    settings = Settings(workspace=copy, storage=f"journal:///{copy}/optuna.journal")
    config = load_stored_config("tiny", settings)
    config = config.model_copy(update={"search": config.search.model_copy(update={"trials": 8})})
    study = Study(config, open_storage(settings.storage), workspace=copy)
    study.enqueue_budget()
    running, interrupted = study.ask(), study.ask()
    assert running is not None
    assert interrupted is not None
    study.release(interrupted)
    for trial in (running, interrupted):
        shutil.copytree(copy / "tiny" / "0000", settings.checkpoints("tiny", trial.number))
    before = {p: d for p, d in files(copy).items() if p.parts[:2] in (("tiny", "0006"), ("tiny", "0007"))}
    assert len(before) >= 2
    assert gc("tiny", "--keep", "1")["trials"] == 5 + CONTROLS
    assert {p: d for p, d in files(copy).items() if p in before} == before


def test_damaged_checkpoints_give_way_to_the_last_whole_one_and_are_kept_where_there_is_none(
    gc: Gc, copy: Path, tiny: Finished
) -> None:
    worst = max(tiny.left.trials, key=lambda t: t.value or 0).number
    folder, other = copy / "tiny" / f"{worst:04d}", copy / "tiny.controls" / "0000"
    [newest, *_] = sorted(folder.glob("*/*.pt"), reverse=True)
    shutil.copy(newest, newest.with_name("epoch-0003.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    (newest.parent / "epoch-0004.tmp").write_bytes(b"half")
    for path in other.glob("*/*.pt"):
        path.write_bytes(b"nothing to read")
    expected = history(folder)
    assert gc("tiny")["trials"] == 3 + CONTROLS - 1
    assert [m.epoch for m in expected] == [m.epoch for m in history(folder)] == [1, 2, 3, 4]
    assert len(list(folder.glob("*/*"))) == 1
    assert [p.read_bytes() for p in other.glob("*/*.pt")] == [b"nothing to read"] * len(list(other.glob("*/*.pt")))


def test_a_tracking_store_that_is_lost_afterwards_is_filled_from_what_was_kept(
    gc: Gc, copy: Path, tiny: Finished
) -> None:
    gc("tiny", "--keep", "1")
    (copy / "mlflow.db").unlink()
    shutil.rmtree(copy / "artifacts")
    ended = gc.sweep("resume", "tiny")
    assert ended.code == 0, ended.err
    again = left_by(copy, "tiny")
    assert_whole(again, "tiny", trials=6, controls=CONTROLS)
    for name, run in again.runs.items():
        assert run.curve == tiny.left.runs[name].curve
        assert run.tags["sweep.host"] == tiny.left.runs[name].tags["sweep.host"]


def test_all_studies_or_one_that_is_there(gc: Gc) -> None:
    assert gc("--keep", "6")["study"] == "tiny"
    ended = gc.sweep("gc", "tinny")
    assert ended.code == 2
    assert "(did you mean tiny?)" in ended.err
