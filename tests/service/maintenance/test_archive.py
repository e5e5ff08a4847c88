"""A study as one file: taken from one workspace to another it is the same study, and goes on as if nothing had been."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shlex
import shutil
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from ruamel.yaml import YAML

from sweep import service
from sweep.config.errors import StorageError, SweepError
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.service.maintenance.archive import export_study, import_study
from sweep.study.storages.storage import open_storage
from sweep.study.stored_trials import read_rows
from sweep.study.study import Study
from sweep.training import checkpoint

from ...conftest import connections_closed
from ...support import rayless
from ...support.commands import Ended, sweep_here
from ...support.empty_store import with_store
from ...support.invariants import (
    Left,
    assert_whole,
    checkpointed,
    differences,
    journal,
    left_by,
    trained_again,
    trials_of,
)
from ...support.processes import PATIENCE
from ...support.studies import SHORT, config_of

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours

TRIALS, CONTROLS = 4, 5


def settings_of(workspace: Path, storage: str = "") -> Settings:
    return Settings(workspace=workspace, storage=storage, tracking_uri=f"sqlite:///{workspace}/mlflow.db")


def run(config: StudyConfig, workspace: Path, death: rayless.Death | None = None) -> None:
    driver = rayless.start(config, workspace, f"journal:///{workspace}/optuna.journal", death=death)
    driver.join(PATIENCE)
    assert driver.exitcode == (rayless.KILLED if death else 0)


@dataclass(frozen=True)
class Source:
    """A study that was exported after its driver was killed, and again when it was over."""

    config: StudyConfig
    workspace: Path
    interrupted: Path
    finished: Path
    left: Left

    @property
    def name(self) -> str:
        return self.config.name


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("archive")
    config, workspace = config_of(SHORT.replace("NAME", f"test-{uuid.uuid4().hex[:12]}")), folder / "results"
    run(config, workspace, death=(20, 1e-6))  # in the middle of the second trial
    export_study(config.name, folder / "interrupted.zip", settings_of(workspace))
    run(config, workspace)
    export_study(config.name, folder / "finished.zip", settings_of(workspace), keep=1)
    left = left_by(workspace, config.name)
    assert_whole(left, config.name, trials=TRIALS, controls=CONTROLS)
    return Source(config, workspace, folder / "interrupted.zip", folder / "finished.zip", left)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a command on the workspace that is imported into."""

    def sweep(*words: str, **changes: str) -> Ended:
        return sweep_here(monkeypatch, capsys, tmp_path / "results", *words, **changes)

    return sweep


@pytest.fixture
def target(storage_url: str, tmp_path: Path, source: Source) -> Iterator[Settings]:
    """A workspace with a storage of each kind, to be imported into."""
    with connections_closed():
        yield settings_of(with_store(tmp_path / "results"), storage_url)
        storage = open_storage(storage_url)
        for name in (source.name, f"{source.name}.controls"):
            if name in optuna.get_all_study_names(storage):
                optuna.delete_study(study_name=name, storage=storage)


def facts(trial: FrozenTrial) -> tuple[Any, ...]:
    """All that a trial is, but for what holds in its own workspace alone."""
    attrs = {k: v for k, v in trial.user_attrs.items() if k not in ("checkpoint", "owner")}
    times = trial.datetime_start, trial.datetime_complete
    values = trial.params, trial.distributions, trial.intermediate_values, trial.system_attrs
    return trial.number, trial.state, trial.values, attrs, times, *values


# -- what comes out of it ----------------------------------------------------------------------------------------------


def test_a_finished_study_is_the_same_elsewhere(source: Source, target: Settings) -> None:
    found = import_study(source.finished, target)
    assert (found.study, found.trials, found.controls) == (source.name, TRIALS, CONTROLS)
    storage = open_storage(target.storage)
    for ours, theirs in zip(trials_of(source.name, storage), (source.left.trials, source.left.controls), strict=True):
        assert [facts(t) for t in ours] == [facts(t) for t in theirs]
        for trial in ours:
            path = Path(trial.user_attrs["checkpoint"])
            assert path.is_relative_to(target.workspace)
            assert [m.epoch for m in checkpoint.load(path).history] == list(range(1, 13))
    with pytest.raises(StorageError, match=f"{source.name}: the storage has a study of this name"):
        import_study(source.finished, target)


