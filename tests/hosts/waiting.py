"""A metric that takes its time, so that a trial lasts as long as a test wants, without work for the machine."""

import time
from pathlib import Path

from torch import Tensor

HOLD = Path("/mnt/shared/hold")


def waiting(_output: Tensor, _target: Tensor) -> float:
    """Returns 0 after a tenth of a second, and not before the file `HOLD` is gone."""
    time.sleep(0.1)
    while HOLD.exists():
        time.sleep(0.1)
    return 0.0
