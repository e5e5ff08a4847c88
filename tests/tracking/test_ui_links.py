"""Links into the MLflow UI; that MLflow understands them is looked at in test_browser."""

from __future__ import annotations

import json

from sweep.tracking.ui_links import VIEW, experiment_tags, experiment_url, run_url, view_url

from ..conftest import MakeConfig

UI = "http://ann:s3cret@127.0.0.1:5000/"


def test_links_hold_no_password() -> None:
    assert experiment_url(UI, "7", ascending=True) == (
        "http://127.0.0.1:5000/#/experiments/7/runs?searchFilter=tags.%60sweep.kind%60%3D%27trial%27"
        "&orderByKey=metrics.%60objective%60&orderByAsc=true&startTime=ALL&lifecycleFilter=Active"
    )
    assert view_url(UI, "7") == "http://127.0.0.1:5000/#/experiments/7/runs?viewStateShareKey=objective"
    assert run_url(UI, "7", "ab12") == "http://127.0.0.1:5000/#/experiments/7/runs/ab12"


def test_the_best_come_first_in_either_direction(study_config: MakeConfig) -> None:
    for metric, direction, ascending in (("val_loss", "minimize", True), ("val_accuracy", "maximize", False)):
        tags = experiment_tags(study_config(objective={"metric": metric, "direction": direction}), "vision/digits")
        state = json.loads(json.loads(tags[VIEW])["state"])
        assert state["orderByAsc"] is ascending
        assert state["orderByKey"] == state["selectedColumns"][0] == "metrics.`objective`"
        assert state["selectedColumns"][1] == "metrics.`fresh_objective`"


def test_the_description_is_five_lines(study_config: MakeConfig) -> None:
    text = experiment_tags(study_config(), "vision/digits")["mlflow.note.content"]
    assert len(text.splitlines()) == 5
    for word in ("sweep.kind", "sweep.outcome", "objective", "fresh_objective", "final_objective", "search_runs"):
        assert word in text
