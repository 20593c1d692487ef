"""Time and randomness inside of a workflow: what a replay sees again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from temporalio import workflow


class WorkflowClock:
    """See the clock port, as far as a body needs it."""

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