def test_the_commands_work_on_it(source: Source, here: Callable[..., Ended]) -> None:
    ended = here("import", str(source.finished), "--json")
    assert ended.code == 0, ended.err
    best = min(source.left.trials, key=lambda t: t.value or 0.0)
    assert json.loads(ended.out)["weights"] == [f"{source.name}-{best.number:04d}"]
    assert json.loads(here("best", source.name, "--json").out)[0]["value"] == best.value
    [status] = json.loads(here("status", "--json").out)
    assert [t["outcome"] for t in status["trials"] + status["controls"]] == ["completed"] * (TRIALS + CONTROLS)
    epochs = json.loads(here("train", source.name, "--trial", "2", "--json").out)["epochs"]
    assert [e["val_loss"] for e in epochs] == source.left.runs[f"{source.name}-0002"].curve["val_loss"]
    again = here("import", str(source.finished))
    assert (again.code, again.out) == (2, "")
    assert "choose another workspace or storage" in again.err


def test_the_next_run_extends_it_and_tells_mlflow_all_that_was_before(source: Source, tmp_path: Path) -> None:
    workspace = tmp_path / "results"
    import_study(source.finished, settings_of(workspace))
    more = config_of(SHORT.replace("NAME", source.name).replace("trials: 4", "trials: 6").replace("top: 1", "top: 0"))
    run(more, workspace)
    left = left_by(workspace, source.name)
    assert_whole(left, source.name, trials=6, controls=CONTROLS)
    for name, before in source.left.runs.items():
        for metric in before.epochs:
            assert left.runs[name].history[metric] == before.history[metric]  # the times of its epochs too
        assert left.runs[name].run.data.params == before.run.data.params
        assert left.runs[name].tags["sweep.host"] == before.tags["sweep.host"]
    best = min(left.trials, key=lambda t: t.value or 0.0)
    assert left.parent.tags["sweep.best"] == str(best.number)


def test_an_interrupted_study_goes_on_elsewhere(source: Source, tmp_path: Path) -> None:
    """To the very study that it became where it was: nothing is trained again, nothing differs."""
    workspace = tmp_path / "results"
    found = import_study(source.interrupted, settings_of(workspace))
    safe, (search, _) = checkpointed(workspace, source.name), trials_of(source.name, journal(workspace))
    [running] = [t.number for t in search if t.state == TrialState.RUNNING]
    assert f"{source.name}-{running:04d}" in found.weights
    assert 0 < len(safe[f"{source.name}-{running:04d}"]) < 12
    run(source.config, workspace)
    left = left_by(workspace, source.name)
    assert_whole(left, source.name, trials=TRIALS, controls=CONTROLS)
    assert trained_again(left, safe, checkpointed(workspace, source.name)) == []
    assert differences(left, source.left) == []


def test_a_study_that_runs_can_be_exported(source: Source, tmp_path: Path) -> None:
    """The copy of a trial that a living driver trains is nobody's."""
    workspace = tmp_path / "there"
    shutil.copytree(source.workspace, workspace)
    config = source.config.model_copy(update={"search": source.config.search.model_copy(update={"trials": 6})})
    study = Study(config, open_storage(f"journal:///{workspace}/optuna.journal"), workspace=workspace)
    study.enqueue_budget()
    trial, queued = study.ask(), study.enqueue({"lambda1": 1e-3})
    assert trial is not None
    export_study(source.name, tmp_path / "running.zip", settings_of(workspace))
    settings = settings_of(tmp_path / "results")
    import_study(tmp_path / "running.zip", settings)
    storage = open_storage(settings.storage)
    row = read_rows(source.name, storage)[trial.number]
    assert (row.state, row.orphan, row.hyperparameters) == ("running", True, trial.hyperparameters)
    copy = Study(config, storage, workspace=settings.workspace)
    asked = {each.number: each for each in iter(copy.ask, None)}
    assert list(asked) == [trial.number, trial.number + 1, queued]
    assert asked[queued].hyperparameters["lambda1"] == 1e-3
    assert asked[trial.number].attempt == 2


