"""A process that serves scripted runs until it is stopped: `python -m tests.gateway.served MODE`."""

from __future__ import annotations

import asyncio
import sys

from offramp.gateway.asgi import Gateway
from offramp.gateway.wire.server import serve
from tests.gateway.fake import FakeService

MODE = sys.argv[1]


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Service(FakeService):
    async def drain(self):
        say("draining")
        if MODE == "stuck":
            await asyncio.Event().wait()
        await super().drain()

    async def stop(self):
        await super().stop()
        say("stopped")


if __name__ == "__main__":
    timeout = 1.0 if MODE == "late" else 30.0
    code = serve(Gateway(Service), port=0, drain_timeout=timeout, on_started=say)
    sys.exit(code)
