"""Trains the weights of `offramp.text_complexity`: `python tools/train_text_complexity.py`, with `--check` to compare.

A logistic model over the features of `offramp/core/wording.py`, fitted to the labelled requests in
bench/data/requests.jsonl.gz. No weight may be negative: every feature means more work in every family of requests, so
a weight that is negative in one family would only be a property of that family. Deterministic; needs nothing installed.
"""

from __future__ import annotations

import gzip
import json
import math
import sys
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from offramp.core import wording

ROOT = Path(__file__).resolve().parent.parent
REQUESTS = ROOT / "bench" / "data" / "requests.jsonl.gz"
WEIGHTS = ROOT / "src" / "offramp" / "complexity.json"

PENALTY = 0.03
"""Of the squared weights of standardised features, beside the mean log loss; 0.003 to 0.1 give nearly the same."""
ROUNDS_MAX = 500
SETTLED = 1e-7
DIGITS = 4


class Request(NamedTuple):
    """One labelled request."""

    text: str
    complex: bool
    family: str
    source: str


class Fitted(NamedTuple):
    """The log odds are `intercept` and the sum of `weight * (value - mean)` over the columns."""

    intercept: float
    weights: list[float]
    means: list[float]

    def odds(self, row: Sequence[float]) -> float:
        moved = zip(self.weights, row, self.means, strict=True)
        return self.intercept + sum(weight * (value - mean) for weight, value, mean in moved)


def read(path: Path = REQUESTS) -> tuple[dict[str, str], list[Request]]:
    """The licence of each source, and the requests."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        licences = json.loads(next(lines))["licences"]
        rows = [json.loads(line) for line in lines]
    return licences, [Request(row["text"], row["label"] == "complex", row["family"], row["source"]) for row in rows]


def values(text: str) -> list[float]:
    """The values of `wording.FEATURES`, in their order."""
    counts = wording.counts(text)
    return [wording.scaled(counts[name]) for name in wording.FEATURES]


def fit(
    rows: Sequence[Sequence[float]], wanted: Sequence[bool], *, penalty: float = PENALTY, signed: bool = False
) -> Fitted:
    """The weights with the least penalised log loss, by coordinate descent with Newton steps.

    Args:
        rows: values of the features, one row a request.
        wanted: whether each request is complex.
        penalty: of the squared weights of standardised features.
        signed: whether a weight may be negative.
    """
    size = len(rows)
    columns = [list(column) for column in zip(*rows, strict=True)]
    means = [sum(column) / size for column in columns]
    spreads = [
        math.sqrt(sum((value - mean) ** 2 for value in column) / size) or 1.0
        for column, mean in zip(columns, means, strict=True)
    ]
    scales = zip(columns, means, spreads, strict=True)
    standard = [[(value - mean) / spread for value in column] for column, mean, spread in scales]
    standard.append([1.0] * size)
    weights = [0.0] * len(standard)
    odds = [0.0] * size
    for _ in range(ROUNDS_MAX):
        farthest = 0.0
        for index, column in enumerate(standard):
            is_intercept = index == len(columns)
            chances = [1 / (1 + math.exp(-value)) for value in odds]
            shrink = 0.0 if is_intercept else penalty
            slope = sum((p - y) * x for p, y, x in zip(chances, wanted, column, strict=True)) / size
            bend = sum(p * (1 - p) * x * x for p, x in zip(chances, column, strict=True)) / size
            best = weights[index] - (slope + shrink * weights[index]) / (bend + shrink)
            step = (best if signed or is_intercept else max(0.0, best)) - weights[index]
            weights[index] += step
            farthest = max(farthest, abs(step))
            if step:
                odds = [value + step * x for value, x in zip(odds, column, strict=True)]
        if farthest < SETTLED:
            break
    return Fitted(weights[-1], [w / s for w, s in zip(weights, spreads, strict=False)], means)


def auc(odds: Sequence[float], wanted: Sequence[bool]) -> float:
    """The chance that a complex request gets more than a simple one; ties count half."""
    low = sorted(value for value, is_complex in zip(odds, wanted, strict=True) if not is_complex)
    high = [value for value, is_complex in zip(odds, wanted, strict=True) if is_complex]
    return sum(bisect_left(low, value) + bisect_right(low, value) for value in high) / (2 * len(low) * len(high))


def document() -> str:
    """The file of weights, with the sources that they come from."""
    licences, requests = read()
    fitted = fit([values(request.text) for request in requests], [request.complex for request in requests])
    weighed = zip(wording.FEATURES, fitted.weights, fitted.means, strict=True)
    rows = Counter(request.source.split("/")[0] for request in requests)
    content = {
        "about": "Weights of offramp.text_complexity; written by tools/train_text_complexity.py.",
        "sources": {name: {"requests": rows[name], "licence": licences[name]} for name in sorted(rows)},
        "intercept": round(fitted.intercept, DIGITS),
        "features": {
            name: {"weight": round(weight, DIGITS), "mean": round(mean, DIGITS)} for name, weight, mean in weighed
        },
    }
    return json.dumps(content, indent=2) + "\n"


def main(arguments: Sequence[str]) -> int:
    trained = document()
    if "--check" in arguments:
        same = WEIGHTS.read_text(encoding="utf-8") == trained
        print(
            "the weights are those of the requests" if same else f"{WEIGHTS.name} is stale: run {Path(__file__).name}"
        )
        return int(not same)
    WEIGHTS.write_text(trained, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
