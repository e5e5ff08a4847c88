"""All trials of a study as one table: a DataFrame for notebooks, ``trials.csv`` of the report and of `sweep export`."""

from typing import TYPE_CHECKING, Any

from ..config.errors import printable

if TYPE_CHECKING:
    import pandas as pd

    from .summary import Summary

RECORDED = ("number", "kind", "of", "state", "outcome", "value", "epochs", "seed", "design")
COLUMNS = ("study", *RECORDED, "started", "ended", "error")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of a text that a spreadsheet runs as a formula


def trials_table(*summaries: "Summary") -> "pd.DataFrame":
    """Returns one row a trial: the trials of each search by number, then its finalists, controls and pairs.

    Columns, in this order:

    - ``study``, which ends in ``.controls`` for finalists, controls and pairs; ``number`` of the trial in it.
    - ``kind``: ``trial``, ``finalist``, ``control``, ``tuned``, or what `sweep confirm` trained (``guided``, ...).
    - ``of``: the search trial that a finalist, control or pair belongs to.
    - ``state``: ``waiting``, ``running`` or ``finished``.
    - ``outcome``: ``completed``, ``pruned``, ``diverged``, ``collapsed`` or ``failed``; empty before the end.
    - ``value`` of the objective, ``epochs`` up to the last one that counts, training ``seed``.
    - ``design``: True if the trial is uniform over the space and was never pruned.
    - ``started``, ``ended``: UTC, to the second.
    - ``error``: last line of the error of a failed, diverged or collapsed trial.
    - one column for each hyperparameter, under its name; ``params_NAME`` if one of the columns above has that name.
    """
    import pandas as pd

    studies, rows = [], []
    for each in summaries:
        studies += [each.config.name] * len(each.rows) + [f"{each.config.name}.controls"] * len(each.controls)
        rows += [*each.rows, *each.controls]
    columns: dict[str, Any] = {"study": pd.Series(studies, dtype=object)}
    for column in RECORDED:
        dtype = {"of": "Int64", "value": float}.get(column)
        columns[column] = pd.Series([getattr(row, column) for row in rows], dtype=dtype)
    for column in ("started", "ended"):
        seconds = pd.Series([getattr(row, column) for row in rows], dtype=float)
        columns[column] = pd.to_datetime(seconds, unit="s", utc=True).dt.floor("s")
    columns["error"] = [(row.error or "").strip().rpartition("\n")[2] for row in rows]
    for name in dict.fromkeys(name for row in rows for name in row.hyperparameters):
        column = f"params_{name}" if name in COLUMNS else name
        columns[column] = pd.Series([row.hyperparameters.get(name) for row in rows], dtype=object)
    return pd.DataFrame(columns)


def trials_csv(*summaries: "Summary") -> str:
    """Returns `trials_table` as CSV (RFC 4180), times in ISO 8601; formulas get an apostrophe in front."""
    table = trials_table(*summaries).rename(columns=_as_text).map(_as_text)
    return str(table.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%SZ", lineterminator="\r\n"))


def _as_text(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return printable(f"'{cell}" if cell.startswith(FORMULA) else cell)
