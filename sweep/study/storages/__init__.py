"""Where studies are stored: a journal file or a database, the leases of their drivers, the look-up of a study by name.

May import config. Its face: open_storage.
"""

from typing import TYPE_CHECKING

from ...config.lazy_face import lazy_face

if TYPE_CHECKING:
    from .storage import open_storage as open_storage

__all__ = ["open_storage"]

__getattr__ = lazy_face(__name__, {"open_storage": ".storage"})
