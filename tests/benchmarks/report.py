"""Measures the time that the report of a large study takes, and the size of its page.

`python -m tests.benchmarks.report`, a minute on a quiet machine. A study of 1,000 completed trials, a quarter of them
uniform, over five hyperparameters, with a checkpoint each, is written as a run leaves it; then `sweep report` is run on
it, and timed within: reading, the sensitivity analysis, the page and the figures. Exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..support import made_study
from ..support.processes import environment

BAR_SECONDS, BAR_BYTES = 20.0, 6e6
STEPS = """
import sys, time
from pathlib import Path
from sweep.config.settings import Settings
began = time.monotonic()
def step(what):
    global began
    print(f"  {what:34s} {time.monotonic() - began:5.1f} s", flush=True)
    began = time.monotonic()
from sweep.analysis.report.report import write_report
from sweep import service
step("imports")
settings = Settings()
summary = service.summarise("made", settings)
step("reading the storage")
[analysis] = service.sensitivity("made", settings)
step(f"sensitivity (R2 {analysis.r2:.2f})")
write_report(summary, analysis, [], settings, settings.workspace / "again")
step("page, figures, tables")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    count = parser.parse_args().trials
    with tempfile.TemporaryDirectory(prefix="sweep-benchmark-") as scratch:
        workspace = Path(scratch) / "results"
        made_study.make(workspace, made_study.study(), completed=count, uniform=count // 4)
        began = time.monotonic()
        command = [sys.executable, "-m", "sweep", "report", "made"]
        subprocess.run(command, env=environment(workspace), check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        size = (workspace / "made" / "report" / "report.html").stat().st_size
        print(f"sweep report of {count} trials x 5 hyperparameters: {seconds:.1f} s; the page {size / 1e6:.2f} MB")
        subprocess.run([sys.executable, "-c", STEPS], env=environment(workspace), check=True)
    print(f"bars: {BAR_SECONDS:g} s, {BAR_BYTES / 1e6:g} MB")
    return int(seconds > BAR_SECONDS or size > BAR_BYTES)


if __name__ == "__main__":
    sys.exit(main())
