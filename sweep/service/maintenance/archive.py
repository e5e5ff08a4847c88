"""Exports and imports a study as one zip file: its storage, all metrics, and the weights that are still needed.

`optuna.journal` in it holds the study, its sister and the studies of `sweep confirm`. An import unpickles tensors only.
"""

import contextlib
import importlib.metadata
import json
import logging
import lzma
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

from ...analysis.summary import Summary, summarise
from ...analysis.trials_dataframe import trials_csv
from ...config import filesystem
from ...config.errors import StorageError, SweepError
from ...config.locks import FileLock
from ...config.settings import Settings
from ...config.study_config import OF_CONFIRM
from ...config.study_file import to_yaml
from ...study.opening import refuse_stale_checkpoints
from ...study.storages.catalog import get_storage
from ...study.storages.storage import (
    FORMAT,
    Storage,
    check_copy,
    clear_partial_import,
    copy_study,
    exclusive,
    finish_copy,
    open_storage,
    read_config,
    study_lock,
    study_names,
)
from ...study.stored_trials import read_rows
from ...training import checkpoint

logger = logging.getLogger(__name__)

JOURNAL = "optuna.journal"
# The errors of zipfile, which has none of its own for most damage.
DAMAGED = (EOFError, BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, ValueError, struct.error, OverflowError)
LARGEST_RATIO = 100  # of a part's size to its compressed one; a journal's is 30


@dataclass(frozen=True)
class Archived:
    """The contents of an archive."""

    study: str
    file: str
    trials: int
    controls: int  # finalists, controls and members of pairs
    rivals: list[str]  # studies that `sweep confirm` has made for the study
    weights: list[str]  # names of the trials with weights in the archive
    bytes: int


def export_study(name: str, path: Path, settings: Settings, *, keep: int = 3) -> Archived:
    """Writes a study into one file, whole or not at all.

    The archive holds the metrics of all trials, for the MLflow server of the importing side. It holds the weights of
    the best ``keep`` of the search, and of unfinished trials, so that a resume continues them.

    Raises:
        SweepError: no such study, or the file cannot be written.
    """
    summary, storage = summarise(name, settings), get_storage(settings.storage)
    rivals = _rivals(name, storage)
    summaries = [summary, *(summarise(rival, settings) for rival in rivals)]
    about = {"format": FORMAT, "study": name, "version": importlib.metadata.version("entropy-sweep")}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="sweep-export-") as scratch,
            filesystem.write_atomically(path) as beside,
        ):
            journal = open_storage(f"journal:///{scratch}/{JOURNAL}")
            for each in (name, *rivals):
                copy_study(each, storage, journal, checkpoints={}, origin="export")
                finish_copy(each, storage, journal)
            with ZipFile(beside, "w", ZIP_DEFLATED) as archive:
                archive.writestr("archive.json", json.dumps(about))
                archive.writestr("study.yaml", to_yaml(summary.config))
                archive.writestr("trials.csv", trials_csv(*summaries))
                archive.write(f"{scratch}/{JOURNAL}", JOURNAL)
                packed = [_pack_checkpoints(s, settings, archive, Path(scratch), keep=keep) for s in summaries]
                weights = [name for each in packed for name in each]
    except OSError as error:
        raise SweepError(f"{path}: cannot be written ({error.strerror})") from None
    return _archived(summary, path, rivals, weights)


def _archived(summary: Summary, path: Path, rivals: list[str], weights: list[str]) -> Archived:
    rows, controls = len(summary.rows), len(summary.controls)
    return Archived(summary.config.name, str(path), rows, controls, rivals, weights, path.stat().st_size)


def _rivals(name: str, storage: Storage) -> list[str]:
    """Returns the studies that `sweep confirm` has made for a study."""
    return [each for each in study_names(storage) if each.startswith(f"{name}{OF_CONFIRM}")]


def _pack_checkpoints(
    summary: Summary, settings: Settings, archive: ZipFile, scratch: Path, *, keep: int
) -> Iterator[str]:
    """Packs each trial's newest checkpoint, most without weights; yields the names of those with weights."""
    best, name = [row.number for row in summary.best[:keep]], summary.config.name
    rows = [*((name, row) for row in summary.rows), *((f"{name}.controls", row) for row in summary.controls)]
    for study, row in rows:
        # A trial without all values may get other values where the study is resumed.
        decided = row.kind != "trial" or summary.config.is_point(row.hyperparameters)
        saved = checkpoint.load_latest(settings.checkpoints(study, row.number)) if decided else None
        if saved is None:
            continue
        wanted = row.state != "finished" or (row.kind == "trial" and row.number in best)
        place = Path("checkpoints", study, f"{row.number:04d}", saved.path.parent.name)
        state = saved.state if wanted else {}
        packed = checkpoint.save(scratch / place, saved.history, state, diverged=saved.diverged)
        archive.write(str(packed), place / packed.name)
        packed.unlink()
        if state:
            yield f"{study}-{row.number:04d}"


