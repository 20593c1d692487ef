"""The permit that user code takes around a call that no client of a resource makes."""

from __future__ import annotations

import functools
from types import TracebackType
from typing import TYPE_CHECKING, Self

from offramp.core.limits.raised import verdict_of_error
from offramp.core.limits.spec import ResourceSpec
from offramp.ports.limits import Done, Holder
from offramp.resources.holding import Holding, Need
from offramp.resources.service import Service
from offramp.resources.waiting import acquire, acquire_async

if TYPE_CHECKING:
    from offramp.ports.clock import Timer


class Permit:
    """One call of a resource: a context manager, for `with` in threads and `async with` on loops, used once.

    The call should begin at once: its windows count from the moment that the block is entered.
    """

    def __init__(self, spec: ResourceSpec, service: Service, tokens: int | None) -> None:
        self._spec = spec
        self._service = service
        self._need = Need(tokens)
        self._tokens: int | None = None
        self._is_entered = False
        self._holding: Holding | None = None
        self._timer: Timer | None = None

    def used(self, *, tokens: int) -> None:
        """Report what the call used, as the provider says; without this, what was reserved counts.

        Args:
            tokens: input and output together; the last report counts.

        Raises:
            ValueError: it is no whole number from 0 on.
        """
        self._tokens = whole(tokens, "permit.used(tokens=)")

    def __enter__(self) -> Self:
        holder = self._entered()
        if holder is not None:
            self._begun(holder, acquire(self._spec, holder, self._need))
        return self

    async def __aenter__(self) -> Self:
        holder = self._entered()
        if holder is not None:
            self._begun(holder, await acquire_async(self._spec, holder, self._need))
        return self

    def _entered(self) -> Holder | None:
        if self._is_entered:
            raise RuntimeError(f"a permit of resource {self._spec.name!r} is for one call: write permit() for each")
        self._is_entered = True
        return self._service.holder(self._spec.name)

    def _begun(self, holder: Holder, holding: Holding) -> None:
        self._holding = holding
        holding.written()
        if holder.slow_after is not None:
            late = functools.partial(_late, holder, holding)
            self._timer = holding.clock.call_at(holding.clock.monotonic() + holder.slow_after, late)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        holding, self._holding = self._holding, None
        if holding is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if error is None:
            holding.done(Done(tokens=self._tokens))
            return
        verdict = verdict_of_error(error, holding.clock.time())
        holding.done(Done(how=verdict.how, says=verdict.says, tokens=self._tokens, blocked_s=verdict.blocked_s))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def _late(holder: Holder, holding: Holding) -> None:
    """The call is not over, and its step has emitted nothing, when its first token should have come."""
    if not holder.has_token:
        holding.slow()


def whole(tokens: int, what: str) -> int:
    """A number of tokens.

    Raises:
        ValueError: it is none.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
        raise ValueError(f"{what} is a whole number from 0 on, got {tokens!r}")
    return tokens
