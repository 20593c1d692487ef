"""The quotas of API keys with limits: what each key started lately and what of that is open, over all gateways.

The store's runs are the count: nothing else is stored, a restart forgets nothing, and no run that ends in any way keeps
its place. This process remembers the starts within a key's window, and learns those of other gateways, and how many
runs are open, from the store before it starts another one; requests that come meanwhile share an answer. Several
gateways together may pass a limit by what they accept at the same moment, and by what waits for a place; one alone
never does.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict

from offramp.core.quotas import RATE_POLICY, RUNS_POLICY, Quota, Use, Window
from offramp.core.run import first_id
from offramp.errors import RateLimited, StoreError
from offramp.ports.clock import Clock
from offramp.ports.store import KeyRuns, Store

SHOWN_S = 1.0
"""The greatest age of what an answer shows to a request that starts no run."""
SHOWN_WITHIN_S = 0.2
"""How long an answer waits for the store before it shows what was known before."""
LOOK_S_MAX = 5.0
"""How long a look for answers to show may take; then the next answer asks again."""
LATE_S = 30.0
"""How much later than its acceptance a run that did not wait for a place may appear in the store, differences between
clocks included."""
KEYS_REMEMBERED_MAX = 1_000
"""Keys of which this process remembers what it read, those used last; of others it reads again."""


class Known:
    """What this process knows of the runs of one key."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.window = None if quota.rate is None else Window(quota.rate)
        self.open = 0
        self.starting: set[str] = set()
        """Runs that are being created."""
        self.created: set[str] = set()
        """Runs created here since the newest look began, which may be missing in it."""
        self.looked_at = -math.inf
        self.looks_begun = self.learned = 0
        """The numbers of the newest look, and of the newest that succeeded."""
        self.lock = asyncio.Lock()
        self.showing: asyncio.Task[None] | None = None
        """The newest look for what answers show."""

    def learn(self, stored: KeyRuns, created_before: set[str]) -> None:
        """Take over what the store has; runs created here before the look are in it."""
        if self.window is not None:
            self.window.add(stored.ids)
        self.created -= created_before
        self.open = stored.open + len((self.starting | self.created).difference(stored.ids))

    def take(self, run_id: str) -> None:
        """Count a run that will be created."""
        if self.window is not None:
            self.window.add([run_id])
        self.starting.add(run_id)
        self.open += 1

    def created_run(self, run_id: str) -> None:
        """A counted run exists."""
        self.starting.discard(run_id)
        self.created.add(run_id)

    def give_back(self, run_id: str) -> None:
        """Uncount a run that was not created; nothing happens if that is done, or it was created."""
        if run_id not in self.starting:
            return
        self.starting.remove(run_id)
        self.open -= 1
        if self.window is not None:
            self.window.remove(run_id)

    def rate_is_used(self, now: float) -> bool:
        """Whether the rate allows no run more; `now` in epoch seconds."""
        rate = self.quota.rate
        return rate is not None and self.use(now).started >= rate.limit

    def use(self, now: float) -> Use:
        """What is in use; `now` in epoch seconds."""
        if self.window is None:
            return Use(open=self.open)
        self.window.pass_to(now)
        return Use(len(self.window), self.window.free_in_s(now), self.open)

    def refusal(self, now: float, run_s: float) -> RateLimited | None:
        """Why no run more may start; `run_s` is how long one is expected to take."""
        quota, use = self.quota, self.use(now)
        if self.rate_is_used(now):
            return RateLimited(
                f"this API key has started as many runs as its rate allows, {quota.rate}: try again after the time in "
                "Retry-After, or ask the operator for a higher rate",
                use.free_in_s or 0.0,
                RATE_POLICY,
            )
        if quota.runs is not None and use.open >= quota.runs:
            # As many runs as are open end within the time that one takes.
            return RateLimited(
                f"this API key may have at most {quota.runs} open runs, and has them: try again after one has ended, "
                "or ask the operator for more",
                run_s / quota.runs,
                RUNS_POLICY,
            )
        return None


