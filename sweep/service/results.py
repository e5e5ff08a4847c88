"""The results of a study, for notebooks and programs: tables, curves, figures, the report and the best model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis.summary import Summary
from ..config.errors import SweepError, nearest
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from ..config.user_code import OWN_MODEL
from . import analyse

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from torch import nn

    from ..analysis.report.report import Report
    from ..analysis.sensitivity import Analysis


@dataclass(frozen=True, repr=False)
class StudyResults:
    """The results of a study at one moment, from `sweep.run` or `sweep.load`; load it again for later ones.

    A notebook shows the counts, the best trials and the verdicts on the finalists.

    Attributes:
        summary: the records behind the tables; `Summary.interrupted` is True if the run was stopped early.

    Example:
        >>> import sweep, tempfile
        >>> settings = sweep.Settings(workspace=tempfile.mkdtemp(), report=False)
        >>> short = ["search.design=0", "search.finalists.top=0", "training.max_epochs=2", "lambda2=0", "width=128"]
        >>> here = sweep.RunOptions(executor="local")
        >>> _ = sweep.run("digits", trials=3, sets=short, settings=settings, options=here)
        >>> study = sweep.load("digits", settings=settings)
        >>> study
        digits: 3 trials: 3 completed
        >>> study.trials["outcome"].tolist()
        ['completed', 'completed', 'completed']
        >>> study.best(2).columns.tolist()
        ['value', 'lambda1', 'epsilon', 'depth', 'epochs']
        >>> curves = study.curves("val_loss")  # [epochs, trials]
        >>> curves.shape, bool((curves.loc[2] == study.trials["value"]).all())
        ((2, 3), True)
        >>> study.sensitivity().trusted  # three trials say nothing: no indices
        False
        >>> "learning curves" in study.figures()
        True
        >>> import torch
        >>> model = study.model()
        >>> model(torch.zeros(5, 1, 8, 8, dtype=torch.uint8)).shape, model.meta["metric"]
        (torch.Size([5, 1, 8, 8]), 'val_loss')
    """

    summary: Summary
    settings: Settings

    @property
    def name(self) -> str:
        """The name of the study."""
        return self.summary.config.name

    @property
    def config(self) -> StudyConfig:
        """The study file, defaults included."""
        return self.summary.config

    @property
    def trials(self) -> pd.DataFrame:
        """The trials of the search: one row each, by number; the columns are those of `sweep.analysis.trials_table`.

        ``value`` has the unit of the objective; ``started`` and ``ended`` are UTC.
        """
        return self._rows(self.name)

    @property
    def controls(self) -> pd.DataFrame:
        """The trials beside the search, with the columns of ``trials``: finalists, controls and pairs."""
        return self._rows(f"{self.name}.controls")

    def _rows(self, study: str) -> pd.DataFrame:
        from ..analysis.trials_dataframe import trials_table

        table = trials_table(self.summary)
        return table[table["study"] == study].drop(columns="study").set_index("number")

    def best(self, top: int = 5) -> pd.DataFrame:
        """Returns the best completed trials: one row each, by number, best first.

        ``value`` is a mean where a configuration was trained on several ``seeds``.
        If there were finalists, ``on_fresh_seeds`` is the value to expect on a fresh seed, which decides the order:
        the mean over ``fresh_seeds`` seeds, or an estimate if these are 0.
        """
        from ..analysis.notebook import best_table

        return best_table(self.summary, self.trials, top)

    def curves(self, metric: str | None = None) -> pd.DataFrame:
        """Returns a metric's values, by default the objective's: one row an epoch, one column a trial of the search.

        NaN where a trial ended before. Trials whose checkpoints are gone have no column.

        Raises:
            SweepError: no trial has logged the metric; lists those that were logged.
        """
        import pandas as pd

        from ..analysis.report.curves import history

        metric, known = metric or self.config.objective.metric, dict[str, None]()
        found: dict[int, dict[int, float]] = {}
        for row in self.summary.rows:
            if epochs := history(row, self.name, self.settings):
                found[row.number] = {m.epoch: m.values[metric] for m in epochs if metric in m.values}
                known |= dict.fromkeys(name for m in epochs for name in m.values)
        if not any(found.values()):
            logged = f"they logged {', '.join(known)}" if known else "they have no checkpoints"
            raise SweepError(f"{metric}: no trial of {self.name} has it{nearest(metric, list(known))}; {logged}")
        return pd.DataFrame(found).sort_index().rename_axis(index="epoch", columns="trial")

    def sensitivity(
        self,
        *,
        metric: str | None = None,
        epoch: int | None = None,
        against_control: bool = False,
        where: str | None = None,
    ) -> Analysis:
        """Returns which hyperparameters matter, and how reliable that is, or why it is unknown.

        ``table`` of the result has the Sobol indices. For the arguments see `sweep.service.sensitivity`.

        Raises:
            SweepError: no such metric or epoch, or a malformed condition.
        """
        [found] = analyse.sensitivity(
            self.name, self.settings, metric=metric, epoch=epoch, against_control=against_control, where=where
        )
        return found

    def figures(self) -> dict[str, go.Figure]:
        """Returns the figures of the report that have something to show, by name: ``learning curves``, ``parallel``."""
        from ..analysis.report.contents import ReportContents
        from ..analysis.report.plotly_figures import plotly_figures, styled

        confirmed = analyse.stored_confirmation(self.name, self.settings)
        contents = ReportContents.of(self.summary, self.sensitivity(), self.settings, confirmed)
        return styled({name: plot for _, plots in plotly_figures(contents) for name, plot in plots.items()})

    def report(self, folder: Path | None = None) -> Report:
        """Writes the report, by default to the study's folder in the workspace; a notebook shows it below the cell."""
        return analyse.report(self.name, self.settings, folder)

    def model(self) -> nn.Module:
        """Returns the best trial's network behind its normalisation, on the CPU, in eval mode, from its checkpoint.

        It takes images as the data set stores them, uint8 [N, C, H, W]. Its attribute ``meta`` has the names of the
        classes, and what goes in and comes out.

        Raises:
            SweepError: no trial has completed, the weights of the best one are gone, or the study trains a function of
                your own, which alone knows its model.
        """
        from ..training.checkpoint import load_latest
        from ..training.program import trained_program
        from ..training.reports import TrialPaths

        if self.config.kind != "model":
            raise SweepError(f"{self.name}: {self.config.subject} knows its model alone; {OWN_MODEL}")
        if not self.summary.best:
            raise SweepError(f"{self.name}: no trial has completed yet")
        settings, row = self.settings, self.summary.best[0]
        saved = load_latest(folder := settings.checkpoints(self.name, row.number))
        if saved is None or not saved.state:
            again = f"sweep train {self.name} --trial {row.number} --out model.pt2"
            raise SweepError(f"trial {row.number} is the best of {self.name}; {folder} has no weights of it: {again}")
        paths = TrialPaths(folder, settings.data, settings.cache)
        config = self.config.trial(row.hyperparameters, seed=row.seed)
        program = trained_program(config, paths, saved, study=self.name, trial=row.number)
        module = program.module
        setattr(module, "meta", dict(program.metadata))  # noqa: B010 (mypy takes an attribute of a module for a tensor)
        return module

    def __repr__(self) -> str:
        return f"{self.name}: {self.summary.counted}"

    def _repr_html_(self) -> str:
        from ..analysis.notebook import summary_html

        return summary_html(self.summary, self.best())
