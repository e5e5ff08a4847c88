"""Maintenance of studies on disk: export and import (archive), garbage collection (gc), and checks (doctor)."""
