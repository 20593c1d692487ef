"""A campaign of kills against an app with resources: no permit leaks, no window is exceeded, no run is lost.

`python -m tests.chaos.limits --kills 500 --seed 7`. A provider, which no kill reaches, counts what arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.campaign import SHOWN_MAX, Campaign, parsed, say
from tests.chaos.client import Asked, Client
from tests.chaos.invariants import violations
from tests.chaos.providing import ROOT, Provider, providing
from tests.chaos.serving import GUARD_S

APP = Path(__file__).with_name("limited.py")
RATES = ("20/s", "100/10s")
"""Few enough that calls wait for each of them."""
BUSY_RATES, BUSY_ALLOWED = ("40/2s", "100/10s"), ("40/s", "100/9s")
"""What is declared, and what the provider allows, where a request may arrive up to a second after it was written."""
CONCURRENCY = 8
HARM = {
    "coordinator": 30,
    "worker": 30,
    "gateway": 15,
    "everything": 10,
    "lane": 8,
    "drain": 7,
}
KINDS: list[tuple[str, Any]] = [
    ("calls", lambda dice: {"steps": dice.randint(1, 5), "words": dice.randint(1, 60)}),
    ("streams", lambda dice: {"steps": dice.randint(1, 4), "words": dice.randint(1, 60)}),
    ("threads", lambda dice: {"steps": dice.randint(1, 4)}),
    ("lanes", lambda dice: {"steps": dice.randint(1, 2)}),
    ("agents", lambda dice: {"steps": dice.randint(1, 2), "at_once": dice.randint(1, 4)}),
    ("pairs", lambda dice: {"branches": dice.randint(1, 5)}),
    ("endless", lambda _: {}),
]


class LimitsCampaign(Campaign):
    """Load, harm, and then a calm in which every permit comes back."""

    def __init__(self, home: Path, seed: int, kills: int, *, patient: bool = False) -> None:
        super().__init__(home, seed, kills, patient=patient, app=APP, harms=HARM)
        self.recovery_s = GUARD_S  # what is left has to wait for its permits
        self.declared, self.allowed = (BUSY_RATES, BUSY_ALLOWED) if patient else (RATES, RATES)
        self.provider: Provider | None = None
        self.stats: dict[str, Any] = {}

    async def run(self) -> list[str]:
        """The violations."""
        rates = [word for rate in self.allowed for word in ("--rate", rate)]
        with providing(*rates, "--concurrency", str(CONCURRENCY)) as self.provider:
            self.serving.variables = {
                "CHAOS_PROVIDER": self.provider.url,
                "CHAOS_RATES": " ".join(self.declared),
                "CHAOS_CONCURRENCY": str(CONCURRENCY),
                "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            }
            await self._run()
            await self.until(lambda: self.provider.stats()["open"] == 0)
            self.stats = self.provider.stats()
        self.problems += self._broken()
        self.problems += violations(self.serving.home, self.seen, self.serving.interruptions, self.serving.silent())
        return self.problems

    def _any_run(self) -> Asked:
        dice = self.dice
        pipeline, arguments = dice.choice(KINDS)
        asked = Asked(pipeline, arguments(dice), dice.choice(["stream", "stream", "deep"]))
        asked.sla = dice.choice([None, "brief", "batch"])
        if pipeline == "endless":
            asked.cancel_after = dice.randint(2, 30)
        if dice.random() < 0.3:
            asked.leaves_after = dice.randint(1, 10)
        return asked

    async def _calm(self, client: Client, tasks: list[asyncio.Task[None]]) -> None:
        await super()._calm(client, tasks)
        await self.until(lambda: not list(self._held()))
        self.problems += self._held()

    def _held(self) -> Iterator[str]:
        """What still holds a permit, or waits for one, though no run is under way."""
        answer = httpx.get(f"{self.serving.url}/v1/resources")
        if answer.status_code != 200:
            yield f"GET /v1/resources: {answer.status_code} {answer.text[:200]}"
            return
        for resource in answer.json()["resources"]:
            if resource["in_use"] or any(each["count"] for each in resource["waiting"].values()):
                yield f"a permit leaked: {resource}"

    def _broken(self) -> Iterator[str]:
        if self.stats["violations"]:
            yield f"the provider's limits were broken: {self.stats}"
        if self.stats["open"]:
            yield f"a call is still open at the provider: {self.stats}"

    def summary(self) -> str:
        calls = {name: self.stats.get(name) for name in ("calls", "violations", "left", "open_peak", "peaks")}
        return f"{super().summary()}\nprovider: {calls}"


def main() -> int:
    given = parsed(__doc__)
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    say(f"seed {seed}, {given.kills} kills")
    home = Path(given.keep or tempfile.mkdtemp(prefix="offramp-chaos-"))
    home.mkdir(parents=True, exist_ok=True)
    campaign = LimitsCampaign(home, seed, given.kills)
    problems = asyncio.run(campaign.run())
    for line in problems[:SHOWN_MAX]:
        say(line[:1000])
    say(campaign.summary())
    if not problems and not given.keep:
        shutil.rmtree(home, ignore_errors=True)
    elif problems:
        say(f"data and logs: {home}; again: python -m tests.chaos.limits --kills {given.kills} --seed {seed}")
    return bool(problems)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
