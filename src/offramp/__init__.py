"""Offramp: agent pipelines that stream under a budget and go on durably when they exceed it."""

import importlib
import typing

from offramp.app import App
from offramp.core.events import Event
from offramp.core.limits.spec import Breaker
from offramp.core.retry import Retry
from offramp.core.routing import RouteRequest
from offramp.core.sla import SLA
from offramp.declared import Pipeline, Step
from offramp.errors import OfframpError
from offramp.execution.as_completed import as_completed
from offramp.execution.context import Run, cleanup, current_run, emit, now, random, signal, sleep, uuid4
from offramp.execution.per_loop import per_loop
from offramp.resources.resource import Resource

if typing.TYPE_CHECKING:
    from offramp.client import AsyncClient, Client
    from offramp.complexity import text_complexity

    __version__: str
else:
    _LATE = {
        "AsyncClient": "offramp.client",
        "Client": "offramp.client",
        "text_complexity": "offramp.complexity",
    }

    def __getattr__(name: str) -> object:
        """What is imported or read only when it is asked for; no pipeline needs it."""
        if module := _LATE.get(name):
            return getattr(importlib.import_module(module), name)
        if name != "__version__":
            raise AttributeError(f"module 'offramp' has no attribute {name!r}")
        from importlib import metadata

        try:
            return metadata.version("offramp")
        except metadata.PackageNotFoundError:  # a source tree that is not installed
            return "unknown"


__all__ = [
    "SLA",
    "App",
    "AsyncClient",
    "Breaker",
    "Client",
    "Event",
    "OfframpError",
    "Pipeline",
    "Resource",
    "Retry",
    "RouteRequest",
    "Run",
    "Step",
    "as_completed",
    "cleanup",
    "current_run",
    "emit",
    "now",
    "per_loop",
    "random",
    "signal",
    "sleep",
    "text_complexity",
    "uuid4",
]
