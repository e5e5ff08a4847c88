"""The storages of studies: a journal file or a database, the leases of drivers, the look-up of a study by name."""
