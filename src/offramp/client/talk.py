"""The conversations with a gateway: what to send, what an answer means, when to try again. Performs no I/O.

Both clients are shells around this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple, TypeVar

import msgspec

from offramp.client.documents import PipelineDocument, RouteTaken, RunDocument, RunPage, Ticket
from offramp.client.effects import Conversation, Give, Head, Lost, Open, Read, Request
from offramp.client.options import body_of, id_of, key_header, path_of, preference, query_of, raw
from offramp.client.patience import Patience
from offramp.client.refusals import PASSING, refusal, retry_after_s
from offramp.core.names import require_name
from offramp.document import Document, read
from offramp.errors import RequestError, RunFailed, UnexpectedAnswer, Unreachable

PROBLEM_BYTES_MAX = 1024 * 1024
"""Of the body of an answer that is no success; the rest is not read."""
ANSWER_S_MAX = 3_600.0
"""An answer may wait for a run's whole budget, which an operator may set to an hour."""
PAGE_MAX = 100
"""Runs that are asked for at once; a gateway's pages have no more."""

D = TypeVar("D", bound=Document)


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes


class _Page(Document, frozen=True, kw_only=True):
    runs: list[Any]
    has_more: bool = False
    after: str | None = None


class _Routed(Document, frozen=True, kw_only=True):
    route: RouteTaken