class Quotas:
    """Counts the runs of keys with limits.

    Args:
        store: has the runs.
        clock: time.
        waits_s: how long a request may wait between its acceptance and its write.
    """

    def __init__(self, store: Store, clock: Clock, waits_s: float = 0.0) -> None:
        self._store = store
        self._clock = clock
        self._late_s = LATE_S + waits_s
        self._known: OrderedDict[str, Known] = OrderedDict()

    async def take(self, quota: Quota, run_id: str, run_s: float) -> Known:
        """Count a run, which the caller then creates; then call `created_run` or `give_back` of what this returns.

        Args:
            quota: of the key that starts it.
            run_id: the run.
            run_s: how long such a run is expected to take, for the time to retry.

        Raises:
            RateLimited: the key has used its quota.
            StoreError: the store cannot be asked.
        """
        known = self._of(quota)
        await self._require(known, run_s)
        known.take(run_id)
        return known

    def seems_used(self, quota: Quota) -> bool:
        """Whether the key has used its quota, by what is known without asking the store."""
        return self._of(quota).refusal(self._clock.time(), 0.0) is not None

    async def require(self, quota: Quota, run_s: float) -> None:
        """Check that a run may start now, without counting one; raises as `take`."""
        await self._require(self._of(quota), run_s)

    async def _require(self, known: Known, run_s: float) -> None:
        if not known.rate_is_used(self._clock.time()):  # else only time frees a place: no look changes that
            await self._look(known, 0.0)
        refused = known.refusal(self._clock.time(), run_s)
        if refused is not None:
            raise refused

    async def use(self, quota: Quota) -> Use:
        """What of a quota is in use, as far as it is known within `SHOWN_WITHIN_S`.

        Raises:
            StoreError: the store cannot be asked, or has not answered in that time and never before.
        """
        known = self._of(quota)
        if self._clock.monotonic() - known.looked_at >= SHOWN_S:
            if known.showing is None or known.showing.done():
                known.showing = asyncio.get_running_loop().create_task(self._show(known))
                known.showing.add_done_callback(lambda look: look.cancelled() or look.exception())
            # The look goes on when an answer no longer waits for it, for the next one.
            done, _ = await asyncio.wait({known.showing}, timeout=SHOWN_WITHIN_S)
            for look in done:
                look.result()
        if not known.learned:
            raise StoreError(f"the store has not said within {SHOWN_WITHIN_S:g} s what of the quota is in use")
        return known.use(self._clock.time())

    async def _show(self, known: Known) -> None:
        try:
            async with asyncio.timeout(LOOK_S_MAX):
                await self._look(known, SHOWN_S)
        except TimeoutError:
            raise StoreError(f"the store has not said within {LOOK_S_MAX:g} s what of the quota is in use") from None

    def _of(self, quota: Quota) -> Known:
        known = self._known.get(quota.key)
        if known is None or known.quota != quota:
            known = self._known[quota.key] = Known(quota)
            for key in list(self._known)[: max(0, len(self._known) - KEYS_REMEMBERED_MAX)]:
                if not self._known[key].starting:
                    del self._known[key]
        self._known.move_to_end(quota.key)
        return known

    async def _look(self, known: Known, age_s: float) -> None:
        """Learn from the store, unless it was asked that recently; requests that come meanwhile share the next look."""
        now = self._clock.monotonic()
        if now - known.looked_at < age_s:
            return
        begun = known.looks_begun
        async with known.lock:
            if known.learned > begun:
                return
            number = known.looks_begun = known.looks_begun + 1
            looked_at, created_before = self._clock.monotonic(), set(known.created)
            rate = known.quota.rate
            unseen_s = min(0 if rate is None else rate.seconds, looked_at - known.looked_at + self._late_s)
            after = first_id(self._clock.time() - unseen_s)
            after = min([after, *(each[:-1] for each in known.starting | known.created)])
            mine = known.starting | known.created
            limit = max(1, 0 if rate is None else rate.limit, len(mine) + (known.quota.runs or 0))
            stored = await self._store.runs_of_key(known.quota.key, after, limit)
            while mine and len(stored.ids) >= limit and min(stored.ids) > min(mine):
                # Other processes started so many later that the oldest of these may be stored and yet missing here.
                limit *= 4
                stored = await self._store.runs_of_key(known.quota.key, after, limit)
            known.learn(stored, created_before)
            known.looked_at, known.learned = looked_at, number
