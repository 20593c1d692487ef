"""`offramp init`: a folder with a first App, its tests, and the commands to go on with.

The files are in `templates/`. An existing file is never overwritten.
"""

from __future__ import annotations

import re
import shlex
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer

from offramp.cli.output import OK, CommandError
from offramp.core.names import NAME_LENGTH_MAX

_IGNORED = ".offramp/\n.venv/\n__pycache__/\n.pytest_cache/\n"
_MAY_BE_THERE = frozenset({".git", ".venv", "venv"})
_NAME = "desk"
"""The App's name in the templates."""


class Template(NamedTuple):
    """What `offramp init` makes.

    Attributes:
        parts: folders of `templates/`.
        packages: what it needs beside Offramp.
        remark: what to know before its commands; may be empty.
        commands: what to do next, each with a comment.
    """

    parts: tuple[str, ...]
    packages: tuple[str, ...]
    remark: str
    commands: tuple[tuple[str, str], ...]


def _submit(path: str, body: str) -> str:
    headers = "-H 'Accept: text/event-stream' -H 'Content-Type: application/json'"
    return f"curl -N http://127.0.0.1:8000{path} {headers} -d '{body}'"


_SERVE = ("serve it, and reload it when a file changes", "offramp serve app.py --reload")
_FIVE_ROUNDS = '{"input": {"question": "Why?", "rounds": 5}, "follow": true}'
_TEST = ("test it", "python -m pytest")
TEMPLATES = {
    "plain": Template(
        ("plain",),
        (),
        "",
        (
            ("one run in this terminal", """offramp run app.py --input '{"question": "Why?"}'"""),
            _SERVE,
            (
                "in another terminal: five rounds exceed the budget of two seconds",
                _submit("/v1/pipelines/research/runs", _FIVE_ROUNDS),
            ),
            _TEST,
        ),
    ),
    "openai": Template(
        ("openai",),
        ("openai",),
        "It reads OPENAI_API_KEY, OPENAI_BASE_URL (another provider's address) and OPENAI_MODEL.",
        (
            ("one run in this terminal", """offramp run app.py --input '{"topic": "tea"}'"""),
            _SERVE,
            (
                "in another terminal: a longer report may take more than its budget of six seconds",
                _submit("/v1/pipelines/report/runs", '{"input": {"topic": "tea", "sections": 5}, "follow": true}'),
            ),
            _TEST,
        ),
    ),
    "fastapi": Template(
        ("plain", "fastapi"),
        ("fastapi",),
        "",
        (
            ("serve it", "uvicorn main:api --port 8000"),
            ("in another terminal: ask the application", "curl 'http://127.0.0.1:8000/ask?question=Why'"),
            (
                "stream a run: five rounds exceed the budget of two seconds",
                _submit("/agents/v1/pipelines/research/runs", _FIVE_ROUNDS),
            ),
            _TEST,
        ),
    ),
}


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new or empty folder; '.' for the present one.", show_default=False)
    ],
    *,
    template: Annotated[
        Literal["plain", "openai", "fastapi"],
        typer.Option(
            "--template", help="'plain' alone; 'openai' calls a model; 'fastapi' mounts it in an application."
        ),
    ] = "plain",
) -> int:
    """Make a folder with a first App and its tests.

    Prints the next commands to run. Installs nothing, and changes no existing file.
    """
    chosen = TEMPLATES[template]
    try:
        _refuse_what_is_there(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = _written(folder, chosen.parts)
    except OSError as error:
        raise CommandError(f"cannot write to {folder}: {error.strerror or error}") from error
    print(f"{folder}: {', '.join(written)}\n")
    if chosen.remark:
        print(f"{chosen.remark}\n")
    for comment, command in _commands(folder, chosen):
        print(f"  # {comment}\n  {command}")
    return OK


def _refuse_what_is_there(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"{folder} is a file: name a new folder")
    there = sorted(each.name for each in folder.iterdir() if each.name not in _MAY_BE_THERE) if folder.exists() else []
    if there:
        shown = ", ".join(there[:3]) + (", …" if len(there) > 3 else "")
        raise CommandError(f"{folder} is not empty ({shown}): name a new folder")


def _written(folder: Path, parts: tuple[str, ...]) -> list[str]:
    """Write the files; returns their names."""
    files = {".gitignore": _IGNORED}
    templates = resources.files("offramp.cli").joinpath("templates")
    for file in (file for part in parts for file in templates.joinpath(part).iterdir()):
        if file.name.endswith(".py"):
            files[file.name] = file.read_text(encoding="utf-8").replace(f'App("{_NAME}"', f'App("{_app_name(folder)}"')
    for name, text in files.items():
        with (folder / name).open("x", encoding="utf-8") as target:
            target.write(text)
    return sorted(files)


def _app_name(folder: Path) -> str:
    """The folder's name, as far as an App can have it."""
    name = re.sub(r"[^A-Za-z0-9_.\-]+", "-", folder.resolve().name).strip("-.")[:NAME_LENGTH_MAX]
    return name if name[:1].isalpha() else _NAME


def _commands(folder: Path, template: Template) -> list[tuple[str, str]]:
    missing = [name for name in (*template.packages, "pytest") if find_spec(name) is None]
    return [
        *([("go there", f"cd {shlex.quote(str(folder))}")] if folder.resolve() != Path.cwd() else []),
        *([("what it needs beside Offramp", f"pip install {' '.join(missing)}")] if missing else []),
        *template.commands,
    ]
