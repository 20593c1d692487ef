"""What went in and out of a run's steps, for a person: `offramp show --steps` and `--step KEY`.

Owns the text; `core/inspection.py` decides what a gateway shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from rich.text import Text

from offramp.cli.output import REFUSED, CommandError, one_line, printable
from offramp.cli.view import duration, error_text
from offramp.core.names import did_you_mean

VALUE_SHOWN_MAX = 300
"""Characters of a value with `--steps`; `--step` shows it whole."""
CALLS_NAMED_MAX = 10
_STYLES = {"completed": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "retrying": "yellow"}


def key_of(steps: list[dict[str, Any]], given: str) -> str:
    """The key of the step that a person named: by its key, or by its name if the run called it once.

    Raises:
        CommandError: no step has that key or name, or several calls have that name.
    """
    if any(step["key"] == given for step in steps):
        return given
    named = [step for step in steps if step["name"] == given]
    if not named:
        known = [step[name] for step in steps for name in ("name", "key")]
        raise CommandError(f"the run has called no step {given!r}; {did_you_mean(given, known)}", REFUSED)
    if len(named) > 1:
        calls = [step["key"] + (f" ({step['label']})" if step.get("label") else "") for step in named]
        listed = ", ".join(calls[:CALLS_NAMED_MAX]) + (", …" if len(calls) > CALLS_NAMED_MAX else "")
        raise CommandError(f"the run called {given!r} {len(calls)} times: name one by its key, {listed}")
    return str(named[0]["key"])


def listed(document: Mapping[str, Any]) -> Iterable[Text]:
    """The input of a run and its steps, each value in one line."""
    if document.get("input") is not None:
        yield from (Text(), _named("input", _brief(document["input"])))
    for step in document.get("steps") or []:
        if "arguments" not in step:
            return  # not asked for
        yield Text()
        yield from _head(step)
        for name in ("arguments", "result"):
            if step.get(name) is not None:
                yield _named(name, _brief(step[name]))
        yield from _failures(step)


def whole(step: Mapping[str, Any]) -> Iterable[Text]:
    """One step with its values whole, and the traceback of its failure."""
    yield from _head(step)
    for name in ("arguments", "result"):
        if step.get(name) is not None:
            yield from (Text(), Text(name, style="dim"), Text(printable(_pretty(step[name]))))
    failures = list(_failures(step))
    if failures:
        yield from (Text(), *failures)
    error = step.get("error") or {}
    if error.get("traceback"):
        yield from (Text(), Text(printable(error["traceback"])))


def _head(step: Mapping[str, Any]) -> Iterable[Text]:
    label = f" ({one_line(step['label'])})" if step.get("label") else ""
    label += f" by {one_line(step['target'])}" if step.get("target") else ""
    took = "" if step.get("duration_ms") is None else f" in {duration(step['duration_ms'])}"
    attempts = f", {step['attempts']} attempts" if step.get("attempts", 1) > 1 else ""
    status = str(step.get("status"))
    yield Text.assemble(
        (one_line(str(step.get("name"))) + label, "bold"), "  ", (status, _STYLES.get(status, "")), f"{took}{attempts}"
    )
    yield _named("key", one_line(str(step.get("key"))))


def _failures(step: Mapping[str, Any]) -> Iterable[Text]:
    for each in step.get("failures") or []:
        by = f"by {one_line(each['target'])}: " if each.get("target") else ""
        yield _named(f"attempt {each.get('attempt')}", by + error_text({**each, "attempt": 1}))


def _named(name: str, value: str) -> Text:
    return Text.assemble((f"  {name:<10}  ", "dim"), value)


def _brief(value: Any) -> str:
    if _is_cut(value):
        return one_line(f"{value['preview']}… ({value['bytes']:,} bytes; whole with --step)")
    text = one_line(msgspec.json.encode(value).decode())
    return text if len(text) <= VALUE_SHOWN_MAX else f"{text[:VALUE_SHOWN_MAX]}… ({len(text):,} characters; --step)"


def _pretty(value: Any) -> str:
    if _is_cut(value):
        return f"{value['preview']}… ({value['bytes']:,} bytes; more was not recorded, see record_arguments)"
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _is_cut(value: Any) -> bool:
    return isinstance(value, dict) and value.get("truncated") is True and {"bytes", "preview", "link"} <= value.keys()
