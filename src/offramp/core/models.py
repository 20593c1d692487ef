"""Pydantic's types: how they are written, read and described, and which parts would be lost.

Pydantic is recognised by its methods and imported only where one of its types is used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from offramp.errors import DeclarationError

ADAPTERS_MAX = 1_000
"""Type adapters kept in the cache."""
NO_DEFAULT: Any = object()
"""Stands for a default that is missing or differs from call to call."""


class ModelField(NamedTuple):
    """A field as its annotation and a function that makes its default, None for a required one."""

    name: str
    annotation: Any
    default: Any


def is_model(wanted: object) -> bool:
    """Whether this is a class of pydantic models."""
    return isinstance(wanted, type) and callable(getattr(wanted, "model_validate_json", None))


def is_pydantic(wanted: object) -> bool:
    """Whether pydantic says how this type is written: models, URLs, constrained types."""
    return is_model(wanted) or hasattr(wanted, "__get_pydantic_core_schema__")


def is_secret(wanted: object) -> bool:
    """Whether this is `SecretStr`, `SecretBytes` or `Secret[...]`, which are written as asterisks."""
    return isinstance(wanted, type) and hasattr(wanted, "get_secret_value")


@functools.lru_cache(ADAPTERS_MAX)
def adapter(wanted: Any) -> Any:
    """Pydantic's adapter for any annotation that it knows."""
    from pydantic import TypeAdapter

    return TypeAdapter(wanted)


def dumped(value: Any) -> bytes:
    """A value of a pydantic type as JSON that reads as the same value: by alias, without computed fields."""
    if is_model(type(value)):
        made: str = value.model_dump_json(round_trip=True, by_alias=True)
        return made.encode()
    kind: Any = type(value)
    encoded: bytes = adapter(kind).dump_json(value, round_trip=True, by_alias=True)
    return encoded


def loaded(wanted: Any, encoded: bytes) -> Any:
    """The value of a pydantic type that this JSON stands for: validated as JSON, where text may be a date."""
    return wanted.model_validate_json(encoded) if is_model(wanted) else adapter(wanted).validate_json(encoded)


def schema_of(wanted: Any) -> dict[str, Any]:
    """JSON Schema of what `dumped` writes and `loaded` reads."""
    made: dict[str, Any] = adapter(wanted).json_schema(by_alias=True, mode="validation")
    return made


def fields_of(model: Any, place: str) -> list[ModelField]:
    """A model's fields, all of which survive being written and read.

    Args:
        model: the class.
        place: where it is used, for the error.

    Raises:
        DeclarationError: a field would be lost, or a type that a field names is not there.
    """
    if not getattr(model, "__pydantic_complete__", True):
        try:
            model.model_rebuild()
        except Exception as error:
            raise DeclarationError(
                f"{place}: model {model.__name__} names a type that is not defined yet ({_first_line(error)}). Define "
                "or import that type at module level, outside 'if TYPE_CHECKING', before the step is declared, or call "
                f"{model.__name__}.model_rebuild() there"
            ) from error
    made = []
    for name, field in model.model_fields.items():
        where = f"{place}: field {name!r} of {model.__name__}"
        if field.exclude:
            raise DeclarationError(
                f"{where} has exclude=True: it would be lost between the step and the body. Drop exclude=, or leave "
                "the field out of a model of its own that is passed"
            )
        _require_one_alias(model, name, field, where)
        made.append(ModelField(name, field.annotation, None if field.is_required() else _default_of(field)))
    return made


def _default_of(field: Any) -> Any:
    if getattr(field, "default_factory_takes_validated_data", False):
        return lambda: NO_DEFAULT
    return lambda: field.get_default(call_default_factory=True)


def _require_one_alias(model: Any, name: str, field: Any, where: str) -> None:
    config = model.model_config
    written = field.serialization_alias or name
    accepted = _read_as(field.validation_alias) if config.get("validate_by_alias", True) else set()
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    if field.validation_alias is None or by_name:
        accepted.add(name)
    if written not in accepted:
        raise DeclarationError(
            f"{where} is written as {written!r} and read as {' or '.join(map(repr, sorted(accepted)))}, so it does not "
            f"come back. Give it one alias=, or validation_alias=AliasChoices(..., {written!r})"
        )


def _read_as(alias: Any) -> set[str]:
    if alias is None:
        return set()
    if isinstance(alias, str):
        return {alias}
    choices = getattr(alias, "choices", None)  # AliasChoices; an AliasPath reads below another field
    if choices is not None:
        return {found for choice in choices for found in _read_as(choice)}
    path = getattr(alias, "path", [])
    return {path[0]} if len(path) == 1 else {".".join(map(str, path))}


@functools.lru_cache(ADAPTERS_MAX)
def pattern(expression: str) -> Callable[[str], bool]:
    """Whether a text matches a regular expression anywhere, in linear time.

    Raises:
        ImportError: pydantic, which brings such an engine, is not installed.
        ValueError: the expression needs more than linear time, or is none.
    """
    from pydantic import StringConstraints

    try:
        made = adapter(Annotated[str, StringConstraints(pattern=expression)])
    except Exception as error:  # of a class that only pydantic's core names
        raise ValueError(_first_line(error)) from error
    fits: Callable[[str], bool] = made.validator.isinstance_python
    return fits


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
