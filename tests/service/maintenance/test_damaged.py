"""Damaged archives, journals and checkpoints: each gives what was written, or one listed error, and nothing else."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sweep.analysis.summary import Summary, summarise
from sweep.config.errors import SweepError
from sweep.config.settings import Settings
from sweep.service.maintenance.archive import export_study, import_study
from sweep.training import checkpoint
from sweep.training.reports import EpochMetrics

from ...support.made_study import make, study

WRONG: list[Any] = [None, "x", -1, 1e308, [], {}, True, [[1]], {"host": 1}, "2026-13-45", 2**70, ""]
ROUNDS = [int(os.environ.get("DAMAGE_ROUNDS", "60"))]  # `make torture` has more


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Path]:
    folder = tmp_path_factory.mktemp("made")
    settings = make(folder / "results", study(choices=("relu", "gelu")), completed=3)
    export_study("made", folder / "made.zip", settings)
    return settings, folder / "made.zip"


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Cuts a file, or changes some bytes of it."""
    if rng.random() < 0.2:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 4, 64])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def misplaced(value: Any, rng: random.Random) -> Any:
    """Replaces or removes one value somewhere in JSON."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        if rng.random() < 0.2:
            del value[key]
        else:
            value[key] = misplaced(value[key], rng)
        return value
    return rng.choice(WRONG)


def damaged_journal(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    number = rng.randrange(len(lines))
    kind = rng.random()
    if kind < 0.2:
        del lines[number]
    elif kind < 0.3:
        lines[number] = flipped(lines[number], rng)
    elif kind < 0.4:
        lines = lines[number:]
    else:
        lines[number] = json.dumps(misplaced(json.loads(lines[number]), rng)).encode() + b"\n"
    return b"".join(lines)


def damaged_checkpoint(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return flipped(data, rng)
    state = torch.load(io.BytesIO(data), weights_only=True)
    progress = misplaced(json.loads(state["progress"]), rng)
    state["progress"] = rng.choice([json.dumps(progress), progress, json.dumps(progress)[:-1]])
    buffer = io.BytesIO()
    torch.save(rng.choice([state, state, [state], {}]), buffer)
    return buffer.getvalue()


def damaged_archive(data: bytes, rng: random.Random) -> bytes:
    """Damages the file itself, or a part of it so that the checksums are right."""
    if rng.random() < 0.3:
        return flipped(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([n for n in parts if not n.endswith((".csv", ".yaml"))])
    parts[name] = DAMAGES[Path(name).suffix](parts[name], rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for each, content in parts.items():
            archive.writestr(each, content)
    return buffer.getvalue()


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".journal": damaged_journal,
    ".pt": damaged_checkpoint,
    ".json": lambda data, rng: json.dumps(misplaced(json.loads(data), rng)).encode(),
}


def results(summary: Summary) -> list[tuple[Any, ...]]:
    rows = [*summary.rows, *summary.controls]
    return [(r.number, r.kind, r.outcome, r.value, r.hyperparameters, r.seed, r.epochs) for r in rows]


@pytest.mark.parametrize("rounds", ROUNDS)
def test_archives(made: tuple[Settings, Path], tmp_path: Path, rounds: int) -> None:
    data, truth, imported = made[1].read_bytes(), results(summarise("made", made[0])), 0
    for seed in range(rounds):
        rng, file = random.Random(seed), tmp_path / "damaged.zip"
        changed = damaged_archive(data, rng)
        file.write_bytes(changed)
        target = Settings(workspace=tmp_path / f"{seed}")
        try:
            import_study(file, target)
        except SweepError:
            assert not list(target.workspace.rglob("*.pt")), seed
            assert [p.name for p in target.workspace.iterdir() if p.is_dir()] == [], seed
        else:
            imported += 1
            found = results(summarise("made", target))
            assert len(found) <= len(truth), seed
            for path in target.workspace.rglob("*.pt"):
                checkpoint.load(path)
    assert 0 < imported < rounds  # some damage is of what nothing can tell, as another value of a metric


@pytest.mark.parametrize("rounds", ROUNDS)
def test_journals(made: tuple[Settings, Path], tmp_path: Path, rounds: int) -> None:
    data = (made[0].workspace / "optuna.journal").read_bytes()
    for seed in range(rounds):
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        (folder / "optuna.journal").write_bytes(changed := damaged_journal(data, random.Random(seed)))
        settings = Settings(workspace=folder)
        with contextlib.suppress(SweepError):
            results(summarise("made", settings))
        assert (folder / "optuna.journal").read_bytes() in (changed, changed[: changed.rfind(b"\n") + 1]), seed


@pytest.mark.parametrize("rounds", ROUNDS)
def test_checkpoints(tmp_path: Path, rounds: int) -> None:
    history = [EpochMetrics(epoch, {"val_loss": 1 / epoch}, 1_700_000_000_000 + epoch) for epoch in range(1, 4)]
    path = Path(str(checkpoint.save(tmp_path, history, {"model": {"weight": torch.arange(100.0)}})))
    data, failed = path.read_bytes(), 0
    for seed in range(rounds):
        rng = random.Random(seed)
        path.write_bytes(flipped(data, rng))
        try:
            found = checkpoint.load(path)
        except checkpoint.DAMAGED:
            failed += 1
        else:
            assert found.history == history, seed
            assert torch.equal(found.state["model"]["weight"], torch.arange(100.0)), seed
        path.write_bytes(damaged_checkpoint(data, rng))
        try:
            found = checkpoint.load(path)
        except checkpoint.DAMAGED:
            continue
        assert all(isinstance(m, EpochMetrics) and isinstance(m.epoch, int) for m in found.history), seed
    assert failed
