"""A workspace and data in object storage: a study that is killed and resumed there, and what reads it afterwards.

On a moto server, a stand-in for S3, which is reached as a user's own is: through AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil
import pytest
from s3fs import S3FileSystem
from upath import UPath

from sweep.analysis.weight_profile import load_profile as profiles
from sweep.config import filesystem
from sweep.config.errors import DataError, SweepError
from sweep.config.filesystem import ObjectStoreUnavailableError, parse_path
from sweep.config.sections import DataConfig
from sweep.config.settings import Settings
from sweep.data import s3_mirror as mirror
from sweep.data.loading import load_dataset
from sweep.execution.cluster_checks import check_workspace, prepare_data
from sweep.execution.dispatcher import Dispatcher
from sweep.execution.tune_adapters import Worker
from sweep.execution.worker import RUN_TRIAL
from sweep.service.maintenance.archive import export_study, import_study
from sweep.service.maintenance.gc import collect_garbage
from sweep.training import checkpoint
from sweep.training.reports import TrialReport
from sweep.training.trial import TrialPaths

from ..support.commands import sweep_here
from ..support.image_files import image_folder
from ..support.invariants import (
    Checkpointed,
    Curves,
    assert_whole,
    checkpointed,
    left_by,
    newest,
    strange_curves,
    trained_again,
)
from ..support.processes import Command, ObjectStore, kill, wait_for
from ..support.studies import config_of
from ..support.trial_lists import Trials, job

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]  # Ray's and MLflow's own deprecations

STUDY = """
name: remote
model: {name: mlp}
data: {name: digits}
objective: {metric: val_loss, direction: minimize}
space:
  lambda1: {low: 1e-4, high: 1e-2, log: true}
  depth: 2
  width: {choices: [64, 128]}
training: {max_epochs: 40, batch_size: 16}
search: {trials: 2, sampler: random, pruner: none, finalists: {top: 0}}
resources: {max_concurrent: 1}
"""
TRIALS, EPOCHS = 2, 40


@dataclass
class Story:
    """A study in a bucket whose worker was killed, then its driver, and which was then resumed.

    Attributes:
        folder: of the databases, and of whatever else the commands wrote to this machine.
        workspace: in the bucket.
        safe: what checkpoints held at each death.
    """

    folder: Path
    workspace: Path
    variables: dict[str, str]
    safe: list[Checkpointed]
    secrets_seen: list[str]

    @property
    def settings(self) -> Settings:
        return Settings(
            workspace=self.workspace, storage=self.variables["SWEEP_STORAGE"],
            tracking_uri=self.variables["MLFLOW_TRACKING_URI"], data=self.folder / "data",
        )  # fmt: skip


@pytest.fixture(scope="module")
def story(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("remote")
    (folder / "results").mkdir()
    (folder / "study.yaml").write_text(STUDY)
    variables = {
        **object_store.environment,
        "SWEEP_WORKSPACE": f"{object_store.url}/story",
        "SWEEP_STORAGE": f"journal:///{folder}/results/optuna.journal",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/results/mlflow.db",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in (*object_store.environment, "XDG_CACHE_HOME"):
            patch.setenv(name, variables[name])
        story = Story(folder, parse_path(variables["SWEEP_WORKSPACE"]), variables, [], [])
        commands: list[Command] = []
        try:
            commands.append(first := Command(folder / "results", "run", str(folder / "study.yaml"), **variables))
            met = _meet(first, story, 0)
            story.secrets_seen += _command_lines_with(object_store.environment["AWS_SECRET_ACCESS_KEY"])
            story.safe.append(checkpointed(story.workspace, "remote"))
            kill(first.training())
            _meet(first, story, met)
            first.signal(signal.SIGKILL)
            first.end()
            story.safe.append(checkpointed(story.workspace, "remote"))
            commands.append(second := Command(folder / "results", "resume", "remote", **variables))
            assert second.end() == 0, second.out
            yield story
        finally:
            for command in commands:
                command.close()


def _meet(command: Command, story: Story, known: int) -> int:
    """Waits until the first trial trains, and has a checkpoint of a later epoch than is known; returns that epoch."""
    found = 0

    def met() -> bool:
        nonlocal found
        found = newest(story.workspace, "remote").get("remote-0000", 0) if command.training() else 0
        return command.over or known < found < EPOCHS * 3 / 4

    wait_for(met, "the middle of a trial")
    assert not command.over, command.out
    return found


def _command_lines_with(word: str) -> list[str]:
    """The command lines of this test's own processes; another program of the machine may well show the word."""
    lines = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            lines.append(" ".join(process.cmdline()))
    assert lines
    return [line for line in lines if word in line]


