"""The dose-response of guidance on top of the strongest control: its table and its sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sweep.analysis.paired_comparison import PairedComparison, apply_holm, compare_pairs
from sweep.analysis.paired_tests import ALPHA, equivalence, holm_p
from sweep.config.sections import Objective

from .judging import Evidence, members, relative
from .markdown import Tables, interval, number, pairs_of, percent, table

MARGIN = 0.02  # share of the control's loss within which two networks are called equal


@dataclass(frozen=True)
class Response:
    """One strength of guidance against none, on the same seeds.

    Attributes:
        lambda1: the strength.
        pair: the comparison; its p-values are corrected over the strengths.
        p_equal: p-value of two one-sided tests that both are equal within ``MARGIN``, corrected likewise.
    """

    lambda1: float
    pair: PairedComparison
    p_equal: float


def responses(found: Evidence, study: Evidence) -> list[Response]:
    """Returns the comparisons of all strengths with lambda1 0, weakest first.

    Args:
        found: the evidence of the dose-response.
        study: the evidence of the study whose strongest control is guided.
    """
    objective, epochs = (
        Objective.model_validate(study["config"]["objective"]),
        study["config"]["training"]["max_epochs"],
    )
    curves: dict[float, dict[int, list[float]]] = {}
    for run in found["runs"]:
        curves.setdefault(run["lambda1"], {})[run["seed"]] = run["curve"]
    runs = {dose: members(each, objective, epochs=epochs, constant=study["constant"]) for dose, each in curves.items()}
    control, doses = runs[0.0], sorted(dose for dose in runs if dose)
    pairs = apply_holm(
        [compare_pairs(i, ("guided", "plain"), (runs[d], control), objective) for i, d in enumerate(doses)]
    )
    equal = holm_p([equivalence(c.final.values, MARGIN * relative(c, objective.direction)) for c in pairs])
    return [Response(dose, c, p) for dose, c, p in zip(doses, pairs, equal, strict=True)]


class DoseTables(Tables):
    """The functions of the template on dose-responses."""

    def whole(self) -> Mapping[str, list[Response]]:
        """Returns the dose-responses that have all their runs."""
        return {name: responses(found, self.made[self.doses[name].strongest_of]) for name, found in self.dosed.items()}

    def response(self, name: str) -> str:
        """Returns the table of one dose-response."""
        if name not in self.dosed:
            return f"Not finished, so nothing is shown yet: `python -m tests.evidence {name}`"
        found, direction = self.whole()[name], self._direction(self.doses[name].strongest_of)
        lines = [["0", str(self.doses[name].seeds), number(found[0].pair.final_means[1]), *["-"] * 4]]
        for each in found:
            c, equal = each.pair, "yes" if each.p_equal < ALPHA else "not shown"
            gain = interval(c.final.value, c.final.low, c.final.high, "+.3g")
            cells = [number(c.final_means[0]), gain, percent(c, direction), c.verdict, f"{equal}, p {each.p_equal:.2g}"]
            lines.append([f"{each.lambda1:g}", pairs_of(c), *cells])
        heads = ["lambda1", "pairs", "loss", "gain over 0", "in percent", "", f"equal within {MARGIN:.0%}"]
        return table(heads, lines)

    def response_in_percent(self, name: str, strength: float) -> str:
        """Returns the gain of one strength over none, in percent of the loss, with its interval."""
        if name not in self.dosed:
            return "not finished"
        [found] = (each for each in self.whole()[name] if each.lambda1 == strength)
        return percent(found.pair, self._direction(self.doses[name].strongest_of))
