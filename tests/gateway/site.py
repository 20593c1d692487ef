"""A gateway, and a FastAPI site that mounts it: imported by real servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI

from offramp import App

app = App("site")


@app.step
async def hold(gate: str) -> str:
    while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.01)
    return gate


@app.pipeline(budget=60)
async def wait(gate: str) -> str:
    return await hold(gate)


gateway = app.asgi(data=os.environ.get("SITE_DATA", ".offramp"))


@contextlib.asynccontextmanager
async def lifespan(_site: FastAPI) -> AsyncIterator[None]:
    async with gateway.lifespan():
        yield


site = FastAPI(lifespan=lifespan)
site.mount("/agents", gateway)
