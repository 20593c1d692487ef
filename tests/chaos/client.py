"""A client that does not give up: it submits with a key, follows, resumes where it was, and remembers what it saw."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import httpx

TERMINAL = {"run.completed", "run.failed", "run.cancelled", "run.expired"}
PAUSE_S = 0.05
TRANSIENT = {429, 503}


class Frame(NamedTuple):
    """An event as it came: its number, type, bytes, and when on the monotonic clock."""

    seq: int
    type: str
    data: bytes
    at: float


@dataclass
class Asked:
    """A run to ask for. `how` is stream, deep or json; the client leaves and comes back after `leaves_after` events."""

    pipeline: str
    input: dict[str, Any]
    how: str = "stream"
    sla: str | None = None
    budget: float | None = None
    cancel_after: int | None = None
    leaves_after: int | None = None
    key: str | None = field(default_factory=lambda: uuid.uuid4().hex)
    webhook: dict[str, Any] | None = None


@dataclass
class Seen:
    """What the client saw of its run."""

    asked: Asked
    run: str | None = None
    frames: list[Frame] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    cancelled: bool = False
    streams: list[str] = field(default_factory=list)
    """The type of the last event of each stream that ended in order."""
    document: dict[str, Any] | None = None
    again: list[Frame] = field(default_factory=list)
    """The whole log, read once more at the end."""

    @property
    def last(self) -> int:
        return self.frames[-1].seq if self.frames else 0

    @property
    def outcome(self) -> str | None:
        return self.frames[-1].type if self.frames and self.frames[-1].type in TERMINAL else None

    def first(self, kind: str) -> Frame | None:
        return next((frame for frame in self.frames if frame.type == kind), None)


class Client:
    """Talks to whichever gateway answers; `urls` are tried in turn."""

    def __init__(self, *urls: str) -> None:
        self.urls = list(urls)
        self.http = httpx.AsyncClient(timeout=httpx.Timeout(10), limits=httpx.Limits(max_connections=None))
        self._turn = 0
        self.quiet = asyncio.Event()
        """Once set, clients read on without leaving in between."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    def url(self) -> str:
        self._turn += 1
        return self.urls[self._turn % len(self.urls)]

    async def see(self, asked: Asked) -> Seen:
        """Submit and follow to the end."""
        seen = Seen(asked)
        await self.follow(seen)
        return seen

    async def follow(self, seen: Seen) -> None:
        """Go on until the run has its outcome or something is wrong; safe to cancel and to call again."""
        while seen.outcome is None and not seen.wrong:
            try:
                if seen.run is None:
                    await self._submit(seen)
                else:
                    await self._resume(seen)
            except httpx.TransportError:
                if seen.run is None and seen.asked.key is None:
                    return  # nothing was acknowledged, and without a key it cannot be asked for again
                await asyncio.sleep(PAUSE_S)

    async def _submit(self, seen: Seen) -> None:
        asked = seen.asked
        body = {"input": asked.input, "class": asked.sla, "budget": asked.budget, "webhook": asked.webhook}
        headers = {"accept": "text/event-stream" if asked.how == "stream" else "application/json"}
        if asked.how == "deep":
            headers["prefer"] = "respond-async"
        if asked.key:
            headers["idempotency-key"] = f'"{asked.key}"'
        where = f"{self.url()}/v1/pipelines/{asked.pipeline}/runs"
        filled = {name: value for name, value in body.items() if value is not None}
        async with self.http.stream("POST", where, json=filled, headers=headers) as answer:
            if answer.status_code in TRANSIENT:
                await answer.aread()
                await asyncio.sleep(PAUSE_S)
            elif answer.status_code >= 400:
                seen.wrong.append(f"submit: {answer.status_code} {(await answer.aread())[:300]!r}")
            elif asked.how == "stream":
                await self._read(seen, answer)
            else:
                seen.run = json.loads(await answer.aread())["id"]

    async def _resume(self, seen: Seen) -> None:
        where = f"{self.url()}/v1/runs/{seen.run}/events"
        async with self.http.stream("GET", where, headers={"last-event-id": str(seen.last)}) as answer:
            if answer.status_code in TRANSIENT:
                await asyncio.sleep(PAUSE_S)
            elif answer.status_code != 200:
                text = (await answer.aread())[:300]
                seen.wrong.append(f"{seen.run} was acknowledged, and now: {answer.status_code} {text!r}")
            else:
                await self._read(seen, answer)

    async def _read(self, seen: Seen, answer: httpx.Response) -> None:
        asked = seen.asked
        async with contextlib.aclosing(frames_of(answer)) as frames:
            async for frame in frames:
                if frame.seq != seen.last + 1:
                    seen.wrong.append(f"{seen.run}: event {frame.seq} came after {seen.last}")
                    return
                seen.frames.append(frame)
                if seen.run is None:
                    seen.run = json.loads(frame.data)["run_id"]
                if asked.cancel_after is not None and frame.seq >= asked.cancel_after and not seen.cancelled:
                    await self._cancel(seen)
                if asked.leaves_after == frame.seq and not self.quiet.is_set():
                    return
        if seen.frames:
            seen.streams.append(seen.frames[-1].type)

    async def _cancel(self, seen: Seen) -> None:
        with contextlib.suppress(httpx.TransportError):
            answer = await self.http.post(f"{self.url()}/v1/runs/{seen.run}/cancel")
            seen.cancelled = answer.status_code == 202

    async def signal(self, run: str, name: str, value: object) -> None:
        """Send until it is acknowledged; the run may get it twice, as a signal has no key."""
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await self.http.post(f"{self.url()}/v1/runs/{run}/signals/{name}", json=value)
                if answer.status_code < 300 or answer.status_code == 409:
                    return
                assert answer.status_code in TRANSIENT, answer.text
            await asyncio.sleep(PAUSE_S)

    async def look_back(self, seen: Seen) -> None:
        """Read the run's document, and its log from the start."""
        url = f"{self.url()}/v1/runs/{seen.run}"
        answer = await self.http.get(url)
        if answer.status_code != 200:
            seen.wrong.append(f"{seen.run} is not known at the end: {answer.status_code} {answer.text[:200]}")
            return
        seen.document = answer.json()
        async with self.http.stream("GET", f"{url}/events") as stream:
            seen.again = [frame async for frame in frames_of(stream)]


