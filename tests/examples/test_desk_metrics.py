"""The numbers of a function, each against examples that can be counted by hand."""

import ast
import math
from textwrap import dedent

import pytest

from examples.reference_desk.metrics import Function, Word, complexity, maintainability, shape, volume


def function(source: str) -> Function:
    """Parse one function."""
    (node,) = ast.parse(dedent(source)).body
    assert isinstance(node, Function)
    return node


def with_body(*lines: str) -> Function:
    """Parse a function with this body."""
    return function("\n".join(["async def f(a, b):", *(f"    {line}" for line in lines)]))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["pass"], 1),
        (["if a: pass"], 2),
        (["if a: pass", "elif b: pass", "else: pass"], 3),
        (["return a if b else 0"], 2),
        (["return a and b and a or b"], 4),
        (["for x in a: pass", "else: pass"], 2),
        (["async for x in a: pass"], 2),
        (["while a: pass"], 2),
        (["try: pass", "except ValueError: pass", "except OSError: pass", "finally: pass"], 3),
        (["assert a"], 2),
        (["with a: pass"], 1),
        (["return [x for x in a if x if b for y in b]"], 5),
        (["match a:", "    case 1: pass", "    case 2: pass"], 3),
        (["match a:", "    case 1: pass", "    case _: pass"], 2),
        (["match a:", "    case 1: pass", "    case other: pass"], 2),
        (["match a:", "    case 1: pass", "    case _ if b: pass"], 3),
    ],
)
def test_complexity_is_decisions_plus_one(lines: list[str], expected: int) -> None:
    assert complexity(with_body(*lines)) == expected


def test_a_nested_function_counts_for_itself() -> None:
    outer = with_body("def g():", "    if a: pass", "return g")
    assert complexity(outer) == 1
    inner = outer.body[0]
    assert isinstance(inner, Function)
    assert complexity(inner) == 2


def test_names_literals_and_docstrings_do_not_change_a_shape() -> None:
    one = function("def f(a, b=1):\n    '''Add.'''\n    total = a + b\n    return total.real")
    two = function("def g(x, y=2):\n    result = x + y\n    return result.real")
    assert shape(one) == shape(two)


@pytest.mark.parametrize(
    "other",
    [
        "def f(a, b):\n    return a.read(a)",
        "def f(a, b):\n    return a.write(b)",
        "def f(a, b):\n    return a.read(b, b)",
        "def f(a, b):\n    return a.read(1)",
        "def f(a, b):\n    return a.read(b=b)",
        "def f(a, b):\n    a.read(b)",
    ],
)
def test_what_is_done_changes_a_shape(other: str) -> None:
    assert shape(function("def f(a, b):\n    return a.read(b)")) != shape(function(other))


def test_volume_is_halsteads() -> None:
    name, equals = Word(1, is_operator=False, text="a"), Word(1, is_operator=True, text="=")
    assert volume([name, equals, name]) == 3 * math.log2(2)
    assert volume([]) == 0


def test_maintainability_falls_with_each_of_its_terms_and_stays_on_its_scale() -> None:
    best = maintainability(volume_bits=1, complexity=1, lines=1)
    assert best == pytest.approx((171 - 0.23) * 100 / 171)
    assert maintainability(8_000, 1, 100) > maintainability(16_000, 1, 100)
    assert maintainability(8_000, 1, 100) > maintainability(8_000, 9, 100)
    assert maintainability(8_000, 1, 100) > maintainability(8_000, 1, 200)
    assert maintainability(1e9, 500, 10_000) == 0
