"""Calling a running gateway from Python: `Client`, `AsyncClient`, and the documents and events that they return."""

from offramp.client.asynchronous import AsyncClient
from offramp.client.documents import (
    Demotion,
    PipelineDocument,
    Predicted,
    RouteTaken,
    RunDocument,
    RunError,
    RunPage,
    StepDocument,
    Ticket,
    WaitingFor,
    Where,
)
from offramp.client.effects import Retrying
from offramp.client.events import (
    RunAccepted,
    RunCancelled,
    RunCompleted,
    RunDemoted,
    RunExpired,
    RunFailed,
    RunResumed,
    SignalRefused,
    StepCompleted,
    StepDelta,
    StepFailed,
    StepRetrying,
    StepStarted,
    StepWaiting,
    WaitEnded,
    WaitStarted,
)
from offramp.client.options import Options
from offramp.client.sync import Client
from offramp.document import Problem

__all__ = [
    "AsyncClient",
    "Client",
    "Demotion",
    "Options",
    "PipelineDocument",
    "Predicted",
    "Problem",
    "Retrying",
    "RouteTaken",
    "RunAccepted",
    "RunCancelled",
    "RunCompleted",
    "RunDemoted",
    "RunDocument",
    "RunError",
    "RunExpired",
    "RunFailed",
    "RunPage",
    "RunResumed",
    "SignalRefused",
    "StepCompleted",
    "StepDelta",
    "StepDocument",
    "StepFailed",
    "StepRetrying",
    "StepStarted",
    "StepWaiting",
    "Ticket",
    "WaitEnded",
    "WaitStarted",
    "WaitingFor",
    "Where",
]
