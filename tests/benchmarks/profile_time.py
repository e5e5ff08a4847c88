"""Times `sweep profile` of a ResNet-50, from the shell: of a checkpoint, and of torchvision's as it is made.

`python -m tests.benchmarks.profile_time`, half a minute, no data needed; exits 1 when a bar is missed. The fastest of
three counts, since other processes only add. Most of it is Python's import of torch, matplotlib and, for the second,
torchvision; its CPU time says what a machine that is busy would take when it is quiet.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from torchvision.models import resnet50

from sweep.training import checkpoint
from sweep.training.reports import EpochMetrics

BAR, RUNS = 5.0, 3  # seconds


def timed(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        saved = checkpoint.save(Path(folder), [EpochMetrics(1, {}, 0)], {"model": resnet50().state_dict()})
        for name, source in (("a checkpoint", str(saved)), ("torchvision.models:resnet50",) * 2):
            command = [sys.executable, "-m", "sweep", "profile", source, "--out", f"{folder}/profile.png"]
            seconds, cpu = zip(*(timed(command) for _ in range(RUNS)), strict=True)
            missed |= min(seconds) > BAR
            verdict = "ok" if min(seconds) <= BAR else "MISSED"
            print(f"{name:30}{min(seconds):5.1f} s <= {BAR:g} s {verdict}; {min(cpu):.1f} s of CPU time", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
