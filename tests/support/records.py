"""Records of trials made by hand, as a search on a small space would leave them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweep.config.search_space import Scalar
from sweep.study.records import TrialRecord

SPACE = {
    "lambda1": {"low": 1e-5, "high": 1e-1, "log": True},
    "lambda2": 0.0,
    "epsilon": {"low": 1e-3, "high": 10.0, "log": True},
    "depth": {"low": 1, "high": 4},
    "width": 8,
    "guidance.form": {"choices": ["log", "reciprocal"]},
}


def row(number: int, value: float | None, hyperparameters: Mapping[str, Scalar], **changes: Any) -> TrialRecord:
    fields: dict[str, Any] = {
        "number": number,
        "kind": "trial",
        "state": "finished",
        "outcome": "completed",
        "value": value,
        "hyperparameters": dict(hyperparameters),
        "seed": 0,
        "epochs": 9,
        "design": False,
        "of": None,
        "checkpoint": None,
        "error": None,
        "owner": None,
        "orphan": False,
        "started": None,
        "ended": None,
    }
    return TrialRecord(**{**fields, **changes})


def point(lambda1: float, depth: int, epsilon: float = 1.0, form: str = "log") -> dict[str, Scalar]:
    return {"lambda1": lambda1, "epsilon": epsilon, "depth": depth, "guidance.form": form}


def search_rows() -> list[TrialRecord]:
    return [
        row(0, 0.5, point(0.01, 2)),
        row(1, 0.2, point(0.02, 3)),
        row(2, 0.1, point(0.03, 3, epsilon=5.0, form="reciprocal")),
        row(3, 0.05, point(0.04, 4), outcome="pruned"),
        row(4, 0.01, point(0.05, 4), outcome="diverged"),
        row(5, None, point(0.06, 4), outcome="failed"),
        row(6, None, point(0.07, 4), state="running", outcome=None),
        row(7, 0.3, point(0.08, 1)),
        row(8, 0.2, point(0.09, 1)),
    ]
