"""What a process learns of its ended runs, shares with the others through the store, and answers from memory.

Each process observes a sample of the runs that end in it, adds what it learned to the store every `SHARE_EVERY_S`, and
reads what the others added: no caller waits for that. Only an unknown session is looked up when a request comes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from offramp.core import events
from offramp.core.bands import Counts
from offramp.core.belief import Belief, Estimate, Past, Progress
from offramp.core.features import Features, Session, features
from offramp.core.moving import Fast, moved_elsewhere
from offramp.core.run import Outcome, RunRecord, Seen
from offramp.core.waterfall import layout
from offramp.errors import StoreError
from offramp.execution.waiting import sleep_for
from offramp.paths.parts import Background
from offramp.paths.process import Process
from offramp.ports.learning import CELLS_KEPT, BeliefCell, EndedTurn, SessionTurns, after_turn

logger = logging.getLogger("offramp")

SHARE_EVERY_S = 3.0
"""Seconds between two writes of what was learned here, each followed by a read of what others learned."""
OBSERVED_MAX = 50
"""Runs that a process learns from in that time; a busier one learns from as many of them."""
LOGS_READ_MAX = 20
"""Runs of an engine with bodies of its own that a process learns from: it reads their event logs."""
CELLS_PER_WRITE = 200
"""Cells that one write adds to: other writes wait for it."""
CHANGES_PER_READ = 1_000
SESSIONS_CACHED = 10_000
"""Sessions whose turns a process remembers."""
TURNS_WAITING_MAX = 10_000
"""Ended turns that wait to be written."""
COMPARED_BYTES_MAX = 262_144
"""The largest input, as JSON, that is decoded to be compared with others."""
SESSION_S_MAX = 0.02
"""Seconds that a request waits for what is known of its session; then the run is taken without."""
EXPECTED_MAX = 1_000
"""Answers about pipelines, classes and budgets that a process remembers."""
BEGUN = Progress()
"""The progress of a run that begins."""
_Group = tuple[str, str]
"""A pipeline, and a class or a part of it, as the store names them."""
_decode_input = msgspec.json.Decoder(dict[str, Any]).decode


class Part(Protocol):
    """Counts in blocks, which the processes of a store share by adding."""

    def take(self) -> dict[int, Counts]:
        """What was learned here since the last call."""

    def replace(self, blocks: Mapping[int, Counts]) -> None:
        """Adopt the sums of the store, which include all that was taken."""

    def expired(self) -> list[int]:
        """Blocks that count no more."""


class Learning(Background):
    """What this process knows about the durations of runs.

    Args:
        process: this process.
    """

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self.lock = threading.RLock()
        """Held while a part is read or changed."""
        self._parts: dict[_Group, Part] = {}
        self._blocks: dict[_Group, dict[int, Counts]] = {}
        """What the store has. A belief reads the sums here; other parts get copies."""
        self._stale: set[_Group] = set()
        """The parts that have to be given the sums again."""
        self._outbox: list[BeliefCell] = []
        self._written: list[BeliefCell] = []
        """What the store has added before the rest of what was taken with it."""
        self._turns: list[EndedTurn] = []
        self._sessions: OrderedDict[str, SessionTurns] = OrderedDict()
        self._expected: dict[tuple[str, str, float], Estimate] = {}
        self._doubted: dict[tuple[str, str, float], bool] = {}
        self._until = 0
        self._observed = self._read = 0
        self._ended: deque[tuple[RunRecord, Progress]] = deque()
        self._callbacks: list[Callable[[RunRecord, Past], object]] = []
        self._writing = asyncio.Lock()

    # About a request, from any thread.

    def belief(self, pipeline: str, sla: str) -> Belief:
        """The belief about a pipeline and class."""
        group = pipeline, sla
        with self.lock:
            part = self._parts.get(group)
            if part is None:
                part = Belief()
                self._add_part(group, part)
        assert isinstance(part, Belief)  # noqa: S101 - no other part has the name of a class
        return part

    def groups(self) -> list[tuple[str, str]]:
        """The pipelines and classes of which something is believed, by name."""
        with self.lock:
            return sorted(group for group, part in self._parts.items() if isinstance(part, Belief))

    def share(self, pipeline: str, sla: str, name: str, part: Part) -> None:
        """Share further counts about a pipeline and class under a name of their own."""
        with self.lock:
            self._add_part((pipeline, f"{sla}#{name}"), part)

    def _add_part(self, group: _Group, part: Part) -> None:
        self._parts[group] = part
        self._give(group)

    def _give(self, group: _Group) -> None:
        blocks, part = self._blocks.setdefault(group, {}), self._parts[group]
        part.replace(blocks if isinstance(part, Belief) else {number: dict(cells) for number, cells in blocks.items()})

    def doubts(self, pipeline: str, sla: str, budget_s: float) -> bool:
        """Whether some run of this pipeline and class is known to have taken longer; cheap."""
        key = pipeline, sla, budget_s
        found = self._doubted.get(key)
        if found is None:
            with self.lock:
                part = self._parts.get((pipeline, sla))
                found = isinstance(part, Belief) and part.may_miss(budget_s)
                if len(self._doubted) >= EXPECTED_MAX:
                    self._doubted.clear()
                self._doubted[key] = found
        return found

    def estimate(
        self,
        pipeline: str,
        sla: str,
        seen: Features,
        budget_s: float,
        progress: Progress = BEGUN,
        *,
        exact: bool = True,
    ) -> Estimate:
        """What is expected of a run; see `Belief.estimate`."""
        with self.lock:
            return self.belief(pipeline, sla).estimate(seen, budget_s, progress, exact=exact)

    def features_of(self, pipeline: str, encoded: bytes, seen: Seen | None, tenant: str) -> Features:
        """What a run of a declared pipeline is compared by; its input as JSON."""
        return features_of_run(encoded, seen, tenant, self._process.pipelines[pipeline].signature.declared)

    def expected(self, pipeline: str, sla: str, budget_s: float) -> Estimate:
        """What is expected of a run of which nothing else is known; cheap, as it is remembered until more is."""
        key = pipeline, sla, budget_s
        found = self._expected.get(key)
        if found is None:
            found = self.estimate(*key[:2], (), budget_s)
            if len(self._expected) >= EXPECTED_MAX:
                self._expected.clear()
            self._expected[key] = found
        return found

    def expected_s(self, pipeline: str, sla: str, otherwise: float) -> float:
        """The median of the seconds for which runs of a pipeline and class move; `otherwise` before one has ended."""
        expected = self.expected(pipeline, sla, otherwise)
        return expected.p50_s if expected.runs else otherwise

    async def seen(self, tenant: str, pipeline: str, session_id: str) -> Seen | None:
        """What is known of a session, as of now; None if the store does not answer in time.

        From memory, as a rule. An unknown session is looked up in the store, for at most `SESSION_S_MAX`.
        """
        session = digest(tenant, pipeline, session_id)
        with self.lock:
            known = self._remembered(session)
        if known is None:
            known = await self._looked_up(session)
        return None if known is None else Seen(known.turns, known.last_s)

    def _remembered(self, session: str) -> SessionTurns | None:
        known = self._sessions.get(session)
        if known is not None:
            self._sessions.move_to_end(session)
        return known

    async def _looked_up(self, session: str) -> SessionTurns | None:
        try:
            async with asyncio.timeout(SESSION_S_MAX):
                found = await self._process.store.turns_of(session)
        except (StoreError, TimeoutError):
            return None
        with self.lock:
            waiting = [turn for turn in self._turns if turn.session == session]
            return self._remember(found or SessionTurns(session, 0, ()), waiting)

    def _remember(self, known: SessionTurns, waiting: Sequence[EndedTurn]) -> SessionTurns:
        """Remember what the store knows of a session, with its turns that wait to be written."""
        for turn in waiting:
            known = after_turn(known, turn)
        self._sessions[known.session] = known
        self._sessions.move_to_end(known.session)
        if len(self._sessions) > SESSIONS_CACHED:
            self._sessions.popitem(last=False)
        return known

    # About ended runs, from any thread.

    def on_learned(self, callback: Callable[[RunRecord, Past], object]) -> None:
        """Call back with each run that is learned from, before it is: on the control loop, under the lock."""
        self._callbacks.append(callback)

    def wants(self, record: RunRecord) -> bool:
        """Whether something will be learned from this run when it ends."""
        if record.retry_of is not None:
            return False
        return self._observed < OBSERVED_MAX or (record.session_id is not None and self._counts_turn(record))

    def _counts_turn(self, record: RunRecord) -> bool:
        """Whether its session is of use: only where decisions are asked for."""
        sla = None if record.session_id is None else self._process.classes.get(record.sla)
        return sla is not None and sla.early_demotion > 0

    def ended(self, record: RunRecord, outcome: Outcome, progress: Progress) -> bool:
        """Learn from a run that ended here, and had come so far; returns whether its duration is learned."""
        if record.retry_of is not None:  # it may have executed few of its steps
            return False
        control = self._process.control
        if self._counts_turn(record):
            control.call(self._end_turn, record, progress.elapsed_s)
        if not teaches(record, outcome, progress) or self._observed >= OBSERVED_MAX:
            return False
        self._observed += 1
        return control.call(self._take, record, progress)

    async def ended_elsewhere(self, record: RunRecord, outcome: Outcome) -> bool:
        """The same of a run whose steps were executed by an engine in many processes."""
        if self._read >= LOGS_READ_MAX or not self.wants(record):
            return False
        self._read += 1
        frames: list[events.Frame] = []
        while part := await self._process.store.events(record.id, frames[-1].seq if frames else 0, skip_deltas=True):
            frames += part
        drawn = layout((events.decode(frame.data) for frame in frames), self._process.clock.time(), record.started_at)
        if drawn is None:
            return False
        return self.ended(record, outcome, moved_elsewhere(drawn, record.created_at, fast_of(record)))

    def _end_turn(self, record: RunRecord, took_s: float) -> None:
        turn = EndedTurn(digest(record.tenant, record.pipeline, record.session_id or ""), round(took_s, 3))
        with self.lock:
            if len(self._turns) < TURNS_WAITING_MAX:
                self._turns.append(turn)
            if turn.session in self._sessions:
                self._sessions[turn.session] = after_turn(self._sessions[turn.session], turn)

    def _take(self, record: RunRecord, progress: Progress) -> None:
        self._ended.append((record, progress))
        if len(self._ended) == 1:
            self._observe_next()

    def _observe_next(self) -> None:
        """Learn from one run, and later from the next: each may take a millisecond of the control loop."""
        if not self._ended:
            return
        try:
            self._observe(*self._ended[0])
        except Exception:
            logger.exception("a run was not learned from")
        finally:
            self._ended.popleft()
            if self._ended:
                self._process.control.call(self._observe_next)

    def _observe(self, record: RunRecord, progress: Progress) -> None:
        if record.pipeline not in self._process.pipelines or record.sla not in self._process.classes:
            return
        compared = self.features_of(record.pipeline, record.input, record.seen, record.tenant)
        past = Past(compared, *progress, record.budget_s or None, sources_of(record))
        with self.lock:
            for callback in self._callbacks:
                callback(record, past)
            self.belief(record.pipeline, record.sla).observe(past, self._process.clock.time())
            self._expected.clear()
            self._doubted.clear()

    # Sharing, on the control loop.

    async def work(self) -> None:
        """Share at intervals."""
        while not self.is_over:
            self._observed = self._read = 0
            try:
                await self.sync()
            except StoreError as error:
                logger.warning("what is known about the durations of runs is not up to date: %s", error)
            except Exception:
                logger.exception("what is known about the durations of runs is not up to date")
            await sleep_for(self._process.clock, SHARE_EVERY_S)

    async def close(self) -> None:
        """Write what was learned last."""
        while self._ended:
            self._observe_next()
        try:
            async with self._writing:
                await self._write()
        except StoreError as error:
            logger.warning("what was learned last about the durations of runs is lost: %s", error)
        except Exception:
            logger.exception("what was learned last about the durations of runs is lost")

    async def sync(self) -> None:
        """Write what was learned here, then read what others have learned.

        Raises:
            StoreError: the store does not answer; what was not written stays for the next time.
        """
        async with self._writing:
            await self._write()
            await self._read_changes()
            self._adopt()
            await self._forget()

    async def _write(self) -> None:
        with self.lock:
            for (pipeline, name), part in self._parts.items() if not self._outbox else ():
                for block, counts in part.take().items():
                    sound = {cell: each for cell, each in counts.items() if each and _is_sound(each)}
                    self._outbox += [BeliefCell(pipeline, name, block, cell, each) for cell, each in sound.items()]
        while self._outbox or self._turns:
            cells, turns = self._outbox[:CELLS_PER_WRITE], self._turns[:CELLS_PER_WRITE]
            await self._process.store.learn(cells, turns)
            with self.lock:
                del self._outbox[: len(cells)], self._turns[: len(turns)]
                self._written += cells
        with self.lock:
            for cell in self._written:
                self._set(cell._replace(weights=_sum(self._known(cell), cell.weights)))
            for group in {(cell.pipeline, cell.sla) for cell in self._written}:
                part = self._parts[group]
                self._trim(group)
                if isinstance(part, Belief):
                    part.written()
                else:
                    self._stale.add(group)
            self._written = []

    async def _read_changes(self) -> None:
        while True:
            found = await self._process.store.learned(self._until, CHANGES_PER_READ)
            with self.lock:
                if found.until < self._until:  # the store has lost what it had
                    self._start_again()
                    continue
                is_over = found.until == self._until
                self._until = found.until
                self._add(found.cells)
                waiting: dict[str, list[EndedTurn]] = {}
                for turn in self._turns:
                    waiting.setdefault(turn.session, []).append(turn)
                for known in found.sessions:
                    if known.session in self._sessions:
                        self._remember(known, waiting.get(known.session, ()))
            if is_over:
                return

    def _start_again(self) -> None:
        self._until = 0
        for group, blocks in self._blocks.items():
            blocks.clear()
            self._stale.add(group)

    def _add(self, changed: Sequence[BeliefCell]) -> None:
        """Use the sums of these cells; what they are more than before has been added by other processes."""
        added: dict[_Group, dict[int, Counts]] = {}
        for cell in changed:
            is_used = self._is_declared(cell) and _is_sound(cell.weights)
            more = _difference(cell.weights, self._known(cell)) if is_used else {}
            if more:
                self._set(cell)
                added.setdefault((cell.pipeline, cell.sla), {}).setdefault(cell.block, {})[cell.name] = more
        for group, blocks in added.items():
            part = self._parts.get(group)
            self._trim(group)
            if group in self._stale or not isinstance(part, Belief) or not part.added(blocks):
                self._stale.add(group)

    def _is_declared(self, cell: BeliefCell) -> bool:
        return cell.pipeline in self._process.pipelines and cell.sla.partition("#")[0] in self._process.classes

    def _known(self, cell: BeliefCell) -> Mapping[str, float]:
        return self._blocks.get((cell.pipeline, cell.sla), {}).get(cell.block, {}).get(cell.name, {})

    def _set(self, cell: BeliefCell) -> None:
        blocks = self._blocks.setdefault((cell.pipeline, cell.sla), {})
        blocks.setdefault(cell.block, {})[cell.name] = dict(cell.weights)

    def _trim(self, group: _Group) -> None:
        """Drop the oldest blocks while there are more cells than a store keeps."""
        sums = self._blocks[group]
        while len(sums) > 1 and sum(map(len, sums.values())) > CELLS_KEPT:
            del sums[min(sums)]

    def _adopt(self) -> None:
        """Give the parts that need it the sums again."""
        with self.lock:
            for group in self._stale:
                if group in self._parts:
                    self._give(group)
                elif "#" not in group[1]:
                    self.belief(*group)
            self._stale.clear()
            self._expected.clear()
            self._doubted.clear()

    async def _forget(self) -> None:
        for group, part in list(self._parts.items()):
            with self.lock:
                expired = part.expired()
                for block in expired:
                    self._blocks[group].pop(block, None)
            if expired:
                await self._process.store.forget(*group, expired)


def digest(tenant: str, pipeline: str, session_id: str) -> str:
    """A session among those of all tenants and pipelines; the store keeps no name of it beyond its runs."""
    return blake2b(f"{tenant}\0{pipeline}\0{session_id}".encode(), digest_size=16).hexdigest()


def sources_of(record: RunRecord) -> tuple[str, str]:
    """The tenant and the session of a run, each empty if it has none."""
    session_id = record.session_id
    return record.tenant, "" if session_id is None else digest(record.tenant, record.pipeline, session_id)


def features_of_run(encoded: bytes, seen: Seen | None, tenant: str, declared: Collection[str] = ()) -> Features:
    """What a run with this input, as JSON, is compared by: above `COMPARED_BYTES_MAX` by its size alone."""
    is_read = len(encoded) <= COMPARED_BYTES_MAX
    given = _decode_input(encoded) if is_read else {"bytes of input": len(encoded)}
    if seen is None:
        return features(given, tenant=tenant, declared=declared)
    session = None if seen.turns is None else Session(seen.turns, seen.last_s)
    return features(given, seen.own, session, tenant, declared)


def fast_of(record: RunRecord) -> Fast | None:
    """The time of a demoted run on the fast path; None if that is not known."""
    demotion = record.demotion
    if demotion is None or demotion.moved_ms is None:
        return None
    return Fast(record.created_at, demotion.at, demotion.moved_ms / 1000)


def teaches(record: RunRecord, outcome: Outcome, progress: Progress) -> bool:
    """Whether the duration of a run says something about the next ones.

    A run that failed, expired or was cancelled took at least so long: that tells something if it missed its budget.
    """
    return outcome.status == "completed" or progress.elapsed_s > record.budget_s > 0


def _is_sound(weights: Mapping[str, float]) -> bool:
    """Whether these are numbers: sums with others would never be again."""
    return all(map(math.isfinite, weights.values()))


def _sum(before: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    return {bucket: before.get(bucket, 0.0) + more.get(bucket, 0.0) for bucket in {**before, **more}}


def _difference(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {bucket: more for bucket, weight in now.items() if (more := weight - before.get(bucket, 0.0))}
