"""Transports for httpx and httpx2 that take a permit for every request, around the ones that send it.

Every request passes here: those that an SDK repeats on its own, redirects, and what an `auth` flow sends. What both
kinds of transport do is in `requests.py` and `exchange.py`; here is how they wait and read.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from offramp.errors import OfframpError, ResourceBusy
from offramp.ports.commit import call_threadsafe
from offramp.resources.exchange import Exchange
from offramp.resources.requests import Requests, advise, is_whole, refused, traced
from offramp.resources.waiting import acquire, acquire_async

logger = logging.getLogger("offramp")
ERROR_BYTES_MAX = 65_536
"""Bytes of an error's body that are read before the answer is given on: they say whether another try makes sense."""

Wrap = Callable[[Any], Any]
"""Makes a transport around another."""


def plain(library: Any, requests: Requests) -> Wrap:
    """The transports of `library.Client`."""
    body = type("Body", (PlainBody, library.SyncByteStream), {})
    return lambda inner: PlainTransport(inner, library, requests, body)


def awaited(library: Any, requests: Requests) -> Wrap:
    """The transports of `library.AsyncClient`."""
    body = type("Body", (AsyncBody, library.AsyncByteStream), {})
    return lambda inner: AsyncTransport(inner, library, requests, body)


class PlainBody:
    """The body of an answer; its permit is given back at the end."""

    def __init__(self, inner: Any, exchange: Exchange) -> None:
        self._exchange = exchange
        self._inner = inner
        self._parts = iter(inner)
        self._ahead: list[bytes] = []
        self._lock = threading.Lock()
        self._is_cut = False
        exchange.opened(functools.partial(_cut, weakref.ref(self)))

    def cut(self) -> None:
        """The attempt is over. What another thread waits for now, it closes as soon as it comes."""
        self._is_cut = True
        if self._lock.acquire(blocking=False):
            try:
                self.close()
            except Exception:
                logger.debug("an answer that was left open did not close", exc_info=True)
            finally:
                self._lock.release()

    def _received(self) -> bytes | None:
        """The next part; None at the end."""
        with self._lock:
            part: bytes | None = None if self._is_cut else next(self._parts, None)
        if self._is_cut:  # looked at without the lock, which `cut` may have found taken
            self.close()
            raise ResourceBusy("the step that reads this answer is over")
        return part

    def read_ahead(self) -> None:
        """Read what an error says."""
        size = 0
        while (part := self._received()) is not None:
            self._exchange.received(part)
            self._ahead.append(part)
            size += len(part)
            if size > ERROR_BYTES_MAX:
                return
        self._exchange.ended()

    def __iter__(self) -> Iterator[bytes]:
        exchange = self._exchange
        exchange.keep()
        yield from self._ahead
        try:
            while (part := self._received()) is not None:
                exchange.received(part)
                yield part
        except GeneratorExit:  # read no further, and not closed yet
            raise
        except BaseException as error:
            exchange.broke(error)
            raise
        exchange.ended()

    def close(self) -> None:
        """The answer is over."""
        try:
            if hasattr(self._inner, "close"):
                self._inner.close()
        finally:
            self._exchange.closed()

    def __del__(self) -> None:
        self._exchange.dropped()


class PlainTransport:
    """Takes a permit for each request, in the thread that makes it."""

    def __init__(self, inner: Any, library: Any, requests: Requests, body: type[PlainBody]) -> None:
        self._inner = inner
        self._library = library
        self._requests = requests
        self._body = body
        self.resource = requests.spec.name
        """Whose permits its requests take."""

    def handle_request(self, request: Any) -> Any:
        """The answer, once the request has its permit."""
        requests = self._requests
        try:
            holder = requests.holder()
            holding = None if holder is None else acquire(requests.spec, holder, requests.need(request))
        except OfframpError as error:
            return refused(self._library, request, error)
        if holder is None or holding is None:
            return self._inner.handle_request(request)
        exchange = requests.exchange(holder, holding)
        try:
            with traced(request, _hook(exchange, request.extensions.get("trace"))):
                response = self._inner.handle_request(request)
            if not is_whole(response, exchange):
                response.stream = body = self._body(response.stream, exchange)
                if exchange.answered(response.status_code, response.headers):
                    body.read_ahead()
                    advise(response, exchange)
        except BaseException as error:
            exchange.broke(error)
            raise
        return response

    def __enter__(self) -> Any:
        self._inner.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._inner.__exit__(*raised)

    def close(self) -> None:
        """Close the transport that sends."""
        self._inner.close()


