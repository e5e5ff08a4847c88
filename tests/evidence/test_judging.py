"""Pairs judged anew from their stored curves, copies, collapse, and verdicts over studies."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ttest_1samp

from .gathering import Entry, read_plan
from .judging import comparisons, distinct, merged, verdicts

PLAN = read_plan()
MADE = {name: entry for name, entry in PLAN.items() if entry.path.exists()}
PAIRED = {name: entry for name, entry in MADE.items() if entry.read()["confirm"]}


def ends(evidence: dict[str, Any], arm: str) -> np.ndarray[Any, Any]:
    curves = evidence["curves"][arm]
    return np.array([curves[seed][-1] for seed in sorted(curves)])


@pytest.mark.parametrize("entry", PAIRED.values(), ids=PAIRED)
def test_the_curves_hold_the_pairs_that_the_command_printed(entry: Entry) -> None:
    evidence = entry.read()
    sign = -1 if evidence["confirm"]["direction"] == "minimize" else 1
    for c in evidence["confirm"]["comparisons"]:
        first, second = (evidence["curves"][c[side]] for side in ("first", "second"))
        gains = [sign * (first[str(seed)][-1] - second[str(seed)][-1]) for seed in c["seeds"]]
        assert c["final"]["values"] == pytest.approx(gains, abs=1e-12)


def test_a_copy_counts_once() -> None:
    evidence = MADE["mnist-tuned-d08"].read()
    again = copy.deepcopy(evidence)
    again["trials"][3]["value"] *= 1 + 1e-9  # another version of the libraries
    other = copy.deepcopy(evidence)
    other["trials"][3]["value"] *= 1.01
    assert distinct({"one": evidence, "copy": again, "other": other}) == ["one", "other"]
    made = {name: entry.read() for name, entry in MADE.items()}
    assert distinct(made) == list(made)


def test_a_dead_network_is_counted_and_gives_no_gain() -> None:
    evidence = PAIRED["cifar10-cnn-d10"].read()
    dead = [seed for seed, curve in evidence["curves"]["guided"].items() if curve[-1] < 0.12]
    assert dead == ["10003"]
    c = comparisons(evidence)["guided", "plain"]
    rest = [s for s in sorted(evidence["curves"]["plain"]) if s not in dead]
    gains = np.array([evidence["curves"]["guided"][s][-1] - evidence["curves"]["plain"][s][-1] for s in rest])
    assert (c.collapsed, len(c.seeds)) == ((1, 0), 7)
    assert c.final.value == pytest.approx(gains.mean())
    assert c.final.p == pytest.approx(ttest_1samp(gains, 0).pvalue)
    assert abs(c.final.value) < 0.002, "0.036 with it"


def test_arms_that_are_one_network_are_found() -> None:
    assert comparisons(PAIRED["cifar10-cnn-d10"].read())["guided", "strongest"].same_as == "plain"
    assert comparisons(PAIRED["mnist-tuned-d08"].read())["guided", "dropout"].same_as == "plain"
    assert comparisons(PAIRED["mnist-tuned-d08"].read())["guided", "he"].same_as is None


def test_a_verdict_over_studies_passes_both_corrections() -> None:
    found = {name: comparisons(entry.read())["guided", "plain"] for name, entry in PAIRED.items()}
    ps = false_discovery_control([c.final.p_holm for c in found.values()])
    judged = verdicts(found)
    for (name, c), p in zip(found.items(), ps, strict=True):
        verdict = "not shown" if p >= 0.05 else "better" if c.final.value > 0 else "worse"
        assert judged[name] == (verdict, pytest.approx(p))
    assert {verdict for verdict, _ in judged.values()} == {"better", "not shown"}


def test_the_first_confirmation_of_a_study_has_precedence() -> None:
    first = {
        "rivals": [{"arm": "strongest", "number": 1}],
        "comparisons": [{"number": 3, "first": "guided", "second": "plain", "seeds": [1, 2]}],
    }
    second = {
        "rivals": [{"arm": "strongest", "number": 2}, {"arm": "he", "number": 3}],
        "comparisons": [
            {"number": 3, "first": "guided", "second": "plain", "seeds": [1]},
            {"number": 3, "first": "guided", "second": "he", "seeds": [1]},
        ],
    }
    whole = merged([first, second])
    assert whole is not None
    assert [(rival["arm"], rival["number"]) for rival in whole["rivals"]] == [("strongest", 1), ("he", 3)]
    assert [(c["second"], len(c["seeds"])) for c in whole["comparisons"]] == [("plain", 2), ("he", 1)]
    assert merged([]) is None
