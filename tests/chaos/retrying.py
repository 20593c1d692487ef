"""A campaign of kills against runs that are retried again and again: before, in and after the request for it.

`python -m tests.chaos.retrying --kills 200 --seed 7`. A chain is a run and its retries, up to one that completes. In
each chain a person approves once. No step that is recorded in a run is executed by a later one of its chain.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from offramp.core.journal import Entry
from offramp.stores.sqlite.crash_points import MARK, VARIABLE
from tests.chaos.campaign import Campaign, say
from tests.chaos.client import PAUSE_S, TRANSIENT, Asked, Client, Seen
from tests.chaos.invariants import Execution, Recorded, began_late, executions, repeated
from tests.chaos.serving import GUARD_S

CHAINS = 5
"""Chains that are under way at the same time."""
HURDLES = 3
POINTS = [
    *(("gateway", "submit"), ("gateway", "submit"), ("gateway", "event"), ("gateway", "cancel")),
    *(("worker", "claim"), ("worker", "event"), ("worker", "step"), ("worker", "finish"), ("worker", "sync")),
]
CRASH_S = 3.0
"""How long a crash point is waited for: none may be reached while every chain waits for the service."""


@dataclass
class Chain:
    """A run and its retries, in order."""

    name: str
    seen: list[Seen] = field(default_factory=list)
    done: bool = False

    @property
    def runs(self) -> list[str]:
        return [str(one.run) for one in self.seen if one.run is not None]


class RetryCampaign(Campaign):
    """Chains, harm, and then a calm in which every chain has to complete."""

    def __init__(self, home: Path, seed: int, kills: int, *, patient: bool = False) -> None:
        super().__init__(home, seed, kills, patient=patient)
        self.recovery_s = GUARD_S
        self.chains: list[Chain] = []

    async def run(self) -> list[str]:
        """The violations."""
        await self._run()
        self.problems += chain_violations(self)
        return self.problems

    async def _ask(self, client: Client) -> None:
        while not client.quiet.is_set():
            chain = Chain(f"chain-{len(self.chains)}")
            self.chains.append(chain)
            await self._climb(client, chain)

    async def _climb(self, client: Client, chain: Chain) -> None:
        level = self.serving.home / f"level-{chain.name}"
        level.write_text("0")
        one = Seen(Asked("climb", {"name": chain.name, "hurdles": HURDLES, "seconds": 0.03}, "deep", key=chain.name))
        for height in range(1, 10 * HURDLES):
            chain.seen.append(one)
            self.seen.append(one)
            if height > 1:
                one.asked.cancel_after = self.dice.choice([None, None, self.dice.randint(3, 12)])
            following = asyncio.create_task(client.follow(one))
            if height == 1:
                await _within(GUARD_S, lambda one=one: one.run is not None)
                await _approve(client, str(one.run))
            await following
            if one.wrong or one.outcome == "run.completed":
                break
            if one.outcome == "run.failed":
                level.write_text(str(int(level.read_text()) + 1))
            one = Seen(one.asked, await _retry(client, str(one.run), f"{chain.name}-{height}"))
        chain.done = one.outcome == "run.completed"

    async def _harm(self) -> None:
        if self.dice.random() < 0.5:
            await super()._harm()
            return
        role, point = self.dice.choice(POINTS)
        place = f"{role}/{point}.{self.dice.choice(['before', 'after'])}:{self.dice.randint(1, 2)}"
        serving, mark = self.serving, self.serving.home / f"mark-{sum(self.harm.values())}"
        serving.kill_all()
        self.harm["everything"] += 1
        serving.start(**{VARIABLE: place, MARK: str(mark)})
        await _within(GUARD_S, lambda: _pid_in(mark) or not serving.alive or serving.is_up())
        if await _within(CRASH_S, lambda: _pid_in(mark)):
            await asyncio.to_thread(serving.crashed, _pid_in(mark))
            self.harm[f"crash at {role}/{point}"] += 1
        else:
            serving.kill_all()  # else it would crash later, unobserved
        if not serving.alive:
            await asyncio.to_thread(self._up)

    def summary(self) -> str:
        runs = [len(chain.runs) for chain in self.chains]
        return f"{super().summary()}\n{len(runs)} chains of {sum(runs)} runs, the longest of {max(runs, default=0)}"


def _pid_in(mark: Path) -> int:
    """The process that reached its point; 0 before."""
    return int(mark.read_text() or 0) if mark.exists() else 0


async def _within(seconds: float, condition: Callable[[], object]) -> bool:
    ends_at = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if time.monotonic() > ends_at:
            return False
        await asyncio.sleep(PAUSE_S)
    return True


async def _approve(client: Client, run: str) -> None:
    """Once, however often the answer is lost."""
    while True:
        with contextlib.suppress(httpx.TransportError):
            where = f"{client.url()}/v1/runs/{run}/signals/approved"
            answer = await client.http.post(where, json="yes", headers={"idempotency-key": "approval"})
            if answer.status_code == 202:
                return
            assert answer.status_code in TRANSIENT, answer.text
        await asyncio.sleep(PAUSE_S)


async def _retry(client: Client, run: str, key: str) -> str:
    """The new run; asked for until the answer arrives."""
    while True:
        with contextlib.suppress(httpx.TransportError):
            where = f"{client.url()}/v1/runs/{run}/retry"
            answer = await client.http.post(where, headers={"idempotency-key": key})
            if answer.status_code == 202:
                return str(answer.json()["id"])
            assert answer.status_code in TRANSIENT, answer.text
        await asyncio.sleep(PAUSE_S)


def chain_violations(campaign: RetryCampaign) -> Iterator[str]:
    """Everything that is not as it must be, once all is calm and every process has left."""
    serving = campaign.serving
    database, executed = Recorded(serving.home / "data" / "offramp.db"), executions(serving.home)
    retries = {run for chain in campaign.chains for run in chain.runs[1:]}
    yield from database.violations(retries)
    if strays := database.runs.keys() - retries - {chain.runs[0] for chain in campaign.chains if chain.runs}:
        yield f"runs that no client asked for, or more than once: {strays}"
    by_run: dict[str, list[Execution]] = defaultdict(list)
    for key, each in executed.items():
        for execution in each:
            by_run[f"{execution['run']} {key}"].append(execution)
    yield from repeated(by_run, serving.interruptions, serving.silent())
    # What a process began that was stopped, or fell silent, while others went on: it could not know.
    harm, silent = serving.interruptions, serving.silent()
    punctual = {
        key: [
            execution
            for execution in each
            if execution["pid"] not in silent
            and not began_late(execution, [item for item in harm if item.pid == execution["pid"]])
        ]
        for key, each in executed.items()
    }
    for chain in campaign.chains:
        for one in chain.seen:
            yield from one.wrong
        if not chain.done:
            yield f"{chain.name} did not complete: {[(one.run, one.outcome) for one in chain.seen]}"
            continue
        yield from _chain(chain, database, executed)
        yield from _late(chain, punctual)


def _results(entries: list[tuple[int, Entry]]) -> dict[str, Any]:
    return {
        entry.key: json.loads(entry.value) for _, entry in entries if entry.kind == "step" and entry.value is not None
    }


def _unchanged(run: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key, token in before.items():
        if after.get(key) != token:
            yield f"{run} {key}: recorded as {token} before the retry, and as {after.get(key)} after it"


def _chain(chain: Chain, database: Recorded, executed: dict[str, list[Execution]]) -> Iterator[str]:
    """No recorded step of a run is executed by a later one, and each result is the recorded one to the end."""
    root, recorded = chain.runs[0], {}
    for run in chain.runs:
        results = _results(database.entries[run])
        yield from _unchanged(run, recorded, results)
        again = [each for key in recorded for each in executed.get(f"{root}:{key}", ()) if each["run"] == run]
        if again:
            yield f"{run}: recorded in an earlier run, and executed again: {again}"
        recorded |= results
    for key, token in recorded.items():
        each = executed.get(f"{root}:{key}", [])
        if token not in {execution["token"] for execution in each}:
            yield f"{root} {key}: the journal has {token}, its executions returned {each}"
    result = json.loads(database.runs[chain.runs[-1]]["result"])
    tokens = [token for token in result if "=" in token]
    if sorted(tokens) != sorted(recorded.values()) or len(tokens) != 4 * HURDLES:
        yield f"{chain.runs[-1]}: the result {result} is not what the journals hold: {recorded}"
    if result[1] != "yes":
        yield f"{chain.runs[-1]}: the approval is {result[1]!r}"


def _late(chain: Chain, executed: dict[str, list[Execution]]) -> Iterator[str]:
    """Nothing begins once a client has heard that it was finished, in whichever run of the chain."""
    for one in chain.seen:
        for frame in one.frames:
            key = f"{chain.runs[0]}:{json.loads(frame.data)['key']}" if frame.type == "step.completed" else ""
            late = [execution for execution in executed.get(key, ()) if execution["at"] > frame.at]
            if late:
                yield f"{key}: executed after it was heard to be finished: {late}"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=None)
    given = arguments.parse_args()
    seed = random.SystemRandom().randint(1, 1 << 30) if given.seed is None else given.seed
    home = Path(tempfile.mkdtemp(prefix="offramp-retries-"))
    say(f"seed {seed}, data and logs in {home}")
    campaign = RetryCampaign(home, seed, given.kills)
    found = asyncio.run(campaign.run())
    say(campaign.summary())
    for line in found[:50]:
        say(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
