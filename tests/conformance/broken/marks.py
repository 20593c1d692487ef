"""How a planted bug says which obligation it breaks."""

from __future__ import annotations


def breaks(obligation):
    """Mark a class as an adapter with one bug."""

    def mark(made):
        made.breaks = obligation
        return made

    return mark


def bugs_in(*modules):
    """The marked classes of modules, in the order they are written."""
    found = [(module, value) for module in modules for value in vars(module).values() if isinstance(value, type)]
    return [kind for module, kind in found if "breaks" in vars(kind) and kind.__module__ == module.__name__]
