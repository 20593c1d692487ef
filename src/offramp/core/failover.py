"""A failover's decisions: which targets are left, when another one is asked as well, and why the next one is used.

Pure: knows failed attempts, waits and errors as data, and executes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from offramp.core.call import FirstToken, Policy
from offramp.core.retry import ONCE, Retry
from offramp.errors import EncodingError, FirstTokenTimeout, ObjectsUnavailable

if TYPE_CHECKING:
    from offramp.core.attempts import FailedAttempt
    from offramp.core.run import Path

TARGETS_MAX = 10
"""The most steps of a failover."""
DEEP_WAIT_S = 1.0
"""A run on the deep path that waits for longer than this asks for a permit of the next target as well."""
Reason = Literal["breaker", "wait", "error", "timeout", "first-token"]
"""Why a failover uses another target than the first that has not failed."""
NO_OTHER_HELPS = EncodingError, ObjectsUnavailable
"""Errors that the next target would meet as well: what goes in or out does not fit, or cannot be kept."""


def left(targets: Sequence[str], failed: Iterable[FailedAttempt]) -> list[int]:
    """The places of the targets that have not failed, in order; a target that is named twice may fail twice."""
    gone = [each.target for each in failed if each.target is not None]
    found = []
    for place, name in enumerate(targets):
        if name in gone:
            gone.remove(name)
        else:
            found.append(place)
    return found


def follows(targets: Sequence[str], failed: Sequence[FailedAttempt], error: BaseException) -> bool:
    """Whether another target is used after the last of these failed attempts, which raised this error."""
    return not isinstance(error, NO_OTHER_HELPS) and bool(left(targets, failed))


def reason_of(error: BaseException) -> Reason:
    """Why the next target is used after this error."""
    if isinstance(error, FirstTokenTimeout):
        return "first-token"
    return "timeout" if isinstance(error, TimeoutError) else "error"


def too_long(*, is_open: bool, expected_s: float | None, path: Path, remaining_s: float) -> Reason | None:
    """Why a permit of the next target is asked for as well; None while the wait for this one may go on.

    Args:
        is_open: whether the wait is for an open breaker.
        expected_s: how long it is expected to last; None if nothing is known.
        path: where the run is.
        remaining_s: what is left of its budget on the fast path.
    """
    if is_open:
        return "breaker"
    if expected_s is None:
        return None
    return "wait" if expected_s > (remaining_s if path == "fast" else DEEP_WAIT_S) else None


def notes_of(failed: Iterable[FailedAttempt]) -> list[str]:
    """What the error of the last target is given as notes: how the targets before it failed."""
    return [f"before it, {each.target or 'an attempt'} failed: {each.message}" for each in failed]


def together(policies: Sequence[Policy], first_token: float | None) -> Policy:
    """How an engine is to treat a failover of steps with these policies."""
    timeouts = [each.timeout for each in policies]
    timeout = None if None in timeouts else max(each for each in timeouts if each is not None)
    first = None if first_token is None else FirstToken(within=first_token)
    is_short = all(each.short for each in policies)
    return Policy("loop", timeout, Retry(attempts=len(policies), base=0.0), "repeatable", is_short, first)


def in_failover(policy: Policy, whole: Policy, *, is_last: bool) -> Policy:
    """How attempts of a failover's step are made.

    The last that is left has no limit for its first token: late is better than nothing.

    Args:
        policy: the step's own.
        whole: the failover's.
        is_last: whether no other step is left.
    """
    own = policy.first or FirstToken()
    within = None if whole.first is None or is_last else whole.first.within
    first = msgspec.structs.replace(own, within=within)
    retry = ONCE if is_last else whole.retry
    return msgspec.structs.replace(policy, retry=retry, first=None if first == FirstToken() else first)
