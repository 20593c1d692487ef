"""Tests that kill real processes under leases of a second: for a machine that does nothing else, by `make chaos`."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker(pytest.mark.chaos)
