"""Kills what is being made at random moments; the next command works, or says in one line what to do.

`python -m tests.torture.half_made [--kills 200] [--seed 0] [--only cache]`. Each making runs in a fork of this process
that is killed with SIGKILL; a second one then makes the same and compares it with what nobody disturbed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (imported before the forks)

from sweep.analysis.summary import summarise
from sweep.config.errors import SweepError
from sweep.config.sections import DataConfig
from sweep.config.settings import Settings
from sweep.data.loading import load_dataset
from sweep.service.analyse import report
from sweep.service.maintenance.archive import export_study, import_study
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.tracking.client import MlflowStore, create_store

from ..support.made_study import make, study

CONFIG = study(choices=("relu", "gelu"))
REFUSED = 3  # exit code of a making that ends with one listed error
_fork = multiprocessing.get_context("fork")


def database(folder: Path, _: Path) -> None:
    settings = Settings(workspace=folder)
    create_store(settings.tracking_uri, settings.artifacts)
    MlflowStore.of("made", settings).begin("", {}, {}, {"sweep.id": "one"}, None)


def workspace(folder: Path, _: Path) -> None:
    settings = Settings(workspace=folder)
    assert Study(CONFIG, open_storage(settings.storage), workspace=folder).enqueue_budget() == 1
    assert len(summarise("made", settings).rows) == 1


def sqlite(folder: Path, _: Path) -> None:
    settings = Settings(workspace=folder, storage=f"sqlite:///{folder}/studies.db")
    assert Study(CONFIG, open_storage(settings.storage), workspace=folder).enqueue_budget() == 1
    assert len(summarise("made", settings).rows) == 1


def cache(folder: Path, made: Path) -> None:
    sizes = [len(load_dataset(DataConfig(name="digits"), root=made, cache=folder).test.labels)]
    assert sizes == [359]


def archive(folder: Path, made: Path) -> None:
    folder.mkdir(exist_ok=True)
    export_study("made", folder / "made.zip", Settings(workspace=made / "results"))
    with ZipFile(folder / "made.zip") as file:
        assert file.testzip() is None


def imported(folder: Path, made: Path) -> None:
    settings = Settings(workspace=folder)
    try:
        import_study(made / "made.zip", settings)
    except SweepError as error:
        if "has a study of this name" not in str(error):  # it was whole before the kill
            raise
    truth = summarise("made", Settings(workspace=made / "results"))
    assert [row.value for row in summarise("made", settings).rows] == [row.value for row in truth.rows]


def page(folder: Path, made: Path) -> None:
    report("made", Settings(workspace=made / "results"), folder)
    assert "</html>" in (folder / "report.html").read_text()


MAKINGS: dict[str, Callable[[Path, Path], None]] = {
    each.__name__: each for each in (workspace, sqlite, cache, archive, imported, page, database)
}


def _made(making: Callable[[Path, Path], None], folder: Path, made: Path, log: Path) -> None:
    warnings.simplefilter("ignore")
    try:
        making(folder, made)
    except SweepError as error:
        log.write_text(str(error))
        os._exit(REFUSED)
    except BaseException:  # noqa: BLE001 (whatever it is, the parent tells of it)
        log.write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def _start(*arguments: object) -> multiprocessing.process.BaseProcess:
    process = _fork.Process(target=_made, args=arguments)
    process.start()
    return process


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(MAKINGS))
    arguments = parser.parse_args()
    folder, rng = Path(tempfile.mkdtemp(prefix="half-made-")), random.Random(arguments.seed)
    make(folder / "results", CONFIG, completed=12)
    export_study("made", folder / "made.zip", Settings(workspace=folder / "results"))
    names = [arguments.only] if arguments.only else list(MAKINGS)
    seconds, kills, refused, broken = dict[str, float](), Counter[str](), 0, 0
    for number in range(10 * arguments.kills):
        if sum(kills.values()) >= arguments.kills:
            break
        name = names[number % len(names)]
        target, log = folder / f"{name}-{number}", folder / "log"
        began = time.monotonic()
        process = _start(MAKINGS[name], target, folder, log)
        if name in seconds:
            time.sleep(rng.uniform(0, seconds[name]))
            process.kill()
        process.join()
        seconds.setdefault(name, time.monotonic() - began)
        kills[name] += process.exitcode == -9
        after = _start(MAKINGS[name], target, folder, log)
        after.join()
        refused += after.exitcode == REFUSED
        if after.exitcode not in (0, REFUSED) or (after.exitcode == REFUSED and "\n" in log.read_text()):
            broken += 1
            print(f"BROKEN: {name}, moment {number}, seed {arguments.seed}:\n{log.read_text()}", flush=True)
        elif after.exitcode == REFUSED:
            print(f"{name}, moment {number}: {log.read_text()}", flush=True)
        shutil.rmtree(target, ignore_errors=True)
        print(f"{sum(kills.values()):4d}  {name}: {'killed' if process.exitcode == -9 else 'whole'}", flush=True)
    print(f"{sum(kills.values())} kills ({dict(kills)}): {refused} refused in one line, {broken} promises broken")
    shutil.rmtree(folder, ignore_errors=True)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
