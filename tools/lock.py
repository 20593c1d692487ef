"""Writes constraints*.txt and requirements/: what pip resolves for offramp with every extra, and for Phoenix.

The constraints are names and exact versions. From those uv resolves the hashed installations, for every Python and
platform that pyproject.toml allows, with the digests of all files of a release that the index lists. Neither file
names the package source: pip and uv use their own settings.
"""

from __future__ import annotations

import subprocess
import tempfile
import tomllib
import venv
from collections.abc import Sequence
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
GENERATORS = """\
# The exact versions of the generator of clients that `make test` installs into an environment of its own.
# Written by `make lock`.
"""
HASHED = """\
# {what}, at the versions of constraints.txt, with the digests of every file of each release.
# For `pip install --require-hashes`. Written by `make lock`.
"""
IMAGE_EXTRAS = ("objects", "otel", "redis", "temporal")
"""Extras that deploy/Dockerfile installs."""


def requirements(config: dict[str, Any]) -> list[str]:
    """All requirements in pyproject.toml, except offramp's own extras (their members are listed)."""
    project = config["project"]
    named = [*config["build-system"]["requires"], "editables", *project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        named += [requirement for requirement in extra if not requirement.startswith("offramp[")]
    return named


def environment(folder: str) -> str:
    """Create a fresh environment; returns its Python."""
    venv.create(folder, with_pip=True)
    return str(Path(folder, "bin", "python"))


def write(name: str, header: str, named: list[str]) -> None:
    """Resolve the requirements in a fresh environment and write the result."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [environment(folder), "-m", "pip"]
        subprocess.run([*pip, "install", "--quiet", *named], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    # A line other than `name==version` would tie the file to this machine.
    lines = frozen.splitlines()
    if odd := [line for line in lines if line.count("==") != 1 or "@" in line]:
        raise SystemExit(f"pip freeze printed lines other than name==version: {odd}")
    (ROOT / name).write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{name}: {len(lines)} versions")


def write_hashed(uv: str, name: str, what: str, given: Sequence[str], extras: Sequence[str] = ()) -> None:
    """Pin the given requirements, plus pyproject.toml's own if there are extras, with digests."""
    command = [uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--python-version", "3.11"]
    command += ["--no-header", "--no-annotate", "--constraint", "constraints.txt"]
    command += ["pyproject.toml", *(f"--extra={extra}" for extra in extras)] if extras else []
    made = subprocess.run([*command, "-"], input="\n".join(given), cwd=ROOT, check=True, capture_output=True, text=True)
    if "://" in made.stdout:
        raise SystemExit(f"{name} would name its package source")
    target = ROOT / "requirements" / name
    target.parent.mkdir(exist_ok=True)
    target.write_text(HASHED.format(what=what) + made.stdout, encoding="utf-8")
    print(f"{target.relative_to(ROOT)}: {made.stdout.count('==')} versions")


def main() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    write("constraints.txt", OURS, requirements(config))
    write("constraints-generators.txt", GENERATORS, config["dependency-groups"]["generators"])
    write("constraints-phoenix.txt", PHOENIX, config["dependency-groups"]["phoenix"])
    hashes(config["build-system"]["requires"])


def hashes(builds: Sequence[str]) -> None:
    """Write everything under requirements/, from constraints.txt."""
    with tempfile.TemporaryDirectory() as folder:
        python = environment(folder)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
        uv = str(Path(folder, "bin", "uv"))
        write_hashed(uv, "build.txt", "What builds the wheel", builds)
        write_hashed(uv, "image.txt", "What the image of deploy/Dockerfile has beside offramp", [], IMAGE_EXTRAS)
        write_hashed(uv, "dev.txt", "What development and CI have beside offramp", [*builds, "editables"], ["dev"])


if __name__ == "__main__":
    main()