def test_the_studies_that_confirm_has_made_come_along(source: Source, tmp_path: Path) -> None:
    workspace, storage = tmp_path / "there", f"journal:///{tmp_path}/there/optuna.journal"
    shutil.copytree(source.workspace, workspace)
    rival = source.config.model_copy(update={"name": f"{source.name}.confirm.batch_norm"})
    study = Study(rival, open_storage(storage), workspace=workspace)
    study.enqueue_budget()
    trial, trained = study.ask(), checkpoint.load_latest(settings_of(workspace).checkpoints(source.name, 0))
    assert trial is not None
    assert trained is not None
    folder = settings_of(workspace).checkpoints(rival.name, trial.number) / "attempt-01"
    saved = checkpoint.save(folder, trained.history, trained.state)
    study.report(trial, trained.history)
    study.tell(trial, "completed", checkpoint=str(saved), error=None)
    written = export_study(source.name, tmp_path / "all.zip", settings_of(workspace))
    read = import_study(tmp_path / "all.zip", settings_of(tmp_path / "results"))
    assert written.rivals == read.rivals == [rival.name]
    assert f"{rival.name}-0000" in read.weights
    before, after = (trials_of(rival.name, journal(place))[0] for place in (workspace, tmp_path / "results"))
    assert [facts(t) for t in after] == [facts(t) for t in before]
    assert after[0].state == TrialState.COMPLETE
    assert checkpointed(tmp_path / "results", rival.name) == checkpointed(workspace, rival.name) != {}
    assert service.load_stored_config(rival.name, settings_of(tmp_path / "results")) == rival


# -- what is in it -----------------------------------------------------------------------------------------------------


def test_the_file_is_for_people_too(source: Source, tmp_path: Path) -> None:
    with zipfile.ZipFile(source.finished) as archive:
        study = YAML(typ="safe").load(archive.read("study.yaml"))
        table = list(csv.DictReader(io.StringIO(archive.read("trials.csv").decode())))
        archive.extract("optuna.journal", tmp_path)
    assert StudyConfig.model_validate(study) == source.config
    assert [(row["study"], int(row["number"])) for row in table] == [
        *((source.name, n) for n in range(TRIALS)),
        *((f"{source.name}.controls", n) for n in range(CONTROLS)),
    ]
    for row, trial in zip(table, [*source.left.trials, *source.left.controls], strict=True):
        values = {**trial.params, **trial.user_attrs.get("hyperparameters", {})}
        assert (row["outcome"], float(row["value"]), int(row["epochs"])) == ("completed", trial.value, 12)
        assert {name: float(row[name]) for name in ("lambda1", "depth", "width")} == {
            name: values[name] for name in ("lambda1", "depth", "width")
        }
    alone = optuna.load_study(study_name=source.name, storage=journal(tmp_path))
    assert alone.best_value == min(t.value or 0.0 for t in source.left.trials)


def test_it_names_no_place_of_its_machine(source: Source) -> None:
    with zipfile.ZipFile(source.finished) as archive:
        assert str(source.workspace).encode() not in b"".join(archive.read(part) for part in archive.namelist())


def test_an_export_that_fails_leaves_the_file_before(source: Source, tmp_path: Path) -> None:
    (tmp_path / "study.zip").write_text("what was there before")
    with pytest.raises(SweepError, match=r"nosuch: no such study in the storage"):
        export_study("nosuch", tmp_path / "study.zip", settings_of(source.workspace))
    assert (tmp_path / "study.zip").read_text() == "what was there before"
    with pytest.raises(SweepError, match=r"none/study.zip: cannot be written \(No such file or directory\)"):
        export_study(source.name, tmp_path / "none" / "study.zip", settings_of(source.workspace))
    assert [p.name for p in tmp_path.iterdir()] == ["study.zip"]


