"""Writes constraints.txt: what pip resolves for offramp with every extra, in a fresh environment.

Names and exact versions only. Where the packages came from is the installing machine's business.
"""

from __future__ import annotations

import subprocess
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# The exact versions that development, CI and the benchmarks run on: offramp's dependencies with every
# extra, what those need in turn, and the build backend. Written by `make lock`.
# Users get the bounds in pyproject.toml.
"""


def requirements() -> list[str]:
    """Everything that pyproject.toml names, offramp's own extras aside (each is in the list by itself)."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = config["project"]
    named = [*config["build-system"]["requires"], "editables", *project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        named += [requirement for requirement in extra if not requirement.startswith("offramp[")]
    return named


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [str(Path(folder, "bin", "python")), "-m", "pip"]
        subprocess.run([*pip, "install", "--quiet", *requirements()], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    # A line that is no `name==version` would tie the file to this machine.
    lines = frozen.splitlines()
    if odd := [line for line in lines if line.count("==") != 1 or "@" in line]:
        raise SystemExit(f"pip freeze gave lines that are no name==version: {odd}")
    (ROOT / "constraints.txt").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"constraints.txt: {len(lines)} versions")


if __name__ == "__main__":
    main()
