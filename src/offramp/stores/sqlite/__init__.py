"""Runs, journals, events and leases in one SQLite file in WAL mode, shared by the processes of one machine."""

from offramp.stores.sqlite.database import Database
from offramp.stores.sqlite.store import SQLiteStore

__all__ = ["Database", "SQLiteStore"]
