"""Generators of clients make something of every operation in openapi.json, and the result works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.cli.harness import running

HERE = Path(__file__).parent
BIN = HERE.parents[1] / ".venv-generators" / "bin"
NODE = HERE / "node_modules" / ".bin"
KEYED = {"OFFRAMP_API_KEYS": "ada+run+inspect+operate:generated-secret"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generators")
    with running("serve", str(HERE / "served.py"), "--port", "0", cwd=folder, env=KEYED) as command:
        url = command.wait_for(r"at (http://[\d.:]+),")[1]
        command.wait_for("ready in")
        yield url


@pytest.fixture(scope="module")
def described(gateway):
    return httpx.get(f"{gateway}/openapi.json", headers={"Authorization": "Bearer generated-secret"}).json()


@pytest.fixture
def document(described, tmp_path):
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(described))
    return file


def operations(described):
    return [
        operation["operationId"]
        for item in described["paths"].values()
        for name, operation in item.items()
        if name != "parameters"
    ]


def run(*command, cwd):
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(cwd)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_names_of_operations_are_identifiers_that_differ_in_more_than_case(described):
    names = operations(described)
    assert len({name.casefold() for name in names}) == len(names)
    assert all(re.fullmatch(r"[a-z][A-Za-z0-9_]*", name) for name in names)
    assert [name for name in names if name.startswith("submit_")] == [
        "submit_research", "submit_re_search", "submit_re_search_2", "submit_Research_2",
    ]  # fmt: skip


def test_a_python_client_has_every_operation_and_makes_a_run(described, document, gateway, tmp_path):
    generator = BIN / "openapi-python-client"
    if not generator.exists():
        pytest.skip("no .venv-generators: make test installs it")
    (tmp_path / "config.json").write_text('{"post_hooks": []}')
    made = tmp_path / "made"
    run(
        generator, "generate", "--path", document, "--output-path", made, "--meta", "none",
        "--config", "config.json", "--fail-on-warning", cwd=tmp_path,
    )  # fmt: skip
    modules = {file.stem for file in made.glob("api/*/*.py")} - {"__init__"}
    assert modules == {name.lower() for name in operations(described)}
    run(BIN / "python", HERE / "caller.py", gateway, cwd=tmp_path)


def test_typescript_types_have_every_operation_and_compile(described, document, tmp_path):
    if not shutil.which("node"):
        pytest.skip("no node on PATH")
    if not (NODE / "tsc").exists():
        pytest.skip(f"no {NODE.relative_to(HERE.parents[1])}: make test installs it, with npm")
    run(NODE / "openapi-typescript", document, "-o", "made.d.ts", cwd=tmp_path)
    text = (tmp_path / "made.d.ts").read_text()
    declared = text[text.index("export interface operations") :]
    assert set(re.findall(r"^    (\w+): \{$", declared, re.MULTILINE)) == set(operations(described))
    shutil.copy(HERE / "caller.ts", tmp_path)
    run(NODE / "tsc", "--noEmit", "--strict", "caller.ts", cwd=tmp_path)
