"""How a planted bug says which obligation it breaks."""

from __future__ import annotations

from types import FunctionType


def breaks(obligation):
    """Mark an adapter with one bug, or a bug in a rule."""

    def mark(made):
        made.breaks = obligation
        return made

    return mark


def bugs_in(*modules):
    """What modules mark, in the order it is written."""
    found = [(module, value) for module in modules for value in vars(module).values()]
    marked = [(module, value) for module, value in found if isinstance(value, type | FunctionType)]
    return [made for module, made in marked if "breaks" in vars(made) and made.__module__ == module.__name__]
