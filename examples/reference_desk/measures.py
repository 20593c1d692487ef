"""Measures a source file: its lines, its imports, and each of its functions.

Reads and parses files, and never imports or runs them. CPU-bound: meant for a separate process.
"""

import ast
import io
import keyword
import tokenize
import warnings
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .metrics import Function, Word, complexity, maintainability, shape, volume

_NOT_CODE = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
)


class FunctionMeasure(msgspec.Struct, frozen=True):
    """One function or method.

    `lines` counts everything from `def` on, `body_lines` only the lines after the signature and the docstring.
    Functions that differ only in names, literals and docstring have the same `shape`.
    """

    file: str
    name: str
    line: int
    lines: int
    body_lines: int
    complexity: int
    maintainability: float
    is_public: bool
    has_docstring: bool
    shape: str

    @property
    def place(self) -> str:
        """Say where it is, such as `json/decoder.py:343 JSONDecoder.decode`."""
        return f"{self.file}:{self.line} {self.name}"


class FileMeasure(msgspec.Struct, frozen=True):
    """One file; `imports` are the modules that it imports absolutely."""

    file: str
    lines: int
    code_lines: int
    comment_lines: int
    imports: list[str]
    functions: list[FunctionMeasure]


class Unparsed(msgspec.Struct, frozen=True):
    """A file that could not be read or is not valid for this version of Python, and why."""

    file: str
    reason: str


def measure_file(root: str, file: str) -> FileMeasure | Unparsed:
    """Measure one file; one that cannot be read or parsed is a finding, not a failure."""
    try:
        source = Path(root, file).read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the audited code, such as invalid escapes: not ours to report
            return measure_source(file, source)
    except (OSError, SyntaxError, ValueError, RecursionError, tokenize.TokenError) as error:
        return Unparsed(file=file, reason=f"{type(error).__name__}: {error}")


def measure_source(file: str, source: bytes) -> FileMeasure:
    """Measure the text of one file. Raises SyntaxError or ValueError if it is not Python."""
    tree = ast.parse(source)
    words, code_lines, comment_lines = _read_tokens(source)
    return FileMeasure(
        file=file,
        lines=len(source.splitlines()),
        code_lines=code_lines,
        comment_lines=comment_lines,
        imports=sorted(set(_imports(tree))),
        functions=[_measure_function(file, name, function, words) for name, function in _functions(tree, "")],
    )


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """Yield every function below a node with its qualified name, as `__qualname__` spells it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield prefix + child.name, child
            yield from _functions(child, f"{prefix}{child.name}.<locals>.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        else:
            yield from _functions(child, prefix)


def _measure_function(file: str, name: str, function: Function, words: list[Word]) -> FunctionMeasure:
    """Measure one function; `words` are those of the whole file, in order."""
    end_line = function.end_lineno or function.lineno
    first, end = (bisect_left(words, line, key=lambda word: word.line) for line in (function.lineno, end_line + 1))
    lines, decisions = end_line - function.lineno + 1, complexity(function)
    return FunctionMeasure(
        file=file,
        name=name,
        line=function.lineno,
        lines=lines,
        body_lines=_body_lines(function, end_line),
        complexity=decisions,
        maintainability=round(maintainability(volume(words[first:end]), decisions, lines), 1),
        is_public=not any(part.startswith(("_", "<")) for part in name.split(".")),
        has_docstring=ast.get_docstring(function, clean=False) is not None,
        shape=shape(function),
    )


def _body_lines(function: Function, end_line: int) -> int:
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return end_line - body[0].lineno + 1 if body else 0


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module


def _read_tokens(source: bytes) -> tuple[list[Word], int, int]:
    """Return the words of a file, its lines with code (or a docstring) and its lines with a comment."""
    words: list[Word] = []
    code: set[int] = set()
    comments = 0
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments += 1
        elif token.type not in _NOT_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
            is_operator = token.type == tokenize.OP or keyword.iskeyword(token.string)
            words.append(Word(line=token.start[0], is_operator=is_operator, text=token.string))
    return words, len(code), comments