async def frames_of(answer: httpx.Response) -> AsyncIterator[Frame]:
    """The events of a stream; heartbeats and half an event at a broken end are left out."""
    rest = b""
    async for chunk in answer.aiter_raw():
        *parts, rest = (rest + chunk).split(b"\n\n")
        for part in parts:
            fields = dict(line.split(b": ", 1) for line in part.split(b"\n") if not line.startswith(b":"))
            if b"id" in fields:
                yield Frame(int(fields[b"id"]), fields[b"event"].decode(), fields[b"data"], time.monotonic())


KINDS: list[tuple[str, Any]] = [
    ("sequence", lambda dice: {"steps": dice.randint(1, 12), "seconds": dice.choice([0.002, 0.02, 0.08])}),
    ("fan", lambda dice: {"branches": dice.randint(1, 6), "seconds": dice.choice([0.01, 0.05])}),
    ("retries", lambda dice: {"steps": dice.randint(1, 3)}),
    ("threads", lambda dice: {"steps": dice.randint(1, 6), "seconds": 0.02}),
    ("cpu", lambda dice: {"steps": dice.randint(1, 3), "seconds": dice.choice([0.01, 0.05])}),
    ("chatty", lambda dice: {"steps": dice.randint(1, 5), "words": dice.randint(1, 40)}),
    ("sleepy", lambda dice: {"steps": dice.randint(1, 3), "seconds": dice.choice([0.02, 0.3])}),
    ("nested", lambda dice: {"steps": dice.randint(1, 4)}),
    ("breaks", lambda dice: {"steps": dice.randint(0, 3)}),
    ("pays", lambda dice: {"steps": dice.randint(1, 6), "seconds": 0.03}),
    ("endless", lambda _: {}),
]


WEBHOOKS: list[tuple[str, list[str]]] = [
    ("ok", ["run.demoted", "run.completed", "run.failed", "run.cancelled", "run.expired"]),
    ("ok", ["run.accepted", "step.completed", "run.completed"]),
    ("flaky", ["run.completed", "run.cancelled"]),
    ("gone", ["step.started", "run.completed"]),
]
"""How a receiver answers (see `receiver.py`), and what it received."""


def any_run(dice: random.Random, receiver: str, *, signals: bool = False) -> Asked:
    """A run of any kind, in any way a client may ask."""
    kinds = [*KINDS, ("approval", lambda _: {})] if signals else KINDS
    pipeline, arguments = dice.choice(kinds)
    # What has to be cancelled or signalled has to be known, and the answer to json may be lost.
    hows = ["stream", "stream", "stream", "deep"]
    how = dice.choice(hows if pipeline in {"endless", "approval"} else [*hows, "json"])
    asked = Asked(pipeline, arguments(dice), how)
    asked.sla = dice.choice([None, "brief", "brief", "batch"])
    if pipeline == "endless":
        asked.sla, asked.cancel_after = dice.choice(["brief", "batch"]), dice.randint(2, 60)
    if dice.random() < 0.3:
        asked.leaves_after = dice.randint(1, 10)
    if dice.random() < 0.4:
        answers, events = dice.choice(WEBHOOKS)
        asked.webhook = {"url": f"{receiver}/{answers}", "events": events}
    if how == "json":
        asked.sla = "brief"  # waits for an answer no longer than that
        if dice.random() < 0.5:
            asked.key = None
    return asked
