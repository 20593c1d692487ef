"""`offramp check`: which unfinished runs a new version of the code would break. Run it before deploying."""

from __future__ import annotations

import asyncio
from typing import Any

from offramp.cli.engines import load_settings
from offramp.cli.options import AsJson, Data, Engine, Store, Target
from offramp.cli.output import OK, RUN_ENDED_BADLY, CommandError, say, write_json
from offramp.cli.target import load_app


def check(
    target: Target, *, data: Data = None, engine: Engine = None, store: Store = None, as_json: AsJson = False
) -> int:
    """Say which unfinished runs this code would break.

    Every unfinished run is called again with its journal. No step is executed and nothing is written, so it can be
    done beside a running service.
    """
    from offramp.stores.sqlite.database import FILE_NAME
    from offramp.wiring import build, data_folder

    settings = load_settings(data=data, engine=engine, store=store)
    folder = data_folder(settings)
    if not settings.store and not (folder / FILE_NAME).is_file():
        raise CommandError(f"there is no database in {folder}: name the service's folder with --data")
    service = build(load_app(target), settings, role="worker")
    runs = asyncio.run(_verdicts(service))
    broken = [run for run in runs if run["problem"] is not None]
    if as_json:
        write_json({"runs": runs, "broken": len(broken)})
    else:
        for run in broken:
            say(f"{run['run_id']} ({run['pipeline']}, version {run['version']}): {run['problem']}")
        say(f"{len(runs)} unfinished runs, {len(broken)} of them would break")
    return RUN_ENDED_BADLY if broken else OK


async def _verdicts(service: Any) -> list[dict[str, Any]]:
    try:
        return [verdict._asdict() async for verdict in service.check()]
    finally:
        await service.close()
