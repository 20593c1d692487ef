"""The rows of "What may be raised" in docs/reference/boundary.md: what a body sees the first time, and in a replay."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import NamedTuple

import msgspec

from offramp import testing
from offramp.core.failure import replayable
from offramp.execution.endings import aborted
from tests.boundary import raising
from tests.boundary.raising import app, kind_of, of, seen
from tests.docs.pages import ROOT
from tests.support import result_of


class Row(NamedTuple):
    """The cases of a row; what a body sees of each is the live exception, or what `expect` says of the text."""

    names: list[str]
    expect: tuple[str, ...] = ()
    same: bool = True


CASES = {
    "a class of an imported module, with arguments and attributes of JSON's types": Row(["plain"]),
    "tuples, `bytes`, dates, `Decimal`, `Enum`, `UUID`, `Path`, classes and exceptions among them": Row(["typed"]),
    "`OSError` and its subclasses": Row(["no_file", "renamed", "no_number"]),
    "`UnicodeDecodeError`, `UnicodeEncodeError`": Row(["undecodable", "unencodable"]),
    "`KeyError`, `json.JSONDecodeError`, `SyntaxError`, `ImportError`": Row(
        ["no_key", "no_json", "no_syntax", "no_import"]
    ),
    "an `ExceptionGroup`, or a class of your own that derives from it": Row(["group", "own_group"]),
    "pydantic's `ValidationError`": Row(["model", "model_of_json", "model_own", "model_value"]),
    "the same of an input that cannot come back": Row(
        ["model_client"],
        ("ValidationError", "input_value=<a client>, input_type=Client", "'input': <a client>"),
        same=False,
    ),
    "an exception raised `from` another": Row(["raised_from"]),
    "notes (`add_note`)": Row(["noted"]),
    "the traceback and `__context__`": Row(["with_context"]),
    "attributes that cannot come back, such as an `error.response`": Row(
        ["with_response"], ("raising:Plain '429 later' ('429 later',)", "[('status', 429)]"), same=False
    ),
    "a class that another process cannot find: a local one": Row(
        ["local"],
        ("_local.<locals>.Local \"('of a function', 2)\" ('of a function', 2)", "'ValueError', 'Odd', 'StepFailed'"),
        same=False,
    ),
    "arguments that cannot come back (a client, a file), or of more than 8,000 bytes": Row(
        ["with_client", "large"], ("tests.boundary.raising:Odd '", "'ValueError', 'Odd', 'StepFailed'"), same=False
    ),
    "a set of several values as an argument": Row(
        ["with_set"], ("tests.boundary.raising:Odd \"{'", "'ValueError', 'Odd', 'StepFailed'"), same=False
    ),
    "a class whose `__str__` fails": Row(["unspeakable"]),
    "`SystemExit`, `KeyboardInterrupt`, `GeneratorExit`, a `BaseException` of your own": Row(
        ["exits", "interrupts", "closes", "loose"],
        ("offramp.errors:Aborted", "ended with", "which is not an Exception"),
        same=False,
    ),
    "a panic of a Rust extension": Row(
        ["panics"], ("offramp.errors:Aborted", "PanicException: index out of bounds", "raising:PanicException 'index"),
        same=False,
    ),
    "a `BaseExceptionGroup`": Row(["many"], ("offramp.errors:Aborted", "from builtins:BaseExceptionGroup"), same=False),
    "a `CancelledError` that nothing requested": Row(
        ["stray"], ("offramp.errors:Aborted", "CancelledError, though nothing cancelled it"), same=False
    ),
}  # fmt: skip
ALL = [name for row in CASES.values() for name in row.names]


def rows(title):
    """The first cells of the table below a heading of docs/reference/boundary.md."""
    text = (ROOT / "docs" / "reference" / "boundary.md").read_text(encoding="utf-8")
    table = text.split(f"## {title}\n")[1].split("\n## ")[0]
    return [re.split(r"(?<!\\) \| ", line)[0].strip("| ") for line in table.splitlines() if line.startswith("| ")][1:]


def test_every_row_is_executed():
    assert rows("What may be raised") == list(CASES)
    assert sorted(ALL) == sorted(raising.RAISES)
    assert " ".join(map(kind_of, ALL)) == (
        "Plain Odd FileNotFoundError FileNotFoundError PermissionError UnicodeDecodeError UnicodeEncodeError KeyError "
        "JSONDecodeError SyntaxError ModuleNotFoundError ExceptionGroup ByHand ValidationError ValidationError "
        "ValidationError ValidationError ValidationError Odd Odd Odd Plain Local Odd Odd Odd Unspeakable SystemExit "
        "KeyboardInterrupt GeneratorExit Loose PanicException BaseExceptionGroup CancelledError"
    )


async def test_a_body_sees_the_same_at_first_and_in_a_replay():
    first = await testing.replays(app, "meets_all", names=ALL, lane="loop")
    assert "it returned" not in first.values()
    for row in CASES.values():
        for name in row.names:
            assert not row.same or seen(of(name)) in first[name]
            assert [text for text in row.expect if text not in first[name]] == []


def test_another_process_makes_the_same_of_what_is_recorded(tmp_path):
    recorded, expected = {}, {}
    for name in ALL:
        live = of(name)
        error = live if isinstance(live, Exception) else aborted(live, "step 'on_loop'")
        failure, given = replayable(error)
        recorded[name], expected[name] = failure, seen(given)
    file = tmp_path / "failures"
    file.write_bytes(msgspec.msgpack.encode(recorded))
    environment = os.environ | {"PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"}
    code = (
        "import sys, msgspec; from tests.boundary.raising import seen; from offramp.core.failure import *\n"
        "found = msgspec.msgpack.decode(open(sys.argv[1], 'rb').read(), type=dict[str, Failure])\n"
        "sys.stdout.buffer.write(msgspec.json.encode({n: seen(exception_of(f)) for n, f in found.items()}))"
    )
    made = subprocess.run([sys.executable, "-c", code, str(file)], cwd=ROOT, env=environment, stdout=-1, check=True)
    assert msgspec.json.decode(made.stdout) == expected


async def test_a_thread_raises_alike():
    in_thread = await testing.replays(app, "meets_all", names=ALL, lane="thread")
    async with testing.runtime(app) as runtime:
        on_loop = await result_of(await runtime.start("meets_all", names=ALL, lane="loop"))
    assert in_thread == {name: told.replace("'on_loop'", "'in_thread'") for name, told in on_loop.items()}


async def test_a_process_raises_alike():
    async with testing.runtime(app, processes=1) as runtime:
        for name in ALL:
            in_process = await result_of(await runtime.start("meets", name=name, lane="process"))
            on_loop = await result_of(await runtime.start("meets", name=name, lane="loop"))
            assert _kind(in_process) == _kind(on_loop)


def _kind(described):
    lines = [line for line in described.splitlines() if ":" in line.partition(" ")[0] and "(" in line]
    return lines[-1].partition(" ")[0], next(line for line in described.splitlines() if line.startswith("caught as"))
