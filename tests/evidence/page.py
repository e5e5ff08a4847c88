"""Writes ``losses/RESULTS.md`` from the evidence: the template has the prose, this module fills in every number."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from sweep.analysis.formats import format_params
from sweep.analysis.paired_tests import pairs_needed
from sweep.study.provenance import code_tags

from .drawing import draw
from .gathering import FOLDER, Entry

ROOT = Path(__file__).parents[2]
TEMPLATE = FOLDER / "RESULTS.md.j2"
PAGE = ROOT / "losses" / "RESULTS.md"
CURVES = ROOT / ".github" / "figures" / "guidance-curves.png"

Evidence = Mapping[str, Any]
"""The evidence of one entry, see `gathering.evidence`; also a part of it."""


def write(plan: Mapping[str, Entry]) -> None:
    """Writes the page and its figure from the evidence that exists."""
    made = {entry.name: entry.read() for entry in plan.values() if entry.path.exists()}
    draw(made, CURVES)
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = Page(made, plan)
    called = {name: getattr(page, name) for name in vars(Page) if name[0] != "_"}
    PAGE.write_text(environment.from_string(TEMPLATE.read_text()).render(called))


class Page:
    """The functions of the template; each returns Markdown.

    The argument ``rows`` maps the label of a row to the name of an entry of the plan; ``of`` heads the labels.
    """

    def __init__(self, made: Mapping[str, Evidence], plan: Mapping[str, Entry]):
        self._made, self._plan = made, plan

    # -- pairs -------------------------------------------------------------------------------------------------------

    def gains(self, of: str, rows: Mapping[Any, str], *rivals: str) -> str:
        """Returns means on the test set, and gains over each control with 95 % intervals."""
        seconds = ("plain", *(rivals or ("strongest",)))
        heads = [of, "pairs", "metric", "guided"]
        for second in seconds:
            heads += [second, f"gain over {second}"]

        def line(evidence: Evidence) -> list[str]:
            found = comparisons(evidence)
            first = found["guided", "plain"]
            cells = [str(len(first["seeds"])), f"`{evidence['confirm']['metric']}`", number(first["levels"][0])]
            for second in seconds:
                c = found.get(("guided", second))
                cells += ["-", "-"] if c is None else [number(c["levels"][1]), f"{gain(c['final'])} {c['verdict']}"]
            return cells

        return self._table(heads, rows, line)

    def gaps(self, of: str, rows: Mapping[Any, str]) -> str:
        """Returns how much better the metric of each arm is on the training set than on the test set."""
        arms = ("guided", "plain", "strongest")

        def line(evidence: Evidence) -> list[str]:
            found = comparisons(evidence)
            of_arm = {"guided": found["guided", "plain"]["gaps"][0]}
            of_arm |= {arm: c["gaps"][1] for arm in arms[1:] if (c := found.get(("guided", arm)))}
            return [number(of_arm.get(arm)) for arm in arms]

        return self._table([of, *(f"gap of the {arm}" for arm in arms)], rows, line)

    def speedups(self, of: str, rows: Mapping[Any, str]) -> str:
        """Returns median speed-ups with 95 % intervals, in epochs and in seconds."""
        heads = [of, "guided over plain, epochs", "seconds", "guided over strongest", "strongest over plain"]

        def line(evidence: Evidence) -> list[str]:
            found = comparisons(evidence)
            parts = [
                ("guided", "plain", "speedup"),
                ("guided", "plain", "speedup_seconds"),
                ("guided", "strongest", "speedup"),
                ("strongest", "plain", "speedup"),
            ]
            return [speedup(found[a, b][part]) if (a, b) in found else "-" for a, b, part in parts]

        return self._table(heads, rows, line)

    def resolution(self, of: str, rows: Mapping[Any, str], *, difference: float) -> str:
        """Returns the resolution of the pairs: half-width of the interval, and pairs needed for a difference."""
        heads = [of, "second", "pairs", "half-width of the interval", "spread of the pairs", "pairs needed"]
        lines = []
        for label, name in rows.items():
            if name not in self._made:
                lines.append([str(label), self._missing(name), *[""] * (len(heads) - 2)])
            for (first, second), c in comparisons(self._made.get(name, {})).items():
                final = c["final"]
                if first == "guided" and final["low"] is not None:
                    cells = [number((final["high"] - final["low"]) / 2), number(statistics.stdev(final["values"]))]
                    needed = pairs_needed(final["values"], difference)
                    lines.append([str(label), second, str(len(c["seeds"])), *cells, str(needed or "-")])
        return table(heads, lines)

    def chosen(self, of: str, rows: Mapping[Any, str]) -> str:
        """Returns the best configurations of the searches: the guided network and the strongest control."""
        heads = [of, "trials", "the guided network", "the strongest control"]

        def line(evidence: Evidence) -> list[str]:
            confirmation = evidence["confirm"]
            [best] = list(confirmation["configurations"].values())[:1]
            strongest = next(r for r in confirmation["rivals"] if r["arm"] == "strongest")
            own = {k: v for k, v in strongest["hyperparameters"].items() if k.startswith("training.")}
            return [str(len(evidence["trials"])), f"`{format_params(best)}`", f"`{format_params(own)}`"]

        return self._table(heads, rows, line)

    def count(self, second: str) -> str:
        """Returns the numbers of studies in which the guided network was better, not shown to differ, and worse."""
        verdicts = Counter(
            c["verdict"]
            for evidence in self._made.values()
            for (first, other), c in comparisons(evidence).items()
            if (first, other) == ("guided", second)
        )
        words = {"better": "better in", "not shown": "no difference shown in", "worse": "worse in"}
        return ", ".join(f"{word} {verdicts[verdict]}" for verdict, word in words.items())

    def whole_speedup(self, name: str) -> str:
        """Returns the speed-up by the paper's count: all epochs of the plain control over those of the guided one."""
        c = comparisons(self._made.get(name, {})).get(("guided", "plain"))
        return self._missing(name) if c is None else speedup(c["speedup_whole"])

    def behind(self) -> list[str]:
        """Returns the names of studies whose strongest control was worse than the plain one on the test set."""
        found = {name: comparisons(self._made[name]).get(("strongest", "plain")) for name in self.paired().values()}
        return [name for name, c in found.items() if c and (c["final"]["value"] or 0.0) < 0]

    def paired(self) -> dict[str, str]:
        """Returns the studies with pairs: label -> name."""
        return {self._plan[name].label: name for name, evidence in self._made.items() if evidence["confirm"]}

    def studies(self) -> str:
        """Returns the number of studies with pairs."""
        return str(len(self.paired()))

    def atlas(self) -> str:
        """Returns all studies with pairs, and the gains over both controls."""

        def line(evidence: Evidence) -> list[str]:
            found, cells = comparisons(evidence), []
            for second in ("plain", "strongest"):
                c = found.get(("guided", second))
                cells += [percent(c), c["verdict"] if c else "-"]
            return [str(len(found["guided", "plain"]["seeds"])), *cells]

        return self._table(["study", "pairs", "over plain", "", "over strongest", ""], self.paired(), line)

    # -- trials of the search ------------------------------------------------------------------------------------------

    def outcomes(self, name: str, *by: str) -> str:
        """Returns counts of diverged, inert and dominant trials, and values of completed ones, by hyperparameters."""
        groups: dict[tuple[str, ...], list[Evidence]] = defaultdict(list)
        worst = (
            min if name in self._made and self._made[name]["config"]["objective"]["direction"] == "maximize" else max
        )
        for trial in self._made.get(name, {}).get("trials", ()):
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
        return table(heads, lines) if lines else self._missing(name)

    def evenness(self, rows: Mapping[Any, str]) -> str:
        """Returns rank correlations between the objective and the evenness of entropy over filters."""
        from scipy.stats import spearmanr

        def line(evidence: Evidence) -> list[str]:
            sign = 1 if evidence["config"]["objective"]["direction"] == "maximize" else -1
            trials = [t for t in evidence["trials"] if t.get("log_tap_spread") is not None and t["value"] is not None]
            spreads = [t["log_tap_spread"] for t in trials]
            ranked = sorted(zip((sign * t["value"] for t in trials), spreads, strict=True))
            half = len(ranked) // 2
            if half == 0:
                return [str(len(trials)), "-", "-", "-"]
            found = spearmanr([sign * t["value"] for t in trials], spreads)
            bad, good = (statistics.mean(s for _, s in part) for part in (ranked[:half], ranked[-half:]))
            return [str(len(trials)), f"{good:.3f}", f"{bad:.3f}", f"{found.statistic:+.2f}"]

        heads = [
            "study",
            "completed trials",
            "spread of log abs c11, better half",
            "worse half",
            "rank correlation",
        ]
        return self._table(heads, rows, line)

    def sensitivity(self, name: str) -> str:
        """Returns the output of `sweep sensitivity` on a study."""
        said = self._made.get(name, {}).get("sensitivity")
        return f"```\n{said.strip()}\n```" if said else self._missing(name)

    def probes(self, of: str, rows: Mapping[Any, str]) -> str:
        """Returns the test accuracy of a linear probe on the codes, mean and standard deviation over seeds."""
        arms = ("guided", "plain", "strongest")

        def line(evidence: Evidence) -> list[str]:
            by_arm = {arm: [*evidence["probe"][arm].values()] for arm in arms}
            means = [f"{statistics.mean(v):.4f} ± {statistics.stdev(v):.4f}" for v in by_arm.values()]
            return [str(len(by_arm["guided"])), *means]

        return self._table([of, "networks of each", *arms], rows, line)

    # -- where it comes from -------------------------------------------------------------------------------------------

    def origin(self) -> str:
        """Returns versions, commits and hardware of all evidence."""
        codes = {tuple(sorted(code_tags(code).items())) for each in self._made.values() for code in each["code"]}
        by_key: dict[str, set[str]] = defaultdict(set)
        for key, value in (pair for code in codes for pair in code):
            dirty = "-dirty" * value.endswith("-dirty")
            by_key[key.removeprefix("sweep.").removeprefix("version.")].add(value[:12].removesuffix(dirty) + dirty)
        machines = {f"{h['cores']} cores of {h['processor']}, GPU {h['gpu'] or 'none'}" for h in self._hardware()}
        return "; ".join([*(f"{key} {' and '.join(sorted(v))}" for key, v in sorted(by_key.items())), *machines])

    def made_by(self, *commits: str) -> list[str]:
        """Returns the names of studies with pairs that ran at one of some commits, given by their first digits."""
        return [
            name
            for name in self.paired().values()
            if any(code_tags(code).get("sweep.git_commit", "").startswith(commits) for code in self._made[name]["code"])
        ]

    def hours(self) -> str:
        """Returns the hours of training that all evidence took."""
        each = {name: evidence["hours"] for name, evidence in self._made.items()}
        return f"{sum(each.values()):.1f} hours of training, two at a time, for {len(each)} studies"

    def commands(self) -> str:
        """Returns the commands of every entry, and the state of its evidence."""
        blocks = []
        for name, entry in self._plan.items():
            state = f"{self._made[name]['hours'] * 60:.0f} minutes of training" if name in self._made else "not run yet"
            commands = self._made[name]["commands"] if name in self._made else map(" ".join, entry.commands())
            blocks.append("\n".join([f"# {name}: {state}", *(f"sweep {words}" for words in commands)]))
        return "```\n" + "\n".join(blocks) + "\n```"

    def _hardware(self) -> Iterable[Mapping[str, Any]]:
        return [evidence["hardware"] for evidence in self._made.values()]

    def _table(self, heads: Sequence[str], rows: Mapping[Any, str], line: Callable[[Evidence], Sequence[str]]) -> str:
        lines = []
        for label, name in rows.items():
            there = name in self._made
            rest = line(self._made[name]) if there else [self._missing(name)]
            lines.append([str(label), *rest, *[""] * (len(heads) - 1 - len(rest))])
        return table(heads, lines)

    def _missing(self, name: str) -> str:
        long = " --long" if self._plan[name].long else ""
        return f"not run yet: `python -m tests.evidence {name}{long}`"


