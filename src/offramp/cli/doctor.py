"""`offramp doctor`: reports what is configured, reachable or risky, with a fix for each risk. Changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.engines import load_settings
from offramp.cli.findings import LEVELS, Finding, exit_code, report
from offramp.cli.options import AsJson, Data, Engine, Host, Objects, Port, Store, Target, Workers
from offramp.cli.output import console, counted, write_json
from offramp.cli.target import load_app
from offramp.stores.redis.address import is_redis

CheckData = Annotated[
    bool,
    typer.Option("--check-data", help="Read the whole database and look for damage."),
]
_MARKS = {"ok": ("ok", "green"), "note": ("note", "cyan"), "risk": ("RISK", "yellow"), "broken": ("BROKEN", "bold red")}


def doctor(  # noqa: PLR0913 - one parameter for each option
    target: Target,
    *,
    data: Data = None,
    engine: Engine = None,
    store: Store = None,
    objects: Objects = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Workers = "1",
    check_data: CheckData = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 on a risk too, for CI.")] = False,
    as_json: AsJson = False,
) -> int:
    """Check an App and the environment it would be served in.

    Exits 1 if something is broken, and with --strict if something is a risk.
    """
    from offramp.cli.check_app import check_app
    from offramp.cli.check_data import check_folder
    from offramp.cli.check_host import (
        check_address,
        check_python,
        check_settings,
        check_sqlite,
        check_webhooks,
        check_workers,
    )
    from offramp.cli.check_keys import check_keys
    from offramp.cli.check_limits import check_limits
    from offramp.cli.check_objects import check_objects
    from offramp.cli.check_redis import check_redis
    from offramp.cli.check_telemetry import check_telemetry
    from offramp.cli.check_temporal import check_temporal

    settings = load_settings(data=data, workers=workers, engine=engine, store=store, objects=objects)
    app = load_app(target)
    findings = [
        *check_python(),
        *check_workers(settings, app.classes),
        *check_settings(os.environ),
        *(() if is_redis(settings.store) else (*check_sqlite(), *check_folder(Path(settings.data), whole=check_data))),
        *check_redis(settings),
        *check_temporal(settings),
        *check_objects(settings),
        *check_keys(settings, host),
        *check_address(host, port),
        *check_webhooks(settings),
        *check_telemetry(settings, os.environ),
        *check_app(app, settings),
        *check_limits(app),
    ]
    if as_json:
        write_json(report(app.name, findings))
    else:
        _show(findings)
    return exit_code(findings, strict=strict)


def _show(findings: Sequence[Finding]) -> None:
    from rich.text import Text

    out = console(sys.stdout)
    for finding in findings:
        mark, style = _MARKS[finding.level]
        line = Text.assemble((f"{mark:<7}", style), (f"{finding.about}: ", "bold"), finding.says)
        out.print(line)
        if finding.fix:
            out.print(Text(f"        -> {finding.fix}", style="dim"))
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    shown = [
        counted(count, level) if level in {"note", "risk"} else f"{count} {level}"
        for level, count in counts.items()
        if count
    ]
    out.print(Text(", ".join(shown), style="bold"))
