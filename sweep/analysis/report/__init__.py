"""The report of a study: ``report.html``, figures as PNG, numbers as JSON and CSV.

May import the rest of ``analysis`` and what that may import. Face: `write_report` and the `Report` that it returns.
"""

from typing import TYPE_CHECKING

from ...config.lazy_face import lazy_face

if TYPE_CHECKING:
    from .report import Report, write_report

__all__ = ["Report", "write_report"]

__getattr__ = lazy_face(__name__, {"Report": ".report", "write_report": ".report"})
