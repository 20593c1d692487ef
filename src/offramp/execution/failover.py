"""A failover's part in the making of an attempt: whether another target follows a failed one.

`core/failover.py` decides; `execution/admission.py` chooses the target of an attempt before it begins.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from offramp.core.attempts import FailedAttempt
from offramp.core.failover import NO_OTHER_HELPS, follows, notes_of, reason_of
from offramp.core.failure import failure_of

if TYPE_CHECKING:
    from offramp.execution.attempt import Attempt

logger = logging.getLogger("offramp")
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


def fails_over(attempt: Attempt, error: Exception) -> bool:
    """Whether another target follows this failed attempt; the last error is given those before it as notes."""
    call, scope = attempt.call, attempt.scope
    if call.targets is None:
        return False
    failure = failure_of(error)
    failed = FailedAttempt(attempt.number, failure.code, failure.message, target=call.target)
    if follows(call.targets.names, (*attempt.earlier, failed), error):
        scope.metrics.failed_over(reason_of(error))
        return True
    for note in notes_of(attempt.earlier):
        error.add_note(note)
    return False


class Callee(Protocol[P, R_co]):
    """A declared step."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Its result."""


def in_turn(like: Callable[..., Any], steps: Sequence[Callee[P, R_co]]) -> Callable[P, Coroutine[Any, Any, R_co]]:
    """A function like this one that calls the steps in turn until one succeeds: a failover outside of runs."""

    @functools.wraps(like)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R_co:
        for step in steps[:-1]:
            try:
                return await step(*args, **kwargs)
            except NO_OTHER_HELPS:
                raise
            except Exception as error:  # noqa: BLE001 - another step is left
                logger.info("%r failed (%r); another step is called", step, error)
        return await steps[-1](*args, **kwargs)

    return call
