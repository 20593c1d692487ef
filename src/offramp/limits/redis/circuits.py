"""The circuit breakers of one process: over Redis each process has its own, which all show and none share."""

from __future__ import annotations

from collections.abc import Mapping

from offramp.core.limits.breaker import Breakers
from offramp.core.limits.messages import Ask, BreakerLevel, Done, Refused
from offramp.core.limits.spec import ResourceSpec


class Circuits:
    """The breakers of all resources that have some. Not safe to use from several threads at once."""

    def __init__(self, resources: Mapping[str, ResourceSpec]) -> None:
        self._breakers = {
            name: Breakers(name, spec.breaker) for name, spec in resources.items() if spec.breaker is not None
        }

    def refusal(self, ask: Ask, now: float) -> Refused | None:
        """Why a call may not be made now; None if it may."""
        breakers = self._breakers.get(ask.resource)
        if breakers is None or breakers.may(now, ask.credential) != "no":
            return None
        return Refused("open", *breakers.refusal(now, ask.credential))

    def granted(self, ask: Ask, now: float) -> bool:
        """A call begins; whether it is a probe."""
        breakers = self._breakers.get(ask.resource)
        return breakers is not None and breakers.granted(now, ask.id, ask.credential)

    def slow(self, ask: Ask, now: float) -> bool:
        """A call's first token is late; whether the breaker has changed."""
        breakers = self._breakers.get(ask.resource)
        return breakers is not None and breakers.slow(now, ask.id)

    def ended(self, ask: Ask, done: Done, now: float) -> bool:
        """A call is over; whether the breaker has changed."""
        breakers = self._breakers.get(ask.resource)
        return breakers is not None and breakers.ended(now, ask.id, done.how, done.says)

    def level(self, resource: str, now: float) -> BreakerLevel | None:
        """The breaker of a resource; None without one."""
        breakers = self._breakers.get(resource)
        return None if breakers is None else breakers.level(now)
