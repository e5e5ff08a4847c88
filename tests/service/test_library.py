"""The functions of `import sweep`: from data, interrupted, in a notebook; and the tutorial, cell by cell."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import sweep
from sweep.config.errors import ConfigError
from sweep.service.notebook import in_notebook

from ..support.empty_store import with_store
from ..support.kernel import Kernel, executed

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours

TUTORIAL = Path(sweep.__file__).parent / "builtin" / "examples" / "tutorial.ipynb"
MINE: dict[str, Any] = {
    "name": "mine",
    "model": {"name": "mlp", "depth": 1, "width": 8},
    "data": {"name": "digits", "train_size": 300},
    "objective": {"metric": "val_loss", "direction": "minimize"},
    "space": {"lambda1": {"low": 1e-4, "high": 1e-2, "log": True}},
    "training": {"max_epochs": 2},
    "search": {"trials": 4, "sampler": "random", "pruner": "none", "finalists": {"top": 0}},
}


@pytest.mark.exhaustive
def test_a_run_is_stopped_by_the_button_of_a_notebook_and_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pressed = list[str]()

    def press(shown: str) -> None:
        if not pressed and re.search(r"\b[12] completed", shown):
            pressed.append(shown)
            signal.raise_signal(signal.SIGINT)  # as the button does

    kernel = Kernel(press)
    for name, module in kernel.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("sweep.service.notebook.REDRAW_EVERY", 0.0)
    before = signal.getsignal(signal.SIGINT)
    assert before is signal.default_int_handler
    settings = sweep.Settings(workspace=with_store(tmp_path), report=False)
    # A study that is interrupted logs no model; nor does one that is not concluded.
    options = sweep.RunOptions(executor="local", conclude=False)
    study = sweep.run(MINE, settings=settings, options=options)
    assert study.summary.interrupted
    assert signal.getsignal(signal.SIGINT) is before
    ended = (study.trials["state"] == "finished").sum()
    assert 1 <= ended < 4
    assert "interrupted; the same call goes on" in kernel.shown[0]

    kernel.shown = []
    again = sweep.run(MINE, settings=settings, options=options)
    assert not again.summary.interrupted
    assert again.trials["outcome"].tolist() == ["completed"] * 4
    assert again.trials["epochs"].tolist() == [2] * 4
    [shown] = kernel.shown
    assert "<b>mine</b> 4/4 trials" in shown
    assert f'<progress max="{4 - ended}" value="{4 - ended}">' in shown
    assert "interrupted" not in shown


def test_a_notebook_is_known_by_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    for name, module in Kernel().modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    assert in_notebook()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: object())  # IPython's own shell
    assert not in_notebook()


def test_data_of_a_study_is_checked_as_a_file_is(tmp_path: Path) -> None:
    settings = sweep.Settings(workspace=tmp_path)
    config = sweep.load_config(MINE, settings=settings)
    assert sweep.load_config(config, trials=5, sets=["training.lr=0.5"], settings=settings).search.trials == 5
    assert "lr" not in MINE["training"], "the caller's mapping stays as it is"
    wrong = {**MINE, "model": {"name": "mlpp"}, "space": {"lambda1": {"low": 2, "high": 1}}}
    for call in (sweep.load_config, sweep.run):
        with pytest.raises(ConfigError) as error:
            call(wrong, settings=settings)
        text = str(error.value)
        assert text.startswith("study mine: ")
        assert "did you mean mlp?" in text
        assert "space.lambda1" in text
    assert {path.name for path in tmp_path.iterdir()} <= {".cache"}, "nothing was begun"


@pytest.mark.exhaustive
@pytest.mark.timeout(1500)
def test_the_tutorial_runs_cell_by_cell(tmp_path: Path) -> None:
    cells = executed(TUTORIAL, tmp_path)
    run, trials, best, curves, figure, sensitivity, report, predictions, own, confirmed = cells
    assert "<progress" in run
    assert "digits: 6 trials: " in run
    assert trials.count("<tr") == 1 + 1 + 5, "a line of names, one of the index, and five trials"
    assert "on_fresh_seeds" in best
    assert curves.count("<tr") == 2 + 5
    assert "plotly" in figure.lower()
    assert "No indices" in sensitivity
    assert "<iframe sandbox" in report
    assert "mean squared error" in predictions
    assert "training.lr" in own
    assert "guided" in confirmed
    assert "strongest" in confirmed
    assert (tmp_path / "results" / "digits" / "report" / "report.html").is_file()