def import_study(path: Path, settings: Settings) -> Archived:
    """Imports a study into this workspace and this storage, as if it had been interrupted here.

    Raises:
        SweepError: a damaged or foreign file, or a study of this name or its checkpoints exist.
    """
    scratch, target = settings.local_dir / ".import", get_storage(settings.storage, create=True)
    try:
        settings.local_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(settings.local_dir / "import.lock").held():
            shutil.rmtree(scratch, ignore_errors=True)  # of an import that was killed
            try:
                name = _unpack(path, scratch)
                source, rivals, weights = _checked(path, name, scratch)
                _move_in([name, *rivals], scratch, source, target, settings, origin=path.name)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise SweepError(f"{path}: cannot be imported ({error})") from None
    return _archived(summarise(name, settings), path, rivals, weights)


def _unpack(path: Path, folder: Path) -> str:
    """Writes the parts of an archive into a folder; returns the name of its study."""
    if not path.is_file():
        raise SweepError(f"{path}: no such file")
    try:
        with ZipFile(path) as archive:
            about = _about(path, archive)
            if about["format"] > FORMAT:
                raise SweepError(f"{path}: a newer version has written it (version {about['version']}); use that one")
            study = rf"{re.escape(about['study'])}({re.escape(OF_CONFIRM)}[a-z_]+)?(\.controls)?"
            place = rf"{study}/\d{{4,}}/attempt-\d{{2,}}(\.\d+)?/epoch-\d{{4,}}\.pt"
            parts = re.compile(rf"archive\.json|study\.yaml|trials\.csv|{re.escape(JOURNAL)}|checkpoints/{place}")
            for part in archive.namelist():
                if not parts.fullmatch(part):
                    foreign = f"{part!r} is in it, which sweep export does not write"
                    raise SweepError(f"{path}: {foreign}; nothing was imported")
                size = archive.getinfo(part)
                if size.file_size > LARGEST_RATIO * size.compress_size + 2**20:
                    raise SweepError(f"{path}: {part} unpacks to {size.file_size / 1e6:.0f} MB; nothing was imported")
                archive.extract(part, folder)
    except DAMAGED as error:
        raise SweepError(f"{path}: damaged, or no zip file ({error}); export the study again") from None
    return str(about["study"])


def _about(path: Path, archive: ZipFile) -> dict[str, Any]:
    try:
        about = json.loads(archive.read("archive.json"))
        if re.fullmatch(r"[A-Za-z0-9][\w.-]*", about["study"], re.ASCII) and isinstance(about["format"], int):
            return {"version": "unknown", **about}
    except (KeyError, TypeError, ValueError):
        pass
    raise SweepError(f"{path}: not a file that sweep export has written; nothing was imported")


def _checked(path: Path, name: str, folder: Path) -> tuple[Storage, list[str], list[str]]:
    """Reads an archive completely; returns its storage, its rivals' studies and the trials with weights."""
    try:
        storage = open_storage(f"journal:///{folder / JOURNAL}")
        rivals = _rivals(name, storage)
        configs = {each: read_config(each, storage) for each in (name, *rivals)}
        for each in configs:
            check_copy(each, storage)
        studies = [study for each in configs for study in (each, f"{each}.controls")]
        trials = {study: {row.number for row in read_rows(study, storage, retried=True)} for study in studies}
    except StorageError as error:
        raise SweepError(f"{path}: cannot be imported: {error}") from None
    if absent := [each for each, config in configs.items() if config is None or config.name != each]:
        raise SweepError(f"{path}: there is no study {absent[0]} in its {JOURNAL}; nothing was imported")
    weights = []
    for file in sorted(folder.glob("checkpoints/*/*/*/*")):
        part = file.relative_to(folder)
        if int(file.parts[-3]) not in trials.get(file.parts[-4], ()):
            raise SweepError(f"{path}: {part} is of a trial that the study does not have; nothing was imported")
        try:
            saved = checkpoint.load(file)
        except checkpoint.DAMAGED as error:
            raise SweepError(f"{path}: {part} is no checkpoint ({error}); nothing was imported") from None
        weights += [f"{file.parts[-4]}-{file.parts[-3]}"] if saved.state else []
    return storage, rivals, weights


def _move_in(
    names: Sequence[str], folder: Path, source: Storage, target: Storage, settings: Settings, *, origin: str
) -> None:
    """Copies an unpacked study and its rivals' into the storage, then their checkpoints into the workspace."""
    with contextlib.ExitStack() as alone:
        for name in names:
            alone.enter_context(exclusive(target, name, study_lock(name, target, settings.workspace)))
        partial = [clear_partial_import(name, target) for name in names]
        for study in (each for name in names for each in (name, f"{name}.controls")):
            for stray in filesystem.glob_files(settings.workspace / study, "*/*/*") if any(partial) else []:
                filesystem.remove_file(stray)
            refuse_stale_checkpoints(study, settings.workspace)
        if any(partial):
            logger.info("removed what an interrupted import of %s has left", names[0])
        put, checkpoints = {}, {}
        for file in folder.glob("checkpoints/*/*/*/*"):
            study, number, attempt, part = file.parts[-4:]
            put[file] = checkpoints[study, int(number)] = settings.checkpoints(study, int(number)) / attempt / part
        for name in names:
            copy_study(name, source, target, checkpoints=checkpoints, origin=origin)
        for file, place in put.items():
            filesystem.write_bytes(place, file.read_bytes())
        for name in names:  # the study itself first: until then another import starts again
            finish_copy(name, source, target)
