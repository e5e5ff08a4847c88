"""The command line, run in a process of its own or in this one, and what it printed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sweep.cli.app import main

from .processes import environment


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


def sweep(workspace: Path, *words: str, **changes: str) -> Ended:
    """Runs ``python -m sweep`` in a process of its own, its output in pipes."""
    command = [sys.executable, "-m", "sweep", *words]
    ended = subprocess.run(
        command, env=environment(workspace, **changes), capture_output=True, text=True, check=False, timeout=800
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def sweep_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], workspace: Path, *words: str, **changes: str
) -> Ended:
    """Runs ``sweep`` in this process, which has long imported torch: a command takes milliseconds."""
    for name in list(os.environ):
        if name.startswith(("SWEEP_", "MLFLOW_", "RAY_")):
            monkeypatch.delenv(name)
    for name, value in {
        "SWEEP_WORKSPACE": str(workspace),
        "SWEEP_REPORT": "false",
        "COLUMNS": "200",
        **changes,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["sweep", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    return Ended(int(end.value.code or 0), out, err)
