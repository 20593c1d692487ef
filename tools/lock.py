"""Writes constraints.txt and constraints-phoenix.txt: what pip resolves for offramp with every extra, and for Phoenix.

Names and exact versions only. Where the packages came from is the installing machine's business.
"""

from __future__ import annotations

import subprocess
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OURS = """\
# The exact versions that development, CI and the benchmarks run on: offramp's dependencies with every
# extra, what those need in turn, and the build backend. Written by `make lock`.
# Users get the bounds in pyproject.toml.
"""
PHOENIX = """\
# The exact versions of the Arize Phoenix that `make test-phoenix` installs into an environment of its own.
# Written by `make lock`.
"""


def requirements(config: dict[str, Any]) -> list[str]:
    """Everything that pyproject.toml names, offramp's own extras aside (each is in the list by itself)."""
    project = config["project"]
    named = [*config["build-system"]["requires"], "editables", *project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        named += [requirement for requirement in extra if not requirement.startswith("offramp[")]
    return named


def write(name: str, header: str, named: list[str]) -> None:
    """Resolve what is named in a fresh environment and write down what that gave."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [str(Path(folder, "bin", "python")), "-m", "pip"]
        subprocess.run([*pip, "install", "--quiet", *named], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    # A line that is no `name==version` would tie the file to this machine.
    lines = frozen.splitlines()
    if odd := [line for line in lines if line.count("==") != 1 or "@" in line]:
        raise SystemExit(f"pip freeze gave lines that are no name==version: {odd}")
    (ROOT / name).write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{name}: {len(lines)} versions")


def main() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    write("constraints.txt", OURS, requirements(config))
    write("constraints-phoenix.txt", PHOENIX, config["dependency-groups"]["phoenix"])


if __name__ == "__main__":
    main()
