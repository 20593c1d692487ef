"""The worker process as its bodies see it: a workflow class has to be global, and a process has no globals of ours."""

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
    """What a worker process hands to the bodies that it executes."""

    heartbeat_s: float
    cancel_grace_s: float
    history_events_max: int
    objects_wait_s: float | None
    """How long a step may wait for its result to be kept; None where there is no place for what is large."""

    @property
    def host(self) -> BodyHost:
        """What executes bodies."""

    def has_had(self, run_id: str) -> bool:
        """Whether this process executed the run's body before; from now on it did."""

    def resumed(self, facts: Facts, token: int, replayed_steps: int, part: TraceContext | None) -> None:
        """A body that another process began goes on here; returns at once."""

    def strayed(self, strayed: Strayed) -> None:
        """A body does not repeat its history: it is to begin anew; returns at once."""


home_of: ContextVar[Home] = ContextVar("offramp_home")


class HomeInterceptor(Interceptor):
    """Gives bodies their process."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Set the process where a workflow begins."""
        home = self._home

        class Inbound(WorkflowInboundInterceptor):
            async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
                home_of.set(home)
                return await super().execute_workflow(input)

        return Inbound
