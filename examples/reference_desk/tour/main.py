"""Runs the demonstration; its exit code says whether everything went as expected."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import httpx

from .client import Client, UnexpectedAnswerError
from .scenes import Outcome, answered_on_the_fast_path, asked_for_later, demoted_and_followed
from .screen import Screen
from .server import ServerError, command, free_port, running

REPOSITORY = Path(__file__).resolve().parents[3]

TARGET = "examples/reference_desk/app.py:app"

AttemptContext = Callable[[Client, Screen], Outcome]

_SCENES: tuple[AttemptContext, ...] = (demoted_and_followed, answered_on_the_fast_path, asked_for_later)
_INTERRUPTED = 130


def main() -> int:
    """Return 0 if every scene ended as expected and the server stopped cleanly, 1 if not, 130 on Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)
    options = _options()
    screen = Screen()
    outcomes: list[Outcome] = []
    try:
        problems = _play(screen, outcomes, options)
    except KeyboardInterrupt:
        screen.bad("interrupted; the server is stopped")
        return _INTERRUPTED
    except ServerError as error:
        problems = [str(error)]
    if outcomes:
        screen.table(("run", "path", "demoted", "steps", "time", "outcome"), [_row(each) for each in outcomes])
    for problem in problems:
        screen.bad(problem)
    if not problems:
        screen.good("all three runs ended as expected, and the server stopped cleanly")
    return 1 if problems else 0


def _options() -> list[str]:
    """Return the options to pass to `serve`: the demonstration is the same on any engine."""
    parser = argparse.ArgumentParser(description="The reference desk, start to finish, on a real server.")
    parser.add_argument(
        "--engine", metavar="URL", help="engine of deep runs, such as temporal://localhost:7233/default"
    )
    parser.add_argument("--store", metavar="URL", help="store of runs, such as redis://localhost:6379/0")
    parser.add_argument(
        "--objects", metavar="URL", help="store of large values: a folder, or a bucket such as s3://bucket"
    )
    given = vars(parser.parse_args())
    return [word for name, url in given.items() if url for word in (f"--{name}", url)]


def _play(screen: Screen, outcomes: list[Outcome], options: list[str]) -> list[str]:
    """Start the server, play the scenes, stop the server; return the problems."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="offramp-demo-") as folder:
        port = free_port()
        arguments = command(TARGET, port, Path(folder, "data"), options)
        screen.say(f"$ offramp {' '.join(arguments[3:])}", style="bold")
        with running(arguments, port=port, folder=REPOSITORY, log=Path(folder, "log"), env=_offline()) as server:
            screen.say(f"ready after {server.wait_until_ready():.1f} s on {server.url}")
            with Client(server.url) as client:
                for scene in _SCENES:
                    try:
                        outcome = scene(client, screen)
                    except (UnexpectedAnswerError, httpx.TransportError) as error:
                        problems.append(server.with_log(f"{scene.__name__}: {type(error).__name__}: {error}"))
                    else:
                        outcomes.append(outcome)
                        problems += (f"{outcome.title}: {problem}" for problem in outcome.problems)
        if server.stop_problem:
            problems.append(server.stop_problem)
    return problems


def _offline() -> dict[str, str]:
    """Return this environment without the variables that enable a model: the scenes measure time."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}


def _row(outcome: Outcome) -> tuple[str, ...]:
    run = outcome.run
    demotion = run["demotion"]
    demoted = f"{demotion['reason']} at {demotion['elapsed_ms'] / 1000:.2f} s" if demotion else "no"
    return outcome.title, run["path"], demoted, str(len(run["steps"])), _duration(run), run["status"]


def _duration(run: dict[str, str]) -> str:
    if not run["finished_at"]:
        return "not finished"
    seconds = (_moment(run["finished_at"]) - _moment(run["created_at"])).total_seconds()
    return f"{seconds:.2f} s"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _interrupt(_signal: int, _frame: object) -> None:
    """Treat SIGTERM as Ctrl-C, so that the server always stops."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
