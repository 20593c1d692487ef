"""Both clients under one interface, so that a test says once what both do; and a gateway whose connections break."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json

from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from offramp import AsyncClient, Client

RUN = "run_01JD3Q8Z5V9W6K2M4N7P0R1S2T"


@contextlib.contextmanager
def synchronous(url, key="", **options):
    with Client(url, key, **options) as client:
        yield client


@contextlib.contextmanager
def asynchronous(url, key="", **options):
    with asyncio.Runner() as runner:
        client = AsyncClient(url, key, **options)
        try:
            yield Blocking(client, runner)
        finally:
            runner.run(client.aclose())


class Blocking:
    """An async client for plain code."""

    def __init__(self, client, runner):
        self.client = client
        self._runner = runner

    def __repr__(self):
        return repr(self.client)

    def __getattr__(self, name):
        method = getattr(self.client, name)

        def call(*args, **options):
            made = method(*args, **options)
            return self._each(made) if inspect.isasyncgen(made) else self._runner.run(made)

        return call

    def _each(self, stream):
        async def step():
            return await anext(stream)

        try:
            while True:
                try:
                    yield self._runner.run(step())
                except StopAsyncIteration:
                    return
        finally:
            self._runner.run(stream.aclose())


def event(seq, kind, **data):
    body = {"type": kind, "run_id": RUN, "seq": seq, "at": f"2026-11-21T10:00:0{seq}.000Z", **data}
    return f"id: {seq}\nevent: {kind}\ndata: {json.dumps(body)}\n\n".encode()


EVENTS = [
    event(1, "run.accepted", pipeline="explain", path="fast", **{"class": "default"}, route={"reasons": []}),
    event(2, "step.started", step="write", key="write-1", attempt=1),
    event(3, "step.completed", step="write", key="write-1", attempt=1, duration_ms=3.0),
    event(4, "run.completed", result={"text": "done"}),
]


def problem(status, code="internal", headers=None, **more):
    body = {"type": f"urn:offramp:error:{code}", "title": "T", "status": status, "detail": f"it is {status}", **more}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


class Flaky:
    """A gateway whose streams break as told: each entry says how many events a connection gets, and how it ends.

    The ends: `close` in order, `drop` without, `hang`, or a status.
    """

    def __init__(self, *connections, log=EVENTS):
        self.connections = list(connections)
        self.log = log
        self.resumed_from = []
        self.bodies = []
        self.headers = []
        self.left = asyncio.Event()
        routes = [
            Route("/v1/pipelines/{name}/runs", self.submit, methods=["POST"]),
            Route("/v1/runs/{id}/events", self.events),
            Route("/v1/runs/{id}/result", self.result),
            Route("/v1/runs/{id}", self.show),
        ]
        self.app = Starlette(routes=routes)

    async def submit(self, request):
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        return self.stream(0)

    async def events(self, request):
        self.resumed_from.append(request.headers.get("last-event-id"))
        return self.stream(int(request.headers.get("last-event-id", 0)))

    async def result(self, request):
        return JSONResponse({"large": True})

    async def show(self, request):
        if request.headers.get("authorization") != "Bearer secret":
            return problem(401, "unauthenticated")
        shown = {"id": RUN, "status": "running", "path": "deep", "created_at": "2026-11-21T10:00:00.000Z"}
        return JSONResponse(shown | {"later": {"than": "this client"}})

    def stream(self, after):
        count, ending = self.connections.pop(0) if self.connections else (0, "close")
        if isinstance(ending, int):
            return problem(ending, "overloaded", {"Retry-After": "0"})

        async def parts():
            yield b"retry: 10\n: heartbeat\n"
            for part in self.log[after : after + count]:
                yield part
            if ending == "drop":
                raise ConnectionError
            if ending == "hang":
                try:
                    await asyncio.Event().wait()
                finally:
                    self.left.set()

        return StreamingResponse(parts(), media_type="text/event-stream")
