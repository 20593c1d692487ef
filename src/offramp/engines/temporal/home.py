"""The worker process as its bodies see it: a workflow class is global, and finds its process here without globals."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol

from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from offramp.engines.temporal.anew import Strayed
from offramp.ports.bodies import BodyHost, Facts, TraceContext


class Home(Protocol):
    """The interface of a worker process to the bodies that it executes."""

    heartbeat_s: float
    cancel_grace_s: float
    history_events_max: int
    objects_wait_s: float | None
    """How long a step may wait until its result is stored; None without an object store."""

    @property
    def host(self) -> BodyHost:
        """What executes bodies."""

    def has_had(self, run_id: str) -> bool:
        """Whether this process executed the run's body before; marks it as executed."""

    def resumed(self, facts: Facts, token: int, replayed_steps: int, part: TraceContext | None) -> None:
        """This process continues a body that another began; returns at once."""

    def strayed(self, strayed: Strayed) -> None:
        """A body differs from its history and has to restart; returns at once."""


home_of: ContextVar[Home] = ContextVar("offramp_home")


class HomeInterceptor(Interceptor):
    """Gives bodies their process."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Set the process at the start of a workflow."""
        home = self._home

        class Inbound(WorkflowInboundInterceptor):
            async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
                home_of.set(home)
                return await super().execute_workflow(input)

        return Inbound
