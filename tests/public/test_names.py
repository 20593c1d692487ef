from __future__ import annotations

import subprocess
import sys
import types
import uuid
from datetime import UTC, datetime
from importlib import metadata

import pytest

import offramp
from offramp import errors
from offramp.errors import OfframpError, OutsideRun


def test_the_public_names_are_few_real_and_documented():
    assert len(offramp.__all__) <= 40
    assert len(set(offramp.__all__)) == len(offramp.__all__)
    for name in offramp.__all__:
        assert getattr(offramp, name).__doc__


def test_nothing_else_looks_public():
    visible = {name for name, value in vars(offramp).items() if not name.startswith("_")}
    modules = {name for name in visible if isinstance(getattr(offramp, name), types.ModuleType)}
    assert visible - modules == set(offramp.__all__) - {
        "Client",
        "AsyncClient",
        "text_complexity",
    }  # imported when they are asked for
    with pytest.raises(AttributeError, match="'Clients'"):
        _ = offramp.Clients


def test_the_version_is_that_of_the_package():
    assert offramp.__version__ == metadata.version("offramp")
    with pytest.raises(AttributeError, match="no attribute '__verison__'"):
        _ = offramp.__verison__


def test_importing_offramp_loads_no_server_database_or_model_library():
    heavy = ["starlette", "uvicorn", "sqlite3", "httpx", "rich", "typer", "pydantic", "multiprocessing.pool"]
    program = f"import sys, offramp; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_current_run_outside_a_run_says_where_it_works():
    with pytest.raises(OutsideRun, match="inside a pipeline or a step"):
        offramp.current_run()
    with pytest.raises(LookupError):
        offramp.current_run()


async def test_helpers_simply_work_outside_a_run():
    before = datetime.now(UTC)
    assert before <= offramp.now() <= datetime.now(UTC)
    assert isinstance(offramp.uuid4(), uuid.UUID)
    assert 0 <= offramp.random() < 1
    assert offramp.emit("nobody listens") is None
    await offramp.sleep(0)


def every_error(kind=OfframpError):
    yield kind
    for below in kind.__subclasses__():
        yield from every_error(below)


def test_every_error_has_a_code_of_its_own_a_title_a_status_and_a_fault():
    kinds = [kind for kind in every_error() if kind.__module__ == errors.__name__]
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert kind.title
        assert kind.__doc__
        assert 400 <= kind.status < 600
        assert kind.fault in {"declaration", "caller", "pipeline", "operator", "offramp"}
