"""Reads lists of structured fields (RFC 9651, 4.2.1) whose items are strings with integer and string parameters."""

from __future__ import annotations

import re

_ITEM = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"((?:; *[a-z*][a-z0-9_.*-]*=(?:-?[0-9]{1,15}|"[ !#-\[\]-~]*"))*)')
_PARAMETER = re.compile(r'; *([a-z*][a-z0-9_.*-]*)=(?:(-?[0-9]+)|"([^"]*)")')


def parsed(field: str) -> dict[str, dict[str, int | str]]:
    """The items by name, each with its parameters."""
    found: dict[str, dict[str, int | str]] = {}
    for part in re.split(r"[ \t]*,[ \t]*", field):
        item = _ITEM.fullmatch(part)
        assert item is not None, f"{part!r} is no item of a structured field"
        assert item[1] not in found, f"{item[1]!r} comes twice"
        parameters = _PARAMETER.findall(item[2])
        found[item[1]] = {name: text if not number else int(number) for name, number, text in parameters}
    return found
