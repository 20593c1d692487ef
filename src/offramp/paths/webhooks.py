"""Webhooks: takes due entries from the outbox, reads their events, sends them, and writes the outcome back.

Delivery is at least once and in order per run; the receiver recognises a repetition by its `webhook-id`. It runs on a
loop of its own: handshakes and documents must not delay the budgets on the control loop (invariant L1).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import datetime

from offramp.core import events
from offramp.core.events import Frame
from offramp.core.inspection import NOTHING, Showing
from offramp.core.reference import reference_in
from offramp.core.run import RunRecord
from offramp.core.webhooks import Answer, Attempt, Progress, after, message, message_id, target_of
from offramp.errors import StoreError
from offramp.execution.loops import LoopThread
from offramp.paths.documents import document_of
from offramp.paths.process import Process
from offramp.ports.outbox import Message, Outbox, Pending, Room, Sender
from offramp.ports.parts import Part
from offramp.telemetry.context import forwarded

logger = logging.getLogger("offramp")

CLAIM_MARGIN_S = 5.0
"""Seconds by which a claim outlasts the longest attempt."""
STOP_GRACE_S = 2.0
"""Seconds for running attempts to end when the process stops; afterwards other processes repeat them."""


class WebhookDispatcher(Part):
    """Delivers due webhooks, as many at once as the settings allow.

    Args:
        process: this process.
        outbox: holds the entries.
        sender: sends the messages.
    """

    def __init__(self, process: Process, outbox: Outbox, sender: Sender) -> None:
        self._process = process
        self._outbox = outbox
        self._sender = sender
        self._thread = LoopThread("offramp-webhooks")
        self._wake = asyncio.Event()
        self._busy: Counter[str] = Counter()
        self.attempts: set[asyncio.Task[None]] = set()
        """Messages on their way."""
        self._work_ended = asyncio.Event()
        self._work_ended.set()
        self._closing = False

    async def start(self) -> None:
        """Begin to deliver."""
        self._work_ended.clear()
        self._thread.spawn(self._work())

    def wake(self) -> None:
        """Look for due entries; from any thread."""
        self._thread.call(self._wake.set)

    async def close(self) -> None:
        """Begin no more attempts; give running ones a moment to end, then leave them to other processes."""
        await self._thread.run(self._close())
        await asyncio.get_running_loop().run_in_executor(None, self._thread.close)

    async def _close(self) -> None:
        self._closing = True
        self._wake.set()
        await self._work_ended.wait()
        if self.attempts:
            _, late = await asyncio.wait(self.attempts, timeout=STOP_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._sender.close()

    async def _work(self) -> None:
        try:
            await self._claim_and_begin()
        finally:
            self._work_ended.set()

    async def _claim_and_begin(self) -> None:
        while not self._closing:
            self._wake.clear()
            claimed = []
            try:
                claimed = await self._claim()
            except StoreError as error:
                logger.error("webhooks wait: %s", error)  # noqa: TRY400 - tried again
            except Exception:
                logger.exception("webhooks wait because of an internal error")
            for pending in claimed:
                self._busy[pending.host] += 1
                task = asyncio.create_task(self._attend(pending))
                self.attempts.add(task)
                task.add_done_callback(self.attempts.discard)
            if not claimed:
                await self._rest()

    async def _claim(self) -> list[Pending]:
        settings = self._process.settings
        room = Room(settings.webhook_attempts - len(self.attempts), settings.webhook_attempts_per_host, self._busy)
        if room.total <= 0:
            return []
        now = self._process.clock.time()
        return list(await self._outbox.claim(room, now, now + settings.webhook_timeout + CLAIM_MARGIN_S))

    async def _rest(self) -> None:
        clock = self._process.clock
        timer = clock.call_at(clock.monotonic() + self._process.settings.poll, self.wake)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _attend(self, pending: Pending) -> None:
        """Advance a claimed entry by one event only, so that other entries have their turn."""
        try:
            try:
                progress = await self._advance(pending)
            except asyncio.CancelledError:
                # The message may have arrived: it is sent again, under the same id.
                await self._outbox.settle(pending, pending.progress._replace(due_at=0.0))
                raise
            if not await self._outbox.settle(pending, progress):
                logger.info("%s: another process has taken over its webhook meanwhile", pending.run_id)
        except StoreError as error:
            logger.error("%s: its webhook waits: %s", pending.run_id, error)  # noqa: TRY400 - the claim runs out
        except Exception:
            logger.exception("%s: an internal error delays its webhook", pending.run_id)
        finally:
            self._busy[pending.host] -= 1
            if not self._busy[pending.host]:
                del self._busy[pending.host]
            self._wake.set()

    async def _advance(self, pending: Pending) -> Progress:
        process = self._process
        record = await process.store.get(pending.run_id)
        if record is None or record.purged or record.webhook is None:
            return Progress(done=True)
        frame, is_over = await self._next(pending, record.webhook.events)
        if frame is None:
            return pending.progress._replace(cursor=pending.latest, attempts=0, due_at=None, done=is_over)
        at = events.decode(frame.data).at
        answer = await self._send(record, frame, at, pending.progress.attempts + 1)
        attempt = Attempt(frame.seq, datetime.fromisoformat(at).timestamp(), process.clock.time())
        progress, given_up = after(pending.progress, attempt, answer, process.clock.random())
        process.metrics.announced(answer.result, attempt.ended_at - attempt.happened_at, given_up=given_up)
        self._log(pending, frame, answer, progress)
        is_over = is_over or (progress.cursor == frame.seq and frame.terminal)
        return progress._replace(done=True) if is_over else progress

    async def _next(self, pending: Pending, wanted: tuple[str, ...]) -> tuple[Frame | None, bool]:
        """The next event on disk to announce; without one, whether the run is over."""
        at = pending.progress.cursor
        is_over = False
        while at < pending.latest:
            part = await self._process.store.events(pending.run_id, at, skip_deltas=True)
            for frame in part:
                if frame.seq > pending.latest:
                    break
                if frame.type in wanted:
                    return frame, False
                is_over = frame.terminal
            if not part:
                break
            at = part[-1].seq
        return None, is_over

    async def _send(self, record: RunRecord, frame: Frame, at: str, attempt: int) -> Answer:
        assert record.webhook is not None  # noqa: S101 - the caller has checked it
        shown = await document_of(self._process.store, record, record.mount, Showing(NOTHING))
        if reference_in(record.result) is not None:
            del shown["result"]  # omitted, not null
        target = target_of(record.webhook.url)
        made = Message(message_id(record.id, frame.seq), message(frame.type, at, shown), forwarded(record.trace))
        tracing = self._process.tracing
        if tracing is None:
            return await self._sender.send(target, made)
        age_s = self._process.clock.time() - record.created_at
        with tracing.webhook(record, frame.type, attempt, age_s) as trace:
            answer = await self._sender.send(target, made._replace(headers=trace.headers))
            trace.answered(target.host, answer)
        return answer

    @staticmethod
    def _log(pending: Pending, frame: Frame, answer: Answer, progress: Progress) -> None:
        """Log for the operator: the first failure in a row, the last attempt, a receiver that is back."""
        details = (frame.type, pending.run_id, pending.host, answer.detail)
        if answer.result == "delivered":
            if pending.progress.failing_since is not None:
                logger.info("webhook %s of %s reached %s again: %s", *details)
        elif answer.result == "gone":
            logger.warning("webhook %s of %s: %s wants no more of this run (%s)", *details)
        elif progress.cursor == frame.seq:
            logger.error("webhook %s of %s to %s was given up after a day: %s", *details)
        elif pending.progress.failing_since is None:
            logger.warning("webhook %s of %s did not reach %s, retrying for a day: %s", *details)
