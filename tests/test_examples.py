"""The examples in the docstrings of the program give what they show."""

from __future__ import annotations

import doctest
import importlib
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LENIENT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FILES = [Path(where, name) for where, _, names in os.walk(ROOT / "sweep", followlinks=True) for name in names]
SHOWN = sorted(path for path in FILES if path.suffix == ".py" and ">>> " in path.read_text())
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SHOWN]


@pytest.mark.filterwarnings("default")  # optional packages' own deprecations are not ours
@pytest.mark.parametrize("name", MODULES)
def test_an_example_gives_what_it_shows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=LENIENT)
    assert result.attempted > 0
    assert result.failed == 0


def test_there_are_examples() -> None:
    assert MODULES