class AsyncBody:
    """See `PlainBody`."""

    def __init__(self, inner: Any, exchange: Exchange) -> None:
        self._exchange = exchange
        self._inner = inner
        self._parts = aiter(inner)
        self._ahead: list[bytes] = []
        self._closing: asyncio.Task[None] | None = None
        exchange.opened(functools.partial(_cut_on, asyncio.get_running_loop(), weakref.ref(self), exchange))

    def cut(self) -> None:
        """The attempt is over; on the loop of the answer."""
        self._closing = asyncio.get_running_loop().create_task(self._cut())

    async def _cut(self) -> None:
        try:
            await self.aclose()
        except Exception:
            logger.debug("an answer that was left open did not close", exc_info=True)

    async def read_ahead(self) -> None:
        """Read what an error says."""
        size = 0
        async for part in self._parts:
            self._exchange.received(part)
            self._ahead.append(part)
            size += len(part)
            if size > ERROR_BYTES_MAX:
                return
        self._exchange.ended()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        exchange = self._exchange
        exchange.keep()
        for part in self._ahead:
            yield part
        try:
            async for part in self._parts:
                exchange.received(part)
                yield part
        except GeneratorExit:  # read no further, and not closed yet
            raise
        except BaseException as error:
            exchange.broke(error)
            raise
        exchange.ended()

    async def aclose(self) -> None:
        """The answer is over."""
        try:
            if hasattr(self._inner, "aclose"):
                await self._inner.aclose()
        finally:
            self._exchange.closed()

    def __del__(self) -> None:
        self._exchange.dropped()


class AsyncTransport:
    """Takes a permit for each request, for which its task waits."""

    def __init__(self, inner: Any, library: Any, requests: Requests, body: type[AsyncBody]) -> None:
        self._inner = inner
        self._library = library
        self._requests = requests
        self._body = body
        self.resource = requests.spec.name
        """Whose permits its requests take."""

    async def handle_async_request(self, request: Any) -> Any:
        """The answer, once the request has its permit."""
        requests = self._requests
        try:
            holder = requests.holder()
            holding = None if holder is None else await acquire_async(requests.spec, holder, requests.need(request))
        except OfframpError as error:
            return refused(self._library, request, error)
        if holder is None or holding is None:
            return await self._inner.handle_async_request(request)
        exchange = requests.exchange(holder, holding)
        try:
            with traced(request, _async_hook(exchange, request.extensions.get("trace"))):
                response = await self._inner.handle_async_request(request)
            if not is_whole(response, exchange):
                response.stream = body = self._body(response.stream, exchange)
                if exchange.answered(response.status_code, response.headers):
                    await body.read_ahead()
                    advise(response, exchange)
        except BaseException as error:
            exchange.broke(error)
            raise
        return response

    async def __aenter__(self) -> Any:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._inner.__aexit__(*raised)

    async def aclose(self) -> None:
        """Close the transport that sends."""
        await self._inner.aclose()


def _cut(to: weakref.ref[Any]) -> None:
    body = to()
    if body is not None:
        body.cut()


def _cut_on(loop: asyncio.AbstractEventLoop, to: weakref.ref[Any], exchange: Exchange) -> None:
    if not call_threadsafe(loop, _cut, to):
        exchange.closed()  # its loop is over, and so is all that was open there


def _hook(exchange: Exchange, user: Callable[..., Any] | None) -> Callable[..., Any]:
    def hook(event: str, info: dict[str, Any]) -> Any:
        exchange.traced(event, info)
        return None if user is None else user(event, info)

    return hook


def _async_hook(exchange: Exchange, user: Callable[..., Awaitable[None]] | None) -> Callable[..., Awaitable[None]]:
    async def hook(event: str, info: dict[str, Any]) -> None:
        exchange.traced(event, info)
        if user is not None:
            await user(event, info)

    return hook
