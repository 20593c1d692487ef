"""The Dockerfile: pinned, not root, with files that exist, and a program that the package installs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

from offramp.core.addresses import parse_listen
from tests.deploy.files import BASE, DEPLOY, PINNED, PROJECT, ROOT, copied, documents, instructions


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


def test_the_versions_are_those_that_were_tested():
    [install] = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    assert "--constraint constraints.txt" in install
    assert ("ENV", "PIP_BUILD_CONSTRAINT=constraints.txt") in instructions()
    extras = re.search(r"'\.\[([\w,]+)\]'", install)[1].split(",")
    assert set(extras) == {"objects", "otel", "redis", "temporal"} <= set(PROJECT["optional-dependencies"])


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
