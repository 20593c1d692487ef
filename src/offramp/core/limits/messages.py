"""The messages of limits: an ask, its answers, how a call ended, what a resource is like now. `ports/limits.py` has the
obligations that go with them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Reason = Literal["rate", "tokens", "concurrency", "breaker", "retry-after"]
"""What a waiter waits for; the last one: for the time that the provider asked to wait."""
Why = Literal["busy", "open", "too-small", "deadlock", "closed"]
"""Why an ask is refused: the queue is full, or it would have to queue and does not; the breaker is open; it needs more
than the limit has; it would wait for itself; the process stops."""
How = Literal["ok", "failed", "slow", "throttled", "exhausted", "cancelled", "unused"]
"""How a call ended: `failed` for timeouts, connection errors, 5xx, error events, broken streams; `throttled` by a 429;
`exhausted` by a 429 that says `insufficient_quota`; `unused` for a permit whose call was never made. Only `failed` and
`slow` count against the breaker, `ok` for it; an answer of 4xx is `ok`."""


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that is to be made.

    Attributes:
        id: of the permit, unique. It begins with the id of the run, so that the older run has the smaller one.
        resource: its name.
        run_id: the run; empty outside of one.
        step: the step's name; what its calls need is learned by it.
        sla: the class of the run.
        tenant: of the run.
        priority: of the class when the run was accepted.
        tokens: what the call is expected to use, all in all; None for what calls of the step used.
        tokens_max: the most that it can use, such as its input and `max_tokens`; None if unknown.
        within: ids of permits that the asking task keeps while it waits.
        queues: False refuses rather than waits, for calls that may as well not be made.
        credential: a digest of the key it is made with, which has a breaker of its own; empty if unknown.
    """

    id: str
    resource: str
    run_id: str = ""
    step: str = ""
    sla: str = "default"
    tenant: str = ""
    priority: int = 0
    tokens: int | None = None
    tokens_max: int | None = None
    within: tuple[str, ...] = ()
    queues: bool = True
    credential: str = ""


class Granted(msgspec.Struct, frozen=True, tag=True):
    """The call may be made.

    Attributes:
        tokens: what was reserved for it.
        waited_s: since it was asked for.
        probe: it is one of the few calls by which a breaker finds out whether it may close.
    """

    tokens: int = 0
    waited_s: float = 0.0
    probe: bool = False


class Waits(msgspec.Struct, frozen=True, tag=True):
    """The call cannot be made yet.

    Attributes:
        reason: what for, of several the one that lasts longest.
        ahead: how many are granted before it, as it looks now.
        expected_s: how long it is expected to wait from now on; None if nothing is known.
    """

    reason: Reason
    ahead: int
    expected_s: float | None


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The call will not be granted.

    Attributes:
        why: the kind.
        says: a sentence for users, with figures.
        retry_after_s: when it is worth another try; None if never.
    """

    why: Why
    says: str
    retry_after_s: float | None = None


Answer = Granted | Waits | Refused


class Done(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a call ended.

    Attributes:
        how: see `How`.
        says: what went wrong, in a word or two: `503`, `timeout`, `overloaded_error`.
        tokens: what it used, as the provider says; None if unknown, and what was reserved counts.
        blocked_s: seconds for which nobody may call the resource, as the provider asked.
        first_s: seconds from written to the first token; None if there was none.
    """

    how: How = "ok"
    says: str = ""
    tokens: int | None = None
    blocked_s: float | None = None
    first_s: float | None = None


class WaitingClass(msgspec.Struct, frozen=True):
    """What waits of one class.

    Attributes:
        count: how many calls.
        oldest_s: seconds since the oldest began to wait.
        longest_wait_s: the longest that one can wait, by `core.order.longest_wait_s`; None without a `queue_limit`.
    """

    count: int
    oldest_s: float
    longest_wait_s: float | None = None


BreakerState = Literal["closed", "open", "half-open"]


class BreakerLevel(msgspec.Struct, frozen=True, omit_defaults=True):
    """A breaker: its state and the calls within its window, by `How`; the worst of all credentials' breakers."""

    state: BreakerState
    counts: dict[str, int] = {}
    next_try_s: float | None = None


class WindowLevel(msgspec.Struct, frozen=True):
    """A window: its notation, its limit as scaled now, what counts in it, and of what (`calls` or `tokens`)."""

    limit: str
    of: Literal["calls", "tokens"]
    scaled: float
    used: float


class Refusal(msgspec.Struct, frozen=True):
    """The last 429 of a provider: how long ago, what it said."""

    ago_s: float
    says: str


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """A resource as it is now, over all processes that share it.

    Attributes:
        name: of the resource.
        in_use: permits that exist.
        concurrency: how many may, as scaled now; None for no limit.
        windows: rates and tokens.
        waiting: by class.
        scale: what refusals left of the limits, from above 0 to 1.
        blocked_s: seconds until calls may be made again; None if they may.
        breaker: None without one.
        last_refusal: None if there was none.
        throttled: calls that a provider refused, since the limits' process started.
        calls: calls by how they ended, likewise.
        tokens: tokens used, likewise.
    """

    name: str
    in_use: int
    concurrency: int | None
    windows: tuple[WindowLevel, ...] = ()
    waiting: dict[str, WaitingClass] = {}
    scale: float = 1.0
    blocked_s: float | None = None
    breaker: BreakerLevel | None = None
    last_refusal: Refusal | None = None
    throttled: int = 0
    calls: dict[str, int] = {}
    tokens: int = 0


def circle(resource: str) -> str:
    """The sentence for an ask that only its own end could serve."""
    return (
        f"{resource}: the call would wait for permits that are kept until it is made; let every step take its permits "
        "in one order, as uses=[...] does, or keep none while it asks for another"
    )