class Talk:
    """What one client says and understands.

    Args:
        url: the gateway's address, for messages.
        patience_s: how long a call, or a stream without progress, goes on trying.
        silence_s: after how long without a byte a connection counts as lost.
        now: a monotonic clock, in seconds.
        draw: a random number from 0 to 1.
        make_key: makes an idempotency key.
    """

    def __init__(
        self,
        url: str,
        *,
        patience_s: float,
        silence_s: float,
        now: Callable[[], float],
        draw: Callable[[], float],
        make_key: Callable[[], str],
    ) -> None:
        self.url = url
        self.silence_s = silence_s
        self.now = now
        self._patience_s = patience_s
        self._draw = draw
        self._make_key = make_key

    def submit(self, pipeline: str, input: Any, wait: float | None, options: Mapping[str, Any]) -> Conversation[None]:
        """Start a run; gives its document."""
        body = body_of(pipeline, input, options)
        headers = self.keyed(options.get("idempotency_key")) | preference(wait)
        longest_s = wait or 0.0
        if longest_s == inf:
            budget = options.get("budget")
            longest_s = budget if isinstance(budget, (int, float)) else ANSWER_S_MAX
        silence_s = self.silence_s + longest_s
        request = self.request("POST", path_of("pipelines", pipeline, "runs"), headers, body, silence_s=silence_s)
        return self._gives(RunDocument, request)

    def route(self, pipeline: str, input: Any, options: Mapping[str, Any]) -> Conversation[None]:
        """Where a run would go; gives its route."""
        body = body_of(pipeline, input, options)
        found = yield from self.document(
            _Routed, self.request("POST", path_of("pipelines", pipeline, "route"), body=body)
        )
        yield Give(found.route)

    def get(self, run: str | RunDocument, include: Sequence[str]) -> Conversation[None]:
        """A run's document."""
        params = query_of({"include": include or None})
        return self._gives(RunDocument, self.request("GET", path_of("runs", id_of(run)), params=params))

    def list(self, limit: int, filters: Mapping[str, Any]) -> Conversation[None]:
        """Up to `limit` documents as one page, from as many pages of the gateway as needed."""
        runs: list[RunDocument] = []
        after = filters.get("after")
        while True:
            params = query_of({**filters, "after": after, "limit": min(PAGE_MAX, limit - len(runs))})
            page = self.typed(_Page, (yield from self.json(self.request("GET", "/v1/runs", params=params))))
            runs += [self.typed(RunDocument, each) for each in page.runs]
            after = page.after
            if after is None or len(runs) >= limit:
                data = {**page.data, "runs": [each.data for each in runs]}
                yield Give(RunPage(runs=runs, has_more=page.has_more, after=after, data=data))
                return

    def cancel(self, run: str | RunDocument) -> Conversation[None]:
        """Cancel a run; gives its document."""
        return self._gives(RunDocument, self.request("POST", path_of("runs", id_of(run), "cancel")))

    def retry(self, run: str | RunDocument, from_: str | None, key: str | None, *, fresh: bool) -> Conversation[None]:
        """Repeat a run; gives the new one's document."""
        body: dict[str, Any] = {} if from_ is None else {"from": from_}
        if fresh:
            body["fresh"] = True
        request = self.request("POST", path_of("runs", id_of(run), "retry"), self.keyed(key), body)
        return self._gives(RunDocument, request)

    def signal(self, run: str | RunDocument, name: str, value: Any, key: str | None) -> Conversation[None]:
        """Send a signal; gives the run's document."""
        require_name("signal", name)
        body = raw(value, f"the value of signal {name!r}")
        request = self.request("POST", path_of("runs", id_of(run), "signals", name), self.keyed(key), body)
        return self._gives(RunDocument, request)

    def ticket(self, run: str | RunDocument) -> Conversation[None]:
        """A ticket for a run's stream."""
        return self._gives(Ticket, self.request("POST", path_of("runs", id_of(run), "ticket")))

    def pipelines(self) -> Conversation[None]:
        """The served pipelines."""
        answer = yield from self.json(self.request("GET", "/v1/pipelines"))
        listed = answer.get("pipelines") if isinstance(answer, dict) else None
        if not isinstance(listed, list):
            raise self.unexpected("not a list of pipelines")
        yield Give([self.typed(PipelineDocument, each) for each in listed])

    def any(self, method: str, path: str, params: Mapping[str, Any], body: Any) -> Conversation[None]:
        """Any request; gives the JSON of the answer.

        Raises:
            RequestError: the path is none, or would lead to another host, which must not get the key.
        """
        if not path.startswith("/") or path.startswith("//"):
            raise RequestError(f"a path begins with one slash, such as /v1/slo, got {path[:100]!r}")
        content = None if body is None else raw(body, "the body")
        headers = {} if method == "GET" else self.keyed(None)
        request = self.request(method, path, headers, content, params=query_of(params))
        yield Give((yield from self.json(request)))

    def keyed(self, key: str | None) -> dict[str, str]:
        """The header with which a repeated request does nothing new."""
        return key_header(self._make_key() if key is None else key)

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
        silence_s: float | None = None,
    ) -> Request:
        """A request for JSON, with a JSON body if one is given."""
        sent = {"Accept": "application/json", **(headers or {})}
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        return Request(method, path, sent, params or {}, content, silence_s or self.silence_s)

    def patience(self, until: float = inf) -> Patience:
        """For one call or stream, up to `until` on the client's clock."""
        return Patience(self._patience_s, self.now, self._draw, until)

    def exchange(self, request: Request, until: float = inf) -> Conversation[Answer]:
        """Send the request until it is answered with success; all requests may be repeated."""
        patience = self.patience(until)
        while True:
            at_least_s = 0.0
            try:
                head: Head = yield Open(request)
                patience.answered = True
                succeeded = 200 <= head.status < 300
                body = yield from body_up_to(None if succeeded else PROBLEM_BYTES_MAX)
                if succeeded:
                    return Answer(head.status, body)
                error = refusal(head, body, self.url)
                if head.status not in PASSING or isinstance(error, RunFailed):
                    raise error
                at_least_s = retry_after_s(head) or 0.0
            except Lost as lost:
                error = self.unreachable(lost)
                if lost.hopeless:
                    raise error from lost.__cause__
            yield patience.pause(error, at_least_s)

    def json(self, request: Request, until: float = inf) -> Conversation[Any]:
        """The JSON of the answer."""
        answer = yield from self.exchange(request, until)
        return self.decoded(answer.body)

    def document(self, kind: type[D], request: Request, until: float = inf) -> Conversation[D]:
        """The answer as a document."""
        return self.typed(kind, (yield from self.json(request, until)))

    def _gives(self, kind: type[Document], request: Request) -> Conversation[None]:
        yield Give((yield from self.document(kind, request)))

    def decoded(self, body: bytes) -> Any:
        """JSON, or an error that says what the answer is not."""
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.unexpected("not JSON") from error

    def typed(self, kind: type[D], decoded: Any) -> D:
        """A decoded answer as a document."""
        try:
            return read(kind, msgspec.convert(decoded, dict[str, Any]))
        except msgspec.ValidationError as error:
            raise self.unexpected(f"not what a gateway sends ({error})") from error

    def unexpected(self, what: str) -> UnexpectedAnswer:
        """The error for an answer that makes no sense."""
        return UnexpectedAnswer(f"the answer of {self.url} is {what}: is it the address of an Offramp gateway?")

    def unreachable(self, lost: Lost) -> Unreachable:
        """The error for a connection that failed."""
        if lost.connecting and not lost.hopeless:
            made = Unreachable(f"no gateway answers at {self.url}: {lost}")
        else:
            made = Unreachable(f"the connection to {self.url} failed: {lost}")
        made.__cause__ = lost.__cause__
        return made


def body_up_to(bytes_max: int | None) -> Conversation[bytes]:
    """The rest of the answer, or so much of it."""
    parts: list[bytes] = []
    size = 0
    while bytes_max is None or size < bytes_max:
        part: bytes = yield Read()
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)
