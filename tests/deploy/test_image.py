"""The Dockerfile: pinned, not root, with files that exist, and a program that the package installs."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from offramp.cli.check_host import has_wal_reset_bug
from offramp.core.addresses import parse_listen
from tests.deploy.files import BASE, DEPLOY, PINNED, PROJECT, ROOT, copied, documents, instructions
from tools.lock import IMAGE_EXTRAS

EXTRAS = PROJECT["optional-dependencies"]
BUILDS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]


def pins(file):
    """The versions in a file of requirements, by name."""
    found = re.findall(r"^([\w.-]+)==([\w.]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def last(word):
    return [rest for each, rest in instructions() if each == word][-1]


def test_every_stage_begins_with_the_same_pinned_image():
    stages = {rest.split()[0] for word, rest in instructions() if word == "FROM"}
    assert len(stages) == 1
    image = stages.pop()
    assert PINNED.fullmatch(image)
    python = re.search(r":(\d+\.\d+)-", image)[1]
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]


def test_it_runs_as_a_number_that_is_not_root():
    """By a name Kubernetes could not tell (`runAsNonRoot`)."""
    user, group = last("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_what_is_installed_has_the_digests_that_were_tested():
    commands = [part for word, rest in instructions() if word == "RUN" for part in rest.split("&&")]
    installs = [command for command in commands if "pip install" in command]
    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or "--no-deps --no-index" in command, command
    [wheel] = [command for command in commands if "pip wheel" in command]
    assert "--no-deps --no-build-isolation" in wheel


@pytest.mark.parametrize(("name", "extras"), [("image", IMAGE_EXTRAS), ("dev", ["dev"]), ("build", [])])
def test_the_lock_has_all_that_is_named_at_the_versions_of_the_constraints(name, extras):
    locked = pins(ROOT / "requirements" / f"{name}.txt")
    tested = pins(ROOT / "constraints.txt")
    named = [*(PROJECT["dependencies"] if extras else BUILDS), *(each for extra in extras for each in EXTRAS[extra])]
    for requirement in map(Requirement, named):
        if requirement.name != "offramp":
            assert locked[canonicalize_name(requirement.name)] in requirement.specifier
    # What another platform alone needs is in the lock, and was not there when the constraints were frozen.
    assert {each: version for each, version in locked.items() if each in tested} == {
        each: version for each, version in tested.items() if each in locked
    }


def test_every_locked_file_has_a_digest():
    for file in (ROOT / "requirements").iterdir():
        entries = re.split(r"\n(?=[\w.-]+==)", file.read_text(encoding="utf-8"))[1:]
        assert entries
        for entry in entries:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), f"{file.name}: {entry.splitlines()[0]}"


def test_its_sqlite_has_no_known_bug():
    made = runpy.run_path(str(DEPLOY / "sqlite.py"))
    assert not has_wal_reset_bug(made["VERSION"])
    assert any(word == "RUN" and "has_wal_reset_bug" in rest for word, rest in instructions())


def test_what_is_copied_exists_and_reaches_the_build():
    """Everything is kept out by `*` and let in by name."""
    first, *admitted = [
        line
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert first == "*"
    sources = [
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in admitted, source
    # What the build backend reads is there too.
    assert {PROJECT["readme"], *PROJECT["license-files"], "src", "pyproject.toml"} <= set(sources)


def test_it_starts_the_program_that_is_installed():
    [program] = json.loads(last("ENTRYPOINT"))
    assert program in PROJECT["scripts"]


def test_the_ports_are_those_of_the_manifests():
    exposed = set(map(int, last("EXPOSE").split()))
    found = set()
    for document in documents(BASE / "gateway.yaml") + documents(BASE / "worker.yaml"):
        if document["kind"] == "Deployment":
            [container] = document["spec"]["template"]["spec"]["containers"]
            found |= {port["containerPort"] for port in container["ports"]}
    assert exposed == found
    assert parse_listen("0.0.0.0:9464")[1] in exposed


def test_the_example_can_be_imported_as_the_image_has_it():
    [folder] = [source for name, source in copied().items() if name == "reference_desk"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
    command = [sys.executable, "-c", "from reference_desk.app import app; print(len(app.pipelines))"]
    ended = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, check=True)
    assert int(ended.stdout) > 0
