"""The declarations, settings and adapters of one process of a service, assembled by the wiring."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from offramp.core.shares import Tenancy
from offramp.core.sla import SLA
from offramp.core.spec import PipelineSpec
from offramp.execution.advice import NO_ADVICE, Advice
from offramp.execution.lanes import Lanes
from offramp.execution.lease_window import LeaseWindow
from offramp.execution.loops import LoopThread, RunLoops
from offramp.execution.steps import LocalSteps
from offramp.execution.values import Values
from offramp.paths.deliver import Feed
from offramp.ports.clock import Clock
from offramp.ports.limits import Limits
from offramp.ports.store import Store
from offramp.settings import Settings
from offramp.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from offramp.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """`id` names the process in leases and `run.resumed`; `control` is a loop without user code.

    `advice` holds the functions of the app that are asked about requests. `tracing` is None if it is off; `on_present`
    is called with the ids of the processes that hold a lease, whenever they were looked up. `limits` is None for an app
    without resources.
    """

    id: str
    settings: Settings
    pipelines: Mapping[str, PipelineSpec]
    classes: Mapping[str, SLA]
    clock: Clock
    store: Store
    values: Values
    control: LoopThread
    loops: RunLoops
    lanes: Lanes
    steps: LocalSteps
    lease_window: LeaseWindow
    tenancy: Tenancy
    feed: Feed
    metrics: Metrics
    advice: Advice = NO_ADVICE
    tracing: Tracing | None = None
    on_present: Callable[[Collection[str]], object] = lambda _ids: None
    limits: Limits | None = None
