"""Writes the report of a study: one self-contained HTML page, figures as PNG, and numbers as JSON and CSV."""

import html
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from plotly.offline import get_plotlyjs

from ...config.search_space import ALIASES
from ...config.sections import TrainingConfig
from ...config.settings import Settings
from ...config.study_config import OF_THE_LOOP, TRAINING_OF_OWN_CODE, StudyConfig
from ...config.study_file import to_yaml
from ...study.provenance import Code, code_tags
from ...study.records import OUTCOMES
from .. import formats, sensitivity_text
from ..confirmation import Confirmation, pair_verdict
from ..sensitivity import Analysis
from ..summary import Summary
from ..trials_dataframe import trials_csv
from .contents import ReportContents
from .plotly_figures import LAYERS, LINES, SHARED_LAYOUT, as_json, plotly_figures
from .png_figures import png_figures

logger = logging.getLogger(__name__)

BEST = 5  # configurations in the table


@dataclass(frozen=True)
class Report:
    """The files of a written report, and the metrics that MLflow gets."""

    page: Path
    files: list[Path]  # all of them, the page first
    strength: str | None  # of the sensitivity: quantitative, indicative, or None after a refusal
    metrics: dict[str, float]  # Sobol indices under their MLflow names, such as sensitivity.total.lambda1
    trials: int  # search trials that have ended; the step of the metrics
    moment: int  # end of the last of them, in milliseconds since the Unix epoch; the timestamp of the metrics

    def _repr_html_(self) -> str:
        """Returns the page in a frame, whose scripts reach nothing of the notebook."""
        page = html.escape(self.page.read_text(encoding="utf-8"))
        return (
            f'<iframe sandbox="allow-scripts" style="width: 100%; height: 800px; border: 0" srcdoc="{page}"></iframe>'
        )


def write_report(
    summary: Summary,
    analysis: Analysis,
    codes: Sequence[Code],
    settings: Settings,
    folder: Path,
    *,
    confirmed: Confirmation | None = None,
) -> Report:
    """Writes ``report.html``, three figures as PNG, ``sensitivity.json`` and ``trials.csv`` to a folder.

    ``codes`` are the versions of the code that trained the study, oldest first. Reads checkpoints for the curves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = ReportContents.of(summary, analysis, settings, confirmed)
    page, data, trials = folder / "report.html", folder / "sensitivity.json", folder / "trials.csv"
    page.write_text(_render(contents, codes, confirmed), encoding="utf-8")
    data.write_text(
        json.dumps(formats.finite_json(sensitivity_text.as_data(analysis)), indent=2, allow_nan=False) + "\n"
    )
    trials.write_text(trials_csv(summary), encoding="utf-8", newline="")
    files = [page, data, trials, *png_figures(contents, folder)]
    logger.debug("wrote the report of %s: %s", summary.config.name, ", ".join(map(str, files)))
    orders = {"shapley": "total"} if analysis.dependent else {"first": "first", "total": "total"}
    indices = {
        f"sensitivity.{order}.{name}": getattr(index, field)
        for name, index in analysis.parameters.items()
        for order, field in orders.items()
    }
    ended = [row.ended for row in summary.rows if row.state == "finished" and row.ended]
    return Report(page, files, analysis.strength, indices, len(ended), round(1000 * max(ended, default=0.0)))


def _render(contents: ReportContents, codes: Sequence[Code], confirmed: Confirmation | None) -> str:
    summary, config = contents.summary, contents.summary.config
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    drawn = plotly_figures(contents)
    numbers = [*confirmed.configurations] if confirmed else []
    outcomes = Counter(row.outcome for row in summary.rows)
    guidance = Counter(row.tags.get("sweep.guidance") for row in summary.rows)
    return template.render(
        contents=contents,
        summary=summary,
        config=config,
        analysis=contents.analysis,
        best=contents.best[:BEST],
        expected=summary.expected,
        counts={outcome: outcomes[outcome] for outcome in OUTCOMES},
        guidance={state: guidance[state] for state in ("inert", "dominant")},
        verdicts=summary.verdicts,
        fixed=_fixed(config),
        study_file=to_yaml(config),
        codes=[code_tags(code) for code in codes],
        confirmed=confirmed,
        confirmed_verdicts=[pair_verdict(c, confirmed.metric) for c in confirmed.comparisons if c.first == "guided"]
        if confirmed
        else [],
        confirmed_at=confirmed and _utc(confirmed.ended / 1000),
        overtaken=[row.number for row in contents.best[: len(numbers)]] != numbers,
        written=_utc(time.time()),
        formats=formats,
        text=sensitivity_text,
        unfinished=sum(row.state != "finished" for row in summary.rows),
        figures=drawn,
        figures_json=as_json({name: plot for _, plots in drawn for name, plot in plots.items()}),
        most_lines=LINES,
        most_layers=LAYERS,
        layout_json=json.dumps(SHARED_LAYOUT),
        plotly=get_plotlyjs(),
    )


def _utc(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _fixed(config: StudyConfig) -> dict[str, str]:
    """Returns what was not searched and acts, by section of the study file, defaults included."""
    absent = {ALIASES.get(name, name) for name in config.space}
    if config.kind != "model":
        absent |= {f"training.{name}" for name in TrainingConfig.model_fields if name not in TRAINING_OF_OWN_CODE}
    text = {}
    for name in (*(OF_THE_LOOP if config.kind == "model" else ()), "training", "guidance", "search", "resources"):
        values = getattr(config, name).model_dump(mode="json", exclude_none=True)
        given = {k: v for k, v in values.items() if v not in ({}, []) and f"{name}.{k}" not in absent}
        text[name] = ", ".join(f"{k} {_plain(v)}" for k, v in given.items())
    constants = ", ".join(f"{name} {formats.format_value(value)}" for name, value in config.constants.items())
    return {key: value for key, value in {"held constant": constants, **text}.items() if value}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) + ")"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return formats.format_value(value)
