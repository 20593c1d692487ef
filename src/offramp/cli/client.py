"""Calls a running gateway: one method per request, problem documents as one line, streams that resume by themselves.

Owns the client's side of the HTTP contract; prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import msgspec

from offramp.cli.output import REFUSED, CommandError, one_line
from offramp.client.sse import EventStream
from offramp.core import events
from offramp.core.events import TERMINAL, Event

URL_DEFAULT = "http://127.0.0.1:8000"
CONNECT_TIMEOUT_S = 10.0
# A gateway sends a heartbeat at least every minute; a stream that is silent for longer is dead.
SILENCE_MAX_S = 75.0
# An answer in JSON may wait for the run's whole budget, which an operator may set to an hour.
ANSWER_MAX_S = 3_700.0
RECONNECTS_MAX = 8
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 5.0
_STATUSES_THAT_PASS = frozenset({429, 502, 503, 504})


class Refused(CommandError):
    """The gateway refused or cannot be reached; `status` is its HTTP status, None without an answer."""

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, REFUSED)
        self.status = status
        self.retry_after = retry_after


class Gateway:
    """A running gateway; a context manager.

    Args:
        url: its address, with the prefix if it is mounted under one.
        api_key: sent as a bearer token.
        sleep: waits between two attempts to stream, in seconds.
        note: called with a message for a person when a stream broke and is resumed.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.url = url.rstrip("/")
        headers = {"User-Agent": "offramp-cli"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        try:
            parsed = httpx.URL(self.url)
            if parsed.scheme not in {"http", "https"} or not parsed.host:
                raise CommandError(f"--url {url!r} is not an address: use for example {URL_DEFAULT}")
            self._http = httpx.Client(
                headers=headers,
                timeout=httpx.Timeout(SILENCE_MAX_S, connect=CONNECT_TIMEOUT_S),
                # Reading the certificates takes longer than a request.
                verify=parsed.scheme == "https",
                # A proxy cannot reach a gateway on this machine's loopback address.
                trust_env=parsed.host not in {"localhost", "127.0.0.1", "::1"},
            )
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise CommandError(f"--url {url!r} or the API key cannot be sent: {error}") from error
        self._sleep = sleep
        self.note = note

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def submit(self, pipeline: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Create a run; the answer's status and the run document in it."""
        timeout = httpx.Timeout(ANSWER_MAX_S, connect=CONNECT_TIMEOUT_S)
        answer = self._call(
            "POST", _runs_of(pipeline), content=msgspec.json.encode(body), headers=_json(headers), timeout=timeout
        )
        return answer.status_code, _document(answer)

    def stream(self, pipeline: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[Event]:
        """Create a run and yield its events to the end, resuming where a connection broke."""
        seen: Event | None = None
        request = {"content": msgspec.json.encode(body), "headers": _json(headers) | {"Accept": "text/event-stream"}}
        try:
            with self._open("POST", _runs_of(pipeline), **request) as answer:
                for seen in _events(answer, EventStream(), 0):
                    yield seen
        except httpx.TransportError as error:
            if seen is None:
                raise self._unreachable(error) from error
        if seen is None:
            raise Refused("the gateway's stream ended before the run was accepted; try again")
        if seen.type not in TERMINAL:
            self.note("the stream ended early; resuming")
            yield from self.follow(seen.run_id, seen.seq)

    def follow(self, run_id: str, after: int = 0) -> Iterator[Event]:
        """Yield a run's events from `after` to its end; a dropped connection is resumed a bounded number of times."""
        failures = 0
        while True:
            stream = EventStream()
            wait_s: float | None = None
            try:
                with self._open("GET", f"/v1/runs/{_part(run_id)}/events", headers=_resume(after)) as answer:
                    for event in _events(answer, stream, after):
                        failures, after = 0, event.seq
                        yield event
                        if event.type in TERMINAL:
                            return
                problem = "the stream ended early"
            except httpx.TransportError as error:
                if after == 0 and failures == 0 and isinstance(error, httpx.ConnectError):
                    raise self._unreachable(error) from error
                problem = "the connection was lost"
            except Refused as refused:
                if refused.status not in _STATUSES_THAT_PASS:
                    raise
                problem, wait_s = str(refused), refused.retry_after
            failures += 1
            if failures > RECONNECTS_MAX:
                raise Refused(f"{problem}, {RECONNECTS_MAX} times in a row; continue with: offramp follow {run_id}")
            pause = backoff_s(failures, stream.retry_ms) if wait_s is None else min(wait_s, BACKOFF_MAX_S)
            self.note(f"{problem}; resuming after event {after} in {pause:.1f} s")
            self._sleep(pause)

    def so_far(self, run_id: str) -> Iterator[Event]:
        """Yield the events that a run has so far."""
        try:
            with self._open("GET", f"/v1/runs/{_part(run_id)}/events", params={"follow": "false"}) as answer:
                yield from _events(answer, EventStream(), 0)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def document(self, run_id: str) -> dict[str, Any]:
        """The run document."""
        return _document(self._call("GET", f"/v1/runs/{_part(run_id)}"))

    def result(self, run_id: str) -> bytes:
        """The bare result of a completed run, as JSON."""
        return self._call("GET", f"/v1/runs/{_part(run_id)}/result").content

    def runs(self, *, limit: int, after: str | None, **wanted: str | None) -> dict[str, Any]:
        """Up to `limit` run documents, newest first, as one page; requests as many pages as needed."""
        found: list[Any] = []
        while True:
            asked = {"limit": limit - len(found), "after": after, **wanted}
            given = {name: value for name, value in asked.items() if value is not None}
            page = _page(self._call("GET", "/v1/runs", params=given))
            found += page["runs"]
            after = page["after"]
            if after is None or len(found) >= limit:
                return {**page, "runs": found}

    def cancel(self, run_id: str) -> dict[str, Any]:
        """Cancel the run; returns its document."""
        return _document(self._call("POST", f"/v1/runs/{_part(run_id)}/cancel"))

    def signal(self, run_id: str, name: str, value: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
        """Send the run a signal with this JSON value; returns its document."""
        path = f"/v1/runs/{_part(run_id)}/signals/{_part(name)}"
        return _document(self._call("POST", path, content=value, headers=_json(headers)))

    def pipelines(self, timeout_s: float) -> list[str]:
        """The names of the served pipelines."""
        found = _decoded(self._call("GET", "/v1/pipelines", timeout=timeout_s))
        listed = next((v for v in found.values() if isinstance(v, list)), []) if isinstance(found, dict) else found
        return [entry["name"] for entry in listed if isinstance(entry, dict) and "name" in entry]

    def _call(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, self.url + path, **request)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        _require_success(answer)
        return answer

    @contextmanager
    def _open(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        with self._http.stream(method, self.url + path, **request) as answer:
            if not answer.is_success:
                answer.read()
            _require_success(answer)
            yield answer

    def _unreachable(self, error: Exception) -> Refused:
        if isinstance(error, httpx.ConnectError):
            return Refused(f"no gateway at {self.url}: start one with 'offramp serve MODULE:APP' or give --url")
        return Refused(f"the gateway at {self.url} did not answer: {str(error) or type(error).__name__}")


def backoff_s(failures: int, retry_ms: int | None = None) -> float:
    """Seconds to wait before attempt `failures` + 1, at least the server's `retry:`."""
    grown = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** (failures - 1))
    return grown if retry_ms is None else min(BACKOFF_MAX_S, max(grown, retry_ms / 1000))


def problem_line(status: int, body: bytes, reason: str = "") -> str:
    """A problem document (RFC 9457) as one line: its detail, then each field that is wrong."""
    try:
        problem = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = None
    if not isinstance(problem, dict):
        return f"the gateway answered {status} {reason}".strip()
    detail = str(problem.get("detail") or problem.get("title") or f"the gateway answered {status}")
    listed = problem.get("errors")
    fields = [
        f"{entry.get('pointer') or '/'}: {entry.get('message')}"
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict)
    ]
    new = [text for text in fields if text not in detail]
    line = one_line("; ".join([detail, *new]))
    if status == 401:
        line += "; give --api-key or OFFRAMP_API_KEY"
    return line


def _require_success(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    if answer.is_redirect:
        where = answer.headers.get("location", "elsewhere")
        raise Refused(f"the gateway redirects to {where}: give that as --url", answer.status_code)
    line = problem_line(answer.status_code, answer.content, answer.reason_phrase)
    retry = answer.headers.get("retry-after", "")
    raise Refused(line, answer.status_code, float(retry) if retry.isdigit() else None)


def _events(answer: httpx.Response, stream: EventStream, after: int) -> Iterator[Event]:
    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
        raise Refused("the answer is not an event stream: does --url name an Offramp gateway?", answer.status_code)
    for chunk in answer.iter_bytes():
        for message in stream.feed(chunk):
            try:
                event = events.decode(message.data)
            except (msgspec.DecodeError, KeyError, AttributeError) as error:
                raise Refused("the stream has more than events: does --url name an Offramp gateway?") from error
            if event.seq > after:
                yield event


def _decoded(answer: httpx.Response) -> Any:
    try:
        return msgspec.json.decode(answer.content)
    except msgspec.DecodeError as error:
        raise Refused("the answer is not JSON: does --url name an Offramp gateway?", answer.status_code) from error


def _page(answer: httpx.Response) -> dict[str, Any]:
    found = _decoded(answer)
    if not isinstance(found, dict) or not {"runs", "has_more", "after"} <= found.keys():
        raise Refused("the answer is not a page of runs: does --url name an Offramp gateway?", answer.status_code)
    return found


def _document(answer: httpx.Response) -> dict[str, Any]:
    found = _decoded(answer)
    if not isinstance(found, dict) or "id" not in found or "status" not in found:
        raise Refused("the answer is not a run document: does --url name an Offramp gateway?", answer.status_code)
    return found


def _runs_of(pipeline: str) -> str:
    return f"/v1/pipelines/{_part(pipeline)}/runs"


def _part(text: str) -> str:
    return quote(text, safe="")


def _json(headers: Mapping[str, str]) -> dict[str, str]:
    return {"Accept": "application/json", "Content-Type": "application/json", **headers}


def _resume(after: int) -> dict[str, str]:
    headers = {"Accept": "text/event-stream"}
    return headers | {"Last-Event-ID": str(after)} if after else headers
