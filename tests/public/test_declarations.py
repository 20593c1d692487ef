"""A declaration that cannot work fails at import, with a message that says what to change."""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest

from offramp import SLA, App, Retry
from offramp.errors import DeclarationError


@pytest.fixture
def app():
    return App("research", classes=[SLA("interactive")])


def module_level(n: int) -> int:
    return n


async def fine(q: str) -> str:
    return q


def unannotated(q) -> str: ...
def variadic(*queries: str) -> str: ...
def keywords(**queries: str) -> str: ...
def generator(q: str) -> str:
    yield q


async def async_generator(q: str) -> str:
    yield q


def unresolvable(q: Missing) -> str: ...  # noqa: F821
def unencodable(q: object) -> str: ...
def unencodable_result(q: str) -> type[int]: ...
def plain(q: str) -> str: ...


class Holder:
    def method(self, q: str) -> str: ...


class Called:
    def __call__(self, q: str) -> str: ...


async def apipe(q: str) -> str: ...


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (unannotated, {}, "step 'unannotated': annotate parameter 'q'"),
        (variadic, {}, r"variadic; name each argument"),
        (keywords, {}, r"variadic; name each argument"),
        (generator, {}, "generators cannot be journaled; return the whole value and emit"),
        (async_generator, {}, "generators cannot be journaled"),
        (unresolvable, {}, "Missing"),
        (unencodable, {}, "step 'unencodable' cannot be carried as JSON: parameter 'q' is a builtins.object"),
        (unencodable_result, {}, "result of step 'unencodable_result' cannot be carried as JSON"),
        (Holder.method, {}, "functions, not methods"),
        (Holder, {}, "decorate a function, got type"),
        (functools.partial(plain, "x"), {}, "a functools.partial has no name of its own"),
        (functools.partial(plain, q="x"), {"name": "p", "lane": "process"}, "a functools.partial has no place"),
        (functools.partial(generator), {"name": "p"}, "generators cannot be journaled"),
        (
            Called(),
            {"name": "p"},
            "decorate a function, got Called; for an object that can be called, write a function",
        ),
        (lambda q: q, {}, "<lambda>.*use a letter"),
        (plain, {"name": "no spaces"}, "no spaces.*use a letter"),
        (plain, {"name": "x" * 101}, "at most 100 characters"),
        (plain, {"name": ""}, "use a letter"),
        (plain, {"name": 3}, "use a letter"),
        (plain, {"timeout": 0}, "timeout= is in seconds, above 0, got 0"),
        (plain, {"timeout": -1}, "timeout="),
        (plain, {"timeout": float("inf")}, "timeout="),
        (plain, {"timeout": "5"}, "timeout="),
        (plain, {"timeout": True}, "timeout="),
        (plain, {"retry": 3}, r"retry= takes a Retry, for example Retry\(attempts=3\), got 3"),
        (plain, {"lane": "gpu"}, "lane= is one of 'auto', 'loop', 'thread', 'process', got 'gpu'"),
        (plain, {"lane": None}, "lane= is one of"),
        (plain, {"lane": ["loop"]}, "lane= is one of"),
        (plain, {"effect": "twice"}, "effect= is one of 'repeatable', 'once', got 'twice'"),
        (plain, {"effect": "once", "retry": Retry(attempts=2)}, "exclude each other; drop one"),
        (fine, {"lane": "thread"}, "takes a plain function; drop 'async' or the lane"),
        (fine, {"lane": "process"}, "takes a plain function; drop 'async' or the lane"),
        (plain, {"uses": "gpu"}, "uses="),
    ],
)
def test_a_step_that_cannot_work_is_refused(app, function, options, message):
    with pytest.raises(DeclarationError, match=message):
        app.step(**options)(function)
    assert app.steps == {}


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (plain, {}, "pipeline 'plain': declare it with 'async def'"),
        (async_generator, {}, "generators"),
        (unannotated, {}, "annotate parameter 'q'|async def"),
        (apipe, {"sla": "interactiv"}, "sla= is one of 'default', 'interactive', got 'interactiv'"),
        (apipe, {"sla": None}, "sla= is one of"),
        (apipe, {"budget": -1}, "budget= is in seconds, 0 or more, got -1"),
        (apipe, {"budget": float("nan")}, "budget="),
        (apipe, {"budget": "6"}, "budget="),
        (apipe, {"deadline": 0}, "deadline= is in seconds, above 0"),
        (apipe, {"retention": -5}, "retention= is in seconds, above 0"),
        (apipe, {"on_disconnect": "ignore"}, "on_disconnect= is one of 'continue', 'demote', 'cancel'"),
        (apipe, {"demotion_message": "x" * 501}, "at most 500 characters"),
        (apipe, {"demotion_message": 5}, "demotion_message="),
        (apipe, {"version": ""}, "version="),
        (apipe, {"version": 2}, "version="),
    ],
)
def test_a_pipeline_that_cannot_work_is_refused(app, function, options, message):
    with pytest.raises(DeclarationError, match=message):
        app.pipeline(**options)(function)
    assert app.pipelines == {}