@pytest.mark.exhaustive
def test_a_study_that_was_killed_goes_on_from_the_bucket_and_is_whole(story: Story) -> None:
    left = left_by(story.folder / "results", "remote")
    assert_whole(left, "remote", trials=TRIALS, controls=0)
    assert all(safe["remote-0000"] for safe in story.safe), "there was nothing to lose"
    kept = checkpointed(story.workspace, "remote")
    assert [again for safe in story.safe for again in trained_again(left, safe, kept)] == []
    assert strange_curves(left, Curves(config_of(STUDY), story.folder / "data", story.folder / "scratch")) == []


@pytest.mark.exhaustive
def test_checkpoints_and_artifacts_are_in_the_bucket_alone_and_secrets_in_no_command_line(story: Story) -> None:
    left = left_by(story.folder / "results", "remote")
    assert {str(trial.user_attrs["checkpoint"]) for trial in left.trials} <= {
        str(path) for path in filesystem.glob_files(story.workspace / "remote", "*/*/epoch-*.pt")
    }
    assert left.parent.run.info.artifact_uri.startswith(f"{story.workspace}/artifacts/")
    artifacts = {path.name for path in filesystem.glob_files(story.workspace / "artifacts", "*/artifacts/*")}
    assert {"study.yaml", "config.json"} <= artifacts
    scratch = story.folder / "scratch"  # of the other test
    assert [path for path in story.folder.rglob("*.pt") if scratch not in path.parents] == []
    assert story.secrets_seen == []


@pytest.mark.exhaustive
def test_what_reads_a_study_reads_it_from_the_bucket(story: Story, tmp_path: Path) -> None:
    settings, file = story.settings, tmp_path / "remote.zip"
    assert profiles("remote-0000", settings, {})[0].epochs.keys() == set(range(1, EPOCHS + 1))
    assert export_study("remote", file, settings, keep=1).weights == [f"remote-{_best(settings):04d}"]
    copy = Settings(workspace=story.workspace / "copy", storage=f"journal:///{tmp_path}/copy.journal",
                    tracking_uri=f"sqlite:///{tmp_path}/copy.db")  # fmt: skip
    assert import_study(file, copy).trials == TRIALS
    assert checkpointed(copy.workspace, "remote") == checkpointed(settings.workspace, "remote")
    before = filesystem.glob_files(copy.workspace / "remote", "*/*/*")
    planned = collect_garbage("remote", copy, keep=0, dry_run=True)
    assert filesystem.glob_files(copy.workspace / "remote", "*/*/*") == before
    freed = collect_garbage("remote", copy, keep=0)
    assert (freed.trials, planned.trials) == (1, 1), "one of the two was imported without its weights"
    assert freed.bytes == planned.bytes > 10_000
    assert checkpointed(copy.workspace, "remote") == checkpointed(settings.workspace, "remote")


def _best(settings: Settings) -> int:
    from sweep.analysis.summary import summarise

    return summarise("remote", settings).best[0].number


# -- what is wrong is said before any trial ----------------------------------------------------------------------------


