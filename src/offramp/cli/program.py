"""Assembles the commands into one program and turns every expected error into one line and an exit code.

Commands import their dependencies when they run, so that `--help` and completion stay fast.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import platform
import sys
import threading
from collections.abc import Callable
from typing import Annotated

import typer

import offramp
from offramp.cli.backup import backup, restore
from offramp.cli.check import check
from offramp.cli.doctor import doctor
from offramp.cli.init import init
from offramp.cli.keys import add, list_keys, revoke
from offramp.cli.listing import list_runs
from offramp.cli.options import epilog
from offramp.cli.output import (
    EXITS_CHECK,
    EXITS_CLIENT,
    EXITS_COPY,
    EXITS_DOCTOR,
    EXITS_INIT,
    EXITS_KEYS,
    EXITS_LOOK,
    EXITS_RUN,
    EXITS_SERVER,
    EXITS_SIGNAL,
    INTERRUPTED,
    OK,
    RUN_ENDED_BADLY,
    USAGE,
    CommandError,
    complain,
    with_fields,
)
from offramp.cli.retry import retry
from offramp.cli.routes import routes
from offramp.cli.run import run
from offramp.cli.runs import cancel, show, signal
from offramp.cli.serve import serve
from offramp.cli.submit import follow, submit
from offramp.cli.top import top
from offramp.cli.worker import worker
from offramp.errors import InputError, OfframpError

_RUN = "run_01JD3Q8Z5V9W6K2M4N7P0R1S2T"

program = typer.Typer(
    name="offramp",
    help="A runtime for AI-agent pipelines: requests start streamed under a budget and continue durably past it.",
    epilog="Settings come from options, then OFFRAMP_* variables, then offramp.toml. "
    "'offramp COMMAND --help' has examples.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it by position
    if wanted:
        print(f"offramp {offramp.__version__}, Python {platform.python_version()}")
        raise typer.Exit(OK)


@program.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the program itself."""


_QUESTION = '--input \'{"question": "what is a slice?"}\''


def _command(
    function: Callable[..., int], *examples: str, exits: str, name: str | None = None, of: typer.Typer = program
) -> None:
    of.command(name, epilog=epilog(*examples, exits=exits))(function)


_command(init, "offramp init desk", "offramp init desk --template fastapi", exits=EXITS_INIT)
_command(
    serve,
    "offramp serve desk/app.py:app",
    "offramp serve desk/app.py --reload",
    "offramp serve desk.app:app --port 9000 --workers 4 --data /var/lib/desk",
    "offramp serve desk.app:app --workers 2..8",
    "offramp serve desk.app:app --host 10.0.0.5 --insecure",
    exits=EXITS_SERVER,
)
_command(worker, "offramp worker desk.app:app --engine embedded:/var/lib/desk", exits=EXITS_SERVER)
_command(
    run,
    f"offramp run desk/app.py {_QUESTION}",
    f"offramp run desk/app.py:app explain {_QUESTION}",
    "offramp run desk.app:app explain --input @question.json --budget 0 | jq .text",
    exits=EXITS_RUN,
)
_command(
    doctor,
    "offramp doctor desk/app.py:app",
    "offramp doctor desk.app:app --data /var/lib/desk --json",
    "offramp doctor desk.app:app --strict",
    exits=EXITS_DOCTOR,
)
_command(
    check,
    "offramp check desk/app.py:app --data .offramp",
    "offramp check desk.app:app --data /var/lib/desk --json",
    exits=EXITS_CHECK,
)
_command(backup, "offramp backup /var/lib/desk /mnt/backups/desk.db", exits=EXITS_COPY)
_command(restore, "offramp restore /mnt/backups/desk.db /var/lib/desk", exits=EXITS_COPY)
_command(
    submit,
    f"offramp submit explain {_QUESTION} --follow",
    "offramp submit audit --async --metadata team=core --id",
    "echo '{\"path\": null}' | offramp submit audit --input - --wait 2",
    exits=EXITS_CLIENT,
)
_command(follow, f"offramp follow {_RUN}", f"offramp follow {_RUN} --after 17 | jq .", exits=EXITS_CLIENT)
_command(
    show,
    f"offramp show {_RUN}",
    f"offramp show {_RUN} --steps",
    f"offramp show {_RUN} --step search",
    f"offramp show {_RUN} --watch",
    f"offramp show {_RUN} --json | jq .steps",
    exits=EXITS_LOOK,
)
_command(
    list_runs,
    "offramp list --status running",
    "offramp list --session abc --limit 5 --json",
    "offramp list --waiting --watch",
    exits=EXITS_LOOK,
    name="list",
)
_command(
    top, "offramp top", "offramp top --url https://agents.example --every 5", "offramp top --once", exits=EXITS_LOOK
)
_command(
    routes,
    "offramp routes",
    "offramp routes --url https://agents.example --json",
    "offramp routes desk.app:app --data /var/lib/desk",
    "offramp routes --replay runs.jsonl --budget 4",
    exits=EXITS_LOOK,
)
_command(cancel, f"offramp cancel {_RUN}", exits=EXITS_LOOK)
_command(
    retry,
    f"offramp retry {_RUN} --follow",
    f"offramp retry {_RUN} --from write",
    f"offramp retry {_RUN} --fresh --id",
    exits=EXITS_CLIENT,
)
_command(
    signal,
    f"offramp signal {_RUN} approved",
    f'offramp signal {_RUN} approved --data \'{{"by": "ada"}}\'',
    f"offramp signal {_RUN} photo --data @photo.json",
    exits=EXITS_SIGNAL,
)

_keys = typer.Typer(help="The API keys of a gateway: made, listed and revoked.", no_args_is_help=True)
program.add_typer(_keys, name="keys")
_command(
    add,
    "offramp keys add alice",
    "offramp keys add billing --tenant acme --data /var/lib/desk",
    exits=EXITS_KEYS,
    of=_keys,
)
_command(list_keys, "offramp keys list", "offramp keys list --json", exits=EXITS_KEYS, name="list", of=_keys)
_command(revoke, "offramp keys revoke alice", exits=EXITS_KEYS, of=_keys)


def main() -> None:
    """The console script: run the command, then leave with its exit code."""
    code = _guarded()
    if threading.active_count() > 1:
        # A sync step that outlived its run cannot be stopped, and the interpreter would wait for its thread: a drained
        # process would stay. What users registered for the end (telemetry is flushed there) is still called.
        atexit._run_exitfuncs()  # noqa: SLF001 - there is no public name for it
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _guarded() -> int:
    try:
        code = program(standalone_mode=False, prog_name="offramp")
    except typer.TyperException as error:
        return _usage_error(error)
    except CommandError as error:
        complain(str(error))
        return error.code
    except OfframpError as error:
        complain(_explained(error))
        return USAGE if error.fault in {"declaration", "caller", "operator"} else RUN_ENDED_BADLY
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has left; pointing stdout at the null device avoids an error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return RUN_ENDED_BADLY
    return code if isinstance(code, int) else OK


def _usage_error(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        print(context.get_help(), file=sys.stderr)
        return USAGE
    command = context.command_path if context is not None else "offramp"
    message = error.format_message().rstrip(". ")
    complain(f"{message}{'' if message.endswith('?') else '.'} See '{command} --help'")
    return error.exit_code


def _explained(error: OfframpError) -> str:
    return with_fields(error, error.errors if isinstance(error, InputError) else [])
