"""Running pipelines in this process without HTTP: `async with app.local() as runtime`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from typing import Any

import msgspec

from offramp.core.codec import encode
from offramp.core.events import Event, decode, result_in
from offramp.core.failure import annotate, exception_of
from offramp.core.inspection import Include
from offramp.core.tracebacks import annotate_elsewhere
from offramp.errors import RunCancelled, RunExpired, StillRunning
from offramp.paths.live import Watcher
from offramp.paths.service import Service
from offramp.paths.submission import Retrial, Submission


class Handle:
    """A started run. Iterate it for its events; each iteration starts from the first one."""

    def __init__(self, service: Service, run_id: str, pipeline: str, watcher: Watcher) -> None:
        self._service = service
        self.id = run_id
        self._pipeline = pipeline
        self._watcher = watcher

    async def events(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """The events numbered above `after`, until the terminal one."""
        async with contextlib.aclosing(self._service.follow(self.id, after)) as parts:
            async for frames in parts:
                for frame in frames:
                    yield decode(frame.data)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.events()

    async def result(self) -> Any:
        """Wait for the end and return the pipeline's value, typed as annotated.

        Raises:
            Exception: what the pipeline or a step raised; its notes name pipeline, step and run.
            RunCancelled: the run was cancelled.
            RunExpired: its deadline passed.
            RunFailed: it failed in another process, with an exception that cannot be rebuilt here.
            StillRunning: this process stops, and the run continues in another one.
        """
        await self._service.lift(self.id)
        async with contextlib.aclosing(self._service.follow(self.id)) as parts:
            last = b""
            async for frames in parts:
                last = frames[-1].data
        if isinstance(self._watcher.error, Exception):  # not a CancelledError, which would cancel the waiting caller
            raise self._watcher.error
        decode_result = self._service.pipelines[self._pipeline].signature.decode_result
        result = result_in(last) if last else None
        if result is not None:
            return decode_result(result)
        record = await self._service.get(self.id)
        if record.status == "completed":
            return decode_result(await self._service.whole_result(record) or b"null")
        failure = record.error
        if record.status == "cancelled":
            raise RunCancelled(f"{self.id} was cancelled")
        if record.status == "expired":
            raise RunExpired(failure.message if failure else f"{self.id} expired")
        if failure is None:
            raise StillRunning(self.id)
        again = exception_of(failure)
        where = f"step {failure.step!r} of " if failure.step else ""
        annotate_elsewhere(again)
        annotate(again, f"in {where}pipeline {self._pipeline!r}, run {self.id}, executed in another process")
        raise again

    async def document(self, include: Collection[Include] = ()) -> dict[str, Any]:
        """The run document; with `include`, also its `input`, what went in and out of its `steps`, its `traceback`."""
        made = await self._service.document(self.id, include=frozenset(include))
        document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
        return document

    async def signal(self, name: str, value: Any = None) -> bool:
        """Send the run a signal: any JSON-encodable value for `offramp.signal(name)`.

        Returns whether the run waits for it now; it keeps a signal that comes early.

        Raises:
            InputError: the value does not fit the schema of what the run waits for.
        """
        return (await self._service.signal(self.id, name, encode(value, f"the value of signal {name!r}"))).awaited

    async def retry(self, *, from_: str | None = None, fresh: bool = False) -> Handle:
        """Start a run that retries this one, which has ended, and return its handle.

        The new run continues with what is recorded of this one: no finished step is executed again.

        Args:
            from_: a step's name or key: neither the first result recorded under it, nor any later one, is taken
                over.
            fresh: nothing is taken over.

        Raises:
            RunConflict: this run has not ended; or it has completed, and neither argument is given.
            InputError: there is no such step, or both arguments are given.
        """
        accepted = await self._service.retry(Retrial(run_id=self.id, start=from_, fresh=fresh))
        return Handle(self._service, accepted.record.id, self._pipeline, Watcher())

    async def cancel(self) -> None:
        """Cancel the run."""
        await self._service.cancel(self.id)


class LocalRuntime:
    """Both paths in this process."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def start(self, pipeline: str, /, **inputs: Any) -> Handle:
        """Start a run on the path the router chooses.

        Args:
            pipeline: its name.
            inputs: its arguments.

        Raises:
            UnknownPipeline: no pipeline has that name.
            InputError: the arguments do not match its signature.
        """
        spec = self.service.pipelines.get(pipeline)
        encoded = b"{}" if spec is None else spec.signature.encode_input(inputs)
        return await self.submit(Submission(pipeline=pipeline, input=encoded))

    async def submit(self, submission: Submission) -> Handle:
        """Start a run with everything a request can carry: budget, session, class, idempotency key."""
        watcher = Watcher()
        accepted = await self.service.submit(submission, watcher)
        return Handle(self.service, accepted.record.id, submission.pipeline, watcher)
