"""``make torture``: kills drivers, workers, nodes and the tracking server until 200 kills have hit a running trial.

`python -m tests.torture [--kills 200] [--seed 0] [--round 7] [--storage sqlite] [--json FILE]`, about half an hour on
two quiet cores. Each round is one study that is resumed until it is over, then held to what must hold of it; kinds and
moments of the kills are drawn from (seed, round). PostgreSQL is used where TEST_POSTGRES_URL names one. Exits 1 when a
promise was broken, and says which round it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from sweep.config.sections import DataConfig
from sweep.data.loading import load_dataset

from ..support.invariants import Curves, Left, flaws, left_by, strange_curves
from ..support.processes import Cluster, Command
from .rounds import CONTROLS, TRIALS, Outcome, Round, config_of, study_file

SCENARIOS = [  # storage, search, where; then from the start again, with other moments
    ("journal", "random", "local"),
    ("sqlite", "tpe", "server"),
    ("postgresql", "random", "cluster"),
    ("sqlite", "random", "two drivers"),
    ("journal", "tpe", "server"),
    ("postgresql", "tpe", "local"),
    ("postgresql", "tpe", "cluster"),
    ("postgresql", "random", "two drivers"),
    ("sqlite", "random", "server"),
    ("journal", "tpe", "two drivers"),
    ("sqlite", "tpe", "two drivers"),
    ("postgresql", "random", "server"),
]


class Shared:
    """The things that rounds share: a cluster, and what training gives that nobody disturbs."""

    def __init__(self, folder: Path):
        self.folder = folder
        load_dataset(DataConfig(name="digits"), root=folder, cache=folder / "cache")
        self.cluster_turn, self._turn = threading.Lock(), threading.Lock()
        self._cluster: Future[Cluster] | None = None
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._undisturbed: Left | None = None
        self._curves = Curves(config_of(study_file("curves", "random")), folder, folder)

    def start_cluster(self) -> Cluster:
        """A head and three nodes; the first call takes a minute."""
        cluster = Cluster(self.folder)
        for _ in range(3):
            cluster.add()
        return cluster

    @property
    def cluster(self) -> Cluster:
        self._cluster = self._cluster or self._pool.submit(self.start_cluster)
        return self._cluster.result()

    def add_node(self) -> None:
        """In the background; one after the other, since nodes that start together may time out."""
        self._pool.submit(self.cluster.add)

    def undisturbed(self) -> Left:
        """The study with the sampler random, run once without interruption."""
        with self._turn:
            if self._undisturbed is None:
                workspace = self.folder / "undisturbed" / "results"
                workspace.parent.mkdir()
                file = workspace.parent / "study.yaml"
                file.write_text(study_file("calm", "random"))
                command = Command(workspace, "run", str(file))
                assert command.end() == 0, command.out
                command.close()
                self._undisturbed = left_by(workspace, "calm")
                assert flaws(self._undisturbed, trials=TRIALS, controls=CONTROLS) == []
        return self._undisturbed

    def strange_curves(self, left: Left) -> list[str]:
        with self._turn:  # training seeds the process
            return strange_curves(left, self._curves)

    def close(self) -> None:
        self._pool.shutdown()
        if self._cluster is not None:
            self._cluster.result().close()


def run_rounds(arguments: argparse.Namespace, folder: Path) -> list[Outcome]:
    """Runs rounds in two lanes until enough kills have hit a running trial."""
    scenarios = [s for s in SCENARIOS if arguments.storage in (None, s[0])]
    if not os.environ.get("TEST_POSTGRES_URL"):
        print("TEST_POSTGRES_URL is not set: no round uses PostgreSQL", flush=True)
        scenarios = [s for s in scenarios if s[0] != "postgresql"]
    numbers = iter([arguments.round]) if arguments.round is not None else itertools.count()
    shared, outcomes, rounds, turn = Shared(folder), list[Outcome](), list[Round](), threading.Lock()

    def say(round_: Round, what: str) -> None:
        print(f"{sum(r.outcome.hits for r in rounds):4d}  round {round_.outcome.number}: {what}", flush=True)

    def lane() -> None:
        while True:
            with turn:
                number = next(numbers, None)
                if number is None or sum(r.outcome.hits for r in rounds) >= arguments.kills:
                    return
                rounds.append(Round(Outcome(number, *scenarios[number % len(scenarios)]), arguments.seed, shared, say))
                mine = rounds[-1]
            outcome = mine.run()
            outcomes.append(outcome)
            scenario = f"{outcome.storage}, {outcome.search}, {outcome.where}"
            state = "; ".join(outcome.broken)[:2000] or "every promise held"
            say(mine, f"{scenario}: {outcome.hits} kills in {outcome.seconds:.0f} s, {state}")

    try:
        with ThreadPoolExecutor(max_workers=arguments.lanes) as pool:
            for done in [pool.submit(lane) for _ in range(arguments.lanes)]:
                done.result()
    finally:
        shared.close()
    return sorted(outcomes, key=lambda outcome: outcome.number)


def table(outcomes: list[Outcome]) -> str:
    """Kills by kind and storage, in Markdown."""
    storages = sorted({outcome.storage for outcome in outcomes})
    kills = Counter[tuple[str, str]]()
    for outcome in outcomes:
        for fault in outcome.faults:
            kills[fault.kind, outcome.storage] += fault.hits
    lines = [f"| killed | {' | '.join(storages)} | in all |", "|---" * (len(storages) + 2) + "|"]
    for kind in sorted({kind for kind, _ in kills}):
        row = [kills[kind, storage] for storage in storages]
        lines.append(f"| {kind} | {' | '.join(map(str, row))} | {sum(row)} |")
    sums = [sum(n for (_, s), n in kills.items() if s == storage) for storage in storages]
    return "\n".join([*lines, f"| in all | {' | '.join(map(str, sums))} | {sum(sums)} |"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills of a running trial, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--round", type=int, help="run this round alone, to repeat what it has shown")
    parser.add_argument("--storage", choices=["journal", "sqlite", "postgresql"])
    parser.add_argument("--lanes", type=int, default=2, help="rounds at the same time")
    parser.add_argument("--json", type=Path, help="write all faults and outcomes here")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    folder, began = Path(tempfile.mkdtemp(prefix="torture-")), time.monotonic()
    outcomes = run_rounds(arguments, folder)
    broken = [(outcome.number, promise) for outcome in outcomes for promise in outcome.broken]
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    stages, moments = Counter[str](), Counter[str]()
    for fault in faults:
        stages[fault.stage] += fault.hits
        moments[fault.moment] += fault.hits
    print(f"\n{table(outcomes)}\n\nby stage: {dict(stages)}; by moment: {dict(moments)}")
    for number, promise in broken:
        print(f"BROKEN in round {number} (repeat: --seed {arguments.seed} --round {number}): {promise}")
    kills, minutes = sum(fault.hits for fault in faults), (time.monotonic() - began) / 60
    print(f"{kills} kills, {len(outcomes)} studies, {len(broken)} promises broken, {minutes:.0f} minutes")
    if arguments.json:
        report = {"seed": arguments.seed, "kills": kills, "minutes": minutes, "broken": broken}
        rounds = [{**vars(o), "faults": [vars(f) for f in o.faults]} for o in outcomes]
        arguments.json.write_text(json.dumps({**report, "rounds": rounds}, indent=2))
    if not broken:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"their workspaces are in {folder}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
