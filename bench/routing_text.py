"""The text part of the routing benchmark: how well wording alone says whether a request needs several steps.

2,428 labelled requests (bench/data/requests.jsonl.gz), by cross-validation and with one family of requests left out:
the word count, nine plain counts, and the features and training of `offramp.text_complexity`. `--requests` asks the
model that ships about others. `bench/routing.py` prints this part, too. See README.md.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench._report import Target, show, table  # noqa: E402 - found through the line above
from offramp.complexity import load  # noqa: E402
from offramp.core import wording  # noqa: E402
from tools.train_text_complexity import Request, auc, fit, read, values  # noqa: E402

FOLDS = 10
FAMILIES = ("qa", "taskbench", "bfcl")
"""Those with enough requests of both labels."""
AUC_TO_BEAT = {"qa": 0.70, "taskbench": 0.86, "bfcl": 0.83}
"""What a logistic model over nine surface features reached on each family, trained on the others."""
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


def judged(path: Path) -> Measured:
    """The model that ships, on other requests: one JSON object a line, with `text`, `label` and `family`."""
    model, begin = load(), time.process_time()
    rows = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    odds = [model.odds(wording.counts(row["text"])) for row in rows]
    us = (time.process_time() - begin) / len(rows) * 1e6
    wanted = [row["label"] == "complex" for row in rows]
    by_part = {"all": range(len(rows))} | {
        family: [index for index, row in enumerate(rows) if row["family"] == family] for family in FAMILIES
    }
    scored = {
        name: score([odds[index] for index in part], [wanted[index] for index in part])
        for name, part in by_part.items()
        if len({wanted[index] for index in part}) == 2
    }
    return Measured(scores={"text_complexity": scored}, us_per_text=us)


def render(measured: Measured, parts: str = "without") -> str:
    """The results for a person."""
    cells = [
        [name, *(f"{each.right:.2f} / {each.auc:.2f}" for each in by_part.values())]
        for name, by_part in measured.scores.items()
    ]
    parts_scored = next(iter(measured.scores.values()))
    titles = ["right / AUC", *(part if part == "all" else f"{parts} {part}" for part in parts_scored)]
    return f"{table(titles, cells)}\n\ntext_complexity: {measured.us_per_text:.0f} µs of CPU a text"


def targets(measured: Measured) -> list[Target]:
    """The targets of the design."""
    ours = measured.scores["text_complexity"]
    return [
        Target(f"AUC of text, trained without {family}", ours[family].auc, auc, at_least=True)
        for family, auc in AUC_TO_BEAT.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=Path, metavar="FILE.jsonl", help="ask the model that ships about these")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    given = parser.parse_args()
    if given.requests:
        measured = judged(given.requests)
        show(measured, render(measured, "only"), [], as_document=given.json)
    else:
        measured = measure()
        show(measured, render(measured), targets(measured), as_document=given.json)


if __name__ == "__main__":
    main()
