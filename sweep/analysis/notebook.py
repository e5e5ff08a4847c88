"""Results as a notebook shows them: as tables (`pandas.DataFrame`), and as HTML below a cell."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from .sensitivity_text import interpretation, reliability, remarks

if TYPE_CHECKING:
    from .confirmation import Confirmation
    from .sensitivity_result import Analysis
    from .summary import Summary


def best_table(summary: Summary, trials: pd.DataFrame, top: int) -> pd.DataFrame:
    """Returns the best completed trials of a search, best first, with what is expected of them on a fresh seed.

    ``trials`` are the search trials of `trials_table`, by number.
    """
    rows, expected = summary.best[:top], summary.expected
    params = [name for name in trials.columns if name.removeprefix("params_") in summary.config.searched]
    table = trials.loc[[row.number for row in rows], ["value", *params, "epochs"]]
    table["value"] = [row.value for row in rows]  # the mean of a configuration on several seeds
    if any(row.values for row in rows):
        table.insert(1, "seeds", [max(1, len(row.values)) for row in rows])
    if expected:
        position = len(table.columns) - len(params) - 1
        table.insert(position, "on_fresh_seeds", [expected[row.number].value for row in rows])
        table.insert(position + 1, "fresh_seeds", [expected[row.number].seeds for row in rows])
    return table


def indices_table(analysis: Analysis) -> pd.DataFrame:
    """Returns the indices by hyperparameter, the largest first, with the ends of their intervals."""
    ranked = sorted(analysis.parameters.items(), key=lambda item: -item[1].total)
    index = pd.Index([name for name, _ in ranked], name="hyperparameter")
    if analysis.dependent:
        effects = [[i.total, *i.total_ci] for _, i in ranked]
        return pd.DataFrame(effects, index, ["shapley", "shapley_low", "shapley_high"], dtype=float)
    values = [[i.first, *i.first_ci, i.total, *i.total_ci] for _, i in ranked]
    columns = ["first", "first_low", "first_high", "total", "total_low", "total_high"]
    return pd.DataFrame(values, index, columns, dtype=float)


def pairs_table(confirmation: Confirmation) -> pd.DataFrame:
    """Returns the comparisons of pairs, one row each."""
    rows = [
        {
            "trial": c.number,
            "first": c.first,
            "second": c.second,
            "pairs": len(c.seeds),
            "mean_first": c.final_means[0],
            "mean_second": c.final_means[1],
            "gain": c.final.value,
            "gain_low": c.final.low,
            "gain_high": c.final.high,
            "p_holm": c.final.p_holm,
            "first_is": c.verdict if c.same_as is None else f"the same as {c.same_as}",
        }
        for c in confirmation.comparisons
    ]
    return pd.DataFrame(rows)


def summary_html(summary: Summary, best: pd.DataFrame) -> str:
    """Returns the counts of a study, its best trials, and the verdicts on its finalists."""
    metric = summary.config.objective.metric
    title = f"Best of the search; value is {metric}" if len(best) else "No trial has completed."
    return _section(f"{summary.config.name}: {summary.counted}", [title], best, summary.verdicts)


def analysis_html(analysis: Analysis) -> str:
    """Returns the reliability of an analysis, its indices and their meaning, or the reason of a refusal."""
    at = "" if analysis.epoch is None else f", epoch {analysis.epoch}"
    title = f"Sensitivity of {analysis.objective} in {analysis.study}{at}"
    left_out = [f"{name} is left out: {why}" for name, why in analysis.left_out.items()]
    before, after = [reliability(analysis), *remarks(analysis)], [*left_out, interpretation(analysis)]
    found = _section(title, before, indices_table(analysis), after)
    return found + "".join(analysis_html(each) for each in (analysis.divergence, analysis.collapse) if each)


def confirmation_html(confirmation: Confirmation) -> str:
    """Returns the comparisons of pairs, and the sentences on them."""
    from .confirmation import baseline_origin, pair_verdict

    metric = confirmation.metric
    verdicts = [pair_verdict(c, metric) for c in confirmation.comparisons if c.first == "guided"]
    origins = [baseline_origin(each) for each in confirmation.baselines]
    notes = [f"note: {note}" for note in confirmation.notes]
    title = f"{confirmation.study}: {metric} of pairs at the last epoch; a gain is positive where the first is better"
    return _section(title, [], pairs_table(confirmation).set_index("trial"), [*verdicts, *origins, *notes])


def _section(title: str, before: Iterable[str], table: pd.DataFrame, after: Iterable[str]) -> str:
    shown = table.to_html(float_format="{:.4g}".format, na_rep="-", border=0) if len(table) else ""
    return f"<p><b>{html.escape(title)}</b></p>{_paragraphs(before)}{shown}{_paragraphs(after)}"


def _paragraphs(sentences: Iterable[str]) -> str:
    return "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
