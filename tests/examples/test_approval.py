"""The example of a run that waits for a person."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from offramp import testing
from offramp.errors import InputError
from tests.support import reach

FILE = Path(__file__).resolve().parents[2] / "examples" / "approval.py"


@pytest.fixture
def app():
    spec = importlib.util.spec_from_file_location("approval_example", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


@pytest.mark.parametrize(
    ("approved", "result"), [(True, "2.0 is out, approved by ada"), (False, "ada refused 2.0")], ids=["yes", "no"]
)
async def test_the_decision_is_acted_on(app, approved, result):
    async with testing.runtime(app) as runtime:
        handle = await runtime.start("release", text="2.0")
        await reach(handle, "wait.started")
        (wait,) = (await handle.document())["waiting_for"]
        assert (wait["ask"], wait["schema"]["required"]) == ({"text": "Publish '2.0'?"}, ["approved", "by"])
        with pytest.raises(InputError, match="/approved"):
            await handle.signal("decision", {"approved": "yes", "by": "ada"})
        await handle.signal("decision", {"approved": approved, "by": "ada"})
        assert await testing.result_of(handle) == result
