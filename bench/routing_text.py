"""The text part of the routing benchmark: how well wording alone says whether a request needs several steps.

2,428 labelled requests (bench/data/requests.jsonl.gz), by cross-validation and with one family of requests left out:
the word count, nine plain counts, and the features and training of `offramp.text_complexity`. See README.md.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench._report import table  # noqa: E402 - found through the line above
from offramp.core import wording  # noqa: E402
from tools.train_text_complexity import Request, fit, read, values  # noqa: E402

FOLDS = 10
FAMILIES = ("qa", "taskbench", "bfcl")
"""Those with enough requests of both labels."""
TIMED = 2_000


class Score(msgspec.Struct, frozen=True):
    """Share decided right at a probability of a half, and the area under the ROC curve."""

    right: float
    auc: float


class Contender(NamedTuple):
    """A model: what it looks at, and whether its weights may be negative."""

    name: str
    row: Callable[[str], list[float]]
    signed: bool


class Measured(msgspec.Struct, kw_only=True):
    """All results: scores by contender, then `all` for cross-validation, or the family that was left out."""

    scores: dict[str, dict[str, Score]]
    us_per_text: float


def plain(text: str) -> list[float]:
    """Nine counts that need no knowledge of the language."""
    words = text.split()
    lowered = text.lower().split()
    return [
        math.log1p(len(words)),
        math.log1p(len(text)),
        text.count(","),
        text.count("?"),
        sum(letter.isdigit() for letter in text),
        lowered.count("and"),
        len(re.findall(r"[.!?](?:\s|$)", text)),
        sum(word[0].isupper() for word in words),
        sum(word in wording.RELATIVE for word in lowered),
    ]


CONTENDERS = (
    Contender("word count", lambda text: [math.log1p(len(text.split()))], signed=True),
    Contender("nine plain counts", plain, signed=True),
    Contender("text_complexity", values, signed=False),
)


def auc(odds: Sequence[float], wanted: Sequence[bool]) -> float:
    """The chance that a complex request gets more than a simple one; ties count half."""
    low = sorted(value for value, is_complex in zip(odds, wanted, strict=True) if not is_complex)
    high = [value for value, is_complex in zip(odds, wanted, strict=True) if is_complex]
    return sum(bisect_left(low, value) + bisect_right(low, value) for value in high) / (2 * len(low) * len(high))


def score(odds: Sequence[float], wanted: Sequence[bool]) -> Score:
    right = sum((value >= 0) == is_complex for value, is_complex in zip(odds, wanted, strict=True))
    return Score(right / len(wanted), auc(odds, wanted))


def held_out(rows: Sequence[list[float]], wanted: Sequence[bool], part: Sequence[int], *, signed: bool) -> list[float]:
    """The odds of the requests in `part`, by a model fitted to the others."""
    left_out = set(part)
    others = [index for index in range(len(rows)) if index not in left_out]
    fitted = fit([rows[index] for index in others], [wanted[index] for index in others], signed=signed)
    return [fitted.odds(rows[index]) for index in part]


def scores(contender: Contender, requests: Sequence[Request]) -> dict[str, Score]:
    rows = [contender.row(request.text) for request in requests]
    wanted = [request.complex for request in requests]
    odds = [0.0] * len(rows)
    for fold in range(FOLDS):  # the rows are sorted by source, so every fold has its share of each
        part: Sequence[int] = range(fold, len(rows), FOLDS)
        for index, value in zip(part, held_out(rows, wanted, part, signed=contender.signed), strict=True):
            odds[index] = value
    result = {"all": score(odds, wanted)}
    for family in FAMILIES:
        part = [index for index, request in enumerate(requests) if request.family == family]
        result[family] = score(held_out(rows, wanted, part, signed=contender.signed), [wanted[index] for index in part])
    return result


def measure() -> Measured:
    """Scores of all contenders, and the time that the features of one text take."""
    _, requests = read()
    begin = time.process_time()
    for request in requests[:TIMED]:
        values(request.text)
    us = (time.process_time() - begin) / TIMED * 1e6
    return Measured(scores={each.name: scores(each, requests) for each in CONTENDERS}, us_per_text=us)


def lines(measured: Measured) -> str:
    """The results for a person."""
    cells = [
        [name, *(f"{each.right:.2f} / {each.auc:.2f}" for each in by_part.values())]
        for name, by_part in measured.scores.items()
    ]
    titles = ["right / AUC", f"{FOLDS} folds", *(f"without {family}" for family in FAMILIES)]
    return f"{table(titles, cells)}\n\ntext_complexity: {measured.us_per_text:.0f} us of CPU a text"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable results")
    measured = measure()
    if parser.parse_args().json:
        print(msgspec.json.encode(measured).decode())
    else:
        print(lines(measured))


if __name__ == "__main__":
    main()
