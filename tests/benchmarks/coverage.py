"""Measures by simulation how often the intervals of `sweep confirm` cover the truth, and how often it claims wrongly.

`python -m tests.benchmarks.coverage`, some five minutes on one core; exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, ttest_1samp

from sweep.analysis.paired_comparison import apply_holm, compare_pairs
from sweep.analysis.paired_tests import difference
from sweep.analysis.speedup import Member
from sweep.config.sections import Objective
from sweep.training.reports import EpochMetrics

Draw = Callable[[tuple[int, ...]], NDArray[np.float64]]
LOSS = Objective(metric="val_loss", direction="minimize")
PAIRS = (3, 5, 8, 16)
BARS = {
    ("normal", 5): (0.94, 0.97),
    ("normal", 8): (0.94, 0.97),
    ("exponential", 5): (0.88, 1.0),
    ("exponential", 8): (0.90, 1.0),
}
EXPERIMENTS = 4_000


def laws(rng: np.random.Generator) -> dict[str, tuple[Draw, float]]:
    """Returns laws of a difference, and their means."""
    return {
        "normal": (lambda size: rng.normal(size=size), 0.0),
        "exponential": (lambda size: rng.exponential(size=size), 1.0),
        "log-normal": (lambda size: rng.lognormal(size=size), float(np.exp(0.5))),
        "Laplace": (lambda size: rng.laplace(size=size), 0.0),
    }


def intervals(rng: np.random.Generator, experiments: int) -> bool:
    """Prints the coverage of the interval of a mean, of Student's, and of the bootstrap's (BCa)."""
    held = True
    print(f"coverage of 95 % intervals, {experiments} experiments (BCa: a tenth of them)")
    for name, (draw, mean) in laws(rng).items():
        for n in PAIRS:
            samples = draw((experiments, n))
            found = [difference(sample) for sample in samples]
            ours = np.mean([e.low <= mean <= e.high for e in found])  # type: ignore[operator]
            student = ttest_1samp(samples, mean, axis=1).pvalue
            few = samples[: experiments // 10]
            with np.errstate(all="ignore"):
                bca = bootstrap((few,), np.mean, axis=1, n_resamples=999, method="BCa", rng=rng).confidence_interval
            covered = np.mean((bca.low <= mean) & (mean <= bca.high))
            low, high = BARS.get((name, n), (0, 1))
            held &= bool(low <= ours <= high)
            words = f"{ours:.3f}   Student {np.mean(student >= 0.05):.3f}   BCa {covered:.3f}"
            print(f"{name:12s} {n:2d} pairs: {words} {'' if low <= ours <= high else 'MISSED'}", flush=True)
    return held


def member(curve: NDArray[np.float64]) -> Member:
    """Returns a run with this curve of the test loss; its epochs take a second."""
    metrics = [{"test_loss": float(x), "train_loss": float(x), "seconds": 1.0} for x in curve]
    return Member([EpochMetrics(epoch, each, 0) for epoch, each in enumerate(metrics, 1)])


def curves(rng: np.random.Generator, shape: str, runs: int) -> NDArray[np.float64]:
    """Returns learning curves of one law: each run has its own speed and level, and its epochs are noisy."""
    epochs = {"eight epochs": 8, "long": 40}.get(shape, 20)
    spread, noise = {"alike": (0.01, 0.0), "noisy": (0.03, 0.05), "seeds differ": (0.1, 0.01)}.get(shape, (0.05, 0.01))
    rate = {"flat": 2.0, "eight epochs": 0.5, "long": 0.1}.get(shape, 0.25) * np.exp(0.1 * rng.normal(size=(runs, 1)))
    mean = np.exp(-rate * np.arange(1, epochs + 1))
    return 1 + mean + spread * rng.normal(size=(runs, 1)) + noise * rng.normal(size=(runs, epochs))


SHAPES = ("alike", "monotone", "noisy", "seeds differ", "flat", "eight epochs", "long")


def equal_networks(rng: np.random.Generator, experiments: int) -> bool:
    """Prints what two equal networks get: ``never``, and a speed-up of 1 within its interval."""
    held = True
    print(f"two equal networks, {experiments} experiments: 'never', 1.0 within the interval of the speed-up")
    for shape in SHAPES:
        for n in PAIRS[1:]:
            never = covered = timed = 0
            for _ in range(experiments):
                runs = [dict(enumerate(map(member, curves(rng, shape, n)))) for _ in "ab"]
                c = compare_pairs(0, ("guided", "plain"), (runs[0], runs[1]), LOSS)
                never, timed = never + c.never, timed + len(c.speedup.values)
                low, high = c.speedup.low, c.speedup.high
                covered += low is None or high is None or low <= 1 <= high
            shares = never / n / experiments, covered / experiments
            good = shares[0] <= 0.05 and shares[1] >= 0.95 - 2 * (0.05 * 0.95 / experiments) ** 0.5
            held &= good
            words = f"never {shares[0]:.3f}, 1.0 covered {shares[1]:.3f}"
            print(f"{shape:12s} {n:2d} pairs: {words}, timed {timed / n / experiments:.2f} {'' if good else 'MISSED'}")
    return held


def families(rng: np.random.Generator, experiments: int) -> bool:
    """Prints how often a confirmation against nine equal opponents claims any difference or speed-up."""
    held = True
    print(f"nine equal opponents, {experiments} confirmations: any gain claimed; any gain or speed-up claimed")
    for n in PAIRS[1:]:
        gains = claims = 0
        for _ in range(experiments):
            arms = [dict(enumerate(map(member, curves(rng, "monotone", n)))) for _ in range(10)]
            found = apply_holm(
                [
                    compare_pairs(0, ("guided", f"arm {i}"), (arms[0], arm), LOSS, plain=arms[1])
                    for i, arm in enumerate(arms[1:])
                ]
            )
            gains += any(c.verdict != "not shown" for c in found)
            claims += any(c.verdict != "not shown" or c.speedup.significant for c in found)
        good = gains / experiments <= 0.06
        held &= good
        print(
            f"{n:2d} pairs: {gains / experiments:.3f}, {claims / experiments:.3f} {'' if good else 'MISSED'}",
            flush=True,
        )
    return held


PARTS = {"intervals": intervals, "equal-networks": equal_networks, "families": families}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all of them, if not given")
    parser.add_argument("--experiments", type=int, default=EXPERIMENTS)
    options = parser.parse_args()
    held = [
        PARTS[part](np.random.default_rng(0), options.experiments if part == "intervals" else options.experiments // 10)
        for part in options.parts or PARTS
    ]
    print("all bars hold" if all(held) else "bars are missed")
    return not all(held)


if __name__ == "__main__":
    sys.exit(main())
