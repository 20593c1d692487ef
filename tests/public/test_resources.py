from __future__ import annotations

import pytest

import offramp
from offramp import App, Breaker, Resource
from offramp.errors import DeclarationError


@pytest.fixture
def app():
    return App("desk")


def fine() -> str:
    return ""


def test_a_resource_is_declared_with_its_limits(app):
    made = app.resource("openai", concurrency=20, rate=("500/min", "10/s"), tokens="200k/min", breaker=Breaker())
    assert isinstance(made, Resource)
    assert (made.name, repr(made)) == ("openai", "<resource 'openai'>")
    assert app.resources == {"openai": made}
    assert made.spec.concurrency == 20
    assert [(rate.limit, rate.seconds) for rate in made.spec.rates] == [(10, 1), (500, 60)]
    assert [(rate.limit, rate.seconds) for rate in made.spec.tokens] == [(200_000, 60)]
    assert (made.spec.share, made.spec.reserve, made.spec.breaker) == (0.05, 0.2, Breaker())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "resource 'openai' limits nothing: give it concurrency=, rate=, tokens= or breaker="),
        ({"rate": ()}, "limits nothing"),
        ({"rate": "500/minute/key"}, "rate='500/minute/key': write number/unit, such as '500/min' or '60/10s'"),
        ({"rate": 500}, "rate="),
        ({"concurrency": 0}, "concurrency="),
        ({"breaker": True, "rate": "1/s"}, "breaker="),
        ({"reserve": 1, "rate": "1/s"}, "reserve="),
        ({"share": -0.1, "rate": "1/s"}, "share="),
    ],
)
def test_a_resource_that_cannot_work_is_refused(app, options, message):
    with pytest.raises(DeclarationError, match=message):
        app.resource("openai", **options)
    assert app.resources == {}


def test_a_name_is_declared_once(app):
    app.resource("openai", rate="1/s")
    with pytest.raises(DeclarationError, match="resource 'openai' is declared twice in app 'desk'"):
        app.resource("openai", rate="2/s")
    with pytest.raises(DeclarationError, match="use a letter"):
        app.resource("", rate="1/s")


def test_a_step_uses_resources_in_one_order(app):
    b, a = app.resource("b", rate="1/s"), app.resource("a", rate="1/s")
    assert app.step(name="one", uses=b)(fine).spec.policy.uses == ("b",)
    assert app.step(name="two", uses=[b, a])(fine).spec.policy.uses == ("a", "b")
    assert app.step(name="three", uses=(a, b, a))(fine).spec.policy.uses == ("a", "b")
    assert app.step(name="none", uses=[])(fine).spec.policy.uses == ()
    assert app.step(name="nothing")(fine).spec.policy.uses == ()


@pytest.mark.parametrize("uses", ["openai", ["openai"], 3, {"openai": 1}])
def test_a_step_that_uses_no_resource_says_what_to_write(app, uses):
    app.resource("openai", rate="1/s")
    with pytest.raises(DeclarationError, match=r"takes what app.resource\(...\) returned, .* uses=openai"):
        app.step(uses=uses)(fine)
    assert app.steps == {}


def test_a_step_that_uses_another_apps_resource_says_what_to_write(app):
    others = App("other").resource("openai", rate="1/s")
    with pytest.raises(DeclarationError, match=r"another app; declare it in app 'desk' too, by app.resource"):
        app.step(uses=others)(fine)


def test_the_types_of_resources_are_public():
    assert {"Breaker", "Resource"} <= set(offramp.__all__)


def test_resources_of_an_app_are_bounded(monkeypatch):
    monkeypatch.setattr("offramp.declarations.RESOURCES_MAX", 2)
    app = App("many")
    for number in range(2):
        app.resource(f"r{number}", concurrency=1)
    with pytest.raises(DeclarationError, match="one more than the 2 that an app may have"):
        app.resource("r2", concurrency=1)
