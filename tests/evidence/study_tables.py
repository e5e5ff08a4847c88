"""Tables of many studies together: counts, the pooled gain, the dose-response, and where all of it comes from."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sweep.analysis.paired_comparison import PairedComparison
from sweep.study.provenance import code_tags

from .judging import distinct, relative, verdicts
from .markdown import Tables, gain, interval, number, pairs_of, percent, table
from .pooling import Pooled, random_effects

WORDS = {"better": "better in", "not shown": "no difference shown in", "worse": "worse in"}
TUNED = "mnist-autoencoder-tuned"  # built-in study in which guided networks and controls are tuned alike


class StudyTables(Tables):
    """The functions of the template on all studies."""

    def paired(self) -> dict[str, str]:
        """Returns the distinct studies with pairs, each a question of its own: label -> name."""
        return {
            self.plan[name].label: name
            for name in distinct(self.made)
            if name in self.pairs and self.plan[name].group is None
        }

    def studies(self) -> str:
        """Returns the number of distinct studies with pairs."""
        return str(len(self.paired()))

    def _over(self, second: str) -> dict[str, PairedComparison]:
        """Returns the guided network's comparison with one arm in each study that has it as a network of its own."""
        found = {name: self.pairs[name].get(("guided", second)) for name in self.paired().values()}
        return {name: c for name, c in found.items() if c is not None and c.same_as is None}

    def count(self, second: str) -> str:
        """Returns the numbers of studies in which the guided network was better, not shown to differ, and worse."""
        counted = Counter(verdict for verdict, _ in verdicts(self._over(second)).values())
        return ", ".join(f"{word} {counted[verdict]}" for verdict, word in WORDS.items())

    def one_network(self) -> list[str]:
        """Returns the names of studies whose strongest control is the plain one."""
        return [name for name in self.paired().values() if self.pairs[name]["guided", "strongest"].same_as == "plain"]

    def behind(self) -> list[str]:
        """Returns the names of studies whose strongest control was worse than the plain one on the test set."""
        found = {name: self.pairs[name]["strongest", "plain"] for name in self.paired().values()}
        return [name for name, c in found.items() if c.same_as is None and c.final.value < 0]

    def pooled(self, second: str) -> str:
        """Returns the pooled gain of the studies in which all is tuned, in percent."""
        found = self._pooled(second)
        return interval(found.value, found.low, found.high, "+.1%")

    def tau(self, second: str) -> str:
        """Returns the standard deviation of the true gains of these studies, in percent."""
        return f"{self._pooled(second).tau:.1%}"

    def tuned(self) -> dict[str, str]:
        """Returns the studies that are pooled: label -> name."""
        return {label: name for label, name in self.paired().items() if self.plan[name].study == TUNED}

    def _pooled(self, second: str) -> Pooled:
        found = self._over(second)
        return _pool([(found[name], self._direction(name)) for name in self.tuned().values() if name in found])

    def atlas(self) -> str:
        """Returns all distinct studies with pairs, the gains over both controls, and the pooled ones."""
        judged = {second: verdicts(self._over(second)) for second in ("plain", "strongest")}

        def line(name: str) -> list[str]:
            cells = [pairs_of(self.pairs[name]["guided", "plain"])]
            for second in judged:
                c = self.pairs[name]["guided", second]
                verdict, p = judged[second].get(name, (f"the same network as {c.same_as}", None))
                cells += [percent(c, self._direction(name)), verdict, number(p)]
            return cells

        heads = ["study", "pairs", "over plain", "", "p", "over strongest", "", "p"]
        whole = ["**all tuned, pooled**", f"{len(self.tuned())} studies"]
        for second in judged:
            whole += [f"**{self.pooled(second)}**", f"tau {self.tau(second)}", ""]
        return self._table(heads, self.paired(), line) + "\n| " + " | ".join(whole) + " |"

    # -- searches as units ---------------------------------------------------------------------------------------------

    def searches(self, group: str) -> str:
        """Returns the searches of one question that differ in their seed, and the mixed model over them."""
        names = [name for name, entry in self.plan.items() if entry.group == group]
        if missing := [name for name in names if name not in self.made]:
            return f"{len(names) - len(missing)} of {len(names)} searches have run: {self._missing(group)}"

        def line(name: str) -> list[str]:
            c = self.pairs[name]["guided", "plain"]
            [best, *_] = self.made[name]["confirm"]["configurations"].values()
            return [pairs_of(c), f"`{best['training.init']}`", number(best["lambda1"]), gain(c)]

        heads = ["seed of the search", "pairs", "initialisation", "lambda1", "gain over plain"]
        lines = self._table(heads, {self.made[name]["config"]["training"]["seed"]: name for name in names}, line)
        found = {second: self._of_searches(names, second) for second in ("plain", "strongest")}
        said = [
            f"over {second} {interval(each.value, each.low, each.high, '+.1%')}, tau {each.tau:.1%}"
            for second, each in found.items()
        ]
        return f"{lines}\n\nMixed model, searches as random effects: {'; '.join(said)}."

    def _of_searches(self, names: Iterable[str], second: str) -> Pooled:
        """Returns the mixed model: the spread of pairs is one for all searches."""
        return _pool([(self.pairs[name]["guided", second], self._direction(name)) for name in names], one_spread=True)

    # -- trials of a search --------------------------------------------------------------------------------------------

    def outcomes(self, name: str, *by: str) -> str:
        """Returns counts of diverged, inert and dominant trials, and values of completed ones, by hyperparameters."""
        if name not in self.made:
            return self._missing(name)
        groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
        worst = min if self.made[name]["config"]["objective"]["direction"] == "maximize" else max
        for trial in self.made[name]["trials"]:
            groups[tuple(str(trial["hyperparameters"].get(key)) for key in by)].append(trial)
        lines = []
        for values, trials in sorted(groups.items()):
            tagged = Counter(trial["guidance"] for trial in trials)
            diverged = sum(trial["outcome"] == "diverged" for trial in trials)
            levels = [trial["value"] for trial in trials if trial["outcome"] == "completed"]
            spread = [number(statistics.median(levels)), number(worst(levels))] if levels else ["-", "-"]
            counts = [f"{n} of {len(trials)}" for n in (diverged, tagged["inert"], tagged["dominant"])]
            lines.append([*values, *counts, *spread])
        heads = [*(key.rpartition(".")[2] for key in by), "diverged", "inert", "dominant", "median", "worst completed"]
        return table(heads, lines)

    def influence(self, name: str, count: int) -> str:
        """Returns the share of the variance over a study's trials that the worst ``count`` of them carry."""
        values = np.array([trial["value"] for trial in self.made[name]["trials"] if trial["value"] is not None])
        squares = np.sort((values - values.mean()) ** 2)
        return f"{squares[-count:].sum() / squares.sum():.0%}"

    def sensitivity(self, name: str) -> str:
        """Returns the output of `sweep sensitivity` on a study."""
        said = self.made.get(name, {}).get("sensitivity")
        return f"```\n{said.strip()}\n```" if said else self._missing(name)

    # -- where it comes from -------------------------------------------------------------------------------------------

    def origin(self) -> str:
        """Returns versions, commits and hardware of all evidence."""
        whole = [*self.made.values(), *self.dosed.values()]
        codes = {tuple(sorted(code_tags(code).items())) for each in whole for code in each["code"]}
        by_key: dict[str, set[str]] = defaultdict(set)
        for key, value in (pair for code in codes for pair in code):
            dirty = "-dirty" * value.endswith("-dirty")
            by_key[key.removeprefix("sweep.").removeprefix("version.")].add(value[:12].removesuffix(dirty) + dirty)
        hardware = [each["hardware"] for found in whole for each in found.get("runs", [found])]
        machines = {f"{h['cores']} cores of {h['processor']}, GPU {h['gpu'] or 'none'}" for h in hardware}
        return "; ".join(
            [*(f"{key} {' and '.join(sorted(v))}" for key, v in sorted(by_key.items())), *sorted(machines)]
        )

    def hours(self) -> str:
        """Returns the hours of training that all evidence took."""
        of_studies = sum(evidence["hours"] for evidence in self.made.values())
        of_doses = sum(run["seconds"] for found in self.dosed.values() for run in found["runs"]) / 3600
        return f"{of_studies + of_doses:.1f} hours of training, two at a time"

    def commands(self) -> str:
        """Returns the commands of every entry, and the state of its evidence."""
        blocks = []
        for name, entry in self.plan.items():
            state = f"{self.made[name]['hours'] * 60:.0f} minutes of training" if name in self.made else "not run yet"
            commands = self.made[name]["commands"] if name in self.made else map(" ".join, entry.commands())
            note = [f"# {said}"] if (said := self.made.get(name, {}).get("note")) else []
            blocks.append("\n".join([f"# {name}: {state}", *(f"sweep {words}" for words in commands), *note]))
        return "```\n" + "\n".join(blocks) + "\n```"


def _pool(found: Iterable[tuple[PairedComparison, str]], *, one_spread: bool = False) -> Pooled:
    """Pools gains as shares of the second arm's loss; with ``one_spread`` all share the mean variance of a pair."""
    shares = [np.array(c.final.values) / relative(c, direction) for c, direction in found]
    spreads = [float(each.var(ddof=1)) for each in shares]
    if one_spread:
        spreads = [statistics.fmean(spreads)] * len(spreads)
    sizes = [len(each) for each in shares]
    return random_effects([float(each.mean()) for each in shares], [s / n for s, n in zip(spreads, sizes, strict=True)])
