"""``make torture``: kills drivers, workers, nodes and the tracking server until 200 kills have hit a running trial.

`python -m tests.torture [--kills 200] [--seed 0] [--round 7] [--storage sqlite] [--results FILE]`, about half an hour
on two quiet cores. Each round is one study that is resumed until it is over, then held to what must hold of it; kinds
and moments of the kills are drawn from (seed, round). Rounds that have ended are kept in --results, a line of JSON
each, and not run again. PostgreSQL is used where TEST_POSTGRES_URL names one. Exits 1 when a promise was broken, and
says which round it was.
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
import warnings
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from sweep.config.sections import DataConfig
from sweep.data.loading import load_dataset

from ..support.invariants import Curves, Left, flaws, left_by, strange_curves
from ..support.processes import Cluster, Command
from .rounds import CONTROLS, KINDS, TRIALS, Fault, Outcome, Round, config_of, study_file

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

    def __init__(self, folder: Path, kind: str):
        self.folder, self.kind = folder, kind
        load_dataset(DataConfig(name="digits"), root=folder, cache=folder / "cache")
        self.cluster_turn, self._turn = threading.Lock(), threading.Lock()
        self._cluster: Future[Cluster] | None = None
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._undisturbed: Left | None = None
        self._curves = Curves(config_of(study_file("curves", "random", kind)), folder, folder)

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
                file.write_text(study_file("calm", "random", self.kind))
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


def read_outcomes(file: Path, seed: int, kind: str) -> list[Outcome]:
    """Reads the rounds of a seed and a kind of trial that ended in earlier calls."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    found = [line["outcome"] for line in lines if (line["seed"], line.get("kind", "model")) == (seed, kind)]
    return [Outcome(**{**each, "faults": [Fault(**fault) for fault in each["faults"]]}) for each in found]


def run_rounds(arguments: argparse.Namespace, folder: Path) -> list[Outcome]:
    """Runs rounds in lanes until enough kills have hit a running trial, with those of earlier calls."""
    scenarios = [s for s in SCENARIOS if arguments.storage in (None, s[0])]
    if not os.environ.get("TEST_POSTGRES_URL"):
        print("TEST_POSTGRES_URL is not set: no round uses PostgreSQL", flush=True)
        scenarios = [s for s in scenarios if s[0] != "postgresql"]
    earlier = read_outcomes(arguments.results, arguments.seed, arguments.kind) if arguments.round is None else []
    outcomes = [o for o in earlier if (o.storage, o.search, o.where) == scenarios[o.number % len(scenarios)]]
    known = {outcome.number for outcome in outcomes}
    wanted = itertools.count() if arguments.round is None else [arguments.round]
    numbers = (number for number in wanted if number not in known)
    shared, began, turn = Shared(folder, arguments.kind), outcomes[:], threading.Lock()

    def kills() -> int:
        return sum(outcome.hits for outcome in began)

    def say(round_: Round, what: str) -> None:
        print(f"{kills():4d}  round {round_.outcome.number}: {what}", flush=True)

    def lane() -> None:
        while True:
            with turn:
                number = next(numbers, None)
                if number is None or kills() >= arguments.kills:
                    return
                mine = Round(Outcome(number, *scenarios[number % len(scenarios)]), arguments.seed, shared, say)
                began.append(mine.outcome)
            outcome = mine.run()
            outcomes.append(outcome)
            if arguments.round is None:
                with turn, arguments.results.open("a") as file:
                    file.write(
                        json.dumps({"seed": arguments.seed, "kind": arguments.kind, "outcome": asdict(outcome)}) + "\n"
                    )
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
    parser.add_argument("--kind", choices=[*KINDS], default="model", help="what a trial runs")
    parser.add_argument("--lanes", type=int, default=2, help="rounds at the same time")
    parser.add_argument("--results", type=Path, default=Path("results/torture.jsonl"))
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
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
    kills, minutes = sum(fault.hits for fault in faults), sum(outcome.seconds for outcome in outcomes) / 60
    print(f"{kills} kills, {len(outcomes)} studies, {len(broken)} promises broken, {minutes:.0f} minutes of rounds")
    if not broken:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"their workspaces are in {folder}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
