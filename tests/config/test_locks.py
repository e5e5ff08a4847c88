"""The lock of a journal and of a workspace."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sweep.config.locks import FileLock


def test_a_lock_with_a_limit_is_not_waited_for_without_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path).held():
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=f"fuser {path}"), FileLock(path).held(seconds=0.2):
            pass
        assert time.monotonic() - began < 60
    with FileLock(path).held(seconds=0.2):
        pass
