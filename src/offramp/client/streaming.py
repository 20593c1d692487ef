"""Following a run: each event once and in order, over any number of connections. Performs no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite
from typing import Any

import msgspec

from offramp.client.documents import RunDocument
from offramp.client.effects import Conversation, Give, Head, Lost, Open, Read, Request
from offramp.client.events import RunAccepted, RunCompleted, RunDemoted, is_terminal, read_event
from offramp.client.options import body_of, id_of, path_of, query_of
from offramp.client.patience import unfinished
from offramp.client.refusals import PASSING, refusal, retry_after_s
from offramp.client.sse import EventStream, MessageTooLarge
from offramp.client.talk import PROBLEM_BYTES_MAX, Talk, body_up_to
from offramp.core.events import Event
from offramp.errors import OfframpError, Unreachable

SSE = "text/event-stream"
RETRY_S_MAX = 5.0
"""A longer `retry:` of a stream counts as this."""
HELD_S = 5.0
"""A stream that was open for so long was a success, also without an event: a run may wait for days."""


class Follower:
    """The events of one run, from the answer to its request or from a position on.

    Args:
        talk: the client's side of the protocol.
        first: the request that starts the run; None to follow one that exists.
        run_id: the run that exists.
        after: the number of the last event that is known.
        gives: whether the events are handed to the caller.
        to_the_end: whether to go on after `run.demoted`.
        until: when to stop, on the client's clock.
    """

    def __init__(
        self,
        talk: Talk,
        first: Request | None = None,
        *,
        run_id: str | None = None,
        after: int = 0,
        gives: bool = True,
        to_the_end: bool = True,
        until: float = inf,
    ) -> None:
        self._talk = talk
        self._first = first
        self._gives = gives
        self._to_the_end = to_the_end
        self._until = until
        self._patience = talk.patience(until)
        self._patience.run_id, self._patience.after = run_id, after
        self._stream = EventStream()
        self._is_over = False
        self.last: Event | None = None

    @property
    def run_id(self) -> str | None:
        """The run, once it is known."""
        return self._patience.run_id

    def events(self) -> Conversation[None]:
        """Give each event that is not known yet, up to the last one."""
        talk, patience = self._talk, self._patience
        while True:
            came_to, opened_at, at_least_s = patience.after, talk.now(), 0.0
            self._stream = EventStream()
            try:
                head: Head = yield Open(self._request())
                patience.answered = True
                if head.status == 204:
                    return
                if head.status != 200:
                    error = refusal(head, (yield from body_up_to(PROBLEM_BYTES_MAX)), talk.url)
                    if head.status not in PASSING:
                        raise error
                    at_least_s = retry_after_s(head) or 0.0
                else:
                    if not head.headers.get("content-type", "").startswith(SSE):
                        raise talk.unexpected("no stream of events")
                    if (yield from self._read()):
                        return
                    error = self._lost("it ended early")
                    if came_to == patience.after and (yield from self._ended_before()):
                        if self._is_over:
                            return
                        self._is_over = True
                        continue
            except Lost as lost:
                error = self._lost(str(lost), lost)
                if lost.hopeless:
                    raise error from lost.__cause__
            if patience.answered and talk.now() - opened_at >= HELD_S and not at_least_s:
                patience.got_on()
            retry_s = min(RETRY_S_MAX, (self._stream.retry_ms or 0) / 1000)
            yield patience.pause(error, max(at_least_s, retry_s))

    def outcome(self) -> Conversation[Any]:
        """Follow the run to its end; the result, or the error for a run that has none."""
        yield from self.events()
        if isinstance(self.last, RunCompleted) and "result" in self.last.data:
            return self.last.result
        answer = yield from self._talk.exchange(self._talk.request("GET", result_of(self.run_id or "")), self._until)
        if answer.status != 200:
            raise unfinished(self.run_id)
        return self._talk.decoded(answer.body)

    def _request(self) -> Request:
        silence_s = self._talk.silence_s
        if isfinite(self._until):
            silence_s = min(silence_s, max(0.001, self._until - self._talk.now()))
        if self.run_id is None and self._first is not None:
            return self._first._replace(silence_s=silence_s)
        headers = {"Accept": SSE}
        if self._patience.after:
            headers["Last-Event-ID"] = str(self._patience.after)
        return Request("GET", path_of("runs", self.run_id or "", "events"), headers, {}, None, silence_s)

    def _read(self) -> Conversation[bool]:
        """Read the stream to its end; whether it had the last event that is wanted."""
        while True:
            if self._talk.now() >= self._until:
                raise unfinished(self.run_id)
            chunk: bytes = yield Read()
            if not chunk:
                return False
            for event in read_events(self._talk, self._stream, chunk):
                if event.seq <= self._patience.after:
                    continue
                if self.run_id not in {None, event.run_id}:
                    raise self._talk.unexpected(f"about {event.run_id} instead of {self.run_id}")
                if event.seq != self._patience.after + 1:
                    return False  # an event is missing: it is asked for
                self._patience.run_id, self._patience.after = event.run_id, event.seq
                self._patience.got_on()
                self.last = event
                if self._gives:
                    yield Give(event)
                if is_terminal(event) or self._stops_at(event):
                    return True

    def _stops_at(self, event: Event) -> bool:
        deep = isinstance(event, RunAccepted) and event.path == "deep"
        return not self._to_the_end and (deep or isinstance(event, RunDemoted))

    def _ended_before(self) -> Conversation[bool]:
        """Whether the run has ended: then a stream without events has been read to its end already."""
        if self.run_id is None or self._is_over:
            return self._is_over
        document = yield from self._talk.document(
            RunDocument, self._talk.request("GET", path_of("runs", self.run_id)), self._until
        )
        return document.ended

    def _lost(self, how: str, lost: Lost | None = None) -> OfframpError:
        run_id, after = self.run_id, self._patience.after
        if run_id is None or (lost is not None and not self._patience.answered):
            return self._talk.unreachable(lost or Lost("it ended the stream before the run was accepted"))
        error = Unreachable(
            f"the stream of {run_id} from {self._talk.url} was lost after event {after}: {how}; "
            f"follow({run_id!r}, after={after}) goes on"
        )
        error.run_id, error.after = run_id, after
        error.__cause__ = lost and lost.__cause__
        return error


def streamed(
    talk: Talk, pipeline: str, input: Any, options: Mapping[str, Any], *, to_the_end: bool, gives: bool
) -> Follower:
    """The follower of a run that its first request starts."""
    headers = {"Accept": SSE, **talk.keyed(options.get("idempotency_key"))}
    body = body_of(pipeline, input, options) | {"follow": to_the_end}
    first = talk.request("POST", path_of("pipelines", pipeline, "runs"), headers, body)
    return Follower(talk, first, gives=gives, to_the_end=to_the_end)


def stream(talk: Talk, pipeline: str, input: Any, options: Mapping[str, Any]) -> Conversation[None]:
    """Start a run and give its events."""
    to_the_end = options.get("follow") is not False
    return streamed(talk, pipeline, input, options, to_the_end=to_the_end, gives=True).events()


def run(talk: Talk, pipeline: str, input: Any, options: Mapping[str, Any]) -> Conversation[None]:
    """Start a run and give its result."""
    follower = streamed(talk, pipeline, input, options, to_the_end=True, gives=False)
    yield Give((yield from follower.outcome()))


def follow(talk: Talk, run: str | RunDocument, after: int) -> Conversation[None]:
    """Give the events of a run that exists."""
    return Follower(talk, run_id=id_of(run), after=after).events()


def result(talk: Talk, run: str | RunDocument, wait: float | None) -> Conversation[None]:
    """Give the result of a run, for which it waits at most `wait` seconds."""
    run_id = id_of(run)
    until = inf if wait is None else talk.now() + wait
    answer = yield from talk.exchange(talk.request("GET", result_of(run_id)), until)
    if answer.status == 200:
        yield Give(talk.decoded(answer.body))
        return
    if wait is not None and wait <= 0:
        raise unfinished(run_id)
    yield Give((yield from Follower(talk, run_id=run_id, gives=False, until=until).outcome()))


def events(talk: Talk, run: str | RunDocument, after: int) -> Conversation[None]:
    """Give the events that a run has so far, as a list."""
    params = query_of({"follow": False, "starting_after": after or None})
    request = talk.request("GET", path_of("runs", id_of(run), "events"), {"Accept": SSE}, params=params)
    answer = yield from talk.exchange(request)
    yield Give(read_events(talk, EventStream(), answer.body))


def read_events(talk: Talk, stream: EventStream, chunk: bytes) -> list[Event]:
    """The events that a chunk completes."""
    try:
        return [read_event(message.data) for message in stream.feed(chunk)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise talk.unexpected(f"a stream with more than events ({error})") from error
    except MessageTooLarge as error:
        raise talk.unexpected(str(error)) from error


def result_of(run_id: str) -> str:
    """The address of a run's result."""
    return path_of("runs", run_id, "result")
