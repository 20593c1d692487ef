"""The engine of the examples passes the suite, as far as one process can, and is as small as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.adapters import engine
from examples.adapters.harness import MEMORY, ONE_PROCESS
from offramp.conformance import engine_cases, prove_engine, prove_store, store_cases

LINES_MAX = 150


def applying(cases, harness):
    return [pytest.param(case, id=case.id) for case in cases if case.applies(harness.capabilities)]


@pytest.mark.parametrize("case", applying(engine_cases(), ONE_PROCESS))
async def test_the_engine_conforms(case):
    await prove_engine(case, ONE_PROCESS)


@pytest.mark.parametrize("case", applying(store_cases(), MEMORY))
async def test_the_store_conforms_by_the_harness_of_the_examples(case):
    await prove_store(case, MEMORY)


def test_the_engine_is_small():
    lines = Path(engine.__file__).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LINES_MAX
