"""A classifier for pipelines without a past: whether a request's wording asks for one answer or for several steps.

The weights are data (`complexity.json`, written by `tools/train_text_complexity.py`); the features are in
`core/wording.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Literal

import msgspec

from offramp.core import wording
from offramp.core.routing import RouteRequest
from offramp.errors import DeclarationError

WEIGHTS = "complexity.json"
THRESHOLD_DEFAULT = 0.5
REASONS_SHOWN = 3


class Feature(msgspec.Struct, frozen=True):
    """One feature of the model: `weight * (log(1 + count) - mean)` is what it adds."""

    weight: float
    mean: float


class Model(msgspec.Struct, frozen=True):
    """A logistic model: the log odds are `intercept` and what each feature adds."""

    intercept: float
    features: dict[str, Feature]

    def parts(self, counts: Mapping[str, int]) -> dict[str, float]:
        """What each feature adds to the log odds, compared with the average request."""
        return {name: each.weight * (wording.scaled(counts[name]) - each.mean) for name, each in self.features.items()}

    def odds(self, counts: Mapping[str, int]) -> float:
        """The logarithm of the odds that the request is complex."""
        return self.intercept + sum(self.parts(counts).values())

    def chance(self, counts: Mapping[str, int]) -> float:
        """The probability, 0 to 1, that the request is complex."""
        return 1 / (1 + math.exp(-self.odds(counts)))


def load() -> Model:
    """The model that ships with the package."""
    return msgspec.json.decode(resources.files("offramp").joinpath(WEIGHTS).read_bytes(), type=Model)


def text_complexity(
    field: str, *, threshold: float = THRESHOLD_DEFAULT, until: int | None = None
) -> Callable[[RouteRequest], tuple[Literal["fast", "deep"], str] | None]:
    """A classifier for `App(classifier=)` that reads the wording of one input field.

    It estimates the probability that a request needs several steps, with a logistic model over counts such as words,
    joined actions and names in the first 4,000 characters. It is for English requests and for a pipeline that has no
    past yet. It passes over a request whose field is missing, blank, no string, or mostly in another alphabet than
    Latin.

    Args:
        field: the name of the input field.
        threshold: the probability, above 0 and below 1, from which a request goes to the deep path.
        until: once the learned estimate rests on so many runs of the pipeline and class, requests are left to it; None
            for never.

    Raises:
        DeclarationError: the field is no name, or a number is out of range.
    """
    if not isinstance(field, str) or not field.isidentifier():
        raise DeclarationError(f"text_complexity() takes the name of an input field, such as 'question', got {field!r}")
    if not isinstance(threshold, float) or not 0 < threshold < 1:
        raise DeclarationError(f"text_complexity(threshold=) is a number above 0 and below 1, got {threshold!r}")
    if until is not None and (not isinstance(until, int) or isinstance(until, bool) or until < 1):
        raise DeclarationError(f"text_complexity(until=) is a number of runs, 1 or more, or None, got {until!r}")
    model = load()

    def classify(request: RouteRequest) -> tuple[Literal["fast", "deep"], str] | None:
        if until is not None and request.known_runs >= until:
            return None
        text = request.input.get(field)
        if not isinstance(text, str) or not wording.is_latin(text):
            return None
        counts = wording.counts(text)
        chance = model.chance(counts)
        path: Literal["fast", "deep"] = "deep" if chance >= threshold else "fast"
        return path, _reason(field, chance, counts, model.parts(counts))

    return classify


def _reason(field: str, chance: float, counts: Mapping[str, int], parts: Mapping[str, float]) -> str:
    """One sentence: the probability, and the features that speak for it the most."""
    complex_ = chance >= THRESHOLD_DEFAULT
    heaviest = sorted(parts, key=lambda name: parts[name], reverse=complex_)[:REASONS_SHOWN]
    because = ", ".join(wording.counted(name, counts[name]) for name in heaviest)
    kind = "several steps" if complex_ else "one answer"
    shown = min(max(chance, 0.01), 0.99)  # a model of words is never certain
    return f"the wording of {field!r} asks for {kind}: probability of several steps {shown:.2f}, with {because}"
