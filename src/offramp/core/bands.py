"""Histograms of durations whose bands grow by a fixed factor, kept in named cells, and merged by adding. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

BANDS_PER_DOUBLING = 2
BAND_MIN, BAND_MAX = -20, 40
"""About a millisecond, and twelve days."""
PARTS = 4
"""A duration counts in two neighbouring bands, by its distance from their middles, in so many parts: sums of such
numbers are exact, in whatever order they are added."""
LEAST = 1e-12
"""A smaller weight of a band is none: what differences of sums leave."""
Counts = dict[str, dict[str, float]]
"""Cells by name, each with its weights by band; stored and shared as they are."""


def place_of(seconds: float) -> float:
    """Where a duration lies on the scale of bands: band n is from n to n + 1."""
    if not seconds > 0:
        return BAND_MIN
    return min(max(math.log2(seconds) * BANDS_PER_DOUBLING, BAND_MIN), BAND_MAX)


def seconds_at(place: float) -> float:
    """The duration at this place on the scale."""
    return float(2 ** (place / BANDS_PER_DOUBLING))


def weights_of(seconds: float) -> dict[str, float]:
    """What one duration adds to a cell."""
    middle = place_of(seconds) - 0.5
    lower = math.floor(middle)
    upper_part = round((middle - lower) * PARTS) / PARTS
    parts = {str(lower): 1 - upper_part, str(lower + 1): upper_part}
    return {band: part for band, part in parts.items() if part}


def add(into: Counts, more: Mapping[str, Mapping[str, float]]) -> None:
    """Add the cells of `more`, in place."""
    for name, weights in more.items():
        cell = into.setdefault(name, {})
        for band, weight in weights.items():
            cell[band] = cell.get(band, 0.0) + weight


class Cell:
    """A histogram in memory.

    Attributes:
        runs: the sum of its weights.
        weights: by band.
    """

    __slots__ = ("_asked", "runs", "weights")

    def __init__(self) -> None:
        self.runs = 0.0
        self.weights: dict[int, float] = {}
        self._asked: tuple[float, float] | None = None
        """The place that was asked about last, and the weight above it."""

    def add(self, weights: Mapping[str, float], times: float = 1.0) -> None:
        """Add the weights of a stored cell, each so many times."""
        for name, weight in weights.items():
            band = int(name)
            before = self.weights.get(band, 0.0)
            now = before + weight * times
            if now > LEAST:
                self.weights[band] = now
                self.runs += now - before
            else:
                self.runs -= self.weights.pop(band, 0.0)
        self._asked = None

    def above_place(self, place: float) -> float:
        """The weight above a place on the scale; cheap for the one that was asked about last, as a budget is."""
        if self._asked is None or self._asked[0] != place:
            self._asked = place, above(self.weights.items(), place)
        return self._asked[1]

    def above(self, seconds: float) -> float:
        """The runs that took longer."""
        return above(self.weights.items(), place_of(seconds)) if seconds > 0 else self.runs


def above(weights: Iterable[tuple[int, float]], place: float) -> float:
    """The weight above this place; a band counts by the part of it that lies above."""
    total = 0.0
    for band, weight in weights:
        if band >= place:
            total += weight
        elif band + 1 > place:
            total += weight * (band + 1 - place)
    return total


def quantiles(weights: Iterable[tuple[int, float]], shares: Iterable[float]) -> list[float]:
    """The durations below which these shares of the weight lie."""
    ordered = sorted(weights)
    whole = sum([weight for _, weight in ordered])
    return [_within(ordered, share * whole) for share in shares]


def _within(ordered: list[tuple[int, float]], left: float) -> float:
    """The duration below which so much of the weight lies."""
    for band, weight in ordered:
        if weight >= left:
            return seconds_at(band + left / weight) if weight else seconds_at(band)
        left -= weight
    return seconds_at(ordered[-1][0] + 1)
