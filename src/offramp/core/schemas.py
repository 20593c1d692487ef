"""A JSON Schema with every definition at its root, where `#/$defs/…` looks for it (pydantic nests its own)."""

from __future__ import annotations

from typing import Any


def closed(schema: dict[str, Any], wrapper: str) -> dict[str, Any]:
    """The schema with all definitions at its root; that of the type called `wrapper` is the schema itself."""
    hoist = _Hoist()
    schema = hoist.hoisted(schema, {})
    if schema.get("$ref") == f"#/$defs/{wrapper}":
        schema = hoist.definitions.pop(wrapper) | {"title": "Input"}
    return schema | {"$defs": hoist.definitions} if hoist.definitions else schema


class _Hoist:
    """Moves every `$defs` to the root, where `#/$defs/…` looks for it (pydantic nests its own)."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._originals: dict[str, Any] = {}

    def hoisted(self, node: Any, names: dict[str, str]) -> Any:
        """The node without its definitions; `names` says what those in scope are called at the root."""
        if isinstance(node, list):
            return [self.hoisted(item, names) for item in node]
        if not isinstance(node, dict):
            return node
        own = node.get("$defs", {})
        if own:
            names = names | self._names(own)
            self._originals |= {names[name]: definition for name, definition in own.items()}
            for name, definition in own.items():
                self.definitions[names[name]] = self.hoisted(definition, names)
        made = {key: self.hoisted(value, names) for key, value in node.items() if key != "$defs"}
        reference = node.get("$ref")
        if isinstance(reference, str):
            prefix, _, name = reference.rpartition("/")
            made["$ref"] = f"{prefix}/{names.get(name, name)}"
        return made

    def _names(self, own: dict[str, Any]) -> dict[str, str]:
        """Names at the root for a set of definitions: new ones if another set uses one of them for something else."""
        number = 1
        while True:
            names = {name: name if number == 1 else f"{name}{number}" for name in own}
            if all(self._originals.get(names[name], definition) == definition for name, definition in own.items()):
                return names
            number += 1
