"""Every number of ``losses/RESULTS.md`` is recomputed from the JSON files, without the code that wrote the page."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from sweep.analysis.paired_tests import difference, equivalent_within, pairs_needed, pairs_needed_range

from .gathering import FOLDER, read_plan

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "losses/RESULTS.md").read_text()
PLAN = read_plan()
MADE = {name: json.loads(entry.path.read_text()) for name, entry in PLAN.items() if entry.path.exists()}
BY_LABEL = {entry.label: name for name, entry in PLAN.items() if entry.group is None and entry.path.exists()}
DEPTHS = {"4": "mnist-tuned-d04", "8": "mnist-tuned-d08", "16": "mnist-tuned-d16"}
# A part of the page begins with a text; its tables' rows are these studies.
PARTS: dict[str, Mapping[str, str]] = {
    "# Does guidance help?": {},
    "## Autoencoders:": {str(d): f"mnist-guidance-d{d:02d}" for d in (2, 4, 8, 16)},
    "**With everything tuned**": DEPTHS,
    "8 layers:\n": {"": "dose-d08"},
    "16 layers:\n": {"": "dose-d16"},
    "## CIFAR-10 autoencoders": {
        "dense, 8 layers": "cifar10-autoencoder",
        "convolutional, 4 layers": "cifar10-conv-autoencoder",
    },
    '## "Richer': {"8": "mnist-latent-08", "16": "mnist-latent-16", "32": "mnist-guidance-d08"},
    "## CNNs:": {
        "4 layers": "cifar10-cnn-d04",
        "10 layers": "cifar10-cnn-d10",
        "the first 2": "cifar10-cnn-first",
        "channels": "cifar10-cnn-channels",
        "the last 2, reduced": "cifar10-cnn-last",
    },
    "Uniform trials over `lambda1`": {"": "stability-sgd"},
    "Adam, learning rate 0.001:": {"": "stability-adam"},
    "## Against other": {"": "mnist-tuned-d08"},
    "CIFAR-10, CNN of 4 layers:": {"": "cifar10-cnn-d04"},
    "## The gap": BY_LABEL,
    "## What to search": {},
    "## The map:": BY_LABEL,
}
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?")
COLLAPSED = {("cifar10-cnn-d10", "guided", "10003")}


def tables() -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields (part, heads, cells) of each row of each table."""
    for part, after in zip(PARTS, [*list(PARTS)[1:], "## The commands"], strict=True):
        text = PAGE[PAGE.index(part) : PAGE.index(after)]
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            heads, _, *rows = ([cell.strip() for cell in line.strip("|\n ").split("|")] for line in block.splitlines())
            for row in rows:
                yield part, heads, row


ROWS = list(tables())


def numbers(text: str) -> list[float]:
    return [float(found) for found in NUMBER.findall(text)]