# -- what is refused ---------------------------------------------------------------------------------------------------

Parts = dict[str, bytes]


def payload(tmp: Path) -> bytes:
    """A checkpoint that would write a file if it were unpickled."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp / "exploded",))

    torch.save({"progress": Bomb()}, tmp / "bomb.pt", pickle_module=pickle)
    data = (tmp / "bomb.pt").read_bytes()
    (tmp / "bomb.pt").unlink()
    return data


def about(parts: Parts, **changes: object) -> bytes:
    return json.dumps({**json.loads(parts["archive.json"]), **changes}).encode()


def a_checkpoint(parts: Parts) -> str:
    return next(name for name in parts if name.endswith(".pt"))


FOREIGN: dict[str, tuple[Callable[[Parts, Path], object], str]] = {
    "no archive of ours": (lambda parts, _: parts.pop("archive.json"), "not a file that sweep export has written"),
    "not about a study": (lambda parts, _: parts.update({"archive.json": b"[]"}), "not a file that sweep export"),
    "a name that is a path": (
        lambda parts, _: parts.update({"archive.json": about(parts, study="../evil")}),
        "not a file that sweep export has written",
    ),
    "a newer version": (lambda parts, _: parts.update({"archive.json": about(parts, format=99)}), "a newer version"),
    "a part that leaves the folder": (lambda parts, _: parts.update({"../../evil.pt": b""}), "'../../evil.pt'"),
    "a part with an absolute path": (lambda parts, tmp: parts.update({f"{tmp}/evil": b""}), "evil'"),
    "a checkpoint elsewhere": (
        lambda parts, _: parts.update({"checkpoints/../0000/attempt-01/epoch-0001.pt": b""}),
        "'checkpoints/../0000",
    ),
    "code in a checkpoint": (lambda parts, tmp: parts.update({a_checkpoint(parts): payload(tmp)}), "is no checkpoint"),
    "no study": (lambda parts, _: parts.update({"optuna.journal": b""}), "there is no study"),
    "no journal": (lambda parts, _: parts.update({"optuna.journal": b"{}\n{}\n"}), "cannot be imported"),
}


@pytest.mark.parametrize(("change", "words"), FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_file_is_refused_and_leaves_nothing(
    source: Source, tmp_path: Path, change: Callable[[Parts, Path], object], words: str
) -> None:
    with zipfile.ZipFile(source.finished) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts, tmp_path)
    with zipfile.ZipFile(tmp_path / "foreign.zip", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    assert_refused(tmp_path, tmp_path / "foreign.zip", words)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(("damage"), [cut, flip, lambda _: b"nothing like it"], ids=["cut", "one bit", "no zip"])
def test_a_damaged_file_is_named(source: Source, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "damaged.zip").write_bytes(damage(source.finished.read_bytes()))
    assert_refused(tmp_path, tmp_path / "damaged.zip", "damaged, or no zip file")


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    assert_refused(tmp_path, tmp_path / "none.zip", "no such file")


def assert_refused(folder: Path, file: Path, words: str) -> None:
    settings, before = settings_of(folder / "results"), set(folder.iterdir())
    with pytest.raises(SweepError) as refusal:
        import_study(file, settings)
    assert str(refusal.value).startswith(f"{file}: ")
    assert words in str(refusal.value)
    assert optuna.get_all_study_names(open_storage(settings.storage)) == []
    assert {p.name for p in settings.workspace.iterdir()} <= {"optuna.journal", "optuna.journal.lock", "import.lock"}
    assert set(folder.iterdir()) == {*before, settings.workspace}


def test_checkpoints_of_another_study_are_left_alone(source: Source, tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "results")
    stray = checkpoint.save(settings.checkpoints(source.name, 1) / "attempt-01", [], {})
    with pytest.raises(StorageError, match=f"{source.name} holds checkpoints of an earlier one"):
        import_study(source.finished, settings)
    assert list(settings.workspace.rglob("*.pt")) == [stray]


# -- what a damaged journal has left -----------------------------------------------------------------------------------


def test_what_a_damaged_journal_holds_goes_on_elsewhere_as_it_says(
    source: Source, tmp_path: Path, here: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the very commands of its message, in a folder with a blank in its name."""
    monkeypatch.chdir(tmp_path)
    workspace = tmp_path / "my results"
    shutil.copytree(source.workspace, workspace)
    lines = (workspace / "optuna.journal").read_bytes().splitlines(keepends=True)
    told = [n for n, line in enumerate(lines) if b'"state":1' in line and b'"op_code":6' in line]  # a trial is COMPLETE
    lines[told[2]] = b"\0" * len(lines[told[2]].rstrip()) + b"\n"
    (workspace / "optuna.journal").write_bytes(b"".join(lines))
    ended = here("status", SWEEP_WORKSPACE=str(workspace))
    assert (ended.code, ended.out) == (2, "")
    assert f"line {told[2] + 1} is damaged" in ended.err
    assert f"{source.name} with 4 trials, 2 of them finished" in ended.err
    head, *commands = [line.strip() for line in ended.err.splitlines() if line.startswith("  ")]
    assert head.startswith("head ")
    subprocess.run(head, shell=True, check=True)
    for command in commands:
        ended = here(*shlex.split(command)[1:])
        assert ended.code == 0, ended.err
    elsewhere = tmp_path / "my results-2"
    rows = read_rows(source.name, open_storage(f"journal:///{elsewhere}/optuna.journal"))
    assert [(r.outcome, r.value) for r in rows[:2]] == [("completed", t.value) for t in source.left.trials[:2]]
    assert [(r.state, r.orphan) for r in rows[2:]] == [("running", True), ("waiting", False)]
    # The trial whose end is lost has trained all its epochs: they are not trained again.
    safe = checkpointed(elsewhere, source.name)
    assert [sorted(safe[f"{source.name}-{n:04d}"]) for n in range(3)] == [list(range(1, 13))] * 3


