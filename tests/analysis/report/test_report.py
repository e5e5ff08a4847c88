"""The report: its page, PNG figures and files, of studies whose truth is known; test_browser opens the page."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from sweep import service
from sweep.analysis.report.contents import ReportContents
from sweep.analysis.report.cost import cost
from sweep.analysis.report.plotly_figures import FIGURES, LINES, parallel
from sweep.analysis.report.report import Report, write_report
from sweep.analysis.summary import Summary, summarise
from sweep.config.settings import Settings
from sweep.tracking.tracker import Tracker

from ...support import made_study
from ...support.commands import Ended, sweep_here
from ...support.made_study import COMPLETED, EPOCHS, HOSTILE, HOSTILE_ERROR, HOSTILE_LAYER, SECONDS
from ...support.studies import Finished

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's, plotly's and scikit-learn's own deprecations

PICTURES = {"indices", "effects", "learning-curves"}


class Text(HTMLParser):
    """The text that a browser shows of a page, without scripts and styles, and the elements that it parses."""

    def __init__(self, page: str):
        super().__init__()
        self.shown, self.elements = "", list[tuple[str, dict[str, str | None]]]()
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style")
        self.shown += " "

    def handle_endtag(self, tag: str) -> None:
        self._hidden &= tag not in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.shown += data


def drawn(page: str) -> dict[str, dict[str, list[dict[str, object]]]]:
    """The figures that are in a page: name -> data and layout."""
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])  # type: ignore[no-any-return]


def places(page: str) -> list[str]:
    """Names of the figures that the page has a place for."""
    return [attrs["data-figure"] or "" for _, attrs in Text(page).elements if "data-figure" in attrs]


# -- a study whose indices can be trusted ------------------------------------------------------------------------------


def test_every_section_says_what_the_study_holds(made: tuple[Settings, Report]) -> None:
    settings, written = made
    summary = summarise("made", settings)
    shown = " ".join(Text(written.page.read_text()).shown.split())
    assert f"{COMPLETED} completed, 4 pruned, 1 diverged, 2 failed" in shown
    best = min((row for row in summary.rows if row.value is not None), key=lambda row: row.value or 0.0)
    assert f"{best.number} {best.value:.5g}" in shown
    control = made_study.value({**best.hyperparameters, "lambda1": 0.0}, summary.config)
    gains = [control - (best.value or 0.0) + (0.1 - 0.01) * seed for seed in (1, 2)]
    assert f"{statistics.fmean(gains):+.3g} ± {statistics.stdev(gains):.2g}" in shown
    assert "better on 2 of 2 seeds" in shown
    assert "than a control tuned in one trial (" in shown
    assert f"{COMPLETED} trials at epoch {EPOCHS}, {COMPLETED} of them uniform" in shown
    assert "lambda1 × depth" in shown, "they interact"  # noqa: RUF001
    assert "lambda2 × epsilon" not in shown, "they do nothing"  # noqa: RUF001
    assert "1 the loss was not finite in epoch 3" in shown
    assert "What to change More trials would help: the best of 40 uniform trials is expected at val_loss" in shown
    assert "sweep train made --trial" in shown
    assert "max_epochs: 9" in shown, "the study file"


def test_every_figure_has_a_place_and_data(made: tuple[Settings, Report]) -> None:
    page = made[1].page.read_text()
    names = ["lambda1", "lambda2", "epsilon", "depth", "model.activation"]
    expected = {"indices", "surface", "learning curves", "parallel", "entropies"}
    expected |= {f"{what} of {name}" for what in ("effect", "slice") for name in names}
    assert set(places(page)) == set(drawn(page)) >= expected
    assert {name.partition(" of ")[0] for name in drawn(page)} == {figure.name for figure in FIGURES}
    assert all(figure["data"] for figure in drawn(page).values())
    dots = {trace.get("name"): trace for trace in drawn(page)["surface"]["data"]}
    assert len(dots["trials"]["x"]) == COMPLETED - 1  # type: ignore[arg-type]
    assert len(dots["the best"]["x"]) == 1  # type: ignore[arg-type]
    labels = [trace["name"] for trace in drawn(page)["learning curves"]["data"]]
    assert [str(label).partition(",")[0] for label in labels] == [
        "best", "median", "best configuration again", "plain control", "tuned control",
    ]  # fmt: skip


def test_pictures_are_whole(made: tuple[Settings, Report]) -> None:
    files = [path for path in made[1].files if path.suffix == ".png"]
    assert {path.stem for path in files} == PICTURES
    for path in files:
        with Image.open(path) as picture:
            colours = picture.convert("L").getcolors(256) or []
            assert len(colours) > 20, f"{path.name} is empty"


def test_what_the_user_wrote_is_text(made: tuple[Settings, Report], tmp_path: Path) -> None:
    shutil.copytree(made[0].workspace, tmp_path / "made")
    settings = Settings(workspace=tmp_path / "made")
    summary = summarise("made", settings)
    named = summary.config.model_copy(update={"name": f"made {HOSTILE}"})
    [analysis] = service.sensitivity("made", settings)
    for sister in ("", ".controls"):
        shutil.copytree(settings.workspace / f"made{sister}", settings.workspace / f"{named.name}{sister}")
    renamed = Summary.of(named, summary.rows, summary.controls)
    page = write_report(
        renamed, analysis, [{"sweep.git_commit": HOSTILE}], settings, settings.workspace / "hostile"
    ).page
    text = page.read_text()
    parsed = Text(text)
    scripts = [attrs for tag, attrs in parsed.elements if tag == "script"]
    assert scripts == [{}, {"type": "application/json", "id": "figures"}, {}], (
        "plotly, the figures, and what draws them"
    )
    assert not [tag for tag, _ in parsed.elements if tag in ("img", "b", "i", "iframe", "link")]
    for hostile in (HOSTILE, "<b>relu</b>", HOSTILE_ERROR.splitlines()[-1], "mypkg:<i>Net</i>"):
        assert hostile in parsed.shown
    figures = drawn(text)
    layers = [trace["name"] for trace in figures["entropies"]["data"]]
    assert html.escape(HOSTILE_LAYER, quote=False) in layers, "plotly reads HTML in texts"
    assert "<" not in re.sub(r'"hovertemplate":\s*"[^"]*"', "", json.dumps(figures))


def test_nothing_is_fetched(made: tuple[Settings, Report]) -> None:
    parsed = Text(made[1].page.read_text())
    for tag, attrs in parsed.elements:
        assert not {"src", "srcset", "action", "data"} & attrs.keys(), tag
        assert (attrs.get("href") or "#").startswith("#")
    [policy] = [a["content"] or "" for t, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert made[1].page.stat().st_size < 6e6


def test_numbers_are_files_too(made: tuple[Settings, Report]) -> None:
    settings, written = made
    summary, [analysis] = summarise("made", settings), service.sensitivity("made", settings)
    folder = written.page.parent
    with (folder / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(summary.rows) + len(summary.controls)
    for row, stored in zip(rows, [*summary.rows, *summary.controls], strict=True):
        assert (int(row["number"]), row["kind"], row["outcome"]) == (stored.number, stored.kind, stored.outcome)
        assert row["value"] == ("" if stored.value is None else repr(stored.value))
        assert {n: row[n] for n in stored.hyperparameters} == {n: str(v) for n, v in stored.hyperparameters.items()}
    data = json.loads((folder / "sensitivity.json").read_text())
    assert data["trusted"] is True
    assert data["parameters"]["lambda1"]["total"] == analysis.parameters["lambda1"].total
    assert written.metrics["sensitivity.total.lambda1"] == analysis.parameters["lambda1"].total
    assert set(written.metrics) == {f"sensitivity.{o}.{n}" for o in ("first", "total") for n in analysis.parameters}
    assert (written.trials, written.moment) == (COMPLETED + 7, round(1000 * (made_study.BEGAN + SECONDS)))


def test_many_trials_make_no_blur(tmp_path: Path) -> None:
    settings = made_study.make(tmp_path, made_study.study(), completed=LINES + 21, bad=False, saved=False)
    summary = summarise("made", settings)
    refused = service.sensitivity("made", settings, where="lambda1 < 2e-5")[0]  # too few: quick
    page = write_report(summary, refused, [], settings, tmp_path / "report").page.read_text()
    lines = [trace for trace in drawn(page)["parallel"]["data"] if trace.get("mode") == "lines"]
    assert len(lines) == LINES
    assert f"{LINES} of {LINES + 21} at evenly spaced ranks" in page
    assert len(drawn(page)["slice of depth"]["data"][0]["x"]) == LINES + 21  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["depth", "model.layers_of_a_long_name"])  # which Optuna shortens
def test_axes_of_whole_numbers_are_marked_with_whole_numbers(tmp_path: Path, name: str) -> None:
    settings = made_study.make(tmp_path, made_study.study(), completed=6, bad=False, saved=False)
    summary = summarise("made", settings)
    rows = [replace(row, hyperparameters={name: 2 + 3 * (row.number > 0), "epsilon": 0.1}) for row in summary.rows]
    space = {name: summary.config.space["depth"], "epsilon": summary.config.space["epsilon"]}
    summary = Summary.of(summary.config.model_copy(update={"space": space}), rows, [])
    refused = service.sensitivity("made", settings, where="lambda1 < 2e-5")[0]  # too few: quick
    figure = parallel(ReportContents.of(summary, refused, settings))
    place = sorted(space).index(name) + 1  # the objective's axis comes first
    assert [float(text.text) for text in figure.layout.annotations if text.x == place] == [2, 5]


# -- what is not there is said -----------------------------------------------------------------------------------------


def test_cleaned_checkpoints_are_said(tmp_path: Path) -> None:
    settings = made_study.make(tmp_path, made_study.study(), completed=6, bad=False)
    summary = summarise("made", settings)
    shutil.rmtree(settings.checkpoints("made", summary.best[0].number))
    shown = Text(service.report("made", settings).page.read_text()).shown
    assert f"Missing: best, trial {summary.best[0].number}, seed 0; its checkpoints are gone." in shown
    shutil.rmtree(settings.workspace / "made")
    shutil.rmtree(settings.workspace / "made.controls")
    shown = Text(service.report("made", settings).page.read_text()).shown
    assert "no checkpoint is left of the trials that would be drawn" in shown
    assert "or the checkpoints that held it are gone" in shown


def test_a_refused_analysis_leaves_no_indices(tmp_path: Path) -> None:
    settings = made_study.make(tmp_path, made_study.study(), completed=6, bad=False)
    folder = settings.reports("made")
    folder.mkdir(parents=True)
    (folder / "indices.png").write_text("of an earlier report")
    written = service.report("made", settings)
    page = written.page.read_text()
    assert "No indices: " in page
    assert "6 of 6 full-budget trials are uniform" in page
    assert "sweep run made --design 64" in page
    assert not [name for name in places(page) if name.startswith(("indices", "effect", "surface"))]
    assert written.metrics == {}
    assert {path.stem for path in folder.glob("*.png")} == PICTURES - {"indices", "effects"}


def test_a_study_without_results_has_a_report(tmp_path: Path) -> None:
    settings = made_study.make(tmp_path, made_study.study(), completed=1, bad=False, saved=False)
    summary = summarise("made", settings)
    empty = Summary.of(summary.config, [], [])
    written = write_report(empty, service.sensitivity("made", settings)[0], [], settings, tmp_path / "report")
    shown = " ".join(Text(written.page.read_text()).shown.split())
    assert "0 trials: none has ended" in shown
    assert "No trial has completed" in shown
    assert "No trial failed, diverged or collapsed" in shown


# -- cost and failures -------------------------------------------------------------------------------------------------


def test_cost_is_time_times_cpus_and_what_pruning_spared(made: tuple[Settings, Report]) -> None:
    settings, _ = made
    summary = summarise("made", settings)
    config = summary.config.model_copy(update={"resources": summary.config.resources.model_copy(update={"cpus": 2})})
    spent = cost(config, summary.rows, summary.controls)
    assert spent.unit == "CPU"
    part = SECONDS * 3 / EPOCHS  # of a trial that ended at epoch 3
    assert spent.search == pytest.approx(2 * (COMPLETED * SECONDS + 7 * part) / 3600)
    assert spent.after == pytest.approx(2 * 7 * SECONDS / 3600)
    assert spent.saved == pytest.approx(2 * 4 * (SECONDS - part) / 3600)
    assert (spent.epochs, spent.epochs_saved) == (COMPLETED * EPOCHS + 7 * 3, 4 * (EPOCHS - 3))


def test_a_trial_costs_what_its_epochs_took_where_that_is_known(made: tuple[Settings, Report]) -> None:
    """From its start on it may have waited for a worker, or lain idle between two runs."""
    summary = summarise("made", made[0])
    rows = [replace(row, seconds=36.0) for row in summary.rows if row.outcome == "completed"]
    spent = cost(summary.config, rows, [])
    assert (spent.search, spent.after) == (pytest.approx(0.01 * COMPLETED), 0)


def test_epochs_trained_ahead_of_the_pruners_word_are_neither_saved_nor_a_slower_pace(
    made: tuple[Settings, Report],
) -> None:
    summary = summarise("made", made[0])
    pruned = next(row for row in summary.rows if row.outcome == "pruned")
    spent = cost(summary.config, [replace(pruned, epochs=1, trained=EPOCHS - 2, seconds=36.0)], [])
    assert (spent.epochs, spent.epochs_saved) == (EPOCHS - 2, 2)
    assert spent.saved == pytest.approx(0.01 / (EPOCHS - 2) * 2)


def test_causes_are_grouped(made: tuple[Settings, Report]) -> None:
    settings, _ = made
    summary = summarise("made", settings)
    [analysis] = service.sensitivity("made", settings, where="lambda1 < 2e-5")
    found = ReportContents.of(summary, analysis, settings).failures
    assert [(f.outcome, f.cause, f.trials) for f in found] == [
        ("failed", HOSTILE_ERROR.splitlines()[-1], [str(COMPLETED + 5), str(COMPLETED + 6)]),
        ("diverged", "the loss was not finite in epoch 3", [str(COMPLETED + 4)]),
    ]


# -- through the command line -----------------------------------------------------------------------------------------


def test_a_run_ends_with_its_report(tiny: Finished) -> None:
    folder, parent = tiny.workspace / "tiny" / "report", tiny.left.parent.run
    written = {path.name for path in folder.iterdir()}
    assert {"report.html", "sensitivity.json", "trials.csv", "learning-curves.png"} <= written
    client = MlflowClient(f"sqlite:///{tiny.workspace}/mlflow.db")
    assert {Path(each.path).name for each in client.list_artifacts(parent.info.run_id, "report")} == written
    assert parent.data.tags["sweep.sensitivity"] == "refused"
    assert "2 of 6 full-budget trials are uniform" in (folder / "report.html").read_text()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    monkeypatch.chdir(tmp_path)

    def run(*words: str, **changes: str) -> Ended:
        return sweep_here(monkeypatch, capsys, tmp_path / "results", *words, **changes)

    return run


def test_report_adds_to_the_run_of_the_study(
    here: Callable[..., Ended], made: tuple[Settings, Report], tmp_path: Path
) -> None:
    settings, _ = made
    shutil.copytree(settings.workspace, tmp_path / "results", dirs_exist_ok=True)
    uri = f"sqlite:///{tmp_path}/results/mlflow.db"
    tracker = Tracker(uri, "made", artifacts=tmp_path / "results" / "artifacts")
    tracker.open(description="", params={}, tags={})
    tracker.close(status="KILLED")
    ended = here("report", "made", "--json", "--out", str(tmp_path / "out"))
    assert ended.code == 0, ended.err
    again = Settings(workspace=tmp_path / "results", tracking_uri=uri)
    assert service.log_report("made", made[1], again) is None
    data = json.loads(ended.out)
    assert data["in_mlflow"] is True
    assert {Path(name).parent for name in data["files"]} == {tmp_path / "out"}
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("made")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED", "what another process may be running is left as it is"
    assert run.data.metrics == pytest.approx(data["metrics"])
    assert run.data.tags["sweep.sensitivity"] in ("quantitative", "indicative")
    history = client.get_metric_history(run.info.run_id, "sensitivity.total.lambda1")
    assert [metric.step for metric in history] == [COMPLETED + 7], "the second time nothing new"


def test_report_needs_no_server(here: Callable[..., Ended], tmp_path: Path) -> None:
    made_study.make(tmp_path / "results", made_study.study(), completed=2, bad=False, saved=False)
    ended = here("report", "made", MLFLOW_TRACKING_URI="http://me:hidden@127.0.0.1:1")
    assert ended.code == 0
    assert "not in MLflow" in ended.out
    assert "hidden" not in ended.out + ended.err
    unknown = here("report", "mad")
    assert unknown.code == 2
    assert "did you mean made?" in unknown.err
