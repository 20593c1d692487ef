"""docs/contributing/architecture.md: a request really passes the functions that the page names, in its order."""

from __future__ import annotations

import importlib
import re
import sys
import threading

import httpx

from offramp import SLA, App
from offramp.gateway.asgi import Gateway
from offramp.settings import Settings
from offramp.wiring import build
from tests.docs.pages import ROOT
from tests.gateway.conftest import serving
from tests.gateway.wire import parse_sse

HOP = re.compile(r"^\d+\. \[`([\w.]+)`\]\((?:\.\./)+src/offramp/([\w/]+)\.py\)", re.MULTILINE)
HOPS_MAX = 12


def hops(title):
    """The functions of the numbered list below a heading, as (dotted name, code object)."""
    page = (ROOT / "docs" / "contributing" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition(f"# {title}\n")[2].partition("\n#")[0]
    found = []
    for name, file in HOP.findall(section):
        module = file.replace("/", ".")
        assert name.startswith(module + "."), f"{name} links to {file}.py"
        function = importlib.import_module(f"offramp.{module}")
        for part in name.removeprefix(module + ".").split("."):
            function = getattr(function, part)
        found.append((name, function.__code__))
    assert 0 < len(found) <= HOPS_MAX
    return found


class Calls:
    """The order in which watched functions are first called, in any thread that starts meanwhile."""

    def __init__(self, functions):
        self._names = {code: name for name, code in functions}
        self.seen = []

    def __enter__(self):
        threading.setprofile(self._called)
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_exc):
        sys.setprofile(None)
        threading.setprofile(None)

    def _called(self, frame, event, _arg):
        if event == "call" and frame.f_code in self._names:
            self.seen.append(self._names[frame.f_code])


def first_in_order(expected, seen):
    """The part of `expected` that `seen` holds as a subsequence, and so all of it if the page is right."""
    rest = iter(seen)
    return [name for name in expected if name in rest]


def served(tmp_path):
    app = App("demo", classes=[SLA("interactive", budget=30.0), SLA("hasty", budget=0.05)])

    @app.step
    async def write(question: str) -> str:
        return question.upper()

    @app.step
    def slow(question: str) -> str:
        threading.Event().wait(0.3)  # past the budget
        return question

    @app.pipeline(sla="interactive")
    async def research(question: str) -> str:
        return await write(question)

    @app.pipeline(sla="hasty")
    async def long(question: str) -> str:
        return await write(await slow(question))

    settings = Settings.load(environment={}, file=tmp_path / "none", data=str(tmp_path / "data"))
    return Gateway(lambda: build(app, settings, role="local"))


async def streamed(tmp_path, pipeline, expected):
    with Calls(expected) as calls:
        async with serving(served(tmp_path)) as url, httpx.AsyncClient(base_url=url, timeout=30) as web:
            asked = {"input": {"question": "why"}, "follow": True}
            answer = await web.post(
                f"/v1/pipelines/{pipeline}/runs", json=asked, headers={"Accept": "text/event-stream"}
            )
    return [kind for _, kind, _ in parse_sse(answer.content)[0]], calls.seen


async def test_a_request_takes_the_way_on_the_page(tmp_path):
    expected = hops("The way of a request")
    names = [name for name, _ in expected]
    types, seen = await streamed(tmp_path, "research", expected)
    assert types[-1] == "run.completed"
    assert first_in_order(names, seen) == names


async def test_a_demoted_run_takes_the_way_on_the_page(tmp_path):
    expected = hops("Off the fast path")
    names = [name for name, _ in expected]
    types, seen = await streamed(tmp_path, "long", expected)
    assert "run.demoted" in types
    assert types[-1] == "run.completed"
    assert first_in_order(names, seen) == names