# -- what dies in the middle -------------------------------------------------------------------------------------------

CRASHES = """
import os, sys
from pathlib import Path
from optuna.storages.journal import JournalFileBackend
from sweep.service.maintenance.archive import import_study
from sweep.config.settings import Settings
import sweep.study.study, sweep.training.checkpoint

write, home = JournalFileBackend.append_logs, Path(sys.argv[2])

def crash_at(count):
    left = [count]
    def append_logs(self, logs):
        if not left[0]:
            os._exit(9)
        left[0] -= 1
        write(self, logs)
    JournalFileBackend.append_logs = append_logs

for count in range(0, 40, 3):
    child = os.fork()
    if not child:
        crash_at(count)
        import_study(Path(sys.argv[1]), Settings(workspace=home / str(count)))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_an_import_that_died_is_made_again(source: Source, tmp_path: Path) -> None:
    """After a crash at any write, none of it is a study, and the same import puts all of it there once."""
    command = [sys.executable, "-c", CRASHES, str(source.finished), str(tmp_path)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    codes = [int(code) for code in ended.stdout.split()]
    assert codes[-1] == 0
    assert codes.count(9) >= 5

    def trials(storage: BaseStorage) -> list[Any]:
        return [[facts(t) for t in each] for each in trials_of(source.name, storage)]

    expected = [[facts(t) for t in each] for each in (source.left.trials, source.left.controls)]
    for count, code in zip(range(0, 40, 3), codes, strict=True):
        settings = settings_of(tmp_path / str(count))
        if code == 9:
            import_study(source.finished, settings)
        assert trials(journal(settings.workspace)) == expected, f"after a crash at write {count}"
        assert len(list(settings.workspace.rglob("*.pt"))) == TRIALS + CONTROLS
