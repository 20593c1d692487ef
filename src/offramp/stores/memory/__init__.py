"""Store, leases and outbox in memory, for tests and throw-away runs: visible at once, gone with the process."""

from offramp.stores.memory.store import MemoryRunLog, MemoryStore

__all__ = ["MemoryRunLog", "MemoryStore"]
