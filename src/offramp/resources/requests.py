"""What the transports of a resource do with requests, whatever library they belong to, plain or async."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from offramp.core.limits.needs import tokens_max
from offramp.core.limits.spec import ResourceSpec
from offramp.errors import OfframpError
from offramp.ports.limits import Holder
from offramp.resources.credential import digest
from offramp.resources.exchange import SHOULD_RETRY, Exchange
from offramp.resources.holding import Holding, Need
from offramp.resources.service import Service

SWALLOWS = "x-stainless-"
"""The names of headers of SDKs that take every exception of a transport for a failed connection, and try again."""


class Requests:
    """The requests of one resource's clients."""

    def __init__(self, spec: ResourceSpec, service: Service) -> None:
        self.spec = spec
        self._service = service

    def holder(self) -> Holder | None:
        """See `Service.holder`."""
        return self._service.holder(self.spec.name)

    def need(self, request: Any) -> Need:
        """What a request needs, as far as its body says."""
        spec = self.spec
        content: bytes | None = getattr(request, "_content", None) if spec.tokens else None
        return Need(
            tokens_max=None if content is None else tokens_max(content),
            credential=digest(request.headers.raw) if spec.breaker is not None else "",
        )

    def exchange(self, holder: Holder, holding: Holding) -> Exchange:
        """The request has its permit."""
        breaker = self.spec.breaker
        late = (None if breaker is None else breaker.slow_after, holder.slow_after)
        slow_after_s = min((each for each in late if each is not None), default=None)
        return Exchange(holding, holder, self.spec.name, slow_after_s)


@contextlib.contextmanager
def traced(request: Any, hook: Any) -> Iterator[None]:
    """While the request is sent, the hook receives the events of its connection."""
    given = request.extensions
    request.extensions = {**given, "trace": hook}
    try:
        yield
    finally:
        request.extensions = given


def is_whole(response: Any, exchange: Exchange) -> bool:
    """Whether a transport gave the whole answer at once, in memory: then it is over."""
    if not response.is_closed:
        return False
    headers = {name: value for name, value in response.headers.items() if name.lower() != "content-encoding"}
    exchange.answered(response.status_code, headers)
    exchange.received(response.content)
    advise(response, exchange)
    exchange.ended()
    return True


def advise(response: Any, exchange: Exchange) -> None:
    """Tell an SDK whether to repeat what failed."""
    advice = exchange.advice()
    if advice is not None:
        response.headers[SHOULD_RETRY] = advice


def refused(library: Any, request: Any, error: OfframpError) -> Any:
    """Raise the error, so that the caller sees it and no other.

    SDKs made by Stainless, as those of OpenAI and Anthropic, would wrap and repeat what `send` raises, whatever it is.
    They are given an answer that raises the error as soon as its status is looked at, which they leave alone.
    """
    if not any(name.startswith(SWALLOWS) for name in request.headers):
        raise error

    class Refusal(library.Response):  # type: ignore[misc]
        """No answer: a request that was not sent."""

        @property
        def is_success(self) -> bool:
            raise error

        def raise_for_status(self) -> Any:
            raise error

    problem = {"type": error.code, "message": str(error)}
    return Refusal(error.status, json={"error": problem}, headers={SHOULD_RETRY: "false"}, request=request)
