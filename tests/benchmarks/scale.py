"""Measures one driver: 64 slots on PostgreSQL and an MLflow server, and a study that has 10,000 trials already.

`python -m tests.benchmarks.scale` simulates both (`sweep simulate`): 500 trials of 20 epochs of 1 s with the median
pruner on 64 slots, and 5 s trials on 16 slots after 10,000 finished ones. TEST_POSTGRES_URL names the database of the
first; without it both use the journal file. Exits 1 when a bar is missed.

Slot time counts as spent in trials by the nominal seconds of each epoch. The study begins when all slots have a worker.
The bar is on the time of each slot from its own first trial on, until the last trial was handed out; the whole, tail
included, is printed beside it.

Measured on two AMD EPYC cores that have the driver, the workers, PostgreSQL and MLflow to themselves. 64 slots: 98.3 %
of slot time (98.3 and 97.9 % again, n 3), 28.8 reports/s, suggestion 30 ms, driver 393 MB, workers 7.7 GB; with a
report of each epoch, and not only of those at which the pruner decides, it was 88.9 % (n 2), 51.9 reports/s, suggestion
82 ms. After 10,000 trials: 97.9 % (n 1; was 94.2 %), suggestion 122 ms, driver 368 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import optuna

from sweep.config.secrets import without_secrets

from ..support.processes import TrackingServer, environment, wait_for

BAR_SLOTS, BAR_FINISHED, BAR_MEMORY = 0.92, 0.90, 600.0
SLOTS = ("--trials", "500", "--slots", "64", "--epochs", "20", "--epoch-seconds", "1")
FINISHED = ("--finished", "10000", "--trials", "200", "--slots", "16", "--epochs", "5", "--epoch-seconds", "1")


def simulate(storage: str | None, tracking: str, *words: str) -> dict[str, Any]:
    """Runs one simulation in a process of its own; returns what it prints as data."""
    places = ["--tracking", tracking, *(["--storage", storage] if storage else [])]
    command = [sys.executable, "-m", "sweep", "simulate", *words, *places, "--json"]
    done = subprocess.run(command, env=environment(Path.cwd()), check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if storage:
        for name in (found["study"], f"{found['study']}.controls"):
            optuna.delete_study(study_name=name, storage=storage)
    return found


def show(title: str, found: dict[str, Any], bar: float) -> bool:
    """Prints a simulation; returns whether it misses a bar."""
    steady = found["steady"] or 0.0
    missed = steady < bar or found["driver_mb"] > BAR_MEMORY
    print(f"{title}: {sum(found['outcomes'].values())} trials {found['outcomes']}, load {os.getloadavg()[0]:.1f}")
    print(f"  slot time in trials, of started slots  {steady:7.1%} of {found['steady_seconds']:.0f} s (bar {bar:.0%})")
    print(f"  with the start of workers and the tail {found['whole']:7.1%} over {found['whole_seconds']:.0f} s")
    print(f"  results a second                       {found['results']:7.1f}")
    for name in ("suggestion", "report", "turnover"):
        print(f"  {name:38s} {found[name]['median']:7.0f} ms, 95 % within {found[name]['p95']:.0f} ms")
    print(f"  memory of the driver                   {found['driver_mb']:7.0f} MB (bar {BAR_MEMORY:.0f} MB)")
    print(f"  memory of all workers                  {found['worker_mb']:7.0f} MB{'  MISSED' * missed}", flush=True)
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["slots", "finished"])
    only = parser.parse_args().only
    storage, missed = os.environ.get("TEST_POSTGRES_URL"), False
    with tempfile.TemporaryDirectory() as folder:
        server = TrackingServer(Path(folder) / "results")
        server.start()
        try:
            wait_for(server.ready, "the MLflow server")
            if only != "finished":
                where = without_secrets(storage) if storage else "the journal file, TEST_POSTGRES_URL is not set"
                missed |= show(f"64 slots, {where}", simulate(storage, server.url, *SLOTS), BAR_SLOTS)
            if only != "slots":
                missed |= show("after 10,000 trials, journal", simulate(None, server.url, *FINISHED), BAR_FINISHED)
        finally:
            server.stop()
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
