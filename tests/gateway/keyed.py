"""A gateway with keys over a real service, and callers that send one."""

from __future__ import annotations

import contextlib

import httpx

from offramp import SLA, App, emit
from offramp.core.keys import parse_keys
from offramp.gateway.access import Access
from offramp.gateway.asgi import Gateway
from offramp.gateway.keyring import Keyring
from offramp.settings import Settings
from offramp.wiring import build
from tests.gateway.conftest import serving
from tests.support import Signal

SECRETS = {"ops": "ops-0123456789abcdef", "ann": "ann-0123456789abcdef", "bob": "bob-0123456789abcdef"}
KEYS = f"ops:{SECRETS['ops']},acme/ann:{SECRETS['ann']},beta/bob:{SECRETS['bob']}"
SSE = {"Accept": "text/event-stream"}


def bearer(who):
    return {"Authorization": f"Bearer {SECRETS[who]}"}


class Held:
    """An app whose runs wait until the test lets them go."""

    def __init__(self):
        self.app = App("held", classes=[SLA("interactive", budget=30.0), SLA("batch", budget=0)])
        self.let_go = Signal()
        signal = self.let_go

        @self.app.step
        async def wait(word: str) -> str:
            await signal.wait()
            return word

        @self.app.step
        async def say(word: str) -> str:
            emit(word)
            return word

        @self.app.pipeline(sla="interactive")
        async def hold(word: str) -> str:
            return await wait(word)

        @self.app.pipeline(sla="interactive")
        async def hold_and_say(word: str) -> str:
            return await say(await wait(word))

        @self.app.pipeline(sla="interactive")
        async def echo(word: str) -> str:
            return await say(word)

        @self.app.pipeline(sla="batch")
        async def later(word: str) -> str:
            return await wait(word)


def gateway_of(app, folder, keys=KEYS, role="local", **settings):
    given = {"data": str(folder / "data"), "drain_timeout": 0.2} | settings
    chosen = Settings.load({}, folder / "none.toml", **given)
    access = Access(Keyring(parse_keys(keys, "KEYS"))) if keys else Access()
    return Gateway(lambda: build(app, chosen, role=role), access)


@contextlib.asynccontextmanager
async def callers(gateway, *names):
    """One client per name, each with its key, of the gateway under the real server."""
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(gateway))
        yield [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, headers=bearer(name), timeout=20, trust_env=False)
            )
            for name in names
        ]
