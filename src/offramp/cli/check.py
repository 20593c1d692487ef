"""`offramp check`: finds the unfinished runs that a new version of the code would break. Run it before deploying."""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.cli.engines import load_settings
from offramp.cli.options import AsJson, Data, Engine, Objects, Store, Target
from offramp.cli.output import OK, RUN_ENDED_BADLY, CommandError, say, write_json
from offramp.cli.target import is_file, load_app, module_of, split_target

if TYPE_CHECKING:
    from offramp.paths.replay import Verdict
    from offramp.rehearsal import Place

TEXTS_MAX = 500
"""How many arrays of texts, from all runs together, are used to choose the other hash seed."""


def check(
    target: Target,
    *,
    data: Data = None,
    engine: Engine = None,
    store: Store = None,
    objects: Objects = None,
    as_json: AsJson = False,
) -> int:
    """List the unfinished runs that this code would break.

    Calls every unfinished run again with its journal, in this process and in another one under another hash seed, which
    changes the order of sets. It executes no step and writes nothing, so a service may keep running.
    """
    from offramp.rehearsal import RehearsalFailed, elsewhere
    from offramp.stores.sqlite.database import FILE_NAME
    from offramp.wiring import build, data_folder

    settings = load_settings(data=data, engine=engine, store=store, objects=objects)
    folder = data_folder(settings)
    if not settings.store and not (folder / FILE_NAME).is_file():
        raise CommandError(f"there is no database in {folder}: give the service's folder with --data")
    here = asyncio.run(_verdicts(build(load_app(target), settings, role="worker")))
    given = {name: getattr(settings, name) for name in ("data", "engine", "store", "objects")}
    texts = list(itertools.islice(itertools.chain.from_iterable(verdict.texts for verdict in here), TEXTS_MAX))
    there = {}
    if here:
        try:
            there = {verdict.run_id: verdict for verdict in elsewhere(_place(target), texts, settings=given)}
        except RehearsalFailed as error:
            raise CommandError(f"the runs could not be checked under another hash seed: {error}") from error
    runs = [_both(verdict, there.get(verdict.run_id)) for verdict in here]
    broken = [run for run in runs if run["problem"] is not None]
    if as_json:
        write_json({"runs": runs, "broken": len(broken)})
    else:
        for run in broken:
            say(f"{run['run_id']} ({run['pipeline']}, version {run['version']}): {run['problem']}")
        say(f"{len(runs)} unfinished runs, {len(broken)} of them would break")
    return RUN_ENDED_BADLY if broken else OK


async def _verdicts(service: Any) -> list[Verdict]:
    try:
        return [verdict async for verdict in service.check()]
    finally:
        await service.close()


def _place(target: str) -> Place:
    """Where the other process finds the App that this one has imported."""
    from offramp.rehearsal import Place

    module_part, attribute = split_target(target)
    name = module_of(Path(module_part).resolve())[1] if is_file(module_part) else module_part
    return Place(name, attribute, getattr(sys.modules[name], "__file__", None))


def _both(here: Verdict, there: Verdict | None) -> dict[str, Any]:
    """The verdicts under both seeds as one; the run may have ended in between."""
    problem = here.problem
    other = here if there is None else there
    if (problem is None) != (other.problem is None):
        problem = f"{problem or other.problem} (under one hash seed of two: does the body iterate over a set?)"
    return {"run_id": here.run_id, "pipeline": here.pipeline, "version": here.version, "problem": problem}
