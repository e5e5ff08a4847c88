"""Partitions between separate hosts, one line each: `python -m tests.torture.partitions [--only WORD] [--seconds 20]`.

Part of ``make torture``, an hour and a half. What has been run is kept in --results, and not run again. Exits 1 when a
promise was broken. Needs root, and what `tests/hosts` needs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from ..hosts.hosts import HEAD, Hosts, Program
from ..support.processes import wait_for

LONGEST = 900.0  # seconds after the healing that a study may take to its end
SENT_LATER = "sends what is missing"  # what a driver says whose MLflow runs are not complete: the next run
CLUSTER = ("head", "--address", HEAD)
PARTITIONS: dict[str, tuple[Callable[[Hosts], None], list[tuple[str, ...]]]] = {  # what is done, and the drivers
    "worker": (lambda hosts: hosts.cut("w1"), [CLUSTER]),
    "worker, one direction": (lambda hosts: hosts.deaf("w1"), [CLUSTER]),
    "head from workers": (lambda hosts: (hosts.cut("head", "w1"), hosts.cut("head", "w2"))[0], [CLUSTER]),
    "driver from storage": (lambda hosts: hosts.cut("head", "db"), [CLUSTER]),
    "driver from tracking": (lambda hosts: hosts.cut("head", "web"), [CLUSTER]),
    "one of two drivers from storage": (
        lambda hosts: hosts.cut("w1", "db"),
        [("w1", "--address", "local"), ("w2", "--address", "local")],
    ),
    "all slow, 300 ms and 5 % lost": (lambda hosts: hosts.slow(150, 5), [CLUSTER]),
}


@dataclass
class Result:
    """The end of a study, and the way to it."""

    partition: str
    seconds: int
    whole: float  # seconds from the healing to the end of the study
    flaws: list[str]
    said: list[str]  # messages to the user

    def __str__(self) -> str:
        state = "; ".join(self.flaws) or "exact"
        told = "; ".join(self.said) or "nothing"
        return f"{self.partition}, {self.seconds} s: {state}, over {self.whole:.0f} s after healing; told: {told}"


def run(hosts: Hosts, partition: str, seconds: int) -> Result:
    """Runs one study through one partition."""
    fault, drivers = PARTITIONS[partition]
    trials = 8 + seconds * 2 // 3  # of three seconds or more, by two workers: some are left when it heals
    name = f"{re.sub('[^a-z]+', '-', partition)}-{seconds}"
    hosts.wait_for_nodes()
    studies = [hosts.start_study(host, name, *words, trials=trials) for host, *words in drivers]
    try:
        wait_for(lambda: hosts.ended(name) >= 2 or all(study.over for study in studies), "two trials", LONGEST)
        fault(hosts)
        time.sleep(seconds)
        hosts.heal()
        healed = time.monotonic()
        codes = [study.end(LONGEST) for study in studies]
        if any(SENT_LATER in study.out for study in studies):  # it was over while the tracking server was away
            studies.append(hosts.start_study(drivers[0][0], name, *drivers[0][1:], trials=trials))
            codes.append(studies[-1].end(LONGEST))
        flaws = [f"a driver ended with {code}: {s.out[-500:]}" for s, code in zip(studies, codes, strict=True) if code]
        flaws += hosts.flaws(name, trials)
    except Exception as error:  # noqa: BLE001 (the next partition is run all the same)
        healed, flaws = time.monotonic(), [f"{type(error).__name__}: {error}"]
    finally:
        hosts.heal()
        for study in studies:
            study.close()
    return Result(partition, seconds, time.monotonic() - healed, flaws, notes(studies))


def notes(studies: list[Program]) -> list[str]:
    """The messages to the user, without the lines of trials."""
    return [
        " ".join(note.split())
        for study in studies
        for note in re.findall(r"(?m)^note: (.*(?:\n(?!\S+ trial ).*)*)", study.out)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="partitions that have this in their names")
    parser.add_argument("--seconds", type=int, nargs="*", default=[20, 90, 300])
    parser.add_argument("--results", type=Path, default=Path("results/partitions.jsonl"))
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.touch()
    results = [Result(**json.loads(line)) for line in arguments.results.read_text().splitlines()]
    known = {(result.partition, result.seconds) for result in results}
    wanted = [(p, s) for s in arguments.seconds for p in PARTITIONS if arguments.only in p and (p, s) not in known]
    if wanted:
        with closing(Hosts(Path(tempfile.mkdtemp(prefix="partitions-")), tag="tp")) as hosts:
            hosts.start_database()
            hosts.start_tracking()
            hosts.start_cluster()
            for partition, seconds in wanted:
                results.append(run(hosts, partition, seconds))
                print(results[-1], flush=True)
                with arguments.results.open("a") as file:
                    file.write(json.dumps(asdict(results[-1])) + "\n")
    broken = [result for result in results if result.flaws]
    print(f"{len(results)} partitions, {len(broken)} promises broken")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
