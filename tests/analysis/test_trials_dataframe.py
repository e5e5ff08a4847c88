"""The one table of trials, of a study that is known trial by trial."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sweep.analysis.summary import Summary, summarise
from sweep.analysis.trials_dataframe import COLUMNS, trials_csv, trials_table

from ..support import made_study
from ..support.made_study import BEGAN, COMPLETED, EPOCHS, HOSTILE_ERROR, SECONDS


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    folder = tmp_path_factory.mktemp("table")
    return summarise("made", made_study.make(folder, made_study.study(), completed=COMPLETED, saved=False))


def test_rows_are_trials_and_columns_are_documented(summary: Summary) -> None:
    table = trials_table(summary)
    assert [*table.columns] == [*COLUMNS, *summary.config.searched, "training.lr", "training.init"]
    assert all(f"``{column}``" in (trials_table.__doc__ or "") for column in COLUMNS)
    assert len(table) == COMPLETED + 7 + 7
    search, sister = table[table["study"] == "made"], table[table["study"] == "made.controls"]
    assert search["number"].tolist() == list(range(COMPLETED + 7))
    assert sister["kind"].tolist() == ["finalist"] * 2 + ["control"] * 2 + ["tuned"] * 3
    assert search["outcome"].tolist() == ["completed"] * COMPLETED + ["pruned"] * 4 + ["diverged"] + ["failed"] * 2
    assert search["value"].min() == summary.best[0].value
    assert set(sister["of"]) == {summary.best[0].number}
    assert search["of"].isna().all()
    assert table["error"].iloc[COMPLETED + 6] == HOSTILE_ERROR.splitlines()[-1]
    assert table["started"].iloc[0] == pd.Timestamp(BEGAN, unit="s", tz="UTC")
    assert (table["ended"] - table["started"]).iloc[0] == pd.Timedelta(seconds=SECONDS)
    for row, (_, line) in zip(summary.rows, search.iterrows(), strict=True):
        assert {name: line[name] for name in row.hyperparameters} == row.hyperparameters
    assert table.query("outcome == 'completed'").nsmallest(3, "value")["epochs"].tolist() == [EPOCHS] * 3


def test_several_studies_share_their_columns(summary: Summary) -> None:
    other = Summary.of(
        summary.config.model_copy(update={"name": "other"}),
        [replace(summary.rows[0], hyperparameters={"new": 1, "seed": 5})],
        [],
    )
    table = trials_table(summary, other)
    assert table["study"].unique().tolist() == ["made", "made.controls", "other"]
    last = table.iloc[-1]
    assert (last["new"], last["params_seed"], last["seed"]) == (1, 5, 0), "a hyperparameter hides no other column"
    assert table["new"].isna().sum() == len(table) - 1


def test_a_study_without_trials_has_a_table_without_rows(summary: Summary) -> None:
    assert trials_csv(Summary.of(summary.config, [], [])) == ",".join(COLUMNS) + "\r\n"


@pytest.mark.parametrize("text", ["=1+2", "+1", "-x", "@SUM(A1)", "\tx", "\rx"])
def test_a_spreadsheet_runs_nothing_of_it(summary: Summary, text: str) -> None:
    row = replace(summary.rows[0], hyperparameters={"choice": text, "number": -1.5}, error=f"a\n{text.strip()}")
    [line] = csv.DictReader(io.StringIO(trials_csv(Summary.of(summary.config, [row], [])), newline=""))
    assert line["choice"] == f"'{text}".replace("\r", r"\r")
    assert line["params_number"] == "-1.5", "a negative number is no formula"
    assert not line["error"].startswith(("=", "+", "-", "@"))


def test_no_text_gives_a_terminal_an_order(summary: Summary) -> None:
    row = replace(summary.rows[0], hyperparameters={"choice": "\x1b[31mred"}, error="boom \x1b]0;TITLE\x07")
    [line] = csv.DictReader(io.StringIO(trials_csv(Summary.of(summary.config, [row], [])), newline=""))
    assert (line["choice"], line["error"]) == (r"\x1b[31mred", r"boom \x1b]0;TITLE\x07")


def test_numbers_are_written_with_all_their_digits_and_times_in_iso_8601(summary: Summary, tmp_path: Path) -> None:
    (tmp_path / "trials.csv").write_text(trials_csv(summary), encoding="utf-8", newline="")
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, summary.rows, strict=False):
        assert line["value"] == ("" if row.value is None else repr(row.value))
        assert line["lambda1"] == repr(row.hyperparameters["lambda1"])
        assert line["depth"] == str(row.hyperparameters["depth"])
        assert (line["of"], line["design"]) == ("", str(row.design))
    assert lines[0]["started"] == "2023-11-14T22:13:20Z"
    assert lines[COMPLETED + 7]["of"] == str(summary.best[0].number)
