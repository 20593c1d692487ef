"""The tenant of a read, by which a store shares its reading threads."""

from __future__ import annotations

from contextvars import ContextVar

tenant: ContextVar[str | None] = ContextVar("offramp_reads_for", default=None)
"""The tenant whose request causes the reads of this context; None for the service's own, and without keys."""
