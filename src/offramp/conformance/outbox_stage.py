"""Short words for what the cases of the outbox do on a store stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offramp.conformance.harness import StoreInstance
from offramp.conformance.sample import DONE, NOW, completed, drafted
from offramp.conformance.store_stage import StoreStage
from offramp.core import events
from offramp.core.events import Draft
from offramp.core.run import RunRecord, Webhook
from offramp.ports.outbox import Pending, Room
from offramp.ports.store import RunLog

ANYTHING = Room(100, 100, {})
CLAIM_S = 15.0


def webhook(host: str = "example.com") -> Webhook:
    """A webhook that asks for each finished step, and for the end."""
    return Webhook(f"https://{host}/hooks", ("step.completed", "run.completed"))


async def announcing(stage: StoreStage, asked: Webhook | None = None, **changes: Any) -> tuple[RunRecord, RunLog]:
    """A run with a webhook, leased to `a`."""
    return await stage.running(webhook=asked or webhook(), **changes)


def finished_step(number: int) -> Draft:
    """The event that a step ended."""
    return drafted(events.StepCompleted("work", f"work:{number}:0", 1, 1.0))


async def step(log: RunLog, number: int) -> None:
    """A finished step, on disk."""
    log.append(None, finished_step(number))
    await log.durable()


async def finish(log: RunLog) -> None:
    """The end of a run."""
    await log.finish(DONE, completed(), NOW)


async def due(at: StoreStage | StoreInstance, now: float = NOW, room: Room = ANYTHING) -> Sequence[Pending]:
    """Claim what is due."""
    return await at.outbox.claim(room, now, now + CLAIM_S)
