"""Round trips, statements and commits of one driver to PostgreSQL for a trial, with the cache and without.

The database is that of ``TEST_POSTGRES_URL``. Without the cache, Optuna's own wraps it, as in `optuna.create_study`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy import Engine, event

from sweep.config.study_config import StudyConfig
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.training.reports import EpochMetrics

from ..support.relay import Relay

TRIALS = 12
EPOCHS = 10


def count(storage: BaseStorage, backend: RDBStorage, waiting: int, relay: Relay) -> tuple[float, ...]:
    """Returns round trips, statements, commits and milliseconds for a trial: asked, reported at ten epochs, told."""
    raw = {
        "name": f"round-trips-{uuid.uuid4().hex[:8]}",
        "model": {"name": "mlp"},
        "data": {"name": "digits"},
        "objective": {"metric": "val_loss", "direction": "minimize"},
        "space": {
            "lambda1": {"low": 1e-5, "high": 1e-1, "log": True},
            "epsilon": {"low": 1e-3, "high": 10.0, "log": True},
            "depth": {"low": 1, "high": 4},
            "width": {"choices": [8, 16]},
            "training.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        "training": {"max_epochs": EPOCHS},
        "search": {"trials": TRIALS + waiting, "sampler": "tpe", "pruner": "median"},
    }
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        study = Study(StudyConfig.model_validate(raw), storage, workspace=Path(folder))
        study.enqueue_budget()
        engine: Engine = backend.engine
        event.listen(engine, "before_cursor_execute", lambda *_: counts.update(["statements"]))
        event.listen(engine, "commit", lambda *_: counts.update(["commits"]))
        start, sent = time.perf_counter(), relay.sent
        for number in range(TRIALS):
            trial = study.ask()
            assert trial is not None
            for epoch in range(1, EPOCHS + 1):
                assert study.owns(trial)
                study.report(trial, [EpochMetrics(epoch, {"val_loss": (20 - number) / epoch}, 0)])
                trial.epochs = epoch
            study.tell(trial, "completed", checkpoint=None, error=None)
        seconds = time.perf_counter() - start
        trips, statements, commits = relay.sent - sent, counts["statements"], counts["commits"]
    optuna.delete_study(study_name=study.name, storage=storage)
    return trips / TRIALS, statements / TRIALS, commits / TRIALS, 1000 * seconds / TRIALS


def main() -> int:
    """Prints a line for each storage and number of trials; 1 if the cache saves no statements."""
    if not (url := os.environ.get("TEST_POSTGRES_URL", "")):
        print("TEST_POSTGRES_URL is not set: there is no PostgreSQL server to count on")
        return 0
    saves = True
    with Relay(url) as relay:
        for waiting in (0, 488):
            found = {}
            for name in ("cached", "Optuna's own"):
                if name == "cached":
                    storage = open_storage(relay.url)
                else:
                    storage = get_storage(RDBStorage(relay.url, engine_kwargs={"pool_pre_ping": True}))
                backend = storage._backend  # type: ignore[attr-defined]
                trips, statements, commits, milliseconds = found[name] = count(storage, backend, waiting, relay)
                print(
                    f"{name:13} {waiting + TRIALS:4} trials: {trips:6.1f} round trips, {statements:6.1f} statements, "
                    f"{commits:5.1f} commits, {milliseconds:5.0f} ms a trial"
                )
            saves = saves and found["cached"][:3] < found["Optuna's own"][:3]
    return not saves


if __name__ == "__main__":
    sys.exit(main())
