"""Tables of pairs: the gains, speed-ups and resolution of single studies."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from sweep.analysis.formats import format_params
from sweep.analysis.paired_comparison import PairedComparison
from sweep.analysis.paired_tests import pairs_needed, pairs_needed_range

from .markdown import Tables, gain, interval, number, pairs_of, percent, speedup, table
from .pooling import fieller


class PairTables(Tables):
    """The functions of the template on pairs."""

    def gains(self, of: str, rows: Mapping[Any, str], *rivals: str) -> str:
        """Returns means on the test set, and gains over each control with 95 % intervals."""
        seconds = ("plain", *(rivals or ("strongest",)))
        heads = [of, "pairs", "metric", "guided"]
        for second in seconds:
            heads += [second, f"gain over {second}"]

        def line(name: str) -> list[str]:
            found = self.pairs[name]
            first = found["guided", "plain"]
            cells = [pairs_of(first), f"`{self.made[name]['confirm']['metric']}`", number(first.final_means[0])]
            for second in seconds:
                c = found.get(("guided", second))
                cells += ["-", "-"] if c is None else [number(c.final_means[1]), gain(c)]
            return cells

        return self._table(heads, rows, line)

    def gains_over(self, name: str, *seconds: str) -> str:
        """Returns the gains of one study over other methods, a row for each."""

        def line(c: PairedComparison) -> list[str]:
            return [pairs_of(c), *map(number, c.final_means), gain(c), percent(c, self._direction(name))]

        heads = ["over", "pairs", "guided", "the other", "gain", "in percent"]
        return table(heads, [[second, *line(self.pairs[name]["guided", second])] for second in seconds])

    def gain_in_percent(self, name: str, second: str = "plain") -> str:
        """Returns the gain of the guided network in percent."""
        return percent(self.pairs[name]["guided", second], self._direction(name))

    def level(self, name: str, arm: str) -> str:
        """Returns the mean accuracy of an arm on the test set."""
        return f"{self.pairs[name]['guided', arm].final_means[1]:.0%}"

    def placebo_share(self, name: str) -> str:
        """Returns the placebo's gain over the plain control as a share of guidance's, with Fieller's interval."""
        gains = [self.pairs[name][arm, "plain"].final.values for arm in ("placebo", "guided")]
        return interval(*fieller(*gains), ".0%")

    def gaps(self, of: str, rows: Mapping[Any, str]) -> str:
        """Returns how much better the metric of each arm is on the training set than on the test set."""
        arms = ("guided", "plain", "strongest")

        def line(name: str) -> list[str]:
            found = self.pairs[name]
            of_arm = {"guided": found["guided", "plain"].generalization_gaps[0]}
            of_arm |= {arm: found["guided", arm].generalization_gaps[1] for arm in arms[1:]}
            return [number(of_arm[arm]) for arm in arms]

        return self._table([of, *(f"gap of the {arm}" for arm in arms)], rows, line)

    def speedups(self, of: str, rows: Mapping[Any, str]) -> str:
        """Returns speed-ups in epochs to the target, and the paper's count."""
        parts = (("guided", "plain"), ("guided", "strongest"), ("strongest", "plain"))
        heads = [of, "target", *(f"{a} over {b}" for a, b in parts), "the paper's count, guided over plain"]

        def line(name: str) -> list[str]:
            found = self.pairs[name]
            cells = [speedup(found[part].speedup, found[part].never) for part in parts]
            first = found["guided", "plain"]
            return [number(first.target), *cells, speedup(first.speedup_whole)]

        return self._table(heads, rows, line)

    def resolution(self, of: str, rows: Mapping[Any, str], *, difference: float) -> str:
        """Returns the gains that pairs exclude, and the pairs needed for a difference, with their range."""
        heads = [
            of,
            "second",
            "pairs",
            "gain excluded above",
            "equal within",
            f"pairs for {difference:g}",
            "from",
            "to",
        ]
        lines = []
        for label, name in rows.items():
            if name not in self.made:
                lines.append([str(label), self._missing(name), *[""] * (len(heads) - 2)])
            for (first, second), c in self.pairs.get(name, {}).items():
                if first == "guided" and c.same_as is None and c.final.low is not None:
                    values = c.final.values
                    needed = (pairs_needed(values, difference), *pairs_needed_range(values, difference))
                    cells = [number(c.final.high), number(c.equivalent_within), *(str(n or "-") for n in needed)]
                    lines.append([str(label), second, str(len(c.seeds)), *cells])
        return table(heads, lines)

    def chosen(self, of: str, rows: Mapping[Any, str]) -> str:
        """Returns the best configurations of the searches: the guided network and the strongest control."""
        heads = [of, "trials", "the guided network", "the strongest control"]

        def line(name: str) -> list[str]:
            confirmation = self.made[name]["confirm"]
            [best, *_] = confirmation["configurations"].values()
            strongest = next(r for r in confirmation["rivals"] if r["arm"] == "strongest")
            own = {k: v for k, v in strongest["hyperparameters"].items() if k.startswith("training.")}
            return [str(len(self.made[name]["trials"])), f"`{format_params(best)}`", f"`{format_params(own)}`"]

        return self._table(heads, rows, line)

    def probes(self, of: str, rows: Mapping[Any, str]) -> str:
        """Returns the test accuracy of a linear probe on the codes, mean and standard deviation over seeds."""
        arms = ("guided", "plain", "strongest")

        def line(name: str) -> list[str]:
            by_arm = {arm: [*self.made[name]["probe"][arm].values()] for arm in arms}
            means = [f"{statistics.mean(v):.4f} ± {statistics.stdev(v):.4f}" for v in by_arm.values()]
            return [str(len(by_arm["guided"])), *means]

        return self._table([of, "networks of each", *arms], rows, line)
