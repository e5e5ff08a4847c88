"""Seconds of the commands around a run: `python -m tests.benchmarks.commands`, five minutes on two quiet cores.

The study is that of `throughput` with 64 design trials, trained once by `--executor local`. Then `best`,
`run --dry-run` of digits, `sensitivity` and the finished study run again are timed from the shell, by turns. The bars
are about wall time on a quiet machine; the CPU time says what a busy machine would take when it is quiet. Exits 1 when
a median misses its bar.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .throughput import STUDY

BARS = {"best": 2.0, "run --dry-run": 2.0, "sensitivity": 3.0, "run, of a finished study": 3.0}  # seconds


def timed(*words: str) -> tuple[float, float]:
    """Wall and CPU seconds of a command."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "sweep", *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="sweep-commands-") as folder:
        file, place = Path(folder) / "throughput.yaml", ("--workspace", folder)
        file.write_text(STUDY.replace("trials: 64", "trials: 64, design: 64"))
        timed("run", str(file), *place, "--executor", "local")
        commands = {
            "best": ("best", "throughput", *place),
            "run --dry-run": ("run", "digits", "--dry-run", *place),
            "sensitivity": ("sensitivity", "throughput", *place),
            "run, of a finished study": ("run", str(file), *place),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, words in commands.items():
                found[name].append(timed(*words))
    missed = False
    print(f"n {rounds}, load {os.getloadavg()[0]:.1f}")
    print(f"{'seconds':28}" + "".join(f"{word:>8}" for word in ("median", "lowest", "highest", "CPU", "bar")))
    for name, bar in BARS.items():
        wall, cpu = zip(*found[name], strict=True)
        late = statistics.median(wall) > bar
        missed |= late
        print(
            f"{name:28}{statistics.median(wall):8.2f}{min(wall):8.2f}{max(wall):8.2f}{statistics.median(cpu):8.2f}"
            f"{bar:8.1f}{'  MISSED' * late}"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
