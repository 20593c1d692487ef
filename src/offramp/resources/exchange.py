"""One request of a client and its answer, as the limits see it.

Told by a transport what happens, in order; does no I/O, so plain and async transports share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from offramp.core.limits.raised import verdict_of_error
from offramp.core.limits.reading import Reader
from offramp.core.limits.said import Verdict
from offramp.ports.limits import Done
from offramp.resources.holding import Holding

if TYPE_CHECKING:
    from offramp.ports.clock import Timer
    from offramp.ports.limits import Holder

SHOULD_RETRY = "x-should-retry"
"""The header by which a provider tells the SDKs of OpenAI, Anthropic and others whether to send a request again."""


class Exchange:
    """The permit of one request, from its grant until its answer is over.

    Args:
        holding: the permit.
        holder: of the calling code.
        resource: its name.
        slow_after_s: seconds from written, after which the first token is late; None for never.
    """

    __slots__ = (
        "_first_s",
        "_holder",
        "_holding",
        "_is_tunnel",
        "_reader",
        "_resource",
        "_slow_after_s",
        "_status",
        "_timer",
        "_written_at",
    )

    def __init__(self, holding: Holding, holder: Holder, resource: str, slow_after_s: float | None) -> None:
        self._holding = holding
        self._holder = holder
        self._resource = resource
        self._slow_after_s = slow_after_s
        self._timer: Timer | None = None
        self._reader: Reader | None = None
        self._written_at: float | None = None
        self._first_s: float | None = None
        self._status = 0
        self._is_tunnel = False

    def traced(self, event: str, info: Mapping[str, Any]) -> None:
        """An event of the connection, by httpcore's `trace` extension."""
        if event.endswith("send_request_headers.started"):  # a proxy is asked for a tunnel first
            self._is_tunnel = getattr(info.get("request"), "method", None) == b"CONNECT"
        elif event.endswith("send_request_body.complete") and not self._is_tunnel:
            self._written()

    def _written(self) -> None:
        if self._written_at is not None or not self._holding.written():
            return
        clock = self._holding.clock
        self._written_at = clock.monotonic()
        if self._slow_after_s is not None:
            self._timer = clock.call_at(self._written_at + self._slow_after_s, self._holding.slow)

    def answered(self, status: int, headers: Mapping[str, str]) -> bool:
        """The head of the answer has come; returns whether it is an error, of which the body says more."""
        self._written()  # at the latest: not every transport traces
        self._status = status
        self._reader = Reader(status, headers)
        return status >= 400

    def received(self, part: bytes) -> None:
        """A part of the body, as it came."""
        reader = self._reader
        if reader is None or not part:
            return
        reader.feed(part)
        if self._first_s is None and reader.first and self._written_at is not None:
            self._first_s = self._holding.clock.monotonic() - self._written_at
            self._stop_timer()
            if self._status < 400:
                self._holder.first_byte(self._resource)

    def opened(self, close: Callable[[], object]) -> None:
        """Its body is read from here on; `close` ends that, if the attempt is over before."""
        self._holder.opened(self._holding.id, close)

    def keep(self) -> None:
        """The calling context reads the answer, and so keeps the permit."""
        if not self._holding.is_over:
            self._holding.keep()

    def advice(self) -> str | None:
        """The value of `SHOULD_RETRY` for an error that has been received whole; None to leave it as it is."""
        return "false" if self._holder.retries or self._verdict().how == "exhausted" else None

    def ended(self) -> None:
        """The body has ended."""
        self._done(self._verdict())

    def broke(self, error: BaseException) -> None:
        """The request could not be sent, or its answer not be received."""
        if self._reader is not None and (self._reader.failed or self._status >= 400):
            self._done(self._verdict())
        else:
            self._done(verdict_of_error(error, self._holding.clock.time()))

    def closed(self) -> None:
        """The answer is read no further, whether or not it has ended."""
        reader = self._reader
        is_known = reader is not None and (reader.complete or reader.failed or self._status >= 400)
        self._done(self._verdict() if is_known else Verdict("cancelled", "", None))

    def dropped(self) -> None:
        """The collector found the answer, unclosed. It may have interrupted anything, so another thread is to act."""
        if not self._holding.is_over:
            clock = self._holding.clock
            clock.call_at(clock.monotonic(), self.closed)

    def _verdict(self) -> Verdict:
        reader = self._reader
        if reader is None:
            return Verdict("cancelled", "", None)
        return reader.verdict(self._holding.clock.time())

    def _done(self, verdict: Verdict) -> None:
        if self._holding.is_over:
            return
        self._stop_timer()
        self._holder.closed(self._holding.id)
        usage = None if self._reader is None else self._reader.usage
        tokens = None if usage is None else usage.counted
        if self._written_at is None:  # the provider knows nothing of it
            tokens = 0
        self._holding.done(
            Done(
                how=verdict.how,
                says=verdict.says,
                tokens=tokens,
                blocked_s=verdict.blocked_s,
                first_s=self._first_s,
            )
        )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
