"""The client for asyncio: carries out the same conversations as `sync.py`, with httpx's async client.

Decides as little: a method here says which conversation it is, and documents only what differs.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from offramp.client import streaming
from offramp.client.connecting import PATIENCE_S, SILENCE_S, head_of, lost, sent, set_up
from offramp.client.documents import PipelineDocument, RouteTaken, RunDocument, RunPage, Ticket
from offramp.client.effects import Conversation, Give, Lost, Open, Pause, Retrying
from offramp.client.options import Options
from offramp.core.events import Event


class AsyncClient:
    """`Client` for asyncio: an async context manager with the same methods, for one event loop.

    `stream` and `follow` are async generators. A task that is cancelled while it reads one closes the connection; leave
    the loop over one early inside `contextlib.aclosing`, so that its connection is closed at once.

    Args:
        url: as for `Client`.
        key: as for `Client`.
        patience: as for `Client`, in seconds.
        silence: as for `Client`, in seconds.
        on_retry: called before each pause; not awaited.
        http_client: an `httpx.AsyncClient` of your own; closed with this one.

    Raises:
        SettingsError: the address, the key or a time cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        patience: float = PATIENCE_S,
        silence: float = SILENCE_S,
        on_retry: Callable[[Retrying], None] | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self._setup = set_up(url, key, patience, silence)
        self._talk = self._setup.talk
        self._on_retry = on_retry
        self._http = http_client or httpx.AsyncClient(**self._setup.options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._setup.shown!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections, those of streams too."""
        await self._http.aclose()

    async def run(self, pipeline: str, input: Any = None, **options: Unpack[Options]) -> Any:
        """As `Client.run`."""
        return await self._call(streaming.run(self._talk, pipeline, input, options))

    def stream(self, pipeline: str, input: Any = None, **options: Unpack[Options]) -> AsyncGenerator[Event, None]:
        """As `Client.stream`: `async for event in client.stream(...)`."""
        return self._perform(streaming.stream(self._talk, pipeline, input, options))

    async def submit(
        self, pipeline: str, input: Any = None, *, wait: float | None = None, **options: Unpack[Options]
    ) -> RunDocument:
        """As `Client.submit`."""
        return await self._document(self._talk.submit(pipeline, input, wait, options))

    async def route(self, pipeline: str, input: Any = None, **options: Unpack[Options]) -> RouteTaken:
        """As `Client.route`."""
        route: RouteTaken = await self._call(self._talk.route(pipeline, input, options))
        return route

    async def get(self, run: str | RunDocument, *, include: Sequence[str] = ()) -> RunDocument:
        """As `Client.get`."""
        return await self._document(self._talk.get(run, include))

    async def result(self, run: str | RunDocument, *, wait: float | None = None) -> Any:
        """As `Client.result`."""
        return await self._call(streaming.result(self._talk, run, wait))

    def follow(self, run: str | RunDocument, after: int = 0) -> AsyncGenerator[Event, None]:
        """As `Client.follow`: `async for event in client.follow(run)`."""
        return self._perform(streaming.follow(self._talk, run, after))

    async def events(self, run: str | RunDocument, after: int = 0) -> builtins.list[Event]:
        """As `Client.events`."""
        events: list[Event] = await self._call(streaming.events(self._talk, run, after))
        return events

    async def cancel(self, run: str | RunDocument) -> RunDocument:
        """As `Client.cancel`."""
        return await self._document(self._talk.cancel(run))

    async def retry(
        self,
        run: str | RunDocument,
        *,
        from_: str | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> RunDocument:
        """As `Client.retry`."""
        return await self._document(self._talk.retry(run, from_, idempotency_key, fresh=fresh))

    async def signal(
        self, run: str | RunDocument, name: str, value: Any = None, *, idempotency_key: str | None = None
    ) -> RunDocument:
        """As `Client.signal`."""
        return await self._document(self._talk.signal(run, name, value, idempotency_key))

    async def ticket(self, run: str | RunDocument) -> Ticket:
        """As `Client.ticket`."""
        ticket: Ticket = await self._call(self._talk.ticket(run))
        return ticket

    async def pipelines(self) -> builtins.list[PipelineDocument]:
        """As `Client.pipelines`."""
        pipelines: list[PipelineDocument] = await self._call(self._talk.pipelines())
        return pipelines

    async def request(self, method: str, path: str, *, params: dict[str, Any] | None = None, json: Any = None) -> Any:
        """As `Client.request`."""
        return await self._call(self._talk.any(method, path, params or {}, json))

    async def list(self, *, limit: int = 20, **filters: Any) -> RunPage:
        """As `Client.list`."""
        page: RunPage = await self._call(self._talk.list(limit, filters))
        return page

    async def _document(self, conversation: Conversation[None]) -> RunDocument:
        document: RunDocument = await self._call(conversation)
        return document

    async def _call(self, conversation: Conversation[None]) -> Any:
        async with aclosing(self._perform(conversation)) as given:
            return await anext(given)

    async def _perform(self, conversation: Conversation[None]) -> AsyncGenerator[Any, None]:
        """Carry out a conversation and yield what it gives."""
        answer: httpx.Response | None = None
        chunks: AsyncIterator[bytes] | None = None
        outcome: Any = None
        try:
            while True:
                try:
                    effect = conversation.throw(outcome) if isinstance(outcome, Lost) else conversation.send(outcome)
                except StopIteration:
                    return
                outcome = None
                if isinstance(effect, Give):
                    yield effect.value
                    continue
                if isinstance(effect, (Open, Pause)) and answer is not None:
                    await answer.aclose()
                    answer = None
                try:
                    if isinstance(effect, Open):
                        request = self._http.build_request(**sent(self._setup, effect.request))
                        answer = await self._http.send(request, stream=True)
                        chunks, outcome = answer.aiter_bytes(), head_of(answer)
                    elif isinstance(effect, Pause):
                        if self._on_retry is not None:
                            self._on_retry(effect.retrying)
                        await asyncio.sleep(effect.retrying.delay_s)
                    else:
                        outcome = b"" if chunks is None else await anext(chunks, b"")
                except httpx.RequestError as error:
                    outcome = lost(error)
        finally:
            if answer is not None:
                await answer.aclose()
            conversation.close()
