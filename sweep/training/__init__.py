"""Trains one trial on a worker: the loop, its checkpoints, and the reports that the driver receives.

May import `data`, `config`, `losses` and `models`. `run_trial` is the way in; `fit` is the training loop itself.
"""

from typing import TYPE_CHECKING

from ..config.lazy_face import lazy_face

if TYPE_CHECKING:
    from .loop import fit
    from .reports import EpochMetrics, TrialReport
    from .trial import run_trial

__all__ = ["EpochMetrics", "TrialReport", "fit", "run_trial"]

__getattr__ = lazy_face(
    __name__, {"run_trial": ".trial", "fit": ".loop", "EpochMetrics": ".reports", "TrialReport": ".reports"}
)
