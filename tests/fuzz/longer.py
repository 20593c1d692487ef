"""Every kind of fuzzing for longer than a test may take: `python -m tests.fuzz.longer [--seed N]`, or `make fuzz`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

from tests.fuzz.campaign import Campaign, held
from tests.fuzz.documented import fuzz
from tests.fuzz.growth import excess, shapes
from tests.fuzz.serving import KEY, flaws_in_log, served

STEP = 10_000
FUZZ_S_MAX = 6 * 3600


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def attack(gateway, seed, count):
    """What was wrong, after `count` malformed requests; the size of the process is printed on the way."""
    async with httpx.AsyncClient(base_url=gateway.url, headers={"Authorization": f"Bearer {KEY}"}) as web:
        campaign = Campaign(gateway.port, seed, KEY, await held(web))
    process, began, sent = psutil.Process(gateway.pid), time.monotonic(), 0
    while sent < count:
        step = min(STEP, count - sent)
        await campaign.send(step)
        sent += step
        rss = process.memory_info().rss / (1 << 20)
        say(f"{sent} malformed requests in {time.monotonic() - began:.0f} s: {rss:.1f} MiB, {process.num_fds()} open")
    return campaign.wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--examples", type=int, default=500, help="requests by the OpenAPI document, per operation")
    parser.add_argument("--attacks", type=int, default=100_000, help="malformed requests")
    given = parser.parse_args()
    say(f"seed {given.seed}")
    tried = list(shapes(given.seed, None))
    grown = [found for shape in tried if (found := excess(shape))]
    say("\n".join([f"{len(tried)} shapes of input: {len(grown)} grow faster than their size", *grown]))
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as gateway:
        code, report = fuzz(gateway.url, KEY, folder, seed=given.seed, examples=given.examples, timeout_s=FUZZ_S_MAX)
        say(report)
        wrong = asyncio.run(attack(gateway, given.seed, given.attacks))
        for kind, error, sent, answer in wrong:
            say(f"{kind}: {error}\n  sent {sent!r}\n  got {answer!r}")
        flaws = flaws_in_log(gateway)
        for line in flaws:
            say(line)
    found = bool(grown or code or wrong or flaws)
    say(f"seed {given.seed}: {'flaws were found, see above' if found else 'nothing found'}")
    sys.exit(found)


if __name__ == "__main__":
    main()
