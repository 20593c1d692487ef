"""Ten thousand malformed requests, and clients that never finish theirs, leave a gateway as it was.

Sizes and descriptors are those of the gateway's process. `make fuzz` sends more, with another seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time

import httpx
import psutil
import pytest

from offramp.gateway.wire.connections import BODY_S_MAX, HEAD_S_MAX
from offramp.gateway.wire.server import KEEP_ALIVE_S
from tests.fuzz.campaign import Campaign, held
from tests.fuzz.serving import KEY
from tests.support import eventually

SEED = 1
WARM_UP = 2_000
ATTACKS = 10_000
RSS_GROWTH_BYTES_MAX = 24 << 20
"""Three kilobytes for each request after the warm-up. The caches of SQLite and of the allocator fill up by 2 to 9 MiB,
whether ten thousand requests are sent or a hundred thousand."""
LATE_S = 15.0
"""On top of the gateway's own bounds, for a busy machine."""
SAID = re.compile(
    r"\d\d:\d\d:\d\d (fuzzed: 4 pipelines at |1 API key of |worker 1 started |worker 1  (ready in|resuming run_\w+) )"
)

HEAD = b"POST /v1/pipelines/echo/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n" % KEY.encode()
BODY = HEAD + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
SLOW = {
    "nothing": (b"", b"", HEAD_S_MAX),
    "half a head": (HEAD, b"", HEAD_S_MAX),
    "a head that never ends": (HEAD, b"x", HEAD_S_MAX),
    "no body": (BODY, b"", BODY_S_MAX),
    "a body that never ends": (BODY, b" ", BODY_S_MAX),
    "a body that no route reads": (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", b" ", BODY_S_MAX),
    "chunks that never end": (BODY.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked"), b"0", BODY_S_MAX),
    "idle": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"", KEEP_ALIVE_S),
}


async def lasts_s(port, begins, goes_on):
    """Seconds until the gateway ends a connection whose client sends a little every now and then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    writer.write(begins)
    with contextlib.suppress(ConnectionError):
        while True:
            try:
                if not await asyncio.wait_for(reader.read(1 << 16), 1.0):
                    break
            except TimeoutError:
                writer.write(goes_on)
    writer.close()
    return time.monotonic() - began


def is_left_alone(process):
    """Whether no client is connected any more, except perhaps that of this test."""
    return sum(found.status != psutil.CONN_LISTEN for found in process.net_connections("tcp")) <= 1


def handles_of(process):
    """Descriptors without those of the database, which opens some more as it needs them, a bounded number."""
    return process.num_fds() - len(process.open_files())


@pytest.fixture
async def web(gateway):
    key = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=key, timeout=30, trust_env=False) as web:
        yield web


async def test_malformed_requests_leave_the_gateway_as_it_was(gateway, web):
    campaign = Campaign(gateway.port, SEED, KEY, await held(web))
    process = psutil.Process(gateway.pid)
    await campaign.send(WARM_UP)
    await eventually(lambda: is_left_alone(process))
    handles, rss = handles_of(process), process.memory_info().rss
    async with asyncio.TaskGroup() as group:
        slow = [group.create_task(lasts_s(gateway.port, begins, goes_on)) for begins, goes_on, _ in SLOW.values()]
        await campaign.send(ATTACKS - WARM_UP)
        grown = process.memory_info().rss - rss
    assert campaign.wrong == []
    assert sum(campaign.seen.values()) >= ATTACKS
    assert grown < RSS_GROWTH_BYTES_MAX
    lasted = dict(zip(SLOW, (task.result() for task in slow), strict=True))
    assert {what: s for what, s in lasted.items() if not SLOW[what][2] - 1 < s < SLOW[what][2] + LATE_S} == {}
    await eventually(lambda: is_left_alone(process))
    assert handles_of(process) <= handles
    answer = await web.post("/v1/pipelines/echo/runs", json={"input": {"text": "still here"}})
    assert (answer.status_code, answer.json()["result"]) == (200, "STILL HERE")
    assert "\n".join(line for line in gateway.log.read_text().splitlines() if not SAID.match(line)) == ""