def refused(bucket: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **changes: str) -> str:
    """Returns the message of `sweep run` about a workspace that it refuses."""
    databases = {"SWEEP_STORAGE": "journal:///optuna.journal", "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    ended = sweep_here(patch, capsys, bucket, "run", "digits", **{**databases, **changes})
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err
    return ended.err


def test_a_workspace_that_cannot_be_used_is_one_error_before_anything_is_written(
    bucket: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(bucket, monkeypatch, capsys, SWEEP_STORAGE="")
    assert "object storage holds checkpoints and artifacts, but no database" in said
    assert "SWEEP_STORAGE" in said
    said = refused(bucket, monkeypatch, capsys, MLFLOW_TRACKING_URI="")
    assert "MLFLOW_TRACKING_URI" in said
    said = refused(parse_path("s3://no-such-bucket/a"), monkeypatch, capsys)
    assert said.startswith("error: s3://no-such-bucket/a/.probe-")
    assert "cannot be written" in said
    assert "bucket does not exist" in said
    for wrong in ("gs://bucket/a", "s3://key:secret@bucket/a", "s3:/bucket/a"):
        said = refused(bucket, monkeypatch, capsys, SWEEP_WORKSPACE=wrong)
        assert "object storage is written s3://BUCKET/PREFIX" in said
        assert "secret" not in said
    assert filesystem.glob_files(bucket, "*") == []


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SweepError, match=r"s3fs.*entropy-sweep\[s3\]"):
        parse_path("s3://bucket/a")


def test_a_node_says_what_it_does_not_see_of_a_bucket_and_prepares_data_on_its_own_disk(
    bucket: Path, tmp_path: Path
) -> None:
    mark = bucket / ".nodes-1"
    [problem] = check_workspace(str(mark))
    assert problem.startswith(f"workspace: {bucket} is not the one that the driver sees")
    filesystem.write_bytes(mark, b"")
    assert check_workspace(str(mark)) == []
    assert prepare_data({"name": "digits"}, str(tmp_path), str(bucket / ".cache")) == []
    assert (filesystem.local_path(bucket) / ".cache" / "digits").is_dir()
    assert [path.name for path in filesystem.glob_files(bucket, "*")] == [".nodes-1"]


# -- a store that is away ----------------------------------------------------------------------------------------------


def test_a_store_that_is_away_is_waited_for_and_is_never_taken_for_an_empty_one(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(bucket / "0000" / "attempt-01", [], {}, diverged=1)
    with contextlib.closing(ObjectStore(tmp_path)) as other:
        pass  # its port has nobody now
    hasty = {"config_kwargs": {"retries": {"max_attempts": 0}}, "endpoint_url": other.endpoint}
    away = cast("Path", UPath(str(bucket), **hasty))
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    monkeypatch.setattr(filesystem, "LONGEST_OUTAGE", 0.0)
    for call in (
        lambda: checkpoint.load_latest(away / "0000"),
        lambda: checkpoint.load(away / "0000" / "attempt-01" / "epoch-0001.pt"),
        lambda: checkpoint.save(away / "0000" / "attempt-02", [], {}, diverged=2),
    ):
        with pytest.raises(ObjectStoreUnavailableError, match=r"cannot be (listed|reached|written) \(.*connect"):
            call()
    assert not checkpoint.is_gone(away / "0000")

    def fails(path: Path) -> bytes:
        raise ObjectStoreUnavailableError(f"{path}: gone between the list and the reading")

    monkeypatch.setattr(filesystem, "read_bytes", fails)
    with pytest.raises(ObjectStoreUnavailableError, match="between"):
        checkpoint.load_latest(bucket / "0000")


def test_a_store_that_takes_requests_and_falls_silent_is_told_soon(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "ANSWER_WITHIN", 1.0)
    monkeypatch.setattr(filesystem, "LONGEST_OUTAGE", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = cast("Path", UPath(str(bucket), endpoint_url=f"http://127.0.0.1:{server.getsockname()[1]}"))
        with pytest.raises(ObjectStoreUnavailableError, match=r"cannot be written \(no answer within 1 s\)"):
            filesystem.check_object_store(silent)
        with pytest.raises(ObjectStoreUnavailableError, match=r"cannot be listed \(no answer within 2 s\)"):
            checkpoint.load_latest(silent / "0000")


def test_a_data_root_that_falls_silent_is_told_within_seconds(tmp_path: Path, object_store: ObjectStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = {**object_store.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.getsockname()[1]}"}
        run = Command(tmp_path / "results", "run", "mnist-autoencoder", SWEEP_DATA="s3://bucket/data", **silent)
        server.settimeout(400)
        with contextlib.closing(run), server.accept()[0]:
            began = time.monotonic()
            told = "waiting for s3://bucket/data/MNIST/raw: it cannot be listed"
            wait_for(lambda: run.over or run.says(told), "a word")
            assert time.monotonic() - began < filesystem.LONGEST_OUTAGE / 2
            assert not run.over, run.out
            assert len(run.out.splitlines()) == 1, run.out


def test_an_object_is_copied_without_being_held_in_memory(bucket: Path, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 64
    filesystem.write_bytes(bucket / "large", content)
    tracemalloc.start()
    with filesystem.local_copy(bucket / "large") as copy:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert copy.read_bytes() == content
    assert most < len(content) / 2


def test_a_store_that_refuses_ends_the_run_and_says_that_nothing_is_lost(bucket: Path, tmp_path: Path) -> None:
    gone = job(TrialPaths(parse_path("s3://no-such-bucket/0000"), tmp_path, tmp_path / "cache"), 0, 3)
    where = {"folder": str(gone.paths.folder), "data": str(tmp_path), "cache": str(gone.paths.cache), "gpus": 0}
    worker = Worker(
        {
            "job": json.dumps(
                {
                    "config": gone.config.model_dump(),
                    "place": where,
                    "attempt": 1,
                    "moves": 0,
                    "pruning_epochs": None,
                    "run_trial": RUN_TRIAL,
                    "folders": [],
                }
            )
        }
    )
    said = worker.step()
    source = Trials([])
    bridge = Dispatcher(source, limit=lambda _: 1, stop=threading.Event())
    bridge.requests["tune's id"] = gone
    assert bridge.on_report("tune's id", TrialReport.from_json(said["report"]))
    assert isinstance(bridge.error, SweepError)
    assert "s3://no-such-bucket/0000/0: cannot be listed" in str(bridge.error)
    assert "Nothing is lost: mend that, then resume the study" in str(bridge.error)
    assert source.results == source.given_up == {}


# -- data --------------------------------------------------------------------------------------------------------------


def put(root: Path, folder: Path) -> list[Path]:
    """Puts all files of a folder below a root in the bucket."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    for path in found:
        filesystem.write_bytes(root / str(path.relative_to(folder)), path.read_bytes())
    return found


@pytest.fixture
def images(bucket: Path, tmp_path: Path) -> Path:
    """A data root in the bucket with a folder of images, and something that is none of it."""
    image_folder(tmp_path / "there" / "bees", {"train": (6, 6, 6), "test": (2, 2, 2)})
    (tmp_path / "there" / "more").mkdir()
    (tmp_path / "there" / "more" / "large").write_bytes(b"not wanted")
    put(bucket / "data", tmp_path / "there")
    mirror._copy.cache_clear()
    return bucket / "data"


BEES = DataConfig(name="imagefolder", folder="bees", image_size=8)


def test_a_machine_copies_what_a_data_set_needs_once_and_what_has_changed_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    download = filesystem.download
    monkeypatch.setattr(filesystem, "download", lambda path, to: (fetched.append(path.name), download(path, to))[1])
    there = sorted(p.relative_to(tmp_path / "there") for p in (tmp_path / "there" / "bees").rglob("*.*"))
    first = load_dataset(BEES, root=images, cache=tmp_path / "cache")
    copy = filesystem.local_path(images) / ".mirror"
    assert sorted(p.relative_to(copy) for p in copy.rglob("*") if p.is_file()) == there
    assert len(fetched) == len(there)
    local = load_dataset(BEES, root=tmp_path / "there", cache=tmp_path / "other")
    assert first.info == local.info
    mirror._copy.cache_clear()  # as another process
    load_dataset(BEES, root=images, cache=tmp_path / "cache")
    assert len(fetched) == len(there), "copied again"
    damaged = copy / there[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    filesystem.remove_file(images / str(there[1]))
    mirror._copy.cache_clear()
    load_dataset(BEES, root=images, cache=tmp_path / "cache")
    assert fetched[len(there) :] == [there[0].name]
    assert not (copy / there[1]).exists()


def test_a_file_that_is_not_what_the_store_says_is_refused_with_what_was_expected_and_found(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "download", lambda path, to: to.write_bytes(filesystem.read_bytes(path)[:-3]))
    with pytest.raises(DataError, match=r"s3://.*/bees/.*: expected \d+ bytes, found \d+"):
        load_dataset(BEES, root=images, cache=tmp_path / "cache")
    monkeypatch.setattr(
        filesystem, "download", lambda path, to: to.write_bytes(filesystem.read_bytes(path)[:-1] + b"?")
    )
    with pytest.raises(DataError, match=r": expected MD5 [0-9a-f]{32}, found [0-9a-f]{32}"):
        load_dataset(BEES, root=images, cache=tmp_path / "cache")
    assert [path for path in (filesystem.local_path(images) / ".mirror").rglob("*") if path.is_file()] == []


def test_data_that_is_missing_or_cut_off_in_the_bucket_is_said_so(bucket: Path, tmp_path: Path) -> None:
    root, mnist, cache = bucket / "data", DataConfig(name="mnist"), tmp_path / "cache"
    with pytest.raises(DataError, match=rf"{root}/MNIST/raw holds no files"):
        load_dataset(mnist, root=root, cache=cache)
    whole = bytes([0, 0, 8, 1]) + (9).to_bytes(4) + bytes(9)
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    filesystem.write_bytes(root / "MNIST/raw" / names[1], whole)
    with pytest.raises(DataError, match=rf"^mnist: .*{names[0]}.* not found in {root}/MNIST/raw"):
        load_dataset(mnist, root=root, cache=cache)
    mirror._copy.cache_clear()
    for name in names:
        filesystem.write_bytes(root / "MNIST/raw" / name, whole[:-2] if name == names[3] else whole)
    with pytest.raises(DataError, match=rf"(?s)delete .*{root}/MNIST/raw .*{names[3]}: expected 17 bytes, found 15"):
        load_dataset(mnist, root=root, cache=cache)
    with pytest.raises(DataError, match="must be a folder below the data root"):
        load_dataset(BEES.model_copy(update={"folder": "/bees"}), root=root, cache=cache)
