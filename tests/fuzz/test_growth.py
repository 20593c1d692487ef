"""No input costs more than linear time. `make fuzz` tries every shape, with another seed."""

from __future__ import annotations

import re

from tests.fuzz import growth

SEED = 1
SHAPES = 25


def test_the_time_of_every_parser_grows_as_its_input():
    assert [found for shape in growth.shapes(SEED, SHAPES) if (found := growth.excess(shape))] == []


def test_quadratic_time_is_found(monkeypatch):
    backtracks = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
    monkeypatch.setattr(growth, "SMALL", growth.SMALL // 8)
    monkeypatch.setattr(growth, "LARGE", growth.LARGE // 8)
    monkeypatch.setitem(growth.PARSERS, "signal", lambda body: backtracks.sub(b"", body))
    assert growth.excess(growth.Shape("signal", b'"', b"", b'\\"'))
