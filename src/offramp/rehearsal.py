"""Calls runs again in another process under another hash seed: what depends on the order of a set differs there.

`python -m offramp.rehearsal` is that process; it executes no step and writes nothing but its verdicts.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from offramp.declarations import Declarations
from offramp.paths.replay import Case, Verdict

SEEDS_TRIED_MAX = 16
"""Hash seeds that are looked at for one under which every set has another order."""
TIMEOUT_S = 300.0
_SEED = "PYTHONHASHSEED"
_ORDERS = "import json, sys; print(json.dumps([list(set(texts)) for texts in json.load(sys.stdin)]))"


class Place(msgspec.Struct, frozen=True):
    """Where another process finds an App."""

    module: str
    attribute: str
    file: str | None = None


class Job(msgspec.Struct, frozen=True):
    """What the other process does: these cases, or every unfinished run of a service with these settings."""

    path: list[str]
    place: Place
    verdicts: str
    cases: list[Case] = []
    settings: dict[str, Any] | None = None


class RehearsalFailed(Exception):
    """The other process could not do it; the message says why."""


def place_of(app: Declarations) -> Place | None:
    """The module-level name of an App, None where it has none."""
    functions = [made.spec.function for made in app.pipelines.values()]
    functions += [made.spec.function for made in app.steps.values()]
    names = dict.fromkeys([function.__module__ for function in functions] + list(sys.modules))
    for name in names:
        module = sys.modules.get(name)
        for attribute, value in list(vars(module).items()) if isinstance(module, ModuleType) else ():
            if value is app:
                return Place(name, attribute, getattr(module, "__file__", None))
    return None


def other_seed(texts: Sequence[list[str]]) -> str:
    """A hash seed under which sets of these texts have another order than here, as far as one of a few has that."""
    best, fewest = "", len(texts) + 1
    here = [list(set(array)) for array in texts]
    given = json.dumps(texts).encode()
    for seed in map(str, range(1, SEEDS_TRIED_MAX + 1)):
        if seed == os.environ.get(_SEED):
            continue
        command = [sys.executable, "-S", "-c", _ORDERS]
        done = subprocess.run(command, input=given, env=os.environ | {_SEED: seed}, capture_output=True, check=True)  # noqa: S603 - this interpreter
        alike = sum(one == other for one, other in zip(here, json.loads(done.stdout), strict=True))
        if alike < fewest:
            best, fewest = seed, alike
        if not alike:
            break
    return best


def elsewhere(
    place: Place,
    texts: Sequence[list[str]],
    *,
    cases: Sequence[Case] = (),
    settings: dict[str, Any] | None = None,
) -> list[Verdict]:
    """What another process under another hash seed says; blocks until it has.

    Raises:
        RehearsalFailed: it could not be done there.
    """
    with tempfile.TemporaryDirectory(prefix="offramp-") as folder:
        answer = Path(folder, "verdicts")
        job = Job(list(sys.path), place, str(answer), list(cases), settings)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "offramp.rehearsal"],
                input=msgspec.json.encode(job),
                env=os.environ | {_SEED: other_seed(texts)},
                capture_output=True,
                check=False,
                timeout=TIMEOUT_S,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise RehearsalFailed(f"another process did not do it: {error}") from error
        if done.returncode or not answer.is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise RehearsalFailed(f"another process could not do it with {place.module}: {said[-1]}")
        return msgspec.json.decode(answer.read_bytes(), type=list[Verdict])


def main() -> None:
    """Do one job, which comes by the standard input."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.path[:] = job.path
    verdicts = asyncio.run(_verdicts(_app(job.place), job))
    Path(job.verdicts).write_bytes(msgspec.json.encode(verdicts))


async def _verdicts(app: Declarations, job: Job) -> list[Verdict]:
    from offramp.settings import Settings
    from offramp.wiring import build, local

    if job.settings is None:
        async with local(app, {"store": "memory:"}) as runtime:
            return [await runtime.service.fits(case) for case in job.cases]
    service = build(app, Settings.load(**job.settings), role="worker")
    try:
        return [verdict async for verdict in service.check()]
    finally:
        await service.close()


def _app(place: Place) -> Declarations:
    found: Any = _module(place)
    for part in place.attribute.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)  # `runpy` gives a dict
    app: Declarations = found
    return app


def _module(place: Place) -> Any:
    if place.module == "__main__":
        return runpy.run_path(str(place.file), run_name="__mp_main__")  # as multiprocessing calls it
    try:
        module = importlib.import_module(place.module)
    except ModuleNotFoundError:
        module = None
    if module is not None and (place.file is None or getattr(module, "__file__", None) == place.file):
        return module
    # What some test runners import by its file.
    spec = importlib.util.spec_from_file_location(place.module, place.file or "")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"no module {place.module!r}")
    module = sys.modules[place.module] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
