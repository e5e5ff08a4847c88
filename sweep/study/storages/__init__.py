"""The storages of studies: a journal file or a database, the leases of drivers, the look-up of a study by name."""

from ...config.lazy_face import lazy_face

__getattr__ = lazy_face(__name__, {"open_storage": ".storage"})
