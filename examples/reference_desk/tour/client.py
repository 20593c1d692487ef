"""Talks to a gateway: posts runs, reads and resumes streams, polls results. Every wait is bounded."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from .sse import Parser

RUN_SECONDS_MAX = 60.0
"""Longest time for one run, from its request to its end."""

SILENCE_SECONDS_MAX = 15.0
"""Longest silence of a stream: three times the interval of its heartbeats."""

TERMINAL_EVENTS = frozenset({"run.completed", "run.failed", "run.cancelled", "run.expired"})


class UnexpectedAnswerError(Exception):
    """The server gave an unexpected answer; the message is for a person."""


@dataclass(frozen=True)
class Event:
    """One event of a run; `after_s` is when it arrived, in seconds since the request was sent."""

    seq: int
    type: str
    data: dict[str, Any]
    after_s: float


class Client:
    """One connection pool to one gateway."""

    def __init__(self, url: str) -> None:
        """Connect to the gateway at `url` when the first request is sent."""
        self._http = httpx.Client(base_url=url, timeout=httpx.Timeout(SILENCE_SECONDS_MAX))

    def __enter__(self) -> Self:
        """Keep connections open until the block ends."""
        return self

    def __exit__(self, _kind: type[BaseException] | None, _: BaseException | None, _at: TracebackType | None) -> None:
        """Close all connections."""
        self._http.close()

    def stream(self, pipeline: str, body: dict[str, object]) -> Iterator[Event]:
        """Post a run and yield its events until the stream ends."""
        request = self._http.build_request(
            "POST", f"/v1/pipelines/{pipeline}/runs", json=body, headers={"Accept": "text/event-stream"}
        )
        return self._events(request)

    def resume(self, events_link: str, last_seq: int) -> Iterator[Event]:
        """Yield the events of a run after `last_seq`, to its end."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last_seq)}
        return self._events(self._http.build_request("GET", events_link, headers=headers))

    def submit(self, pipeline: str, body: dict[str, object]) -> tuple[httpx.Response, float]:
        """Post an asynchronous run; return the 202 and the seconds it took."""
        started = time.monotonic()
        answer = self._http.post(f"/v1/pipelines/{pipeline}/runs", json=body, headers={"Prefer": "respond-async"})
        return _expect(answer, httpx.codes.ACCEPTED), time.monotonic() - started

    def poll_result(self, result_link: str) -> Iterator[httpx.Response]:
        """Poll for a result at the pace of `Retry-After`; yield each answer, a 200 last."""
        deadline = time.monotonic() + RUN_SECONDS_MAX
        while True:
            answer = _expect(self._http.get(result_link), httpx.codes.OK, httpx.codes.ACCEPTED)
            yield answer
            if answer.status_code == httpx.codes.OK:
                return
            wait_s = float(answer.headers["Retry-After"])
            if time.monotonic() + wait_s > deadline:
                message = f"{result_link} had no result within {RUN_SECONDS_MAX:.0f} s"
                raise UnexpectedAnswerError(message)
            time.sleep(wait_s)

    def get(self, link: str) -> dict[str, Any]:
        """Return the JSON object behind a link: a run document or a result."""
        document: dict[str, Any] = _expect(self._http.get(link), httpx.codes.OK).json()
        return document

    def _events(self, request: httpx.Request) -> Iterator[Event]:
        started = time.monotonic()
        parser = Parser()
        with self._sent(request) as answer:
            for chunk in answer.iter_bytes():
                after_s = time.monotonic() - started
                if after_s > RUN_SECONDS_MAX:
                    complaint = f"the stream of {request.url} did not end within {RUN_SECONDS_MAX:.0f} s"
                    raise UnexpectedAnswerError(complaint)
                for message in parser.feed(chunk):
                    yield Event(int(message.id), message.event, json.loads(message.data), after_s)

    @contextmanager
    def _sent(self, request: httpx.Request) -> Iterator[httpx.Response]:
        answer = self._http.send(request, stream=True)
        try:
            if answer.status_code != httpx.codes.OK:
                answer.read()
            yield _expect(answer, httpx.codes.OK)
        finally:
            answer.close()


def _expect(answer: httpx.Response, *codes: int) -> httpx.Response:
    if answer.status_code in codes:
        return answer
    expected = " or ".join(map(str, map(int, codes)))
    request = answer.request
    asked = f"{request.method} {request.url.path}"
    message = f"{asked} answered {answer.status_code}, expected {expected}: {answer.text}"
    raise UnexpectedAnswerError(message)
