"""Fixtures of `tests/resources` for the failovers that use its provider."""

from tests.resources.conftest import _collected  # noqa: F401 - an autouse fixture
