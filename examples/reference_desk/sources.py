"""Selects the files that an audit reads, and divides them among steps.

Walks the tree within limits. Opens no file.
"""

import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

BATCH_BYTES_AIM = 192 * 1024
"""A batch is closed at this many bytes of source: a fraction of a second, far more than a step costs."""

BATCHES_MAX = 80
"""Larger trees get larger batches instead of more of them."""

FILES_MAX = 20_000
"""A tree with more files is refused."""

_NOT_SOURCE = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})

# In the standard library: tests, programs that ship with it, and tables.
_NOT_LIBRARY = frozenset({"test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "pydoc_data"})


class SourceTree(msgspec.Struct, frozen=True):
    """The files of one audit: paths relative to `root`, in batches."""

    root: str
    batches: list[list[str]]

    @property
    def files(self) -> int:
        """The number of files."""
        return sum(map(len, self.batches))


def source_tree(path: str | None) -> SourceTree:
    """List the Python files below `path`, or those of the standard library.

    Raises ValueError for a path outside the working directory, because the path comes from the server's callers; for
    one that is not a folder; and for a tree with more than `FILES_MAX` files.
    """
    root = _standard_library() if path is None else _permitted(path)
    sized = list(_python_files(root, _NOT_SOURCE | _NOT_LIBRARY if path is None else _NOT_SOURCE))
    return SourceTree(root=str(root), batches=in_batches(sized))


def in_batches(sized: Sequence[tuple[str, int]]) -> list[list[str]]:
    """Divide files, each with its size in bytes, into batches of about equal size, in order."""
    aim = max(BATCH_BYTES_AIM, sum(size for _, size in sized) // BATCHES_MAX + 1)
    batches: list[list[str]] = []
    filled = aim
    for name, size in sized:
        if filled >= aim:
            batches.append([])
            filled = 0
        batches[-1].append(name)
        filled += size
    return batches


def _standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib")).resolve()


def _permitted(path: str) -> Path:
    here, root = Path.cwd(), Path(path).resolve()
    if not root.is_relative_to(here):
        message = f"expected a folder below the server's working directory, got {path!r}"
        raise ValueError(message)
    if not root.is_dir():
        message = f"expected a folder, got {path!r}, which is not one"
        raise ValueError(message)
    return root


def _python_files(root: Path, skipped: frozenset[str]) -> Iterator[tuple[str, int]]:
    """Yield relative path and size of each file in an order that does not depend on the file system."""
    count = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not _is_skipped(Path(folder, name), skipped))
        for name in sorted(files):
            if name.endswith(".py"):
                count += 1
                if count > FILES_MAX:
                    message = f"{root} has more than {FILES_MAX} Python files; name a folder inside it"
                    raise ValueError(message)
                file = Path(folder, name)
                yield file.relative_to(root).as_posix(), _size(file)


def _is_skipped(folder: Path, skipped: frozenset[str]) -> bool:
    return folder.name.startswith(".") or folder.name in skipped or (folder / "pyvenv.cfg").exists()


def _size(file: Path) -> int:
    """Return a file's size in bytes; a dangling link counts as empty and is reported when it is read."""
    try:
        return file.stat().st_size
    except OSError:
        return 0
