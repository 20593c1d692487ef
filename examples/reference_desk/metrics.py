"""The numbers of a function, each with the source of its definition. Pure: syntax trees and words in."""

import ast
import hashlib
import math
from collections.abc import Iterable, Iterator

import msgspec

Function = ast.FunctionDef | ast.AsyncFunctionDef

_DECISIONS = (
    ast.If | ast.IfExp | ast.For | ast.AsyncFor | ast.While | ast.ExceptHandler | ast.Assert | ast.comprehension
)


class Word(msgspec.Struct, frozen=True):
    """A token that carries meaning: an operator or keyword, or else an operand: a name or a literal."""

    line: int
    is_operator: bool
    text: str


def complexity(function: Function) -> int:
    """Count the independent paths through a function: its decisions plus one.

    McCabe, "A Complexity Measure", IEEE Transactions on Software Engineering 2(4), 1976. Decisions are `if`,
    `elif`, conditional expressions, `for`, `while`, `except`, `assert`, each `for` and `if` of a
    comprehension, each case of a `match` but a last one that always matches, and each `and` and `or`
    (McCabe's section on compound conditions). A nested function counts for itself and not for the one around
    it.
    """
    return 1 + sum(map(_decisions, _own_nodes(function)))


def shape(function: Function) -> str:
    """Return a digest of a function in which names are numbered by first use and literals are types.

    Functions of one shape are the "type-2 clones" of Roy and Cordy, "A Survey on Software Clone Detection
    Research", 2007. Attribute names count: `a.read()` and `a.write()` are not the same thing.
    """
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    numbers: dict[str, int] = {}
    digest = hashlib.blake2b(digest_size=8)
    for part in [function.args, *body]:
        for node in ast.walk(part):
            digest.update(_outline(node, numbers).encode())
    return digest.hexdigest()


def volume(words: Iterable[Word]) -> float:
    """Return the size of a text in bits: its words, each chosen among as many as are different.

    Halstead, "Elements of Software Science", 1977: V = N log2 n.
    """
    texts = [(word.is_operator, word.text) for word in words]
    return len(texts) * math.log2(max(2, len(set(texts))))


def maintainability(volume_bits: float, complexity: int, lines: int) -> float:
    """Return how easy a function is to maintain, from 0 to 100; Visual Studio warns below 10.

    Oman and Hagemeister, "Metrics for Assessing a Software System's Maintainability", ICSM 1992, with the
    coefficients of Coleman et al., "Using Metrics to Evaluate Software System Maintainability", IEEE Computer
    27(8), 1994, without their term for comments, and scaled to 0-100 as Visual Studio does.
    """
    index = 171 - 5.2 * math.log(max(1.0, volume_bits)) - 0.23 * complexity - 16.2 * math.log(max(1, lines))
    return max(0.0, min(100.0, index * 100 / 171))


def _outline(node: ast.AST, numbers: dict[str, int]) -> str:
    kind = type(node).__name__
    match node:
        case ast.Name(id=name) | ast.arg(arg=name):
            return f"{kind}{numbers.setdefault(name, len(numbers))};"
        case ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
            return f"{kind}.{name};"
        case ast.Constant(value=value):
            return f"{kind}:{type(value).__name__};"
        case _:
            # ast.walk goes breadth first: how many children each node has makes the listing unambiguous.
            return f"{kind}{sum(1 for _ in ast.iter_child_nodes(node))};"


def _decisions(node: ast.AST) -> int:
    match node:
        case ast.BoolOp(values=values):
            return len(values) - 1
        case ast.comprehension(ifs=ifs):
            return 1 + len(ifs)
        case ast.Match(cases=cases):
            last = cases[-1]
            always = isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None and last.guard is None
            return len(cases) - always
        case _:
            return int(isinstance(node, _DECISIONS))


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    """Yield the nodes of a function's body without those of functions defined in it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Function):
            yield node
            waiting.extend(ast.iter_child_nodes(node))
