"""Finds the App that `MODULE:APP` names and imports it so that processes started later can import it by name too.

Raises CommandError with one line that says what to change; prints nothing, and executes nothing of the App.
"""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from offramp.cli.output import CommandError
from offramp.core.names import did_you_mean
from offramp.errors import DeclarationError

if TYPE_CHECKING:
    from offramp.app import App

ATTRIBUTE_DEFAULT = "app"
_NEAR_FILES_MAX = 1_000


def load_app(target: str) -> App:
    """The App named by `MODULE:APP`; `MODULE` is a dotted module or a path to a .py file, `APP` is `app` if left out.

    Raises:
        CommandError: it cannot be found or imported.
    """
    module_part, attribute = split_target(target)
    name, file = _locate(module_part)
    module = _imported(name, file, module_part)
    return _app_in(module, attribute, module_part)


def split_target(target: str) -> tuple[str, str]:
    """Split `MODULE:APP`; a colon within a path does not count."""
    module, colon, attribute = target.rpartition(":")
    if colon and module and all(part.isidentifier() for part in attribute.split(".")):
        return module, attribute
    if colon and module and not attribute:
        raise CommandError(f"{target!r} ends with a colon: name the App after it, for example {module}:app")
    return target, ATTRIBUTE_DEFAULT


def is_file(module_part: str) -> bool:
    """Whether `MODULE` is a path."""
    return module_part.endswith(".py") or "/" in module_part or "\\" in module_part


def module_of(file: Path) -> tuple[Path, str]:
    """The folder to import from and the full dotted name of a file; folders with an `__init__.py` are packages."""
    parts = [] if file.stem == "__init__" else [file.stem]
    folder = file.parent
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def _locate(module_part: str) -> tuple[str, Path | None]:
    """Prepare `sys.path` and return the name to import."""
    if not module_part:
        raise CommandError("name the App as MODULE:APP, for example desk/app.py:app or desk.app:app")
    if not is_file(module_part):
        _put_first(Path.cwd())
        return module_part, None
    given = Path(module_part)
    file = given.resolve()
    if file.is_dir():
        raise CommandError(f"{module_part} is a folder: name the file in it, for example {given / 'app.py'}:app")
    if not file.is_file():
        raise CommandError(f"no file {module_part}; {_near_file(given)}")
    if "." in file.stem:
        raise CommandError(f"{module_part} cannot be imported by name: rename it so that only .py follows a dot")
    folder, name = module_of(file)
    _put_first(folder)
    return name, file


def _put_first(folder: Path) -> None:
    text = str(folder)
    if sys.path[:1] != [text]:
        sys.path[:] = [text, *(entry for entry in sys.path if entry != text)]


def _near_file(given: Path) -> str:
    folder = given.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist (seen from {Path.cwd()})"
    names = [entry.name for entry, _ in zip(sorted(folder.glob("*.py")), range(_NEAR_FILES_MAX), strict=False)]
    near = difflib.get_close_matches(given.name, names, n=1)
    if near:
        return f"did you mean {folder / near[0]}?"
    return "give a path to a .py file, or a dotted module" if not names else f"there is {', '.join(names[:5])}"


def _imported(name: str, file: Path | None, shown: str) -> ModuleType:
    try:
        module = importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except DeclarationError as error:
        raise CommandError(f"{error}{_where(error)}") from error
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise CommandError(_no_module(name, error.name)) from error
        raise CommandError(_import_failed(shown, error)) from error
    except BaseException as error:
        # SystemExit too: a script without `if __name__ == "__main__"` may exit during its import.
        raise CommandError(_import_failed(shown, error)) from error
    found = getattr(module, "__file__", None)
    if file is not None and (found is None or Path(found).resolve() != file):
        raise CommandError(
            f"{shown} has the name of another module, {name!r} ({found or 'built in'}): rename the file, so that "
            "other processes can import it by name",
        )
    return module


def _no_module(name: str, missing: str) -> str:
    as_file = Path(*name.split(".")).with_suffix(".py")
    if as_file.is_file():
        return f"no module {name!r}; did you mean {as_file}:app?"
    parent, _, leaf = missing.rpartition(".")
    folder = Path(*parent.split(".")) if parent else Path()
    names = sorted(path.stem for path in folder.glob("*.py")) if folder.is_dir() else []
    near = difflib.get_close_matches(leaf, names, n=1)
    if near:
        return f"no module {missing!r}; did you mean {'.'.join([*parent.split('.'), near[0]] if parent else near)}:app?"
    return f"no module {missing!r} in {Path.cwd()} or installed: give a path to a .py file or an importable module"


def _import_failed(shown: str, error: BaseException) -> str:
    last = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SystemExit):
        last = f"it calls exit({error.code!r}) when imported; put that under if __name__ == '__main__'"
    return f"cannot import {shown}: {last}{_where(error)}"


def _where(error: BaseException) -> str:
    """The user's line that raised: the innermost one outside the import system and this package."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({_short(error.filename)}:{error.lineno})"
    ours = str(Path(__file__).parent.parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen", ours)) and "importlib" not in Path(frame.filename).parts
    ]
    return f" ({_short(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""


def _short(filename: str) -> str:
    try:
        return str(Path(filename).relative_to(Path.cwd()))
    except ValueError:
        return filename


def _app_in(module: ModuleType, attribute: str, shown: str) -> App:
    from offramp.app import App

    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CommandError(f"{shown} has no {attribute!r}; {_near_attribute(module, attribute, App)}") from None
    if not isinstance(found, App):
        raise CommandError(
            f"{shown}:{attribute} is a {type(found).__name__}, not an offramp.App; "
            f"{_near_attribute(module, attribute, App)}",
        )
    return found


def _near_attribute(module: ModuleType, attribute: str, kind: type[Any]) -> str:
    apps = [name for name, value in vars(module).items() if isinstance(value, kind)]
    if apps:
        return "its App is " + " or ".join(repr(name) for name in apps[:5])
    public = [name for name in vars(module) if not name.startswith("_") and name != attribute]
    near = difflib.get_close_matches(attribute, public, n=1)
    return did_you_mean(attribute, near) if near else "declare one: app = offramp.App('name')"
