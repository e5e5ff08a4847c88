"""The report of a study: one HTML page that needs nothing else, its figures as pictures, and its numbers as files.

Read from the storage and the checkpoints; no tracking server is needed. What the user wrote is shown as text.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from plotly.offline import get_plotlyjs

from ...config.search_space import ALIASES
from ...config.study_file import to_yaml
from ...study.baselines import configurations
from ...study.provenance import code_tags
from .. import sensitivity_text as explain
from .. import wording as words
from . import plotly_figures as figures
from . import png_figures as pictures
from .contents import ReportContents

if TYPE_CHECKING:
    from ...config.settings import Settings
    from ...config.study_config import StudyConfig
    from ...study.provenance import Code
    from ...study.records import TrialRecord
    from ..sensitivity import Analysis
    from ..summary import Summary


BEST = 5  # configurations in the table


@dataclass(frozen=True)
class Report:
    """What `write` has written.

    Attributes:
        page: the HTML file.
        files: all of them, the page first.
        strength: of the sensitivity: ``quantitative``, ``indicative``, None where it was refused.
        metrics: the indices, for the study's own run: ``sensitivity.total.lambda1``.
        trials: of the search, that have ended; the metrics' step.
        moment: when the last one ended, in milliseconds since the Unix epoch; the metrics' timestamp.
    """

    page: Path
    files: list[Path]
    strength: str | None
    metrics: dict[str, float]
    trials: int
    moment: int


def write(
    summary: Summary,
    analysis: Analysis,
    codes: Sequence[Code],
    settings: Settings,
    folder: Path,
    *,
    confirmed: dict[str, Any] | None = None,
) -> Report:
    """Writes the page, the pictures, ``sensitivity.json`` and ``trials.csv`` to a folder.

    Args:
        codes: what the study was trained with, oldest first.
        confirmed: what `sweep confirm` found last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    findings = ReportContents.of(summary, analysis, settings)
    page, data, trials = folder / "report.html", folder / "sensitivity.json", folder / "trials.csv"
    page.write_text(_render(findings, codes, confirmed), encoding="utf-8")
    data.write_text(json.dumps(explain.as_data(analysis), indent=2) + "\n")
    _write_trials(summary, trials)
    ended = [row.ended for row in summary.rows if row.state == "finished" and row.ended]
    indices = {
        f"sensitivity.{order}.{name}": getattr(index, order)
        for name, index in analysis.parameters.items()
        for order in ("first", "total")
    }
    files = [page, data, trials, *pictures.png_figures(findings, folder)]
    return Report(page, files, analysis.strength, indices, len(ended), round(1000 * max(ended, default=0.0)))


# -- the page --------------------------------------------------------------------------------------------------------


def _render(findings: ReportContents, codes: Sequence[Code], confirmed: dict[str, Any] | None) -> str:
    summary, config = findings.summary, findings.summary.config
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    drawn = figures.plotly_figures(findings)
    return template.render(
        findings=findings,
        summary=summary,
        config=config,
        analysis=findings.analysis,
        best=findings.best[:BEST],
        counts={o: sum(r.outcome == o for r in summary.rows) for o in ("completed", "pruned", "diverged", "failed")},
        guidance={s: sum(r.tags.get("sweep.guidance") == s for r in summary.rows) for s in ("inert", "dominant")},
        fixed=_fixed(config),
        study_file=to_yaml(config),
        codes=[code_tags(code) for code in codes],
        confirmed=confirmed,
        confirmed_at=confirmed and _utc(confirmed["ended"] / 1000),
        overtaken=confirmed and _are_overtaken(confirmed, config, findings.best),
        commands=_commands(config.name, findings.best[0].number if findings.best else 0),
        written=_utc(time.time()),
        words=words,
        explain=explain,
        unfinished=sum(row.state != "finished" for row in summary.rows),
        most_lines=figures.LINES,
        most_layers=figures.LAYERS,
        names=list(drawn),
        figures=figures.as_json(drawn),
        look=json.dumps(figures.TEMPLATE),
        plotly=get_plotlyjs(),
    )


def _utc(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _are_overtaken(confirmed: dict[str, Any], config: StudyConfig, completed: Sequence[TrialRecord]) -> bool:
    """Whether the configurations that were confirmed are no longer the best ones."""
    numbers = [*confirmed["configurations"]]
    return [str(row.number) for row in configurations(config, completed)[: len(numbers)]] != numbers


def _fixed(config: StudyConfig) -> dict[str, str]:
    """What was not searched, by section, as far as the study file or the defaults say something."""
    sections = {
        "model": config.model, "data": config.data, "task": config.task, "training": config.training,
        "guidance": config.guidance, "search": config.search, "resources": config.resources,
    }  # fmt: skip
    varied = {ALIASES.get(name, name) for name in config.space}
    text = {}
    for name, section in sections.items():
        values = section.model_dump(mode="json", exclude_none=True)
        said = {k: v for k, v in values.items() if v not in ({}, []) and f"{name}.{k}" not in varied}
        text[name] = ", ".join(f"{k} {_plain(v)}" for k, v in said.items())
    constants = ", ".join(f"{name} {words.format_value(value)}" for name, value in config.constants.items())
    return {key: value for key, value in {"held constant": constants, **text}.items() if value}


def _commands(name: str, best: int) -> dict[str, str]:
    """What goes on from here, by what it does."""
    return {
        "the file below: the same seeds, the same trials": "run study.yaml",
        "the best trial alone, as it was": f"train {name} --trial {best}",
        "a study file of the best configuration": f"best {name} --export best.yaml",
        "more trials at uniform points": f"run {name} --design 64",
        "whether guidance helps, on fresh seeds and the test set": f"confirm {name} --seeds 8",
        "this page": f"report {name}",
    }


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) + ")"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return words.format_value(value)


# -- files -----------------------------------------------------------------------------------------------------------


def _write_trials(summary: Summary, path: Path) -> None:
    """Every trial, finalists and controls included: what it was given, and what it came to."""
    rows = [*summary.rows, *summary.controls]
    names = list(dict.fromkeys(name for row in rows for name in row.hyperparameters))
    facts = ("number", "kind", "of", "state", "outcome", "value", "epochs", "design", "seed", "started", "ended")
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*facts, *names, "error"])
        for row in rows:
            error = (row.error or "").strip().splitlines()[-1:]
            values = [row.hyperparameters.get(name) for name in names]
            table.writerow([*(getattr(row, fact) for fact in facts), *values, *(error or [""])])
