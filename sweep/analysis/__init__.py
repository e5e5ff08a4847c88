"""The analyses of a study, as data, as text and as a page. Face: the names below, loaded when they are first used.

May import ``study``, ``training``, ``data`` and ``config``; writes nothing to a storage or a tracking server.
"""

from ..config.lazy_face import lazy_face

__getattr__ = lazy_face(
    __name__,
    {
        "Analysis": ".sensitivity",
        "Confirmation": ".confirmation",
        "Summary": ".summary",
        "analyse": ".sensitivity",
        "summarise": ".summary",
        "trials_csv": ".trials_dataframe",
        "trials_table": ".trials_dataframe",
        "write_report": ".report.report",
    },
)