def comparisons(evidence: Evidence) -> dict[tuple[str, str], Evidence]:
    """Returns the comparisons of an entry's best configuration, by their arms; none if it has no pairs."""
    found: dict[tuple[str, str], Evidence] = {}
    confirmation = evidence.get("confirm") or {"comparisons": ()}
    for c in confirmation["comparisons"]:
        found.setdefault((c["first"], c["second"]), {**c, "direction": confirmation["direction"]})
    return found


def relative(c: Evidence) -> tuple[float | None, float | None, float | None]:
    """Returns a gain and its interval as shares of the second arm's loss, or of its error if accuracy is measured."""
    level = c["levels"][1] or 0.0
    scale = (level if c["direction"] == "minimize" else 1 - level) or 1.0
    value, low, high = (c["final"][part] for part in ("value", "low", "high"))
    return tuple(None if x is None else x / scale for x in (value, low, high))  # type: ignore[return-value]


def percent(c: Evidence | None) -> str:
    """Returns a gain and its interval in percent; a dash without pairs."""
    value, low, high = relative(c) if c else (None, None, None)
    interval = "" if low is None or high is None else f" [{low:+.0%}, {high:+.0%}]"
    return "-" if value is None else f"{value:+.0%}{interval}"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    rule = ["---"] * len(heads)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *lines))


def number(value: float | None) -> str:
    """Returns a number with four digits."""
    return "-" if value is None else f"{value:.4g}"


def gain(estimate: Evidence) -> str:
    """Returns a gain with its interval."""
    bounds = "" if estimate["low"] is None else f" [{estimate['low']:+.2g}, {estimate['high']:+.2g}]"
    return "-" if estimate["value"] is None else f"{estimate['value']:+.3g}{bounds}"


def speedup(estimate: Evidence) -> str:
    """Returns a speed-up with its interval; 0 is ``never``."""
    if estimate["value"] is None:
        return "-"
    value, *bounds = (f"{x:.2f}x" if x else "never" for x in (estimate["value"], estimate["low"], estimate["high"]))
    return value if not estimate["high"] else f"{value} [{', '.join(bounds)}]"  # no interval, or nothing but never
