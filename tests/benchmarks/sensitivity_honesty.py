"""Compares what an analysis promises with the truth: its R2, its word, its intervals, and its time.

`python -m tests.benchmarks.sensitivity_honesty`, some ten minutes on one core; exits 1 when a bar is missed. The
functions are those of `tests/support/unit_functions.py`; design trials are independent uniform points.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from sweep.analysis.selection import encode_trials, varied_inputs
from sweep.analysis.sensitivity import REGRESSION, Analysis, analyse, fit_surrogates

from ..support.unit_functions import ADVERSARIAL, SMOOTH, UnitFunction, drawn, unit_table

SIZES, SEEDS, FRESH = (64, 128), range(5), 4000
OPTIMISM, FAR, FAR_SHARE, COVERED = 0.05, 0.2, 0.05, 0.9
WRONG = 0.1  # largest error of a quantitative analysis; difference above which an indicative one orders right
SECONDS = {64: 3.0, 1000: 12.0}


@dataclass(frozen=True)
class Case:
    """One analysis, and the R2 of its surrogate on fresh points."""

    function: UnitFunction
    analysis: Analysis
    r2: float
    low: float
    fresh: float

    @classmethod
    def of(cls, function: UnitFunction, n: int, seed: int) -> Case:
        table = unit_table(*drawn(function, n, seed))
        inputs, _ = varied_inputs(table, table.trials, {})
        scale, [(fit, surrogate), *_] = fit_surrogates(encode_trials(inputs, table.trials)[0], 0, REGRESSION)
        x, y = drawn(function, FRESH, 1000 + seed)
        y = np.log(np.maximum(y, 1e-9)) if scale else y
        missed = y - surrogate.mean(inputs.encode({f"x{i}": column.tolist() for i, column in enumerate(x.T)}))
        return cls(function, analyse(table), fit.r2, fit.low, float(1 - (missed**2).mean() / y.var()))

    def indices(self, order: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the truth [d], the values [d] and the intervals [d, 2]."""
        found = self.analysis.parameters.values()
        truth = self.function.truth[0 if order == "first" else 1]
        return truth, np.array([getattr(i, order) for i in found]), np.array([getattr(i, f"{order}_ci") for i in found])

    @property
    def error(self) -> float:
        """Returns the largest error of an index."""
        return float(max(np.abs(truth - value).max() for truth, value, _ in map(self.indices, ("first", "total"))))

    @property
    def disordered(self) -> list[tuple[int, int]]:
        """Returns the pairs whose total indices are in the wrong order, though they differ by more than 0.1."""
        truth, value, _ = self.indices("total")
        pairs = permutations(range(len(truth)), 2)
        return [(i, j) for i, j in pairs if truth[i] > truth[j] + WRONG and value[i] <= value[j]]

    @property
    def covered(self) -> list[bool]:
        """Returns for each index that is not 0 if its interval holds the truth."""
        return [
            bool(low <= true <= high)
            for truth, _, spans in map(self.indices, ("first", "total"))
            for true, (low, high) in zip(truth, spans, strict=True)
            if true > 0.01
        ]


class Bench:
    """Prints measured values beside their bars, and counts the bars that are missed."""

    missed = 0

    def judge(self, what: str, held: bool) -> None:
        self.missed += not held
        print(f"{what}{'' if held else '  MISSED'}", flush=True)


def promises(bench: Bench, seeds: range, sizes: tuple[int, ...]) -> None:
    """R2, words and intervals, of all functions."""
    cases = []
    for function in (*SMOOTH, *ADVERSARIAL):
        for n in sizes:
            own = [Case.of(function, n, seed) for seed in seeds]
            words = " ".join(f"{c.r2:.2f}({c.fresh:.2f}){_word(c)}" for c in own)
            print(f"{function.name:20s} {n:4d}: {words}", flush=True)
            cases += own
    smooth = [c for c in cases if c.function in SMOOTH]
    excess = np.array([c.r2 - c.fresh for c in smooth])
    bench.judge(f"R2 minus R2 on fresh points: {excess.mean():+.3f} on average", abs(excess.mean()) <= OPTIMISM)
    bench.judge(f"above by more than {FAR}: {(excess > FAR).mean():.3f}", (excess > FAR).mean() <= FAR_SHARE)
    print(f"the lower bound holds in {np.mean([c.low <= c.fresh for c in smooth]):.3f}")
    trusted = [c for c in cases if c.analysis.trusted and c.analysis.scale is None]
    for case in trusted:
        if case.analysis.strength == "quantitative" and case.error > WRONG:
            bench.judge(f"{case.function.name}: quantitative, error {case.error:.2f}", held=False)
        if case.disordered:
            bench.judge(f"{case.function.name}: {case.analysis.strength}, wrong order {case.disordered}", held=False)
    covered = [each for case in trusted for each in case.covered]
    bench.judge(f"{len(covered)} intervals cover {np.mean(covered):.3f}", np.mean(covered) >= COVERED)
    words = [c.analysis.strength or "refused" for c in cases]
    print("; ".join(f"{words.count(word)} {word}" for word in ("quantitative", "indicative", "refused")))


def _word(case: Case) -> str:
    if not case.analysis.trusted:
        return "-"
    return f"{(case.analysis.strength or '')[0]}{case.error:.2f}{'L' if case.analysis.scale else ''}"


def noise(bench: Bench, seeds: range, sizes: tuple[int, ...]) -> None:
    """Values without any dependence on the hyperparameters."""
    del seeds
    functions = [UnitFunction("noise", d, lambda x: np.zeros(len(x)), 1.0) for d in (4, 8, 12)]
    refused = [not analyse(unit_table(*drawn(f, sizes[0], seed))).trusted for f in functions for seed in range(10)]
    bench.judge(f"noise refused: {sum(refused)} of {len(refused)}", all(refused))


def duration(bench: Bench, seeds: range, sizes: tuple[int, ...]) -> None:
    """Time of a process."""
    del seeds, sizes
    for n, most in SECONDS.items():
        table = unit_table(*drawn(SMOOTH[6], n, 0))
        started = time.process_time()
        analyse(table)
        seconds = time.process_time() - started
        bench.judge(f"{n} trials of 5 hyperparameters: {seconds:.1f} s", seconds <= most)


PARTS = {"duration": duration, "noise": noise, "promises": promises}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all of them, if not given")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    options, bench = parser.parse_args(), Bench()
    for part in options.parts or PARTS:
        PARTS[part](bench, range(options.seeds), tuple(options.sizes))
    print(f"{bench.missed} bars missed" if bench.missed else "all bars hold")
    return bool(bench.missed)


if __name__ == "__main__":
    sys.exit(main())
