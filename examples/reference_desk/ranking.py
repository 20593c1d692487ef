"""Merges rankings. Pure, so a pipeline may call it directly; a replay computes the same result."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from .topics import Passage

RANK_CONSTANT = 60
"""The `k` of the formula, as its authors set it; larger values give late places more weight."""


def fuse(rankings: Iterable[Sequence[Passage]], limit: int) -> list[Passage]:
    """Merge rankings into one without duplicates, the best first, by reciprocal rank fusion.

    A passage scores the sum of 1 / (60 + its place) over the rankings it is in (Cormack, Clarke and Büttcher,
    "Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank Learning Methods", SIGIR 2009). Only
    places count, so rankings whose scores cannot be compared may be merged. Equal scores are ordered by
    passage, never by chance.
    """
    scores: dict[Passage, float] = defaultdict(float)
    for ranking in rankings:
        for place, passage in enumerate(dict.fromkeys(ranking), start=1):
            scores[passage] += 1 / (RANK_CONSTANT + place)
    best_first = sorted(scores, key=lambda passage: (-scores[passage], passage.topic, passage.number))
    return best_first[:limit]
