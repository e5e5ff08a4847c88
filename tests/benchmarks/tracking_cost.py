"""What recording a sweep in MLflow costs the driver, in CPU milliseconds a trial; the workers share the same cores.

`python tests/benchmarks/tracking_cost.py`, 20 s; exits 1 when the bar is missed. Trials of 20 epochs x 10 metrics with
12 params go to the default SQLite store: whole ones, as short trials send them, and ones sent 5 epochs at a time. Then
a study of 500 finished runs is opened again. CPU time, since wall time on a shared machine measures its neighbours.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

from sweep.metrics import EpochMetrics
from sweep.tracking import RunKey, Tracker

BAR = 40.0  # CPU milliseconds a trial
EPOCHS, METRICS, PARAMS = 20, 10, 12


def record(tracker: Tracker, number: int, epochs_a_call: int = EPOCHS) -> tuple[float, float]:
    """Records one trial; returns the CPU milliseconds of the whole process and of the calling thread alone."""
    key = RunKey("bench", "trial", number)
    history = [
        EpochMetrics(epoch, {f"metric/{i}": epoch + i / 10 for i in range(METRICS)}, 1_000_000 + epoch)
        for epoch in range(1, EPOCHS + 1)
    ]
    everything, caller = time.process_time(), 0.0
    for first in range(0, EPOCHS, epochs_a_call):
        started = time.thread_time()
        if first == 0:
            params = {f"param{i}": i / 7 for i in range(PARAMS)}
            tracker.start_trial(key, params=params, tags={"sweep.design": "true"}, start_time=1_000_000)
        tracker.log_epochs(key, history[first : first + epochs_a_call])
        if first + epochs_a_call >= EPOCHS:
            tracker.end_trial(key, outcome="completed", metrics={"objective": 0.5}, tags={}, end_time=2_000_000)
        caller += time.thread_time() - started
        assert tracker.flush(60)
    return (time.process_time() - everything) * 1e3, caller * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60)
    trials = parser.parse_args().trials
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

        print(f"import of MLflow and its SQL store    {time.process_time() - started:8.2f} s CPU")
        uri = f"sqlite:///{folder}/mlflow.db"
        tracker = Tracker(uri, "bench", artifacts=Path(folder))
        started = time.process_time()
        tracker.open(description="", params={}, tags={})
        print(f"open, creating the store              {time.process_time() - started:8.2f} s CPU")

        record(tracker, 0)  # the first one fills caches
        whole = [record(tracker, number) for number in range(1, trials)]
        pieces = [record(tracker, number, 5) for number in range(trials, trials + 10)]
        cost = statistics.median(total for total, _ in whole)
        caller = statistics.median(caller for _, caller in whole)
        print(f"a trial sent whole (bar {BAR:.0f})           {cost:8.1f} ms CPU, {caller:.2f} of them the caller's")
        print(f"a trial sent in 4 parts               {statistics.median(total for total, _ in pieces):8.1f} ms CPU")
        for number in range(trials + 10, 500):
            key = RunKey("bench", "trial", number)
            tracker.start_trial(key, params={f"param{i}": i / 7 for i in range(PARAMS)}, tags={}, start_time=1)
            tracker.log_epochs(key, [EpochMetrics(1, {f"metric/{i}": 0.1 for i in range(METRICS)}, 1_000_001)])
            tracker.end_trial(key, outcome="completed", metrics={"objective": 0.5}, tags={}, end_time=2)
        assert tracker.close(status="FINISHED", timeout=300)
        again = Tracker(uri, "bench", artifacts=Path(folder))
        started = time.process_time()
        again.open(description="", params={}, tags={})
        print(f"open, with {len(again.runs())} runs there             {time.process_time() - started:8.2f} s CPU")
        again.close(status="FINISHED")
    if cost > BAR:
        print(f"missed: {cost:.1f} ms CPU a trial, allowed are {BAR:.0f}")
    return int(cost > BAR)


if __name__ == "__main__":
    sys.exit(main())
