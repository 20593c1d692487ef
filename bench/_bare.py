"""The gateway's floor: a Starlette StreamingResponse that yields the same bytes at the same pace, on uvicorn.

`python -m bench._bare PORT FILE`, where FILE holds an event stream recorded from the gateway. No runs, no journal,
no store, no second reader.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route


class Frames:
    """A recorded stream, replayed with more or fewer deltas."""

    def __init__(self, recorded: bytes) -> None:
        parts = [part + b"\n\n" for part in recorded.split(b"\n\n") if part]
        deltas = [at for at, part in enumerate(parts) if b"event: step.delta\n" in part]
        self.before = parts[: deltas[0]]
        self.delta = parts[deltas[0]]
        self.after = parts[deltas[-1] + 1 :]

    async def play(self, tokens: int, pause_ms: float) -> AsyncIterator[bytes]:
        for part in self.before:
            yield part
        for _ in range(tokens):
            yield self.delta
            await asyncio.sleep(pause_ms / 1000)
        for part in self.after:
            yield part


class Body(msgspec.Struct):
    input: dict[str, float]


def bare(frames: Frames) -> Starlette:
    decode = msgspec.json.Decoder(Body).decode

    async def stream(request: Request) -> Response:
        given = decode(await request.body()).input
        parts = frames.play(int(given["tokens"]), given["pause_ms"])
        return StreamingResponse(parts, media_type="text/event-stream")

    async def ready(request: Request) -> Response:
        del request
        return Response(b"ready")

    return Starlette(
        routes=[Route("/v1/pipelines/tokens/runs", stream, methods=["POST"]), Route("/readyz", ready)],
    )


if __name__ == "__main__":
    uvicorn.run(
        bare(Frames(Path(sys.argv[2]).read_bytes())),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
