"""The permits of resources: what a process asks of the limits, and the answers. Obligations of every adapter:

R1 A permit is asked for once, by an id of its own, and its asker gets exactly one of `Granted` and `Refused`;
   before that, any number of `Waits`. After `withdraw` it gets nothing more.
R2 At no time do more permits exist than `concurrency`, over all processes that share the limits; in no window do more
   calls than its rate count, from the moment of `written` (or of the grant, until that is known) plus a margin.
R3 A permit ends with `done`, with `withdraw`, or with the process that holds it: nothing else keeps it.
R4 What takes the limits over after a crash learns from each process what it holds, asks for, and called while the
   longest window lasts, and grants nothing to others meanwhile.
R5 Waiters are granted in the order of `core.order`: those whose asker holds a permit first, then the highest class,
   a class that is overdue by its share, fair between tenants, the oldest run first.
R6 What could only be granted after a permit that the asker itself keeps meanwhile (`within`) is refused at once.
R7 Every method may be called from any thread, and never waits. `notify` may be called on any thread, and must not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, Protocol

import msgspec

from offramp.ports.clock import Clock

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
Notify = Callable[[Answer], object]


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


class Limits(Protocol):
    """This process's side of the limits. See the obligations at the top of this module."""

    def ask(self, ask: Ask, notify: Notify) -> None:
        """Ask for a permit. `notify` may be called before this returns."""

    def withdraw(self, permit_id: str) -> None:
        """Give up an ask, or a permit that was granted meanwhile and whose call was not made."""

    def written(self, permit_id: str) -> None:
        """The request has been sent: its windows count from now."""

    def slow(self, permit_id: str) -> None:
        """The first token is later than the breaker, or the step, allows; called when it becomes late."""

    def done(self, permit_id: str, done: Done) -> None:
        """The call is over, and its permit free."""

    def lift(self, run_id: str, sla: str, priority: int) -> None:
        """A run of this class waits for that run: the asks of that run, now and later, count as of the higher one."""

    def watch(self, notify: Callable[[Sequence[Level]], object]) -> None:
        """Report the levels of all resources, now and about every second while they change."""

    async def levels(self) -> Sequence[Level]:
        """All resources as they are now."""

    def close(self) -> None:
        """Refuse what waits, give back what is held."""


class Held(NamedTuple):
    """A permit that was granted: its id, and the tokens that were reserved for it."""

    id: str
    tokens: int = 0


class Holder(Protocol):
    """What an attempt of a step, or code outside of runs, asks for permits with. Its context has it, in every lane.

    Every method may be called from any thread, and never waits.
    """

    @property
    def limits(self) -> Limits:
        """The source of its permits."""

    @property
    def clock(self) -> Clock:
        """The injected clock."""

    @property
    def retries(self) -> bool:
        """Whether another attempt may follow a failure, so that SDKs need not repeat their requests."""

    def take(self, resource: str) -> Held | None:
        """The permit that the step waited for before it began (`uses=`): once, for its first request."""

    def ask(self, resource: str) -> Ask:
        """An ask in the name of the attempt, with an id of its own.

        Its `within` are the permits that the step waited for and no request has taken over yet.
        """

    def waiting(self, ask: Ask, give_up: Callable[[], object]) -> AbstractContextManager[Callable[[Waits], object]]:
        """Around the wait for a permit, in the asking thread; the step may be in flight.

        Args:
            ask: the ask.
            give_up: called, from any thread, if the attempt is over meanwhile: no code needs the permit any more.

        Returns:
            what to call with each `Waits`, from any thread.
        """

    def first_byte(self, resource: str) -> None:
        """The first token of an answer has come, or the first byte where it has no tokens."""
