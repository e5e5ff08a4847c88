"""Writes ``losses/RESULTS.md`` from the evidence: the template has the prose, the tables fill in every number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from .dose import Dose
from .dose_tables import DoseTables
from .drawing import draw, draw_doses
from .gathering import FOLDER, Entry
from .judging import comparisons
from .markdown import Tables
from .pair_tables import PairTables
from .study_tables import StudyTables

ROOT = Path(__file__).parents[2]
TEMPLATE = FOLDER / "RESULTS.md.j2"
PAGE = ROOT / "losses" / "RESULTS.md"
FIGURES = ROOT / ".github" / "figures"


def write(plan: Mapping[str, Entry], doses: Mapping[str, Dose]) -> None:
    """Writes the page and its figures from the evidence that exists."""
    made = {entry.name: entry.read() for entry in plan.values() if entry.path.exists()}
    pairs = {name: comparisons(evidence) for name, evidence in made.items() if evidence["confirm"]}
    dosed = {name: dose.read() for name, dose in doses.items() if dose.is_made()}
    responded = DoseTables(made, plan, doses, dosed, pairs)
    parts: list[Tables] = [kind(made, plan, doses, dosed, pairs) for kind in (PairTables, StudyTables)]
    draw(made, FIGURES / "guidance-curves.png")
    draw_doses(responded.whole(), doses, FIGURES / "dose-response.png")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    called = {name: getattr(each, name) for each in (*parts, responded) for name in vars(type(each)) if name[0] != "_"}
    PAGE.write_text(environment.from_string(TEMPLATE.read_text()).render(called))