def test_a_process_step_must_be_importable(app):
    def local(n: int) -> int: ...

    with pytest.raises(DeclarationError, match="function at module level"):
        app.step(lane="process")(local)
    assert app.step(lane="process")(module_level).spec.policy.lane == "process"


def test_two_steps_of_one_name_are_refused(app):
    app.step(plain)
    with pytest.raises(DeclarationError, match=r"step 'plain' is declared twice in app 'research'.*name="):
        app.step(plain)
    app.step(name="other")(plain)
    assert sorted(app.steps) == ["other", "plain"]


def test_two_pipelines_of_one_name_are_refused(app):
    app.pipeline(apipe)
    with pytest.raises(DeclarationError, match="pipeline 'apipe' is declared twice"):
        app.pipeline(apipe)


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("", [], "app name"),
        ("no spaces", [], "app name"),
        ("x", ["interactive"], "classes=.*takes SLA objects, got 'interactive'"),
        ("x", [SLA("a"), SLA("a")], "SLA class 'a' is declared twice"),
    ],
)
def test_an_app_that_cannot_work_is_refused(name, classes, message):
    with pytest.raises(DeclarationError, match=message):
        App(name, classes=classes)


def test_there_is_a_default_class_that_can_be_replaced():
    assert App("x").classes["default"].budget == 6.0
    assert App("x", classes=[SLA("default", budget=2)]).classes["default"].budget == 2


def test_decorators_work_with_and_without_parentheses(app):
    @app.step
    def bare(q: str) -> str:
        """Says what it does."""
        return q

    @app.step()
    def called(q: str) -> str:
        return q

    @app.pipeline
    async def pipe(q: str) -> str:
        return await bare(q)

    @app.pipeline(sla="interactive")
    async def served(q: str) -> str:
        return await bare(q)

    assert (bare.fn("x"), called.fn("y")) == ("x", "y")
    assert (bare.__name__, bare.__doc__) == ("bare", "Says what it does.")
    assert list(app.steps) == ["bare", "called"]
    assert list(app.pipelines) == ["pipe", "served"]
    assert "bare" in repr(bare)
    assert "pipe" in repr(pipe)


def test_the_automatic_lane_keeps_plain_code_off_the_loop(app):
    assert app.step(plain).spec.policy.lane == "thread"
    assert app.step(fine).spec.policy.lane == "loop"


async def test_outside_a_run_a_step_just_runs(app):
    @app.step(timeout=1, retry=Retry(attempts=3))
    def failing(q: str, *, calls: Any = None) -> str:
        if q == "bad":
            raise ValueError(q)
        return f"{q} {os.getpid()}"

    @app.step
    async def echo(q: str, times: int = 2) -> str:
        return q * times

    @app.step(lane="process")
    @functools.wraps(module_level)
    def wrapped(n: int) -> int:
        return module_level(n) + 1

    @app.pipeline
    async def pipe(q: str) -> str:
        return await echo(q, times=3)

    assert await failing("good") == f"good {os.getpid()}"
    with pytest.raises(ValueError, match="bad"):
        await failing("bad")
    assert await echo("a") == "aa"
    assert await wrapped(1) == 2
    with pytest.warns(RuntimeWarning, match="outside a run"):
        assert await pipe("a") == "aaa"