def pairs(name: str, first: str, second: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
    """Returns the final values of both arms on their common seeds, and the sign of a gain."""
    curves = MADE[name]["curves"]
    seeds = sorted(curves[first].keys() & curves[second].keys())
    seeds = [s for s in seeds if not {(name, first, s), (name, second, s)} & COLLAPSED]
    sign = -1 if MADE[name]["confirm"]["direction"] == "minimize" else 1
    return *(np.array([curves[arm][s][-1] for s in seeds]) for arm in (first, second)), sign  # type: ignore[return-value]


def estimate(name: str, first: str, second: str) -> tuple[list[float], float]:
    """Returns mean, ends of the interval and median of the gain, and the loss or error of the second arm."""
    a, b, sign = pairs(name, first, second)
    found, level = difference(sign * (a - b)), b.mean() if sign < 0 else 1 - b.mean()
    return [found.value, found.low or 0.0, found.high or 0.0, float(np.median(sign * (a - b)))], level


def epochs_to(curve: list[float], target: float, sign: int) -> float:
    """Returns the epochs to a target, interpolated; all of them if it is not reached."""
    for i, value in enumerate(curve):
        if sign * (value - target) >= 0:
            return i + 1 if i == 0 else i + (target - curve[i - 1]) / (value - curve[i - 1])
    return float(len(curve))


def target(name: str) -> float:
    curves = np.array([*MADE[name]["curves"]["plain"].values()])
    sign = -1 if MADE[name]["confirm"]["direction"] == "minimize" else 1
    curves, n = sign * curves, len(curves)
    start, end, best = curves[:, 0].mean(), curves[:, -1].mean(), curves.max(axis=1)
    within_reach = best.mean() - t.ppf(0.975, n - 1) * best.std(ddof=1) * math.sqrt(1 + 1 / n)
    return float(sign * min(start + 0.95 * (end - start), within_reach))


def speedup(name: str, first: str, second: str) -> list[float]:
    """Returns the geometric mean of the ratios of epochs to the target, and the ends of its interval."""
    curves, sign = MADE[name]["curves"], -1 if MADE[name]["confirm"]["direction"] == "minimize" else 1
    logs = [
        math.log(epochs_to(curves[second][s], target(name), sign) / epochs_to(curves[first][s], target(name), sign))
        for s in sorted(curves[first].keys() & curves[second].keys())
    ]
    found = difference(logs)
    return [math.exp(end) for end in (found.value, found.low or 0, found.high or 0)]


def check_gain(cell: str, name: str, second: str) -> None:
    if (same := re.match(r"the same network as (\w+)", cell)) is not None:
        for seed, curve in MADE[name]["curves"][second].items():
            assert curve == MADE[name]["curves"][same[1]][seed]
        return
    expected, _ = estimate(name, "guided", second)
    assert numbers(cell) == pytest.approx(expected, rel=6e-3), (name, second)


def check_gains(name: str, heads: list[str], row: list[str]) -> None:
    for second in [head for head in heads[3:] if head in MADE[name]["curves"] and head != "guided"]:
        place, (a, b, _) = heads.index(second), pairs(name, "guided", second)
        assert numbers(row[place]) == pytest.approx([b.mean()], rel=1e-3)
        check_gain(row[place + 1], name, second)
        assert numbers(row[heads.index("guided")]) == pytest.approx([a.mean()], rel=1e-3)
        assert int(numbers(row[1])[0]) == len(a)


def check_others(name: str, heads: list[str], row: list[str]) -> None:
    check_gain(row[4], name, row[0])
    if "same network" not in row[4]:
        (value, low, high, _), level = estimate(name, "guided", row[0])
        means = [100 * x / level for x in (value, low, high)]
        a, b, _ = pairs(name, "guided", row[0])
        assert numbers(" ".join(row[1:4])) == pytest.approx([len(a), a.mean(), b.mean()], rel=1e-3)
        assert numbers(row[5]) == pytest.approx(means, abs=0.051)


def check_speedups(name: str, heads: list[str], row: list[str]) -> None:
    assert numbers(row[1]) == pytest.approx([target(name)], rel=1e-3)
    for cell, head in zip(row[2:5], heads[2:5], strict=True):
        first, _, second = head.partition(" over ")
        found = [float(x) for x in re.findall(r"([\d.]+)x", cell)]
        assert found == pytest.approx(speedup(name, first, second), abs=6e-3), (name, head)
    a, b = MADE[name]["curves"]["guided"], MADE[name]["curves"]["plain"]
    counts = sorted(next((len(b[s]) / (i + 1) for i, v in enumerate(a[s]) if v <= b[s][-1]), 0.0) for s in b)
    middle = math.sqrt(counts[(len(counts) - 1) // 2] * counts[len(counts) // 2])
    shown = row[5].split(" ")[0]
    assert (0.0 if shown == "never" else float(shown[:-1])) == pytest.approx(middle, abs=6e-3)


def check_gaps(name: str, heads: list[str], row: list[str]) -> None:
    for cell, arm in zip(row[1:], ("guided", "plain", "strongest"), strict=True):
        [c, *_] = [c for c in MADE[name]["confirm"]["comparisons"] if arm in (c["first"], c["second"])]
        assert float(cell) == pytest.approx(c["gaps"][0 if c["first"] == arm else 1], rel=1e-3)


def check_probes(name: str, heads: list[str], row: list[str]) -> None:
    for cell, arm in zip(row[2:], heads[2:], strict=True):
        values = [*MADE[name]["probe"][arm].values()]
        assert numbers(cell) == pytest.approx([np.mean(values), np.std(values, ddof=1)], abs=6e-5)


def check_resolution(name: str, heads: list[str], row: list[str]) -> None:
    a, b, sign = pairs(name, "guided", row[1])
    gains = sign * (a - b)
    expected = [len(gains), difference(gains).high, equivalent_within(gains), pairs_needed(gains, 0.01)]
    assert numbers(" ".join(row[2:])) == pytest.approx([*expected, *pairs_needed_range(gains, 0.01)], rel=1e-3)


def check_chosen(name: str, heads: list[str], row: list[str]) -> None:
    [best, *_] = MADE[name]["confirm"]["configurations"].values()
    strongest = next(r["hyperparameters"] for r in MADE[name]["confirm"]["rivals"] if r["arm"] == "strongest")
    assert int(row[1]) == len(MADE[name]["trials"])
    for cell, values in ((row[2], best), (row[3], strongest)):
        shown = re.findall(r"([\w.]+)=([^ `]+)", cell)
        assert len(shown) >= 2
        for key, value in shown:
            expected = values[key]
            if isinstance(expected, float):
                assert float(value) == pytest.approx(expected, rel=5e-3)
            else:
                assert value == str(expected)


def check_outcomes(name: str, heads: list[str], row: list[str]) -> None:
    wanted = dict(zip((f"guidance.{head}" for head in heads[:3]), row[:3], strict=True))
    group = [trial for trial in MADE[name]["trials"] if wanted.items() <= trial["hyperparameters"].items()]
    tags = Counter(trial["guidance"] for trial in group)
    counts = [sum(trial["outcome"] == "diverged" for trial in group), tags["inert"], tags["dominant"]]
    assert row[3:6] == [f"{count} of {len(group)}" for count in counts]
    values = [trial["value"] for trial in group if trial["outcome"] == "completed"]
    assert numbers(" ".join(row[6:])) == pytest.approx([np.median(values), max(values)], rel=1e-3)


def check_atlas(name: str, heads: list[str], row: list[str]) -> None:
    if "pooled" in row[0]:
        for place, second in ((2, "plain"), (5, "strongest")):
            *ends, tau = pooled(second)
            assert numbers(row[place]) == pytest.approx([100 * x for x in ends], abs=0.051)
            assert numbers(row[place + 1]) == pytest.approx([100 * tau], abs=0.051)
        return
    for place, second in ((2, "plain"), (5, "strongest")):
        (value, low, high, _), level = estimate(name, "guided", second)
        assert numbers(row[place]) == pytest.approx([100 * x / level for x in (value, low, high)], abs=0.051)


def dose_gain(name: str, strength: float) -> tuple[list[float], list[float], float, int]:
    """Returns a gain over lambda1 0 with its ends, the same in percent of the loss, the mean loss, and the pairs."""
    found = json.loads((FOLDER / f"{name}.json").read_text())
    finals = {(run["seed"], run["lambda1"]): -run["curve"][-1] for run in found["runs"] if len(run["curve"]) == 20}
    seeds = sorted({seed for seed, _ in finals})
    control, guided = (np.array([finals[seed, each] for seed in seeds]) for each in (0.0, strength))
    gain = difference(guided - control)
    ends = [gain.value, gain.low or 0, gain.high or 0]
    return ends, [100 * end / -control.mean() for end in ends], -guided.mean(), len(seeds)


def check_doses(name: str, heads: list[str], row: list[str]) -> None:
    gain, shares, loss, count = dose_gain(name, float(row[0]))
    assert numbers(row[2]) == pytest.approx([loss], rel=1e-3)
    assert int(row[1]) == count
    if float(row[0]):
        assert numbers(row[3]) == pytest.approx(gain, rel=6e-3)
        assert numbers(row[4]) == pytest.approx(shares, abs=0.051)


def check_searches(name: str, heads: list[str], row: list[str]) -> None:
    name = f"mnist-tuned-d08-search-{row[0]}"
    a, _, _ = pairs(name, "guided", "plain")
    [best, *_] = MADE[name]["confirm"]["configurations"].values()
    assert (int(row[1]), row[2].strip("`")) == (len(a), best["training.init"])
    assert numbers(row[3]) == pytest.approx([best["lambda1"]], rel=1e-3)
    check_gain(row[4], name, "plain")


def pooled(second: str) -> list[float]:
    """Returns mean, ends and tau of the studies of the built-in study in which all is tuned."""
    names = [name for name in BY_LABEL.values() if PLAN[name].study == "mnist-autoencoder-tuned"]
    both = [pairs(name, "guided", second)[:2] for name in names]
    effects = np.array([(b - a).mean() / b.mean() for a, b in both])
    variances = np.array([(b - a).var(ddof=1) / len(a) / b.mean() ** 2 for a, b in both])
    fixed = 1 / variances
    q = (fixed * (effects - np.average(effects, weights=fixed)) ** 2).sum()
    tau2 = max(0.0, (q - len(names) + 1) / (fixed.sum() - (fixed**2).sum() / fixed.sum()))
    weights = 1 / (variances + tau2)
    mean = np.average(effects, weights=weights)
    error = math.sqrt((weights * (effects - mean) ** 2).sum() / (len(names) - 1) / weights.sum())
    reach = t.ppf(0.975, len(names) - 1) * error
    return [mean, mean - reach, mean + reach, math.sqrt(tau2)]


CHECKS = {  # a head of the table -> what recomputes its rows; the first that fits
    "metric": check_gains,
    "target": check_speedups,
    "gain excluded above": check_resolution,
    "the guided network": check_chosen,
    "networks of each": check_probes,
    "the other": check_others,
    "gain over 0": check_doses,
    "diverged": check_outcomes,
    "gap of the plain": check_gaps,
    "initialisation": check_searches,
    "over plain": check_atlas,
}


@pytest.mark.parametrize("place", range(len(ROWS)))
def test_a_row_is_recomputed(place: int) -> None:
    part, heads, row = ROWS[place]
    if row[1].startswith("not run yet"):
        pytest.skip("no number")
    studies = PARTS[part]
    check = next(CHECKS[head] for head in CHECKS if head in heads)
    check(studies.get("", studies.get(row[0], "")), heads, row)


def test_the_numbers_of_the_prose_are_recomputed() -> None:
    prose = re.sub(r"\s+", " ", "\n".join(line for line in PAGE.splitlines() if not line.startswith("|")))
    gain, level = estimate("mnist-guidance-d08", "guided", "plain")
    expected = {second: [100 * x for x in pooled(second)] for second in ("plain", "strongest")}
    for words, found in (
        ("its gain over its own plain control is", expected["plain"][:3]),
        ("over the strongest control", expected["strongest"][:3]),
        ("by a standard deviation of", [expected["plain"][3], expected["strongest"][3]]),
        ("guidance does help, by", [100 * x / level for x in gain[:3]]),
    ):
        after = prose[prose.index(words) + len(words) :]
        assert numbers(after[:60])[: len(found)] == pytest.approx(found, abs=0.051), words
    # Fieller's interval holds the ratios r for which the mean of placebo - r guided is not told from 0.
    plain = pairs("mnist-guidance-d08", "guided", "plain")[1]
    guided, placebo = (plain - pairs("mnist-guidance-d08", arm, "plain")[0] for arm in ("guided", "placebo"))
    ratios = np.linspace(0.5, 2, 15_001)
    kept = ratios[ttest_1samp(placebo - ratios[:, None] * guided, 0, axis=1).pvalue >= 0.05]
    share = [100 * placebo.mean() / guided.mean(), 100 * kept[0], 100 * kept[-1]]
    for shown in re.findall(r"(\d+% \[\d+%, \d+%\])", prose):
        assert numbers(shown) == pytest.approx(share, abs=0.51)
    shown = prose.partition("the more the stronger it is: at `lambda1` 0.01 ")[2].partition(" at 16.")[0]
    shares = [x for name in ("dose-d08", "dose-d16") for x in dose_gain(name, 0.01)[1]]
    assert numbers(shown.replace(" at 8 layers", "")) == pytest.approx(shares, abs=0.051)
    values = np.array([trial["value"] for trial in MADE["space"]["trials"]])
    squares = np.sort((values - values.mean()) ** 2)
    assert (
        f"4 of {len(values)} networks, which had collapsed and carried {squares[-4:].sum() / squares.sum():.0%}"
        in prose
    )


def test_the_shares_of_the_whole_space_are_those_of_polynomials() -> None:
    """The share of a hyperparameter alone is the adjusted R2 of a cubic in it, where no other one goes with it."""
    points: dict[str, list[float]] = {}
    for trial in MADE["space-seeds"]["trials"]:
        if trial["outcome"] == "completed":
            points.setdefault(json.dumps(trial["hyperparameters"]), []).append(trial["value"])
    inputs, values = [json.loads(point) for point in points], np.array([np.mean(each) for each in points.values()])
    said = MADE["space-seeds"]["sensitivity"]
    assert said.strip() in PAGE
    for name in ("training.lr", "depth", "lambda1", "epsilon", "width"):
        x = np.array([point[name] if name == "depth" else math.log(point[name]) for point in inputs], float)
        rows = np.vander((x - x.mean()) / x.std(), 2 if name == "width" else 4)
        left = values - rows @ np.linalg.lstsq(rows, values, rcond=None)[0]
        share = 1 - left @ left / (len(values) - rows.shape[1]) / values.var(ddof=1)
        [(_, low, high)] = re.findall(rf"^ *{name} +([\d.]+) \[([\d.]+), ([\d.]+)\]", said, re.MULTILINE)
        assert float(low) - 0.05 <= share <= float(high) + 0.05, (name, share)
    noise = np.mean([np.var(each, ddof=1) for each in points.values() if len(each) > 1]) / values.var(ddof=1)
    [shown] = re.findall(r"noise: one point on several seeds +([\d.]+)", said)
    assert float(shown) == pytest.approx(noise, abs=0.01)


def test_the_counts_are_those_of_the_map() -> None:
    rows = [row for _, heads, row in ROWS if heads[:3] == ["study", "pairs", "over plain"] and "pooled" not in row[0]]
    assert f"In {len(rows)} distinct studies" in PAGE
    for place, control in ((3, "plain"), (6, "strongest")):
        found = Counter(row[place] for row in rows)
        said = f"better in {found['better']}, no difference shown in {found['not shown']}, worse in {found['worse']}"
        assert f"against its **{control}** control: {said}" in PAGE.replace(
            "against the **strongest**", "against its **strongest**"
        )


@pytest.mark.parametrize(
    ("page", "begins", "ends"),
    [
        ("README.md", "**The paper's claims**", "## Beside others"),
        ("losses/README.md", "## Does it help?", "## The math"),
    ],
)
def test_the_numbers_of_a_readme_are_those_of_the_page(page: str, begins: str, ends: str) -> None:
    readme, results = (re.sub(r"\s+", " ", text) for text in ((ROOT / page).read_text(), PAGE))
    claims = readme.partition(begins)[2].partition(ends)[0]
    shown = re.findall(r"[-+]?[\d.]+[x%] \[[^\]]+\]", claims)
    assert len(shown) >= 4
    assert [number for number in shown if number not in results] == []
    [counted] = re.findall(r"better in \d+, no difference shown in \d+, worse in \d+", claims)
    assert f"against the **strongest** control: {counted}" in results
    [studies] = re.findall(r"in (\d+) distinct studies", claims)
    assert f"In {studies} distinct studies" in results
