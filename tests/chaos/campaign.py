"""A seeded campaign of kills against `offramp serve` under load; every invariant is checked at its end.

`make chaos KILLS=500 SEED=7`, or `python -m tests.chaos.campaign --kills 500 --seed 7`. The seed decides what is asked
for and what is killed when; what the machine makes of it differs from time to time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.chaos.announced import receipts
from tests.chaos.client import Asked, Client, Seen, any_run
from tests.chaos.invariants import Recorded, violations
from tests.chaos.receiver import receiving
from tests.chaos.serving import APP, GUARD_S, LEASE_S, PATIENT, RECOVERY_S, Serving

OPEN_RUNS = 20
SHOWN_MAX = 50
HARM = {
    "worker": 35,
    "gateway": 20,
    "everything": 20,
    "lane": 8,
    "drain": 10,
    "stopped worker": 4,
    "stopped gateway": 3,
}


class Campaign:
    """Load, harm, and then a calm in which everything has to end.

    Args:
        home: an empty folder.
        seed: of every choice.
        kills: how often something is killed, drained or stopped.
        patient: for a busy machine: no lease runs out, so no process is stopped for that, and no time is too long.
        app: what is served.
        harms: what happens how often.
    """

    def __init__(
        self,
        home: Path,
        seed: int,
        kills: int,
        *,
        patient: bool = False,
        app: Path = APP,
        harms: Mapping[str, int] = HARM,
    ) -> None:
        self.dice = random.Random(seed)
        self.kills = kills
        self.serving = Serving(home, app=app, **(PATIENT if patient else {}))
        self.harms = {kind: weight for kind, weight in harms.items() if not (patient and kind.startswith("stopped"))}
        self.recovery_s = GUARD_S if patient else RECOVERY_S
        self.receiver = ""
        self.seen: list[Seen] = []
        self.harm: Counter[str] = Counter()
        self.problems: list[str] = []
        self.calm_s = 0.0
        self._signals = False

    async def run(self) -> list[str]:
        """The violations."""
        with receiving(self.serving.home) as self.receiver:
            await self._run()
        self.problems += violations(self.serving.home, self.seen, self.serving.interruptions, self.serving.silent())
        return self.problems

    async def _run(self) -> None:
        try:
            await asyncio.to_thread(self._up)
            async with Client(self.serving.url) as client:
                document = (await client.http.get(f"{self.serving.url}/openapi.json")).json()
                self._signals = any("/signals/" in path for path in document["paths"])
                tasks = [asyncio.create_task(self._ask(client)) for _ in range(OPEN_RUNS)]
                for _ in range(self.kills):
                    await asyncio.sleep(self.dice.choice([0.05, 0.2, 0.5, 0.9]) * self.dice.random())
                    await self._harm()
                await self._calm(client, tasks)
            if code := await asyncio.to_thread(self.serving.terminate):
                self.problems.append(f"SIGTERM at the end: exit code {code}\n{self.serving.log.read_text()[-2000:]}")
        finally:
            self.serving.close()

    def _up(self) -> None:
        self.serving.start()
        self.serving.wait_until_up()

    async def _ask(self, client: Client) -> None:
        while not client.quiet.is_set():
            one = Seen(self._any_run())
            self.seen.append(one)
            await self._through(client, one)

    def _any_run(self) -> Asked:
        return any_run(self.dice, self.receiver, signals=self._signals)

    async def _through(self, client: Client, one: Seen) -> None:
        following = asyncio.ensure_future(client.follow(one))
        if one.asked.pipeline == "approval":
            while one.run is None and not following.done():
                await asyncio.wait([following], timeout=0.05)
            if one.run is not None:
                await asyncio.wait([following], timeout=self.dice.random())
                await client.signal(one.run, "approved", "yes")
                await client.signal(one.run, "released", "now")
        try:
            await following
        except asyncio.CancelledError:
            following.cancel()
            raise

    # Harm. Each restart is awaited, so that runs get somewhere.

    async def _harm(self) -> None:
        kind = self.dice.choices(list(self.harms), list(self.harms.values()))[0]
        serving = self.serving
        if not serving.alive:
            self.problems.append(f"the gateway ended by itself:\n{serving.log.read_text()[-3000:]}")
            await asyncio.to_thread(self._up)
        workers = serving.worker_pids()
        lanes = serving.lane_pids()
        coordinators = serving.coordinator_pids() if kind == "coordinator" else []
        if coordinators:
            serving.kill(coordinators[0])
        elif kind == "lane" and lanes:
            serving.kill(self.dice.choice(lanes))
        elif kind in {"worker", "lane", "coordinator"} and workers:
            kind = "worker"
            serving.kill(self.dice.choice(workers))
        elif kind == "stopped worker" and workers:
            with serving.stopped(self.dice.choice(workers)):
                await asyncio.sleep(LEASE_S * (1.2 + self.dice.random()))
        elif kind == "stopped gateway":
            with serving.stopped(serving.pid):
                await asyncio.sleep(LEASE_S * (1.2 + self.dice.random()))
        elif kind == "drain":
            if code := await asyncio.to_thread(serving.terminate):
                self.problems.append(f"SIGTERM: exit code {code}\n{serving.log.read_text()[-2000:]}")
            await asyncio.to_thread(self._up)
        elif kind == "gateway":
            serving.family()
            serving.kill(serving.pid)
            await asyncio.to_thread(self._up)
        else:
            kind = "everything"
            serving.kill_all()
            await asyncio.to_thread(self._up)
        self.harm[kind] += 1

    async def _calm(self, client: Client, tasks: list[asyncio.Task[None]]) -> None:
        """Nothing is killed any more: what was acknowledged ends by itself, and soon."""
        client.quiet.set()
        began = time.monotonic()
        _, late = await asyncio.wait(tasks, timeout=self.recovery_s)
        self.calm_s = time.monotonic() - began
        if late:
            self.problems.append(f"{len(late)} runs did not end within {self.recovery_s:g} s of the last restart")
            await asyncio.wait(late, timeout=GUARD_S)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                self.problems.append(f"a client failed: {result!r}")
        await self.until(lambda: all(run["finished_at"] is not None for run in self._recorded().runs.values()))
        await self.until(lambda: not self.serving.left_to_announce())
        for one in self.seen:
            if one.outcome is not None and not one.wrong:
                await client.look_back(one)

    def _recorded(self) -> Recorded:
        return Recorded(self.serving.home / "data" / "offramp.db")

    async def until(self, condition: Callable[[], bool]) -> None:
        """Runs whose acknowledgement was lost in a crash must end too, and all that was asked for be announced."""
        ends_at = time.monotonic() + GUARD_S
        while not await asyncio.to_thread(condition):
            if time.monotonic() > ends_at:
                return
            await asyncio.sleep(0.2)

    def summary(self) -> str:
        outcomes = Counter(str(one.outcome) for one in self.seen)
        harm = ", ".join(f"{count} {kind}" for kind, count in self.harm.most_common())
        ended = ", ".join(f"{count} {kind}" for kind, count in outcomes.most_common())
        lines = [
            f"{sum(self.harm.values())} kills: {harm}",
            f"{len(self.seen)} runs: {ended}; all ended {self.calm_s:.1f} s after the last kill",
            f"{sum(map(len, receipts(self.serving.home).values()))} webhook messages received",
            f"{len(self.problems)} violations",
        ]
        if self.serving.silent():
            lines.append(f"note: {len(self.serving.silent())} processes lost their lease because the machine was busy")
        return "\n".join(lines)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a program


def parsed(about: str | None) -> argparse.Namespace:
    """The arguments of a campaign's command line."""
    arguments = argparse.ArgumentParser(description=about)
    arguments.add_argument("--kills", type=int, default=500)
    arguments.add_argument("--seed", type=int, default=None)
    arguments.add_argument("--keep", help="a folder for data and logs, kept; a temporary one otherwise")
    return arguments.parse_args()


def main() -> int:
    given = parsed(__doc__)
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    say(f"seed {seed}, {given.kills} kills")
    home = Path(given.keep or tempfile.mkdtemp(prefix="offramp-chaos-"))
    home.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(home, seed, given.kills)
    problems = asyncio.run(campaign.run())
    for line in problems[:SHOWN_MAX]:
        say(line[:1000])
    say(campaign.summary())
    if not problems and not given.keep:
        shutil.rmtree(home, ignore_errors=True)
    elif problems:
        campaign.serving.write_interruptions()
        say(f"data and logs: {home}; again: make chaos KILLS={given.kills} SEED={seed}")
    return bool(problems)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
