"""All trials of a study as one table: a DataFrame for notebooks, ``trials.csv`` of the report and of `sweep export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from .summary import Summary

RECORDED = ("number", "kind", "of", "state", "outcome", "value", "epochs", "seed", "design")
COLUMNS = ("study", *RECORDED, "started", "ended", "error")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of a text that a spreadsheet runs as a formula


def trials_table(*summaries: Summary) -> pd.DataFrame:
    """Returns one row a trial: the trials of each search by number, then its finalists, controls and pairs.

    Columns, in this order:

    - ``study``: name of the study; the name ends in ``.controls`` for finalists, controls and pairs.
    - ``number``: number of the trial in that study.
    - ``kind``: ``trial``, ``finalist``, ``control``, ``tuned``, or what `sweep confirm` trained (``guided``, ...).
    - ``of``: the search trial that a finalist, control or pair belongs to.
    - ``state``: ``waiting``, ``running`` or ``finished``.
    - ``outcome``: ``completed``, ``pruned``, ``diverged`` or ``failed``; empty until the trial has ended.
    - ``value``: the objective.
    - ``epochs``: the last epoch that counts.
    - ``seed``: the training seed.
    - ``design``: True if the trial is uniform over the space and was never pruned.
    - ``started``, ``ended``: UTC, to the second.
    - ``error``: last line of the error of a failed or diverged trial.
    - one column for each hyperparameter, under its name; ``params_NAME`` if one of the columns above has that name.

    Args:
        summaries: the studies; several share the columns of all their hyperparameters.

    Example:
        ``trials_table(summarise("digits", Settings())).query("outcome == 'completed'").nsmallest(5, "value")``
    """
    import pandas as pd

    records = [
        (study, row)
        for summary in summaries
        for study, rows in (
            (summary.config.name, summary.rows),
            (f"{summary.config.name}.controls", summary.controls),
        )
        for row in rows
    ]
    names = dict.fromkeys(name for _, row in records for name in row.hyperparameters)
    columns: dict[str, Any] = {"study": pd.Series([study for study, _ in records], dtype=object)}
    for column in RECORDED:
        dtype = {"of": "Int64", "value": float}.get(column)
        columns[column] = pd.Series([getattr(row, column) for _, row in records], dtype=dtype)
    for column in ("started", "ended"):
        seconds = pd.Series([getattr(row, column) for _, row in records], dtype=float)
        columns[column] = pd.to_datetime(seconds, unit="s", utc=True).dt.floor("s")
    columns["error"] = [(row.error or "").strip().rpartition("\n")[2] for _, row in records]
    for name in names:
        column = f"params_{name}" if name in COLUMNS else name
        columns[column] = pd.Series([row.hyperparameters.get(name) for _, row in records], dtype=object)
    return pd.DataFrame(columns)


def trials_csv(*summaries: Summary) -> str:
    """Returns `trials_table` as CSV (RFC 4180), with times in ISO 8601.

    A text that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    table = trials_table(*summaries)
    plain = table.rename(columns=_as_text).map(_as_text)
    csv: str = plain.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%SZ", lineterminator="\r\n")
    return csv


def _as_text(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
