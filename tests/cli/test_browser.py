"""The MLflow UI behind our links, and the report, in headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from sweep.tracking.tracker import Tracker
from sweep.tracking.ui_links import VIEW, experiment_url, run_url, view_url

from ..support import made_study
from ..support.absent import chromium_path
from ..support.processes import TrackingServer, wait_for
from ..support.studies import SEARCHED, Finished

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from sweep.analysis.report.report import Report
    from sweep.config.settings import Settings

pytestmark = pytest.mark.filterwarnings("default")  # Ray's and MLflow's own deprecations are not ours

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
OF_MLFLOW = "/ajax-api/2.0/mlflow/users/current"  # a server without logins answers 404, and its own page minds


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = chromium_path()
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright: pip install -e .[dev]")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


@dataclass
class Seen:
    """A page, and what it complained of."""

    page: Page
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)


def opened(browser: Browser, url: str, *, width: int = 1600) -> Seen:
    """Opens a page and listens to it."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(90_000)  # milliseconds; MLflow's first page took 5 s on two busy cores
    seen = Seen(page)

    def console(message: Any) -> None:
        if message.type == "error" and not message.location.get("url", "").endswith(OF_MLFLOW):
            seen.errors.append(message.text)

    def request(sent: Any) -> None:
        if not sent.url.startswith(("file:", "data:", "blob:")):
            seen.hosts.add(sent.url.split("/")[2].partition(":")[0])

    page.on("console", console)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", request)
    page.goto(url)
    return seen


# -- the MLflow UI ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(chromium: Browser, tiny: Finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    workspace = tmp_path_factory.mktemp("served") / "results"
    workspace.mkdir()
    shutil.copy(tiny.workspace / "mlflow.db", workspace)
    running = TrackingServer(workspace)
    running.start()
    wait_for(running.ready, "the tracking server")
    yield running
    running.stop()


def cells(page: Page, column: str) -> list[str]:
    """The shown values of a column of the table, from top to bottom."""
    inner = page.locator(f".ag-row [col-id='{column}']")
    inner.first.wait_for()
    rows = [(float(each.evaluate("e => e.closest('.ag-row').getAttribute('row-index')")), each) for each in inner.all()]
    return [each.inner_text().split()[-1] for _, each in sorted(rows, key=lambda row: row[0])]


def test_the_link_to_a_study_shows_what_matters_best_first(
    chromium: Browser, server: TrackingServer, tiny: Finished
) -> None:
    """MLflow says nothing about the format of a view: this is what tells that it still has it."""
    tracker = Tracker(server.url, "tiny", artifacts=tiny.workspace)
    experiment = tracker.store.find_experiment()
    assert experiment is not None
    assert VIEW in tracker.store.experiment_tags
    seen = opened(chromium, view_url(server.url, experiment), width=2400)
    objectives = cells(seen.page, "metrics.`objective`")
    best = sorted(tiny.left.trials, key=lambda trial: trial.value or 0)
    assert len(objectives) == 6, "the six trials, no control and no parent"
    for shown, trial in zip(objectives, best, strict=True):
        assert str(trial.value).startswith(shown.rstrip("…."))
    names = cells(seen.page, "attributes.`Run Name`")
    assert names == [f"tiny-{trial.number:04d}" for trial in best]
    for name in {*SEARCHED, "lambda2", "epsilon"}:
        values = [trial.params.get(name, {"lambda2": 1e-4, "epsilon": 0.01}.get(name)) for trial in best]
        shown = [str(float(f"{value:.6g}")) if isinstance(value, float) else str(value) for value in values]
        assert cells(seen.page, f"params.`{name}`") == shown
    assert set(cells(seen.page, "tags.`sweep.outcome`")) == {"completed"}
    assert "last_objective" in seen.page.inner_text("body"), "the description says how to query"
    assert seen.errors == []
    assert seen.hosts == {"127.0.0.1"}


@pytest.mark.exhaustive
def test_the_plain_link_sorts_too(chromium: Browser, server: TrackingServer, tiny: Finished) -> None:
    experiment = tiny.left.parent.run.info.experiment_id
    seen = opened(chromium, experiment_url(server.url, experiment, ascending=True))
    names = cells(seen.page, "attributes.`Run Name`")
    best = sorted(tiny.left.trials, key=lambda trial: trial.value or 0)
    assert names == [f"tiny-{trial.number:04d}" for trial in best]


def test_the_link_to_a_run_opens_it(chromium: Browser, server: TrackingServer, tiny: Finished) -> None:
    run = tiny.left.runs["tiny-0003"].run.info
    seen = opened(chromium, run_url(server.url, run.experiment_id, run.run_id))
    seen.page.get_by_text("val_accuracy").first.wait_for()
    assert "tiny-0003" in seen.page.inner_text("body")
    assert seen.errors == []


# -- the report --------------------------------------------------------------------------------------------------------

MARKS = ".scatterlayer .trace, .barlayer .trace, .contourlayer path, .heatmaplayer image"


@pytest.mark.parametrize("width", [400, 1200])
def test_the_report_draws_every_figure_and_fetches_nothing(
    chromium: Browser, made: tuple[Settings, Report], width: int
) -> None:
    _, written = made
    seen = opened(chromium, written.page.as_uri(), width=width)
    seen.page.wait_for_function(
        "[...document.querySelectorAll('[data-figure]')].every(e => e.querySelector('.main-svg'))"
    )
    for figure in seen.page.locator("[data-figure]").all():
        name = figure.get_attribute("data-figure")
        assert figure.locator(MARKS).count() > 0, f"{name} is empty"
        box = figure.locator(".main-svg").first.bounding_box()
        assert box is not None, name
        assert box["width"] > 250, name
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width, "tables scroll, the page does not"
    assert seen.page.evaluate("window.hacked") is None
    assert seen.errors == []
    assert seen.hosts == set()
    choices = ["<b>relu</b>", made_study.HOSTILE, "$a_b$"]
    for what, written_as in (("effect", "{}"), ("slice", "'{}'")):  # the slices are Optuna's
        ticks = seen.page.locator(f'[data-figure="{what} of model.activation"] .xtick text').all_text_contents()
        assert ticks == [written_as.format(choice) for choice in choices], "as the user wrote them"
    layers = seen.page.locator('[data-figure="entropies"] .legendtext').all_text_contents()
    assert layers == ["layers.0", made_study.HOSTILE_LAYER]
