"""Time and randomness inside a workflow: a replay sees the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from temporalio import workflow


class WorkflowClock:
    """The part of the clock port that a body needs."""

    def time(self) -> float:
        """Epoch seconds of the current workflow task."""
        return workflow.time()

    monotonic = time

    def random(self) -> float:
        """From the workflow's own seed."""
        return workflow.random().random()

    def random_bytes(self, count: int) -> bytes:
        """From the workflow's own seed."""
        seeded: random.Random = workflow.random()
        return seeded.randbytes(count)

    def call_at(self, when: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """A durable timer."""
        return asyncio.get_running_loop().call_later(max(0.0, when - workflow.time()), callback)
