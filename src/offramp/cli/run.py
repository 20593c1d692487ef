"""`offramp run`: one run in this terminal, both paths in this process; the result alone on stdout."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from offramp.cli.engines import load_settings, warn_of_unread
from offramp.cli.inputs import read_input
from offramp.cli.logs import show_logs
from offramp.cli.options import Budget, Input, LocalPipeline, Objects, Session, Target
from offramp.cli.output import OK, RUN_ENDED_BADLY, USAGE, CommandError, printable, write_json
from offramp.cli.signals import Stop
from offramp.cli.target import load_app
from offramp.core.names import did_you_mean

if TYPE_CHECKING:
    from offramp.app import App
    from offramp.cli.render import Screen
    from offramp.core.failure import Failure
    from offramp.paths.service import Service
    from offramp.paths.submission import Submission
    from offramp.settings import Settings


def run(
    target: Target,
    pipeline: LocalPipeline = None,
    *,
    input: Input = "{}",
    budget: Budget = None,
    session: Session = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="DIR", help="Keep the run's data here.", show_default="a temporary folder, removed"
        ),
    ] = None,
    objects: Objects = None,
) -> int:
    """Run a pipeline once in this process, and watch it.

    It needs no gateway, and no PIPELINE if the App has only one. The view goes to stderr and the result as JSON to
    stdout. Ctrl-C cancels the run.
    """
    encoded = read_input(input)
    with ExitStack() as stack:
        stdout = stack.enter_context(stdout_for_the_result())
        app = load_app(target)
        pipeline = _chosen(pipeline, app, target)
        folder = data or stack.enter_context(_temporary_folder())
        # A temporary folder is removed with its objects.
        settings = load_settings(data=folder, engine="embedded:", store="", objects=objects if data else "")
        from offramp.paths.submission import Submission
        from offramp.telemetry.setup import set_up

        wanted = Submission(pipeline=pipeline, input=encoded, session_id=session, budget=budget)
        stack.callback(set_up(app.name, "local").close)
        return asyncio.run(_run(app, settings, wanted, stdout))


def _chosen(pipeline: str | None, app: App, target: str) -> str:
    """The named pipeline, or the only one."""
    if pipeline is None:
        if len(app.pipelines) == 1:
            return next(iter(app.pipelines))
        which = (
            f"name one of its pipelines: {', '.join(sorted(app.pipelines))}" if app.pipelines else "it declares none"
        )
        raise CommandError(f"{target}: which pipeline? {which}", USAGE)
    if pipeline not in app.pipelines:
        raise CommandError(f"{target} has no pipeline {pipeline!r}; {did_you_mean(pipeline, app.pipelines)}", USAGE)
    return pipeline


async def _run(app: App, settings: Settings, wanted: Submission, stdout: TextIO) -> int:
    from offramp.cli.render import Screen
    from offramp.paths.live import Watcher
    from offramp.wiring import build

    service = build(app, settings, role="local")
    await service.start()
    try:
        watcher = Watcher()
        accepted = await service.submit(wanted, watcher)
        run_id = accepted.record.id
        with Stop() as stop, Screen() as screen:
            show_logs("run", level=logging.WARNING)
            warn_of_unread()
            if not await _watched(service, run_id, screen, stop):
                return 128 + (stop.signal or 2)
        if stop.signal is not None:
            return 128 + stop.signal
        if screen.view.status != "completed":
            _show_traceback(watcher.error, (await service.get(run_id)).error)
            return RUN_ENDED_BADLY
        result = await service.whole_result(await service.get(run_id))
        write_json(result or b"null", stdout)
        return OK
    finally:
        await service.stop()


def _show_traceback(error: BaseException | None, failure: Failure | None) -> None:
    """Show where the pipeline's code raised: with the lines of source, unless Offramp raised for it."""
    from offramp.core.tracebacks import written
    from offramp.errors import OfframpError

    if error is not None and not isinstance(error, OfframpError):
        text = "".join(traceback.format_exception(error))
    else:
        text = "" if failure is None else written(failure)
    if text:
        print(printable(text).rstrip(), file=sys.stderr, flush=True)


async def _watched(service: Service, run_id: str, screen: Screen, stop: Stop) -> bool:
    """Show the run until it ends. The first signal cancels it; the second leaves it, and returns False."""
    watching = asyncio.create_task(_watch(service, run_id, screen))
    asked, hurried = asyncio.create_task(stop.asked()), asyncio.create_task(stop.hurried())
    try:
        await asyncio.wait({watching, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not watching.done():
            screen.note("cancelling the run; press Ctrl-C again to leave at once")
            await service.cancel(run_id)
            await asyncio.wait({watching, hurried}, return_when=asyncio.FIRST_COMPLETED)
        if not watching.done():
            return False
        await watching
        return True
    finally:
        for task in (watching, asked, hurried):
            task.cancel()


async def _watch(service: Service, run_id: str, screen: Screen) -> None:
    from offramp.core.events import decode

    async for frames in service.follow(run_id):
        for frame in frames:
            screen.show(decode(frame.data))


@contextmanager
def stdout_for_the_result() -> Iterator[TextIO]:
    """The real stdout, for the result; all other output to stdout, of this process or its children, goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding=sys.stdout.encoding) as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _temporary_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="offramp-run-", ignore_cleanup_errors=True) as folder:
        yield str(Path(folder))
