"""The engine that needs no set-up: leases and claims in the store, one machine, any number of processes."""

from offramp.engines.embedded.engine import EmbeddedEngine

__all__ = ["EmbeddedEngine"]
