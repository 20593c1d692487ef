"""Shell completion of targets and pipelines. Reads sources without executing them and never reports an error.

A slow or wrong completion is worse than none, so each has a bound and returns nothing past it.
"""

from __future__ import annotations

import ast
from pathlib import Path

import typer

from offramp.cli.target import is_file, split_target

FILES_MAX = 50
SOURCE_BYTES_MAX = 1 << 20
SERVED_WAIT_S = 0.5


def complete_target(incomplete: str) -> list[str]:
    """Python files that match the typed text and declare an App, each with the App's name."""
    folder = Path(incomplete).parent
    try:
        entries = sorted(folder.iterdir())[: 4 * FILES_MAX]
    except OSError:
        return []
    found = [f"{entry}/" for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__"))]
    for file in [entry for entry in entries if entry.suffix == ".py"][:FILES_MAX]:
        found += [f"{file}:{name}" for name in declared(file)[0]]
    return [candidate for candidate in found if candidate.startswith(incomplete)]


def complete_pipeline(context: typer.Context, incomplete: str) -> list[str]:
    """Pipelines that the target's source declares with a decorator."""
    target = context.params.get("target")
    if not isinstance(target, str):
        return []
    module, _ = split_target(target)
    file = Path(module) if is_file(module) else Path(*module.split(".")).with_suffix(".py")
    return [name for name in declared(file)[1] if name.startswith(incomplete)]


def complete_served_pipeline(context: typer.Context, incomplete: str) -> list[str]:
    """Pipelines of the running gateway, if it answers quickly."""
    from offramp.client import Client
    from offramp.errors import OfframpError

    url, key = context.params.get("url"), context.params.get("api_key")
    try:
        with Client(url, key, patience=0.0, silence=SERVED_WAIT_S) as client:
            return [each.name for each in client.pipelines() if each.name.startswith(incomplete)]
    except OfframpError:
        return []


def declared(file: Path) -> tuple[list[str], list[str]]:
    """Names of the Apps and of the pipelines that a source file declares, as far as its text shows."""
    try:
        if file.stat().st_size > SOURCE_BYTES_MAX:
            return [], []
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return [], []
    apps = [
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _last_name(node.value.func) == "App"
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    pipelines = [
        _given_name(decorator) or node.name
        for node in tree.body
        if isinstance(node, ast.AsyncFunctionDef)
        for decorator in node.decorator_list
        if _last_name(decorator.func if isinstance(decorator, ast.Call) else decorator) == "pipeline"
    ]
    return apps, pipelines


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _given_name(decorator: ast.expr) -> str | None:
    for keyword in decorator.keywords if isinstance(decorator, ast.Call) else []:
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str):
            return keyword.value.value
    return None
