"""For whom a store reads: so that its reading threads can be shared between tenants."""

from __future__ import annotations

from contextvars import ContextVar

tenant: ContextVar[str | None] = ContextVar("offramp_reads_for", default=None)
"""Whose request the reads of this context belong to; None for the service's own, and where there are no keys."""
