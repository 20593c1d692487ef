"""The client for plain code: carries out the conversations of `talk.py` and `streaming.py`, one effect after the other.

Owns httpx's sync client and sleeping; decides nothing of the protocol.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from offramp.client import streaming
from offramp.client.connecting import PATIENCE_S, SILENCE_S, head_of, lost, sent, set_up
from offramp.client.documents import PipelineDocument, RouteTaken, RunDocument, RunPage, Ticket
from offramp.client.effects import Conversation, Give, Lost, Open, Pause, Retrying
from offramp.client.options import Options
from offramp.core.events import Event


class Client:
    """A client of a running gateway; a context manager, safe to share between threads.

    Connections that break are made again and streams go on after the last event. Each request may be sent twice without
    doing anything twice. What the gateway refuses is raised as the package's own error, with the gateway's document as
    `error.problem`.

    Args:
        url: the gateway's address, with the prefix it is mounted under. Default: `OFFRAMP_URL`, then
            `http://127.0.0.1:8000`.
        key: an API key. Default: `OFFRAMP_API_KEY`; an empty one sends none.
        patience: seconds that a call, or a stream without progress, goes on trying while the gateway cannot be reached
            or is overloaded; 0 tries once.
        silence: seconds without a byte after which a connection counts as lost. Streams have a heartbeat every 5 s,
            unless the gateway's `heartbeat` says otherwise.
        on_retry: called before each pause with what failed and how long the pause is; may raise to give up.
        http_client: an httpx client for certificates, proxies or a transport of your own; closed with this one.

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
        http_client: httpx.Client | None = None,
    ) -> None:
        self._setup = set_up(url, key, patience, silence)
        self._talk = self._setup.talk
        self._on_retry = on_retry
        self._http = http_client or httpx.Client(**self._setup.options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._setup.shown!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections, those of streams too."""
        self._http.close()

    def run(self, pipeline: str, input: Any = None, **options: Unpack[Options]) -> Any:
        """Run a pipeline and return its result, on whichever path it ends.

        Args:
            pipeline: its name.
            input: its arguments by name: a mapping, dataclass, msgspec Struct or pydantic model.
            options: see `Options`.

        Raises:
            RunFailed: the run failed; `error_code` and `step` say where.
            RunCancelled: it was cancelled.
            RunExpired: its deadline passed.
            InputError: the input does not fit.
            OfframpError: the gateway refused, or was not reached in time (`Unreachable`).
        """
        return self._call(streaming.run(self._talk, pipeline, input, options))

    def stream(self, pipeline: str, input: Any = None, **options: Unpack[Options]) -> Generator[Event, None, None]:
        """Run a pipeline and yield its events, to the end of the run or, with `follow=False`, to its demotion.

        The run starts with the first event that is asked for. A broken connection is made again after the last event.
        Leaving the iterator closes the connection, and the run continues unless its pipeline says otherwise.

        Args:
            pipeline: its name.
            input: its arguments by name.
            options: see `Options`.

        Raises:
            Unreachable: the stream was lost for longer than `patience`; `run_id` and `after` say where it goes on.
            OfframpError: the gateway refused.
        """
        return self._perform(streaming.stream(self._talk, pipeline, input, options))

    def submit(
        self, pipeline: str, input: Any = None, *, wait: float | None = None, **options: Unpack[Options]
    ) -> RunDocument:
        """Start a run and return its document.

        Args:
            pipeline: its name.
            input: its arguments by name.
            wait: seconds to wait for its outcome, as long as its budget lasts; `math.inf` for the whole budget. Without
                it, the run starts on the deep path and the answer comes at once.
            options: see `Options`.

        Raises:
            OfframpError: the gateway refused, or was not reached in time.
        """
        return self._document(self._talk.submit(pipeline, input, wait, options))

    def route(self, pipeline: str, input: Any = None, **options: Unpack[Options]) -> RouteTaken:
        """Where a run with this input and these options would go now, and why; starts nothing.

        Args:
            pipeline: its name.
            input: its arguments by name.
            options: see `Options`.

        Raises:
            OfframpError: the gateway would refuse the run, or was not reached in time.
        """
        route: RouteTaken = self._call(self._talk.route(pipeline, input, options))
        return route

    def get(self, run: str | RunDocument, *, include: Sequence[str] = ()) -> RunDocument:
        """The document of a run.

        Args:
            run: its id, or a document of it.
            include: what to show in addition: `input`, `steps`, `traceback`; needs a key that may inspect.

        Raises:
            UnknownRun: there is none.
        """
        return self._document(self._talk.get(run, include))

    def result(self, run: str | RunDocument, *, wait: float | None = None) -> Any:
        """Wait for the result of a run.

        Args:
            run: its id, or a document of it.
            wait: seconds to wait at most, looked at with each event or heartbeat; without it, to the end of the run.

        Raises:
            RunUnfinished: the run had not ended by then.
            RunFailed: it failed.
            RunCancelled: it was cancelled.
            RunExpired: its deadline passed.
            RunGone: its result is no longer kept.
        """
        return self._call(streaming.result(self._talk, run, wait))

    def follow(self, run: str | RunDocument, after: int = 0) -> Generator[Event, None, None]:
        """Yield the events of a run numbered above `after`, to its end; as `stream`, it resumes by itself."""
        return self._perform(streaming.follow(self._talk, run, after))

    def events(self, run: str | RunDocument, after: int = 0) -> builtins.list[Event]:
        """The events that a run has so far, numbered above `after`."""
        events: list[Event] = self._call(streaming.events(self._talk, run, after))
        return events

    def cancel(self, run: str | RunDocument) -> RunDocument:
        """Cancel a run; it ends once its running steps have stopped.

        Raises:
            RunConflict: it has ended.
        """
        return self._document(self._talk.cancel(run))

    def retry(
        self,
        run: str | RunDocument,
        *,
        from_: str | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> RunDocument:
        """Start a new run that repeats one which ended, with the steps that are recorded; returns its document.

        Args:
            run: its id, or a document of it.
            from_: a step's name or key: it and what came after it are executed again.
            fresh: execute everything again.
            idempotency_key: as in `Options`.

        Raises:
            RunConflict: it has not ended, or completed and neither `from_` nor `fresh` is given.
        """
        return self._document(self._talk.retry(run, from_, idempotency_key, fresh=fresh))

    def signal(
        self, run: str | RunDocument, name: str, value: Any = None, *, idempotency_key: str | None = None
    ) -> RunDocument:
        """Send a run a signal: any JSON value for `offramp.signal(name)`.

        Returns the run's document; its `awaited` says whether the run waited for this signal.

        Raises:
            RunConflict: the run has ended.
            InputError: the value does not fit the schema that the pipeline gave.
        """
        return self._document(self._talk.signal(run, name, value, idempotency_key))

    def ticket(self, run: str | RunDocument) -> Ticket:
        """A ticket that opens the events of this run for an hour, for a browser that has no key."""
        ticket: Ticket = self._call(self._talk.ticket(run))
        return ticket

    def pipelines(self) -> builtins.list[PipelineDocument]:
        """What the gateway serves."""
        pipelines: list[PipelineDocument] = self._call(self._talk.pipelines())
        return pipelines

    def request(self, method: str, path: str, *, params: dict[str, Any] | None = None, json: Any = None) -> Any:
        """Send any other request and return its JSON, with the same errors and retries.

        Args:
            method: such as `GET`.
            path: below the gateway's address, such as `/v1/slo`.
            params: of the query; None is left out.
            json: the body.

        Raises:
            RequestError: the path does not begin with one slash, or cannot be part of an address.
        """
        return self._call(self._talk.any(method, path, params or {}, json))

    def list(self, *, limit: int = 20, **filters: Any) -> RunPage:
        """Up to `limit` runs, newest first.

        Args:
            limit: how many.
            filters: as in `GET /v1/runs`: `session_id`, `status`, `pipeline`, and `after` of the page before.

        Raises:
            InputError: the gateway knows no such filter or value.
        """
        page: RunPage = self._call(self._talk.list(limit, filters))
        return page

    def _document(self, conversation: Conversation[None]) -> RunDocument:
        document: RunDocument = self._call(conversation)
        return document

    def _call(self, conversation: Conversation[None]) -> Any:
        with closing(self._perform(conversation)) as given:
            return next(given)

    def _perform(self, conversation: Conversation[None]) -> Generator[Any, None, None]:
        """Carry out a conversation and yield what it gives."""
        answer: httpx.Response | None = None
        chunks: Iterator[bytes] = iter(())
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
                    answer.close()
                    answer = None
                try:
                    if isinstance(effect, Open):
                        request = self._http.build_request(**sent(self._setup, effect.request))
                        answer = self._http.send(request, stream=True)
                        chunks, outcome = answer.iter_bytes(), head_of(answer)
                    elif isinstance(effect, Pause):
                        if self._on_retry is not None:
                            self._on_retry(effect.retrying)
                        time.sleep(effect.retrying.delay_s)
                    else:
                        outcome = next(chunks, b"")
                except httpx.RequestError as error:
                    outcome = lost(error)
        finally:
            if answer is not None:
                answer.close()
            conversation.close()
