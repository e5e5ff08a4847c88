"""Fixtures that several test files share, the order of the tests, and the last lines of a run."""

from __future__ import annotations

import contextlib
import os
import textwrap
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from .support import absent, lanes

if TYPE_CHECKING:
    from sweep.analysis.report.report import Report
    from sweep.config.settings import Settings
    from sweep.config.study_config import StudyConfig

    from .support.processes import ObjectStore
    from .support.studies import Finished

# The process that hands out the tests reads this file too: fixtures import what they need, so that it starts at once.

hypothesis.settings.register_profile("busy", deadline=None)  # an example may take long where others work
hypothesis.settings.load_profile("busy")

MakeConfig = Callable[..., Any]  # a StudyConfig
Package = Callable[..., str]
STARTS = {
    **dict.fromkeys(("confirmed", "devices", "outcomes", "planted", "story", "tiny", "without_memory"), "ray"),
    "cluster": "cluster",
    **dict.fromkeys(("object_store", "server"), "server"),
    "chromium": "browser",
}
"""The mark of the tests that use a fixture, for what it starts."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests by what they start and take, and puts them in order."""
    for item in items:
        for fixture in STARTS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(STARTS[fixture])
        if lanes.is_slow(item.nodeid):
            item.add_marker("slow")
    lanes.arrange(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Returns the scheduler of pytest-xdist: groups of tests, in the order of the tests."""
    config.option.loadscopereorder = False
    return lanes.Lanes(config, log)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints one line for each thing that this machine lacks, with the way to have it."""
    reasons = [report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", ())]
    if reasons:
        terminalreporter.section("absent here")
    for line in absent.lines(reasons):
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _no_proxy_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call of urllib in a process decides on the proxies of all later ones: each test decides for itself."""
    monkeypatch.setattr(urllib.request, "_opener", None)


@pytest.fixture
def study_name() -> str:
    """A name of the test's own, since a server's database is shared."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def study_config(study_name: str) -> MakeConfig:
    """Makes a config of digits MLPs; a keyword replaces a section, or with a mapping what it says of it."""

    from sweep.config.study_config import StudyConfig

    def make(**changes: object) -> StudyConfig:
        raw: dict[str, object] = {
            "name": study_name,
            "model": {"name": "mlp"},
            "data": {"name": "digits", "val_fraction": 0.2},
            "objective": {"metric": "val_loss", "direction": "minimize"},
            "space": {"lambda1": {"low": 1e-5, "high": 1e-1, "log": True}, "depth": 2, "width": 8},
            "training": {"max_epochs": 9, "batch_size": 64},
            "search": {"trials": 6, "design": 0, "sampler": "random", "pruner": "none"},
        }
        for section, change in changes.items():
            before = raw.get(section)
            both = isinstance(before, dict) and isinstance(change, dict) and section != "space"
            raw[section] = {**before, **change} if both else change  # type: ignore[dict-item]
        return StudyConfig.model_validate(raw)

    return make


@pytest.fixture
def write_package(tmp_path: Path) -> Package:
    """Writes a user's package of a name of its own, since imports are kept, and returns that name."""

    from sweep.config.user_code import search_in

    def make(**modules: str) -> str:
        name = f"own_{uuid.uuid4().hex[:8]}"
        folder = tmp_path / "code" / name
        folder.mkdir(parents=True)
        for module, text in {"__init__": "", **modules}.items():
            (folder / f"{module}.py").write_text(textwrap.dedent(text).lstrip("\n"))
        search_in(folder.parent)
        return name

    return make


@contextlib.contextmanager
def connections_closed() -> Iterator[None]:
    """Closes what is opened within: Optuna's storages stay open, and a connection left open is a warning."""
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    from sweep.study.storages import catalog

    connections: list[Any] = []

    def connected(connection: Any, _record: object) -> None:
        connections.append(connection)

    event.listen(Pool, "connect", connected)
    try:
        yield
    finally:
        event.remove(Pool, "connect", connected)
        catalog._open.cache_clear()  # a process has one storage for each URL
        for connection in connections:
            connection.close()


@pytest.fixture(scope="session")
def of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run of the tests share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def tiny(of_the_run: Path) -> Finished:
    """The study TINY, run once for all tests that look at it; they must leave its workspace alone."""
    from sweep.config.locks import FileLock

    from .support.studies import finished

    with FileLock(of_the_run / "tiny.lock").held():
        return finished(of_the_run)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Report]:
    """The report of a study with hostile texts, 40 uniform trials, and seven that came to nothing; never changed."""
    from .support import made_study

    return made_study.reported(tmp_path_factory.mktemp("reported"))


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A stand-in for S3, one for all tests."""
    from .support.processes import ObjectStore

    with contextlib.closing(ObjectStore(tmp_path_factory.mktemp("moto"))) as store:
        yield store


@pytest.fixture
def bucket(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, study_name: str) -> Path:
    """An empty folder in object storage, which this process reaches as a user's does."""
    from sweep.config.filesystem import parse_path

    for name, value in {**object_store.environment, "XDG_CACHE_HOME": str(tmp_path / "cache-home")}.items():
        monkeypatch.setenv(name, value)
    return parse_path(f"{object_store.url}/{study_name}")


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.server)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An empty folder of each kind that a workspace can be."""
    found: Path = request.getfixturevalue("bucket") if request.param == "s3" else tmp_path
    return found


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An Optuna database without studies, made once: its schema takes a second."""
    from sweep.study.storages.storage import open_storage

    path = tmp_path_factory.mktemp("storage") / "optuna.db"
    with connections_closed():
        open_storage(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path, empty_sqlite: bytes, study_name: str) -> Iterator[str]:
    """The URL of a storage of each kind; studies that a test leaves on the server are deleted."""
    import optuna

    from sweep.study.storages.storage import open_storage

    if request.param == "journal":
        yield f"journal:///{tmp_path}/optuna.journal"
        return
    url = f"sqlite:///{tmp_path}/optuna.db"
    if request.param == "sqlite":
        (tmp_path / "optuna.db").write_bytes(empty_sqlite)
    else:
        url = absent.postgres_url()
    with connections_closed():
        yield url
        storage = open_storage(url)
        for name in optuna.get_all_study_names(storage):
            if name.startswith(study_name):
                optuna.delete_study(study_name=name, storage=storage)
