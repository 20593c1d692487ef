"""Every row of "What may be waited for" in docs/reference/boundary.md is executed; `waits_*.py` have the cases."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.boundary.tables import rows

FILES = sorted(file.stem for file in Path(__file__).parent.glob("waits_*.py"))
CASES = {row: case for file in FILES for row, case in importlib.import_module(f"tests.boundary.{file}").CASES.items()}


def test_the_rows_are_those_that_are_executed():
    assert sorted(rows("What may be waited for")) == sorted(CASES)


@pytest.mark.parametrize("row", CASES)
async def test_a_wait_ends_as_its_row_says(row):
    await CASES[row]()
