"""The floor of following: a bare publisher in its own process, which a bare subscriber reads at the same pace.

`python -m bench._floor_publisher PORT CHANNELS EVENTS PAUSE_S` publishes the time on each channel, EVENTS times.
"""

from __future__ import annotations

import asyncio
import sys
import time

CHANNEL = b"floor:"


async def publish(port: int, channels: int, events: int, pause_s: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def one(number: int) -> None:
        await asyncio.sleep(pause_s * number / channels)
        name = CHANNEL + b"%d" % number
        for _ in range(events):
            await asyncio.sleep(pause_s)
            now = repr(time.perf_counter()).encode()
            writer.write(b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(now), now))

    answers = asyncio.create_task(reader.read(-1))
    await asyncio.gather(*(one(number) for number in range(channels)))
    await writer.drain()
    writer.write_eof()
    await answers


if __name__ == "__main__":
    port, channels, events = map(int, sys.argv[1:4])
    asyncio.run(publish(port, channels, events, float(sys.argv[4])))
