"""Compares the sensitivity that is found with the truth: its error, the cover of its intervals, and its time.

`python -m tests.benchmarks.sensitivity`, a quarter of an hour on one core; exits 1 when a bar is missed. The rows are
functions of known sensitivity (`tests/sensitivity_cases.py`), searched by TPE and Hyperband, with uniform trials; and
others that nothing was chosen by (`tests/heldout_cases.py`), reported without a bar for each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from sweep.analysis.sensitivity import Analysis
from sweep.config.settings import Settings
from sweep.service import sensitivity

from ..support.heldout_cases import HELD_OUT
from ..support.sensitivity_cases import CASES
from ..support.sensitivity_studies import Errors, errors, searched, shuffled, store, uniform

SEEDS = range(5)
WORST = {"slow_start": 0.06, "mixed": 0.07, "ishigami": 0.06}
PAIRS = {"slow_start": ("lambda1", "lambda2"), "mixed": ("depth", "activation"), "ishigami": ("x1", "x3")}
COVERED, HALF_WIDTH, SECONDS = 0.93, 0.15, 10.0


class Bench:
    """Analyses studies in a storage of its own, and counts the bars that are missed."""

    def __init__(self, folder: Path):
        self.settings = Settings(workspace=folder, storage=f"journal:///{folder}/optuna.journal")
        self.missed = 0
        self._studies = 0

    def analysis(self, trials: list[FrozenTrial]) -> Analysis:
        """Stores trials as a study and analyses it as the command does."""
        self._studies += 1
        store(self.settings.storage, f"study-{self._studies}", trials)
        [analysis] = sensitivity(f"study-{self._studies}", self.settings)
        return analysis

    def judge(self, what: str, *bars: bool) -> None:
        """Prints a line, and whether it holds its bars."""
        self.missed += not all(bars)
        print(f"{what}  {'' if all(bars) else 'MISSED'}", flush=True)


def acceptance(bench: Bench) -> None:
    """The cases, with all that is asked of each."""
    for name, case in CASES.items():
        for seed in SEEDS:
            ishigami = name == "ishigami"
            design = uniform(case, seed, 128 if ishigami else 64)
            search = [] if ishigami else searched(case, seed)
            analysis = bench.analysis([*search, *design])
            found, index = errors(case, analysis, PAIRS[name]), analysis.parameters
            bars = [found.worst <= WORST[name]]
            if name == "slow_start":
                first = max(index, key=lambda each: index[each].total)
                bars += [index["width"].total < 0.05, first == "lambda1", found.covered >= 0.9]
            if name == "mixed":
                interaction = analysis.pairs["depth", "activation"].value
                bars += [index["depth"].first < 0.05, index["depth"].total > 0.12, interaction > 0.1]
            bench.judge(f"{name:12s} seed {seed}: {_words(found, analysis)}", *bars)
            if name == "slow_start":
                alone, noise = bench.analysis(search), bench.analysis(shuffled(design, seed))
                bench.judge(f"  refused: the search alone {not alone.trusted}", not alone.trusted)
                bench.judge(f"  refused: shuffled, R2 {noise.r2:.2f}", not noise.trusted)


def held_out(bench: Bench) -> None:
    """Other functions: reported; on the whole they must be as good as the cases."""
    found = []
    for name, case in HELD_OUT.items():
        for seed in SEEDS:
            analysis = bench.analysis([*searched(case, seed), *uniform(case, seed, 64)])
            if analysis.trusted:
                found.append(errors(case, analysis))
                print(f"{name:12s} seed {seed}: {_words(found[-1], analysis)}", flush=True)
            else:
                print(f"{name:12s} seed {seed}: refused, R2 {analysis.r2:.2f}", flush=True)
    worst, covered = statistics.mean(f.worst for f in found), statistics.mean(f.covered for f in found)
    bench.judge(f"held out: worst {worst:.3f} on average, covered {covered:.3f}", worst <= 0.06, covered >= COVERED)


def coverage(bench: Bench) -> None:
    """30 studies of 64 uniform trials."""
    found = [
        errors(case, analysis)
        for case in CASES.values()
        for seed in range(100, 110)
        if (analysis := bench.analysis(uniform(case, seed, 64))).trusted
    ]
    covered = statistics.mean(f.covered for f in found)
    width, worst = statistics.median(f.half_width for f in found), statistics.mean(f.worst for f in found)
    bench.judge(
        f"64 uniform trials, {len(found)} of 30 studies trusted: covered {covered:.3f}, half-width of the widest index "
        f"{width:.3f} (median), worst {worst:.3f} on average",
        covered >= COVERED,
        width < HALF_WIDTH,
        len(found) >= 20,
    )


def duration(bench: Bench) -> None:
    """The command on 1,000 trials of 5 hyperparameters, its start included."""
    case = CASES["slow_start"]
    store(bench.settings.storage, "thousand", [*searched(case, 0, 200), *uniform(case, 0, 800)])
    command = [sys.executable, "-m", "sweep", "sensitivity", "thousand", "--json"]
    places = {"SWEEP_STORAGE": bench.settings.storage, "SWEEP_WORKSPACE": str(bench.settings.workspace)}
    started = time.perf_counter()
    ended = subprocess.run(command, env={**os.environ, **places}, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    full = json.loads(ended.stdout)["n_full"]
    bench.judge(f"1,000 trials, {full} of them full-budget: {seconds:.1f} s", seconds <= SECONDS)


def _words(found: Errors, analysis: Analysis) -> str:
    return (
        f"worst {found.worst:.3f}  covered {found.covered:.2f}  half-width {found.half_width:.3f}  "
        f"R2 {analysis.r2:.3f} {analysis.surrogate}"
    )


PARTS = {"acceptance": acceptance, "held-out": held_out, "coverage": coverage, "duration": duration}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all of them, if not given")
    parts = parser.parse_args().parts or list(PARTS)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for part in parts:
            PARTS[part](bench)
    print(f"{bench.missed} bars missed" if bench.missed else "all bars hold")
    return bool(bench.missed)


if __name__ == "__main__":
    sys.exit(main())
