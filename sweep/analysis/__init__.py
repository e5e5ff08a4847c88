"""The analyses of a study, as data, as text and as a page.

May import ``study``, ``training``, ``data`` and ``config``; writes nothing to a storage or a tracking server.
Face: the names below, loaded when they are first used.
"""

from typing import TYPE_CHECKING

from ..config.lazy_face import lazy_face

if TYPE_CHECKING:
    from .confirmation import Confirmation
    from .report.report import write_report
    from .sensitivity import Analysis, analyse
    from .summary import Summary, summarise
    from .trials_table import trials_csv, trials_table

__all__ = [
    "Analysis",
    "Confirmation",
    "Summary",
    "analyse",
    "summarise",
    "trials_csv",
    "trials_table",
    "write_report",
]

__getattr__ = lazy_face(
    __name__,
    {
        "Analysis": ".sensitivity",
        "Confirmation": ".confirmation",
        "Summary": ".summary",
        "analyse": ".sensitivity",
        "summarise": ".summary",
        "trials_csv": ".trials_table",
        "trials_table": ".trials_table",
        "write_report": ".report.report",
    },
)
