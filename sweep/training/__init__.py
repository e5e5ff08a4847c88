"""Trains one trial on a worker: the loop, its checkpoints, and the reports that the driver receives.

May import `data`, `config`, `losses` and `models`. `run_trial` is the way in; `fit` is the training loop itself.
"""

from ..config.lazy_face import lazy_face

__getattr__ = lazy_face(
    __name__, {"run_trial": ".trial", "fit": ".loop", "EpochMetrics": ".reports", "TrialReport": ".reports"}
)
